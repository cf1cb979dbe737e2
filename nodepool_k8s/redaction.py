"""What a secret looks like, and how it is removed from texts and records before output.

Requests, pods and API servers write the texts, so every pattern here takes time in
proportion to the text: no repetition can begin at two places and scan the same characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "redacted"
"""Replaces a whole value; Nodepool shows connections so."""

_IN_TEXT = f"({REDACTED})"

_SECRETS = re.compile(
    # A JSON web token, complete or truncated, and the base64 of one, as in a Secret.
    r"(?:eyJ|ZXlK)[\w-]{10,}(?:\.[\w-]*)*[\w+/=-]*"
    # The content of a key file, whose line ends may be escaped, and its base64.
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|LS0tLS1CRUdJTi[\w+/=]+"
    r"|(?i:(?<=bearer ))[\w.~+/=-]{16,}"
    # User and password in a URL.
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)",
    re.DOTALL,
)

_SECRET_KEY = re.compile(
    r"token|passw|secret|credential|kubeconfig|(^|[-_.])key([-_.]?data)?$", re.IGNORECASE
)
_TIME_KEY = re.compile(r"(expires|issued|lifetime|time|seconds)$", re.IGNORECASE)
"""Keys whose numbers are no secret, for instance when a token expires."""


def redact_text(text: str) -> str:
    """The text without tokens, private keys and passwords in URLs."""
    return _SECRETS.sub(_IN_TEXT, text)


def redact(value: Any) -> Any:
    """A JSON value without secrets: those in texts, and the values of keys that name one."""
    if isinstance(value, Mapping):
        return redact_record(value)
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def redact_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object without secrets, at any depth."""
    return {
        redact(key): REDACTED if _names_secret(str(key), value) else redact(value)
        for key, value in record.items()
    }


def _names_secret(key: str, value: object) -> bool:
    if value is None or not _SECRET_KEY.search(key):
        return False
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return not (is_number and _TIME_KEY.search(key))
