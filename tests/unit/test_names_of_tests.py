"""Names of tests stay short enough to be read in a list."""

from __future__ import annotations

import ast
from pathlib import Path

LONGEST = 59


def test_names_of_tests_are_short() -> None:
    tests = Path(__file__).parents[1]
    too_long = [
        f"{path.relative_to(tests)}: {node.name}"
        for path in sorted(tests.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > LONGEST
    ]
    assert too_long == []
