"""Kubeconfig files: what is written can be read back, and a copy has another context."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import kubeconfig, yamlfile
from harness.kubeconfig import KubeconfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    kubeconfig.write(path, "local", "https://127.0.0.1:1", {"token": "t0ken"})
    return path


def test_only_the_owner_may_read_the_file(path: Path) -> None:
    assert path.stat().st_mode & 0o077 == 0


def test_access_is_that_of_the_context(path: Path) -> None:
    found = kubeconfig.access(path, "local")
    assert found.url == "https://127.0.0.1:1"
    assert found.headers == {"Authorization": "Bearer t0ken"}


def test_a_missing_context_is_named(path: Path) -> None:
    with pytest.raises(KubeconfigError, match="'nonesuch' under contexts"):
        kubeconfig.access(path, "nonesuch")


def test_another_context_has_the_same_cluster_and_user(path: Path) -> None:
    document = yamlfile.load(path)
    changed = kubeconfig.with_context(document, "other")
    assert changed["current-context"] == "other"
    for name in ("local", "other"):
        context = kubeconfig.entry(changed, "contexts", name)
        assert context == {"cluster": "local", "user": "local"}
    assert document == yamlfile.load(path), "the original is unchanged"


def test_the_current_context_keeps_its_name(path: Path) -> None:
    document = yamlfile.load(path)
    assert kubeconfig.with_context(document, "local") == document


def test_another_server_has_the_authority_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    kubeconfig.write(path, "local", "https://127.0.0.1:1", certificate_authority="/ca.crt")
    changed = kubeconfig.with_context(yamlfile.load(path), "other", "https://127.0.0.1:2")
    context = kubeconfig.entry(changed, "contexts", "other")
    cluster = kubeconfig.entry(changed, "clusters", context["cluster"])
    assert cluster == {"server": "https://127.0.0.1:2", "certificate-authority": "/ca.crt"}
    assert kubeconfig.entry(changed, "clusters", "local")["server"] == "https://127.0.0.1:1"
