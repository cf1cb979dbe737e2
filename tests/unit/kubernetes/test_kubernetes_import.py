"""Importing the adapter leaves the client library usable, and does not run all of it."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    """What a fresh interpreter prints after it has imported the adapter."""
    process = subprocess.run(
        [sys.executable, "-c", f"import sys\nimport nodepool_k8s.kubernetes.driver\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import kubernetes; print(kubernetes.client.CoreV1Api.__name__)",
        "from kubernetes import client, config; print(client.CoreV1Api.__name__)",
        "import kubernetes.aio; print(kubernetes.aio.client.CoreV1Api.__name__)",
    ],
)
def test_client_library_stays_usable(code: str) -> None:
    assert run(code) == "CoreV1Api"


def test_missing_names_are_attribute_errors() -> None:
    assert run("import kubernetes; print(hasattr(kubernetes, 'nothing'))") == "False"


def test_synchronous_client_is_not_imported() -> None:
    code = "print([name for name in sys.modules if name in ('kubernetes.client', 'requests')])"
    assert run(code) == "[]"
