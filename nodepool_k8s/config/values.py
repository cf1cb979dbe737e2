"""Validators of single values, for ``schema`` and ``options``."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from nodepool_k8s.config.problems import InvalidValue
from nodepool_k8s.config.quantities import (
    MB,
    MIB,
    advise_number,
    advise_whole,
    number,
    seconds,
    whole,
)
from nodepool_k8s.names import (
    is_dns_label,
    is_env_name,
    is_label_key,
    is_label_value,
    is_subdomain,
)

_HOST = re.compile(r"[\w.-]+|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%\w+)?\]?", re.ASCII)

MAX_POOL_NAME = 48
"""A namespace's 63 characters, less a node's id, an attempt's number and two hyphens."""

LARGEST_ID = 2**31 - 1
"""The largest number of a user or a group that Kubernetes accepts."""


class Value:
    """Accepts the values that a predicate accepts; the error says what was expected."""

    def __init__(
        self,
        expected: str,
        accepts: Callable[[Any], bool],
        advise: Callable[[Any], str] = lambda value: "",
    ) -> None:
        self.expected = expected
        self.accepts = accepts
        self._advise = advise

    def __call__(self, value: Any) -> Any:
        """Return the value; raise ``InvalidValue`` where it is not accepted."""
        if not self.accepts(value):
            raise InvalidValue(self.expected, hint=self._advise(value))
        return value


def text(expected: str) -> Value:
    """A text that is not empty and has no control characters."""
    return Value(expected, _is_text, _advise_quotes)


def token(expected: str) -> Value:
    """A text without white space."""
    return Value(expected, lambda value: _is_text(value) and not re.search(r"\s", value))


def boolean() -> Value:
    """True or false."""
    return Value("true or false", lambda value: isinstance(value, bool))


def one_of(*names: str) -> Value:
    """One of a few words."""

    def advise(value: Any) -> str:
        near = {name.lower(): name for name in names}
        match = get_close_matches(str(value).lower(), near, n=1) if isinstance(value, str) else []
        return f"did you mean '{near[match[0]]}'?" if match else ""

    expected = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return Value(expected, lambda value: isinstance(value, str) and value in names, advise)


def whole_number(minimum: int | None = None, *, of: str = "", else_: str = "") -> Value:
    """A whole number, of ``minimum`` or more; ``else_`` says what to do instead."""
    expected = "a whole number" + (f" of {of}" if of else "")
    expected += "" if minimum is None else f", {minimum} or more"
    return Value(
        expected + (f" ({else_})" if else_ else ""),
        lambda value: _at_least(whole(value), minimum),
        advise_number,
    )


def numeric_id(of: str) -> Value:
    """The number of a user or a group."""
    return Value(
        f"the number of a {of}, 0 to {LARGEST_ID}",
        lambda value: _at_least(whole(value), 0) and value <= LARGEST_ID,
        advise_number,
    )


def mebibytes(minimum: int) -> Value:
    """A whole number of MiB."""
    return _bytes(minimum, MIB, "MiB")


def megabytes(minimum: int) -> Value:
    """A whole number of MB."""
    return _bytes(minimum, MB, "MB")


def _bytes(minimum: int, unit: int, name: str) -> Value:
    return Value(
        f"a whole number of {name}, {minimum} or more",
        lambda value: _at_least(whole(value), minimum),
        lambda value: advise_whole(value, unit, name),
    )


def cores(*, zero: bool) -> Value:
    """A number of cores, whole or not."""
    return Value(
        f"a number of cores, {'0 or more' if zero else 'more than 0'}",
        lambda value: _at_least(number(value), 0 if zero else 0.001),
        advise_number,
    )


def amount() -> Value:
    """A number that is not negative, whole or not."""
    return Value("a number, 0 or more", lambda value: _at_least(number(value), 0), advise_number)


def duration(*, minimum: float | None = None, because: str = "") -> Value:
    """Seconds, or a text with a unit; more than 0 where there is no ``minimum``."""
    least = "more than 0" if minimum is None else f"{minimum:g} s or more"
    return Value(
        f"a number of seconds or a duration like 90s, 5m, 12h or 7d, {least}"
        + (f" ({because})" if because else ""),
        lambda value: _lasts(seconds(value), minimum),
        lambda value: f"write {value.strip()}s" if _is_digits(value) else "",
    )


def any_duration() -> Value:
    """Seconds, or a text with a unit; what is not above 0 turns the feature off."""
    return Value(
        "a number of seconds or a duration like 90s, 5m, 12h or 7d",
        lambda value: seconds(value) is not None,
    )


def gpu_count() -> Value:
    """A whole number of GPUs."""
    return Value(
        "a whole number of GPUs, 0 for a Kubernetes node without any (Kubernetes has no fractional "
        "extended resources: a device that is to be shared is offered under a name of its own)",
        lambda value: _at_least(whole(value), 0),
    )


def port(minimum: int = 1) -> Value:
    """A TCP port."""
    return Value(
        f"a port number from {minimum} to 65535",
        lambda value: _at_least(whole(value), minimum) and value <= 65535,
        lambda value: f"write {value.strip()} without quotes" if _is_digits(value) else "",
    )


def host() -> Value:
    """A host's name or address, without a port."""

    def advise(value: Any) -> str:
        split = isinstance(value, str) and re.fullmatch(r"([\w.-]+):(\d+)", value)
        return f"write host: {split[1]} and port: {split[2]}" if split else ""

    return Value(
        "a host name or an IP address",
        lambda value: isinstance(value, str) and bool(_HOST.fullmatch(value)),
        advise,
    )


def url() -> Value:
    """The URL of an API server."""

    def accepts(value: Any) -> bool:
        try:
            parts = urlsplit(value)
            return (
                parts.scheme in ("http", "https")
                and bool(parts.hostname)
                and parts.username is None
                and not parts.query
                and not parts.fragment
                and parts.port != 0
                and not re.search(r"\s", value)
            )
        except (ValueError, AttributeError, TypeError):
            return False

    return Value("an address like https://kubernetes.example.org:6443", accepts)


def _as_pool_name(text: str) -> str:
    """The nearest valid name of a text; '' if no character is valid."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_POOL_NAME].strip("-")


def pool_name() -> Value:
    """A name that namespaces can begin with."""
    return Value(
        f"lower-case letters, digits and '-', at most {MAX_POOL_NAME} characters, "
        "because namespaces are named <pool>-<node id>-<attempt>",
        lambda value: is_dns_label(value) and len(value) <= MAX_POOL_NAME,
        lambda value: (
            f"for example '{_as_pool_name(value)}'"
            if isinstance(value, str) and _as_pool_name(value)
            else ""
        ),
    )


def subdomain(of: str) -> Value:
    """A name by the rule of Kubernetes for most objects."""
    return Value(
        f"{of}: lower-case letters, digits, '-' and '.', at most 253 characters", is_subdomain
    )


def dns_label(of: str) -> Value:
    """A name by the rule of Kubernetes for volumes and containers."""
    return Value(f"{of}: lower-case letters, digits and '-', at most 63 characters", is_dns_label)


def env_name() -> Value:
    """The name of an environment variable."""
    return Value(
        "the name of an environment variable: letters, digits, '_', '-' and '.', "
        "and no digit first",
        is_env_name,
    )


def scalar(expected: str) -> Value:
    """Text, a number or a boolean; the text as it is written is what counts."""
    return Value(expected, lambda value: isinstance(value, (str, int, float)))


def absolute_path() -> Value:
    """A path in a container."""
    return Value(
        "an absolute path without ':'",
        lambda value: isinstance(value, str) and value.startswith("/") and ":" not in value,
    )


def label_key() -> Value:
    """The key of a Kubernetes label or annotation."""
    return Value(
        "letters, digits, '-', '_' and '.', at most 63 characters, "
        "after an optional DNS name and '/'",
        is_label_key,
    )


def label_value() -> Value:
    """The value of a Kubernetes label; numbers and booleans are taken as they are written."""
    return Value(
        "at most 63 letters, digits, '-', '_' and '.', a letter or digit first and last",
        lambda value: (
            is_label_value(value) if isinstance(value, str) else isinstance(value, (int, float))
        ),
    )


def template_fields(value: str) -> list[str] | None:
    """The fields that a format string names; None where it is not well-formed."""
    try:
        return [field for _, field, _, _ in string.Formatter().parse(value) if field is not None]
    except ValueError:
        return None


def template() -> Value:
    """A format string over the request."""
    return Value(
        "a format string like '{request.id}'",
        lambda value: (
            isinstance(value, (int, float))
            or (isinstance(value, str) and template_fields(value) is not None)
        ),
        lambda value: "quote it, or YAML reads the braces" if isinstance(value, dict) else "",
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_digits(value: Any) -> bool:
    return isinstance(value, str) and value.strip().isascii() and value.strip().isdigit()


def _at_least(value: float | None, minimum: float | None) -> bool:
    return value is not None and (minimum is None or value >= minimum)


def _lasts(value: float | None, minimum: float | None) -> bool:
    return value is not None and (value > 0 if minimum is None else value >= minimum)


def _advise_quotes(value: Any) -> str:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "quote it" if plain else ""
