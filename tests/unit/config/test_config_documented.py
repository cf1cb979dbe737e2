"""The two shipped files work, and nothing the schema knows is left out of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodepool_k8s.config import load, schema
from nodepool_k8s.errors import ConfigError

ROOT = Path(__file__).parents[3]
FULL = ROOT / "etc" / "nodepool-full.yaml"
SMALL = ROOT / "etc" / "nodepool.yaml"
PAGE = ROOT / "docs" / "configure.md"

KEYS = sorted({key for keys in schema.SECTIONS.values() for key in keys})


def test_the_full_file_is_valid() -> None:
    settings = load(str(FULL), environ={}, contexts=lambda: {"admin-cluster.local"})
    assert settings.notices == ()
    assert len(settings.pools[0].labels) == len(settings.labels)


@pytest.mark.parametrize("key", KEYS)
def test_every_option_is_in_the_full_file(key: str) -> None:
    assert re.search(rf"(^|[\s#-]){key}[:,\n]", FULL.read_text(), re.M)


@pytest.mark.parametrize(("section", "keys"), schema.SECTIONS.items())
def test_every_option_is_on_the_page(section: str, keys: dict[str, object]) -> None:
    page = PAGE.read_text()
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_the_small_file_is_the_demos() -> None:
    environ = {"NODEPOOL_ZOOKEEPER_HOST": "127.0.0.1", "NODEPOOL_ZOOKEEPER_PORT": "2181"}
    settings = load(str(SMALL), environ=environ, contexts=lambda: {"local"})
    assert settings.zookeeper.hosts == "127.0.0.1:2181"
    assert list(settings.pools[0].labels) == ["pod-fedora", "kubernetes-namespace"]


def test_the_small_file_without_its_environment() -> None:
    with pytest.raises(ConfigError, match="variable NODEPOOL_ZOOKEEPER_PORT is not set"):
        load(str(SMALL), environ={}, contexts=lambda: {"local"})
