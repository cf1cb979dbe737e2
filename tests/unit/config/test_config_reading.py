"""From bytes to data: environment, lines, anchors, files that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nodepool_k8s.config import load
from nodepool_k8s.config.document import compose
from nodepool_k8s.config.substitution import substitute
from nodepool_k8s.errors import ConfigError

if TYPE_CHECKING:
    from tests.unit.config.conftest import Site

ZK = "zookeeper-servers: [{host: zk}]\n"


def test_variables_become_whatever_yaml_makes_of_them(site: Site) -> None:
    text = "zookeeper-servers: [{host: %(NODEPOOL_HOST), port: %(NODEPOOL_PORT)}]"
    settings = site.load(text, environ={"NODEPOOL_HOST": "zk1", "NODEPOOL_PORT": "1234"})
    assert settings.zookeeper.hosts == "zk1:1234"


def test_a_variable_may_bring_several_lines(site: Site) -> None:
    text = "zookeeper-servers:\n%(NODEPOOL_SERVERS)\nwebapp:\n  port: x\n"
    servers = "- host: a\n- host: b\n- host: 'c d'"
    found = site.problems(text, environ={"NODEPOOL_SERVERS": servers})
    assert [(problem.line, problem.path) for problem in found] == [
        (2, "zookeeper-servers[2]['%(NODEPOOL_SERVERS)']"),
        (4, "webapp.port"),
    ]


def test_an_unset_variable_stays_and_is_told_of(site: Site) -> None:
    settings = site.label("image: 'registry/%(NODEPOOL_IMAGE)'\n# %(NODEPOOL_COMMENTED)")
    assert settings.pools[0].labels["small"].image == "registry/%(NODEPOOL_IMAGE)"
    (notice,) = settings.notices
    assert ":15: the environment variable NODEPOOL_IMAGE is not set" in notice


def test_an_unset_variable_where_it_cannot_stay(site: Site) -> None:
    (problem,) = site.problems("zookeeper-servers:\n- host: zk\n  port: %(NODEPOOL_PORT)")
    assert (problem.line, problem.path) == (3, "zookeeper-servers[0].port")
    assert problem.message == (
        "found '%(NODEPOOL_PORT)', expected a port number from 1 to 65535; "
        "the environment variable NODEPOOL_PORT is not set"
    )


def test_only_variables_of_nodepools_are_substituted() -> None:
    assert substitute("%(HOME) %(NODEPOOL_X)s", {"HOME": "/", "NODEPOOL_X": "x"}).text == (
        "%(HOME) xs"
    )


@pytest.mark.parametrize("value", ["", "x", "xxxxxxxxxxxxxxxxxxxxxxx", "x\ny\n"])
def test_positions_are_the_sources(value: str) -> None:
    source = "é %(NODEPOOL_X) b\n\U0001f600 %(NODEPOOL_X)\r\nend %(NODEPOOL_Y)!"
    substituted = substitute(source, {"NODEPOOL_X": value})
    for mark, position in (("é", (1, 1)), ("b", (1, 17)), ("end", (3, 1)), ("!", (3, 18))):
        assert substituted.position(substituted.text.index(mark)) == position


def test_lines_after_unusual_characters(site: Site) -> None:
    text = "\ufeff# é\U0001f600\u2028\x85\r\n" + ZK.replace("\n", "\r\n") + "webapp:\r\n  port: x"
    (problem,) = site.problems(text)
    assert problem.line == 4


def test_anchors_and_merge_keys(site: Site) -> None:
    text = site.text("<<: &base\n  image: i\n  cpu: 2\n  memory: 5\ncpu: 1\nlabels: &all {a: b}")
    text += "          - {<<: [{memory: 7}, *base], name: space, type: pod, labels: *all}\n"
    labels = site.load(text).pools[0].labels
    assert (labels["small"].cpu, labels["small"].memory) == (1, 5)
    assert (labels["space"].cpu, labels["space"].memory) == (2, 7)
    assert labels["space"].labels == {"a": "b"}


def test_a_problem_in_what_is_merged_points_at_it(site: Site) -> None:
    text = site.text("image: i\nannotations: {}\n<<: &base\n  cpu: x")
    (problem,) = site.problems(text)
    assert (problem.line, problem.path) == (18, "providers[0].pools[0].labels[0].cpu")


def test_texts_are_taken_as_they_are_written(site: Site) -> None:
    settings = site.label(
        "image: i\n"
        "labels: {version: 1.10, on: yes, n: 010}\n"
        "annotations: {long: 'a b', 3: true}\n"
        "env: [{name: A, value: 1.10}, {name: B, value: True}, {name: C, value: '1'}]"
    )
    found = settings.pools[0].labels["small"]
    assert found.labels == {"version": "1.10", "on": "yes", "n": "010"}
    assert found.annotations == {"long": "a b", "3": "true"}
    assert found.workload.env == (("A", "1.10"), ("B", "True"), ("C", "1"))
    assert len(settings.notices) == 2


def failure(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(str(path), environ={})
    (problem,) = caught.value.problems
    return problem.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert failure(tmp_path / "none.yaml") == "there is no such file"
    assert "cannot be read: Is a directory" in failure(tmp_path)
    assert "cannot be read" in failure(tmp_path / "a\0b")
    (tmp_path / "latin").write_bytes(b"labels: []\n# \xe9")
    assert failure(tmp_path / "latin") == "is not UTF-8 text; save it as UTF-8"


def test_the_line_of_what_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"labels: []\n# \xe9")
    with pytest.raises(ConfigError, match=r"latin:2: is not UTF-8"):
        load(str(tmp_path / "latin"), environ={})


def test_every_file_of_two_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"{tmp_path}/a", f"{tmp_path}/b", environ={})
    assert len(caught.value.problems) == 2


def test_a_file_of_2000_labels_is_read_quickly(site: Site) -> None:
    names = [f"l{number}" for number in range(2000)]
    text = ZK + "labels:\n" + "".join(f"- name: {name}\n" for name in names)
    text += "providers:\n- name: k\n  driver: kubernetes\n  pools:\n  - name: m\n    labels:\n"
    for name in names:
        text += (
            f"    - {{name: {name}, type: pod, image: i, cpu: 1, memory: 9, labels: {{a: b}}}}\n"
        )
    assert len(site.load(text).pools[0].labels) == 2000


def test_the_parsers_own_tokens_are_not_taken_for_values() -> None:
    document = compose("f", "a: b: c", {})
    assert "is not YAML" in str(document.problems[0])
