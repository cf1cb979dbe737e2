"""The documentation keeps its word: configurations load, links lead somewhere, commands exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from voluptuous import Invalid

from nodepool_k8s import cli, config
from nodepool_k8s.config import schema
from nodepool_k8s.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)

YAML = re.compile(
    r"(?:^<!-- part of: ([a-z ]+) -->\n)?^```ya?ml\n(.*?)^```", re.DOTALL | re.MULTILINE
)
"""An example. Above an excerpt whose keys do not tell, a comment says what it is a part of."""
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"\bnodepool-k8s ([a-z][a-z-]+)\b")
TOOL = re.compile(r"\b(tools/[a-z-]+|\.ci/run)\b")
REPOSITORY_PATH = re.compile(r"`((?:tests|etc|tools|nodepool_k8s)/[\w./-]+)`")
MODULE = re.compile(r"`((?:[a-z_]+/)?[a-z_]+\.py)`")
STAGE = re.compile(r"\btools/test ([a-z0-9]+)")
SECTION = re.compile(r"^#+ (.+)$", re.MULTILINE)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- configurations ------------------------------------------------------------------------------

POD = {"name": "pod", "type": "pod", "image": "busybox"}
TOP = {"zookeeper-servers": [{"host": "zk.example.org"}]}


def whole(excerpt: Mapping[str, Any], part: str | None) -> dict[str, Any]:
    """The smallest configuration with that excerpt in its place."""
    label = {**POD, **excerpt} if part == "label" else POD
    if part == "namespace label":
        label = {"name": "pod", "type": "namespace", **excerpt}
    pool = {"name": "main", "labels": [label], **(excerpt if part == "pool" else {})}
    provider = {"name": "local", "driver": "kubernetes", "pools": [pool]}
    provider |= excerpt if part == "provider" else {}
    document = {**TOP, "providers": [provider], **(excerpt if part is None else {})}
    return {"labels": [{"name": name} for name in names_of_labels(document)], **document}


def names_of_labels(document: Mapping[str, Any]) -> Iterator[str]:
    for provider in document["providers"]:
        for pool in provider["pools"]:
            yield from (label["name"] for label in pool["labels"])


def examples() -> list[tuple[str, str | None, str]]:
    found = []
    for page in PAGES:
        texts = YAML.findall(page.read_text())
        found += [
            (f"{named(page)}-{n}", part or None, text) for n, (part, text) in enumerate(texts)
        ]
    return found


def check(text: str, part: str | None, path: Path) -> None:
    """Load an example, whole or in its place; raises ConfigError, or what YAML raises."""
    document = yaml.safe_load(text)
    if part is not None or "providers" not in document:
        # Anything else that is YAML wants a check of its own before it is shown.
        assert part is not None or set(document) <= set(schema.MAIN.keys), text
        text = yaml.safe_dump(whole(document, part))
    path.write_text(text)
    settings = config.load(str(path), environ={}, contexts=lambda: None)
    assert settings.pools
    assert not settings.notices


@pytest.mark.parametrize(
    ("name", "part", "text"), examples(), ids=[name for name, _, _ in examples()]
)
def test_every_example_of_a_configuration_loads(
    name: str, part: str | None, text: str, tmp_path: Path
) -> None:
    check(text, part, tmp_path / "example.yaml")


def test_there_are_examples() -> None:
    names = {name for name, _, _ in examples()}
    assert names >= {"README.md-0", "docs/install.md-0", "docs/configure.md-0"}
    parts = {part for _, part, _ in examples()}
    assert parts >= {None, "provider", "pool", "label"}


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("pool", "max-server: 1"),
        ("label", "memory: 4Gi"),
        ("provider", "labels: []"),
        (None, "webapp: {port: -1}"),
    ],
)
def test_a_wrong_excerpt_would_be_found(part: str | None, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        check(text, part, tmp_path / "example.yaml")


OPTION = re.compile(r"`([a-z][a-z-]+): ([^`]+)`")
"""An option with a value in a sentence: `max-servers: 0`."""


def options() -> list[tuple[str, str, str]]:
    known = {key for keys in schema.SECTIONS.values() for key in keys}
    found = [(named(page), *pair) for page in PAGES for pair in OPTION.findall(page.read_text())]
    return [entry for entry in found if entry[1] in known]


@pytest.mark.parametrize(("page", "key", "value"), options())
def test_an_option_in_a_sentence_has_a_value_that_it_takes(page: str, key: str, value: str) -> None:
    assert any(takes(keys[key], value) for keys in schema.SECTIONS.values() if key in keys)


def takes(accept: Any, value: str) -> bool:
    try:
        accept(yaml.safe_load(value))
    except Invalid:
        return False
    return True


def test_there_are_options_in_sentences() -> None:
    assert ("access-token", "{type: secret}") in {(key, value) for _, key, value in options()}


# --- the site ------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the documentation is made of."""
    for name in ("docs", "tools/documentation"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def build(checkout: Path) -> tuple[int, str]:
    program = Path(sys.executable).with_name("mkdocs")
    done = subprocess.run(
        [program, "build", "--strict"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": "tools"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_documentation_builds_without_warnings(checkout: Path) -> None:
    status, told = build(checkout)
    assert status == 0, told
    assert "WARNING" not in told
    site = checkout / "build" / "site"
    pages = {path.relative_to(checkout / "docs").with_suffix("") for path in sources(checkout)}
    built = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    assert built == pages | {Path("404"), Path("changelog"), Path("contributing")}
    assert 'href="changelog.html"' in (site / "index.html").read_text()


def sources(checkout: Path) -> list[Path]:
    return sorted((checkout / "docs").rglob("*.md"))


@pytest.mark.parametrize(
    ("page", "text", "told"),
    [
        ("docs/index.md", "[gone](gone.md)", "gone.md"),
        ("docs/index.md", "[gone](install.md#gone)", "#gone"),
        ("CHANGELOG.md", "[gone](docs/install.md#gone)", "#gone"),
        ("docs/unlisted.md", "A page that is in no menu.", "unlisted.md"),
    ],
)
def test_what_is_wrong_in_the_documentation_fails_its_building(
    checkout: Path, page: str, text: str, told: str
) -> None:
    with (checkout / page).open("a") as file:
        file.write(f"\n{text}\n")
    status, out = build(checkout)
    assert status != 0
    assert told in out


# --- links, commands, files ----------------------------------------------------------------------


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
