"""The two shipped files work, and the page of options says what the schema says, and no more."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodepool_k8s.config import load, options, schema
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.errors import ConfigError

ROOT = Path(__file__).parents[3]
FULL = ROOT / "etc" / "nodepool-full.yaml"
SMALL = ROOT / "etc" / "nodepool.yaml"
PAGE = ROOT / "docs" / "configure.md"

KEYS = sorted({key for keys in schema.SECTIONS.values() for key in keys})


# --- the shipped files -------------------------------------------------------------------------


def test_the_full_file_is_valid() -> None:
    settings = load(str(FULL), environ={}, contexts=lambda: {"admin-cluster.local"})
    assert settings.notices == ()
    assert len(settings.pools[0].labels) == len(settings.labels)


@pytest.mark.parametrize("key", KEYS)
def test_every_option_is_in_the_full_file(key: str) -> None:
    assert re.search(rf"(^|[\s#-]){key}[:,\n]", FULL.read_text(), re.M)


def test_the_small_file_is_the_demos() -> None:
    environ = {"NODEPOOL_ZOOKEEPER_HOST": "127.0.0.1", "NODEPOOL_ZOOKEEPER_PORT": "2181"}
    settings = load(str(SMALL), environ=environ, contexts=lambda: {"local"})
    assert settings.zookeeper.hosts == "127.0.0.1:2181"
    assert list(settings.pools[0].labels) == ["pod-fedora", "kubernetes-namespace"]


def test_the_small_file_without_its_environment() -> None:
    with pytest.raises(ConfigError, match="variable NODEPOOL_ZOOKEEPER_PORT is not set"):
        load(str(SMALL), environ={}, contexts=lambda: {"local"})


# --- the page: which options, where ----------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An option as a table of the page has it."""

    heading: str
    name: str
    type: str
    default: str
    meaning: str


HEADINGS = {
    "Top level": "top level",
    "zookeeper-servers": "zookeeper-servers",
    "zookeeper-tls": "zookeeper-tls",
    "labels": "labels",
    "tenant-resource-limits": "tenant-resource-limits",
    "webapp": "webapp",
    "Provider": "provider",
    "Pool": "pool",
    "Label of a pool": "label",
    "access-token": "access-token",
}
"""The schema's section that each heading of the page is about."""
LAUNCH = "Launch options"


def rows() -> list[Row]:
    found, heading = [], ""
    for line in PAGE.read_text().splitlines():
        if title := re.match(r"#+ (.+)", line):
            heading = title[1]
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `") and len(cells) == 4:
            names = re.findall(r"`([^`]+)`", cells[0])
            found += [Row(heading, name, *cells[1:]) for name in names]
    return found


ROWS = rows()


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_sections_table_has_its_options_and_no_others(heading: str) -> None:
    wanted = set(schema.SECTIONS[HEADINGS[heading]])
    if heading in ("Provider", "Pool", "Label of a pool"):
        wanted -= set(options.LAUNCH)  # They have a table of their own.
    told = [row.name for row in ROWS if row.heading == heading]
    assert len(told) == len(set(told))
    passed_over = set(schema.IGNORED_SECTIONS) if heading == "Top level" else set()
    assert set(told) == wanted - passed_over
    assert all(f"`{key}`" in PAGE.read_text() for key in passed_over)


def test_the_launch_options_have_a_table() -> None:
    told = [row.name for row in ROWS if row.heading == LAUNCH]
    assert sorted(told) == sorted(options.LAUNCH)
    for section in (schema.PROVIDER, schema.POOL, schema.LABEL):
        assert set(told) <= set(section.keys)


def test_every_section_is_on_the_page() -> None:
    # The entries of these are in their rows.
    inner = {"env", "resources"}
    assert set(HEADINGS.values()) | inner == set(schema.SECTIONS)
    for name in inner:
        (row,) = [row for row in ROWS if row.name == name]
        assert all(f"`{key}`" in row.type for key in schema.SECTIONS[name])


def test_every_option_has_a_type_and_says_its_default() -> None:
    assert [row.name for row in ROWS if not row.type or not row.default] == []


def test_every_number_has_a_unit() -> None:
    """A memory of 4 is ambiguous without one."""
    units = {"cpu": "cores", "cores": "cores", "memory": "MiB", "ram": "MiB", "storage": "MB"}
    for row in ROWS:
        part = next((part for part in units if part in row.name.split("-")), None)
        if part is not None:
            assert units[part] in row.type + row.meaning, row


# --- the page: what is mandatory, and what is the default --------------------------------------

WHOLE: Mapping[str, Any] = {
    "zookeeper-servers": [{"host": "zk.example.org"}],
    "labels": [{"name": "pod"}],
    "tenant-resource-limits": [{"tenant-name": "one"}],
    "webapp": {},
    "providers": [
        {
            "name": "local",
            "driver": "kubernetes",
            "access-token": {},
            "pools": [
                {
                    "name": "main",
                    "labels": [{"name": "pod", "type": "pod", "image": "busybox"}],
                }
            ],
        }
    ],
}
PLACES: Mapping[str, tuple[str | int, ...]] = {
    "Top level": (),
    "zookeeper-servers": ("zookeeper-servers", 0),
    "labels": ("labels", 0),
    "tenant-resource-limits": ("tenant-resource-limits", 0),
    "webapp": ("webapp",),
    "Provider": ("providers", 0),
    "Pool": ("providers", 0, "pools", 0),
    "Label of a pool": ("providers", 0, "pools", 0, "labels", 0),
    LAUNCH: ("providers", 0, "pools", 0, "labels", 0),
    "access-token": ("providers", 0, "access-token"),
}
"""Where in ``WHOLE`` the options of a heading stand; zookeeper-tls names files, and is apart."""

INHERITED = re.compile(
    r"^(the (provider|pool|top level|image|launcher)'s|`launch-timeout`|see below|kube/config's)"
)
NOTHING = re.compile(r"^(none|unlimited|0: (never|no limit)|left to Kubernetes|Kubernetes' own)")
SETTLED = [
    row
    for row in ROWS
    if not row.default.startswith("mandatory")
    and not INHERITED.match(row.default)
    and not NOTHING.match(row.default)
    and row.name != "driver"  # Nodepool's default is another driver, and not ours to load.
]


def loaded(document: Mapping[str, Any], folder: Path) -> Settings:
    path = folder / "nodepool.yaml"
    path.write_text(yaml.safe_dump(document))
    return load(str(path), environ={}, contexts=lambda: None)


def changed(row: Row, value: Any) -> dict[str, Any]:
    """``WHOLE`` with the option of that row as the value says; None removes it."""
    document = copy.deepcopy(dict(WHOLE))
    place: Any = document
    for step in PLACES[row.heading]:
        place = place[step]
    if value is None:
        del place[row.name]
    else:
        place[row.name] = value
    return document


@pytest.mark.parametrize("row", SETTLED, ids=lambda row: f"{row.heading}: {row.name}")
def test_to_write_the_default_changes_nothing(row: Row, tmp_path: Path) -> None:
    value = yaml.safe_load(re.split(r"[:;]", row.default)[0])
    assert loaded(changed(row, value), tmp_path) == loaded(WHOLE, tmp_path)


def test_the_defaults_are_looked_at() -> None:
    names = {row.name for row in SETTLED}
    assert names >= {"port", "priority", "launch-retries", "launch-timeout", "lifetime", "type"}


MANDATORY = [row for row in ROWS if row.default == "mandatory" and row.heading in PLACES]


@pytest.mark.parametrize("row", MANDATORY, ids=lambda row: f"{row.heading}: {row.name}")
def test_what_is_mandatory_is_missed(row: Row, tmp_path: Path) -> None:
    if row.name == "zookeeper-servers":
        document = {key: value for key, value in WHOLE.items() if key != row.name}
    else:
        document = changed(row, None)
    with pytest.raises(ConfigError, match=rf"{row.name}"):
        loaded(document, tmp_path)
