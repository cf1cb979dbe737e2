"""The contexts of kube/config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nodepool_k8s.config import kubeconfig, load
from nodepool_k8s.errors import ConfigError

if TYPE_CHECKING:
    from tests.unit.config.conftest import Site

FILE = "contexts: [{name: %s, context: {cluster: c}}]\nusers: [{name: u, user: {token: hidden}}]\n"


def test_a_context_that_is_not_there(site: Site) -> None:
    (problem,) = site.problems(site.text("image: i"), contexts={"heer", "work"})
    assert (problem.line, problem.path) == (9, "providers[0].context")
    assert "found 'here', expected a context of kube/config" in problem.message
    assert "which has 'heer', 'work'; did you mean 'heer'?" in problem.message


def test_no_kubeconfig_at_all(site: Site) -> None:
    (problem,) = site.problems(site.text("image: i"), contexts=None)
    assert "but there is no kube/config" in problem.message


def test_without_a_context_kubeconfig_is_not_asked_for(site: Site, tmp_path: Path) -> None:
    def refuse() -> set[str] | None:
        raise AssertionError("was read")

    file = tmp_path / "nodepool.yaml"
    file.write_text(site.text("image: i").replace("    context: here\n", ""))
    assert load(str(file), environ={}, contexts=refuse).providers[0].context is None


def test_names_of_several_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(FILE % name)
    value = f"{tmp_path}/one:{tmp_path}/missing:{tmp_path}/two"
    assert kubeconfig.contexts({"KUBECONFIG": value}) == {"one", "two"}


def test_the_default_file(tmp_path: Path) -> None:
    assert kubeconfig.contexts({"HOME": str(tmp_path)}) is None
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(FILE % "home")
    assert kubeconfig.contexts({"HOME": str(tmp_path), "KUBECONFIG": ""}) == {"home"}


@pytest.mark.parametrize("text", ["", "[]", "contexts: 3", "contexts: [3, {name: [x]}]"])
def test_files_without_contexts(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    assert kubeconfig.contexts({"KUBECONFIG": f"{tmp_path}/config"}) == set()


def test_a_broken_kubeconfig_is_one_of_the_problems(site: Site, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("contexts: [\ntoken: 'hidden")
    (tmp_path / "nodepool.yaml").write_text(site.text("image: 3"))
    with pytest.raises(ConfigError) as caught:
        load(f"{tmp_path}/nodepool.yaml", environ={"KUBECONFIG": f"{tmp_path}/config"})
    files = [Path(problem.file).name for problem in caught.value.problems]
    assert files == ["config", "nodepool.yaml"]
    assert "hidden" not in str(caught.value)
