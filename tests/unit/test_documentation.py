"""The documentation keeps its word: configurations load, links lead somewhere, commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodepool_k8s import cli, config

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)

WHOLE = re.compile(r"^providers:", re.MULTILINE)
"""What makes an example a whole configuration, and not an excerpt."""
YAML = re.compile(r"^```ya?ml\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"\bnodepool-k8s ([a-z][a-z-]+)\b")
TOOL = re.compile(r"\b(tools/[a-z]+|\.ci/run)\b")
REPOSITORY_PATH = re.compile(r"`((?:tests|etc|tools|nodepool_k8s)/[\w./-]+)`")
MODULE = re.compile(r"`((?:[a-z_]+/)?[a-z_]+\.py)`")
STAGE = re.compile(r"\btools/test ([a-z0-9]+)")
SECTION = re.compile(r"^#+ (.+)$", re.MULTILINE)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def examples() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        texts = [text for text in YAML.findall(page.read_text()) if WHOLE.search(text)]
        found += [(f"{named(page)}-{number}", text) for number, text in enumerate(texts)]
    return found


@pytest.mark.parametrize(("name", "text"), examples(), ids=[name for name, _ in examples()])
def test_a_whole_configuration_loads(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name.replace('/', '-')}.yaml"
    path.write_text(text)
    settings = config.load(str(path), environ={}, contexts=lambda: None)
    assert settings.pools
    assert not settings.notices


def test_there_are_examples() -> None:
    assert {name for name, _ in examples()} >= {"README.md-0", "docs/install.md-0"}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not leads_somewhere(page, link)] == []


def leads_somewhere(page: Path, link: str) -> bool:
    name, _, section = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.is_file():
        return False
    return not section or section in map(anchor, SECTION.findall(target.read_text()))


def anchor(heading: str) -> str:
    """A heading's anchor, as GitHub and others make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page: Path) -> None:
    # Only what is marked as code: the project's own name is followed by other words elsewhere.
    assert set(COMMAND.findall(code(page))) <= cli.COMMANDS.keys()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tools_and_stages_exist(page: Path) -> None:
    text = code(page)
    assert [name for name in TOOL.findall(text) if not (ROOT / name).exists()] == []
    usage = (ROOT / "tools" / "test").read_text()
    assert [stage for stage in STAGE.findall(text) if f"run_{stage}()" not in usage] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    assert [path for path in REPOSITORY_PATH.findall(text) if not (ROOT / path).exists()] == []
    modules = [path for path in MODULE.findall(text) if not path.startswith(("tests/", "tools/"))]
    assert [path for path in modules if not (ROOT / "nodepool_k8s" / path).is_file()] == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    linked = {(ROOT / "docs" / link).resolve() for link in LINK.findall(index)}
    assert {page for page in PAGES if page.parent != ROOT} - linked == {ROOT / "docs" / "index.md"}


def code(page: Path) -> str:
    """What a page shows as code: in backticks, in fences, indented."""
    text = page.read_text()
    blocks = re.findall(r"^(?: {4}.*|```[\s\S]*?^```)$", text, re.MULTILINE)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])
