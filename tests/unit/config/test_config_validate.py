"""``config-validate``: what it prints, where, and how it exits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from nodepool_k8s.cli.config_validate import command

if TYPE_CHECKING:
    from tests.unit.config.conftest import Site


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a kube/config in it."""
    (tmp_path / "kube").write_text("contexts: [{name: here}]")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kube"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_a_valid_file(site: Site, folder: Path) -> None:
    (folder / "a.yaml").write_text(site.text("image: i") + "images-dir: x\n")
    result = run("-c", "a.yaml")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "a.yaml: valid: 1 provider, 1 pool, 1 label",
        "notice: a.yaml:16: images-dir: passed over: this launcher builds no images",
    ]


def test_a_wrong_file(site: Site, folder: Path) -> None:
    (folder / "a.yaml").write_text(site.text("image: 3\ncpu: 0"))
    result = run("-c", "a.yaml")
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert lines[0].startswith("a.yaml:15: providers[0].pools[0].labels[0].image: found 3")
    assert lines[2:] == ["2 problems"]


def test_a_secure_file(folder: Path) -> None:
    (folder / "a.yaml").write_text("labels: []\n")
    (folder / "s.yaml").write_text("zookeeper-servers: [{host: zk}]\n")
    assert run("-c", "a.yaml", "-s", "s.yaml").exit_code == 0
    result = run("-c", "a.yaml")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "1 problem"


def test_a_missing_file(folder: Path) -> None:
    result = run("-c", "none.yaml")
    assert (result.exit_code, result.stderr) == (1, "none.yaml: there is no such file\n1 problem\n")
