"""The list of promises names tests that exist."""

import re
from pathlib import Path

INTEGRATION = Path(__file__).parents[1] / "integration"
TEXT = (INTEGRATION / "operator" / "README.md").read_text(encoding="utf-8")


def test_every_file_of_the_list_exists() -> None:
    files = re.findall(r"`((?:launcher/)?test_\w+\.py)`", TEXT)
    assert len(files) > 20
    places = {name: INTEGRATION / (name if "/" in name else f"operator/{name}") for name in files}
    assert [name for name, path in places.items() if not path.exists()] == []


def test_every_test_of_the_list_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 30
    sources = "\n".join(path.read_text(encoding="utf-8") for path in INTEGRATION.rglob("test_*.py"))
    defined = set(re.findall(r"^(?:async )?def (test_\w+)", sources, re.MULTILINE))
    assert named - defined == set()


def test_every_file_of_the_folder_is_in_the_list() -> None:
    files = {path.name for path in (INTEGRATION / "operator").glob("test_*.py")}
    assert files - set(re.findall(r"`(test_\w+\.py)`", TEXT)) == set()
