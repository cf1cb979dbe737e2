"""Secrets in texts and records are redacted, and no text takes long."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from nodepool_k8s.redaction import REDACTED, redact_record, redact_text

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"

SECRET = [
    {"connection_port": {"token": "s3cret", "ca_crt": "public", "host": "h"}},
    {"a": [{"b": [{"password": "s3cret"}]}]},
    {"a": ({"client-key": "s3cret"},)},
    {"Token": ["s3cret"]},
    {"api_key": "s3cret"},
    {"client-key-data": "s3cret"},
    {"key": {"deep": "s3cret"}},
    {"client_secret": "s3cret"},
    {"kubeconfig": "s3cret"},
    {"comment": f"the token is {TOKEN}, keep it"},
    {"a": [PEM]},
    # What only one of two former copies of these patterns knew:
    {"comment": f"token {TOKEN[:30]}"},
    {"comment": "Authorization: Bearer s3cretOfSixteenCharacters"},
    {"comment": base64.b64encode(PEM.encode()).decode()},
    {"comment": base64.b64encode(TOKEN.encode()).decode()},
    {"comment": "proxy http://user:s3cret@proxy.example.org:3128/ refused"},
]


@pytest.mark.parametrize("record", SECRET, ids=repr)
def test_secrets_are_redacted_at_any_depth(record: dict[str, Any]) -> None:
    shown = json.dumps(redact_record(record))
    assert REDACTED in shown
    for secret in ("s3cret", TOKEN[:30], TOKEN.rpartition(".")[2], "MHcCAQEE", "LS0tLS1C", "ZXlK"):
        assert secret not in shown


def test_other_values_are_unchanged() -> None:
    record = {
        "host_keys": ["ssh-rsa AAAA"],
        "connection_port": {"host": "https://h", "ca_crt": "public", "skiptls": False},
        "key": None,
        "keystone": "x",
        "token_expires": 1796088299.7,
        "token_issued": 1796088200,
        "access-token-lifetime": 604800,
        "monkey": 3,
        "comment": "node eyJust for me",
        "nodes": ["0000000001"],
    }
    assert redact_record(record) == record


@pytest.mark.parametrize("number", [1234, True])
def test_a_number_can_be_a_secret(number: object) -> None:
    assert redact_record({"password": number}) == {"password": REDACTED}


HOSTILE = [
    "eyJ",
    "eyJ-",
    "eyJ.",
    "eyJeyJeyJeyJ.",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN ",
    "-----BEGIN A",
    "PRIVATE KEY-----",
    "bearer ",
    "LS0tLS1CRUdJTi",
    "://a:",
    "://",
    "a:a@",
    "ZXlK.",
]


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("start", ["", "-----BEGIN ", "eyJ", "http://"])
def test_a_megabyte_of_anything_is_redacted(piece: str, start: str) -> None:
    # Quadratic patterns would take hours for this.
    redact_text(start + piece * (1_000_000 // len(piece)))
