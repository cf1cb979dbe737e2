"""A launcher without a web server does not carry one along."""

import ast
from collections.abc import Iterator
from pathlib import Path

import nodepool_k8s

PACKAGE = Path(nodepool_k8s.__file__).parent


def imported(path: Path) -> Iterator[str]:
    """Every module that the file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_only_the_daemon_imports_the_web_server() -> None:
    found: dict[str, set[str]] = {"aiohttp.web": set(), "nodepool_k8s.web": set()}
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        for module in imported(path):
            for name, places in found.items():
                if module == name or module.startswith(f"{name}."):
                    places.add(place)
    assert {place for place in found["aiohttp.web"] if not place.startswith("web/")} == set()
    outside = {place for place in found["nodepool_k8s.web"] if not place.startswith("web/")}
    assert outside == {"launcher/daemon.py"}
