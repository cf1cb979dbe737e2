"""Figures of how a package is built, from small packages."""

from __future__ import annotations

import subprocess
from graphlib import CycleError
from pathlib import Path

import pytest
from structure_figures import cli, figures, sources

PAIR = {
    "p.a": '''
"""A module.

Of several lines."""

import os


def used_once() -> str:
    """A docstring."""
    return os.sep  # a comment


def used_twice() -> None:
    used_once()


class Thing:
    def __init__(self) -> None:
        used_twice()
        used_twice()

    def used_elsewhere(self) -> None:
        """A docstring."""
''',
    "p.b": """
from p.a import Thing as Other

class Thing(Other): ...

class _Private: ...

Thing().used_elsewhere()


def same_name() -> None: ...

same_name()
""",
    "p.c": "class _Private: ...\nprint(same_name)\n",
}


def test_functions_that_are_used_once() -> None:
    found = figures.referenced_once(PAIR)
    assert found == figures.Referenced(functions=4, once=2, only_there=1)
    assert found.percent(found.once) == 50


def test_no_functions_are_no_percent() -> None:
    assert figures.referenced_once({"p": ""}).percent(0) == 0


def test_lines_of_code() -> None:
    assert figures.lines_of_code({"p.a": PAIR["p.a"]}) == 10
    assert figures.lines_of_code({"p": 'X = """two\nlines"""\n'}) == 2


def test_the_largest_classes_come_first() -> None:
    first, second = figures.largest_classes(PAIR, 2)
    assert (first.module, first.name, first.lines) == ("p.a", "Thing", 7)
    assert second.lines == 1


def test_public_classes_of_one_name() -> None:
    assert figures.shared_class_names(PAIR) == {"Thing": ["p.a", "p.b"]}


FLOORS = {
    "p": "",
    "p.top": "from p.middle import x\nimport p.bottom",
    "p.middle": "from p import bottom\nfrom q import top",
    "p.bottom": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from p.top import Y\n"
        "def late():\n    from p import top\n"
    ),
    "p.relative": "from . import top",
    "p.inner.deep": "from ..relative import z",
    "q.top": "from p import top",
}


def test_the_longest_chain_of_imports() -> None:
    chain = figures.longest_import_chain(FLOORS, "p")
    assert chain == ["p.inner.deep", "p.relative", "p.top", "p.middle", "p.bottom"]
    assert figures.longest_import_chain(FLOORS, "q") == ["q.top"]
    assert figures.longest_import_chain(FLOORS, "r") == []


def test_a_circle_of_imports_is_an_error() -> None:
    with pytest.raises(CycleError):
        figures.longest_import_chain({"p.a": "import p.b", "p.b": "import p.a"}, "p")


def test_a_revision_is_read_without_checking_it_out(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    (tmp_path / "p" / "q").mkdir(parents=True)
    (tmp_path / "p" / "__init__.py").write_text("OLD = 1\n")
    (tmp_path / "p" / "q" / "r.py").write_text("")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    (tmp_path / "p" / "__init__.py").write_text("NEW = 1\n")
    assert sources.at_revision(tmp_path, "p", "HEAD") == {"p": "OLD = 1\n", "p.q.r": ""}
    assert sources.working_tree(tmp_path, "p") == {"p": "NEW = 1\n", "p.q.r": ""}


def test_the_report_names_every_figure() -> None:
    text = "\n".join(cli.report(PAIR))
    for heading in ("lines of code", "used once", "floors of launcher", "largest", "shared names"):
        assert heading in text
