"""When a changed configuration is read, and what is said of it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from nodepool_k8s import config
from nodepool_k8s.config.settings import (
    Pool,
    Provider,
    Settings,
    TopLabel,
    WebAppSettings,
    ZooKeeperServer,
    ZooKeeperSettings,
)
from nodepool_k8s.errors import ConfigError
from nodepool_k8s.launcher.reload import ConfigFiles, changes

EMPTY = """\
zookeeper-servers: [{host: zk.example.org, port: 2181}]
labels: []
providers: []
"""
SECURE = "zookeeper-servers: [{host: other.example.org}]\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "nodepool.yaml"
    path.write_text(EMPTY)
    return path


def write(path: Path, text: str) -> None:
    """Write a file so that it is told from before, however coarse the clock is."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


def test_a_file_as_it_was_loaded_has_not_changed(path: Path) -> None:
    files = ConfigFiles(str(path))
    files.load()
    assert not any(files.have_changed() for _ in range(3))


def test_a_change_counts_when_it_has_settled(path: Path) -> None:
    """Half a file can look like a whole one."""
    files = ConfigFiles(str(path))
    files.load()
    write(path, EMPTY[:40])
    assert not files.have_changed()
    write(path, EMPTY + "max-hold-age: 5\n")
    assert not files.have_changed()
    assert files.have_changed()
    assert files.load().max_hold_age == 5
    assert not files.have_changed()


def test_a_write_during_a_read_is_a_change_of_its_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ConfigFiles(str(path))
    real = config.load

    def load(*paths: str | None) -> Settings:
        found = real(str(path))
        write(path, EMPTY + "max-hold-age: 5\n")
        return found

    monkeypatch.setattr(config, "load", load)
    files.load()
    assert not files.have_changed()
    assert files.have_changed()


def test_a_bad_file_is_read_once_and_not_again_until_it_changes(path: Path) -> None:
    files = ConfigFiles(str(path))
    files.load()
    write(path, "providers: [")
    files.have_changed()
    assert files.have_changed()
    with pytest.raises(ConfigError):
        files.load()
    assert not any(files.have_changed() for _ in range(3))


def test_a_file_that_goes_and_the_secure_file_count_too(path: Path, tmp_path: Path) -> None:
    secure = tmp_path / "secure.yaml"
    secure.write_text("{}")
    files = ConfigFiles(str(path), str(secure))
    files.load()
    write(secure, SECURE)
    files.have_changed()
    assert files.have_changed()
    assert files.load().zookeeper.servers[0].host == "other.example.org"
    path.unlink()
    files.have_changed()
    assert files.have_changed()


# --- what is said ------------------------------------------------------------------------------

POOL = Pool("local", "main", {})
PROVIDER = Provider("local", "one", (POOL,))
SETTINGS = Settings(ZooKeeperSettings((ZooKeeperServer("zk"),)), (PROVIDER,), {})


def with_provider(**fields: object) -> Settings:
    provider = dataclasses.replace(PROVIDER, **fields)  # type: ignore[arg-type]
    return dataclasses.replace(SETTINGS, providers=(provider,))


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (with_provider(context="two"), ["provider local has changed"]),
        (
            with_provider(pools=(dataclasses.replace(POOL, priority=1),)),
            ["pool local/main has changed"],
        ),
        (
            with_provider(pools=(Pool("local", "a", {}),)),
            ["pool local/a was added", "pool local/main was removed"],
        ),
        (
            dataclasses.replace(SETTINGS, providers=()),
            ["provider local was removed", "pool local/main was removed"],
        ),
        (dataclasses.replace(SETTINGS, labels={"a": TopLabel("a")}), ["label a was added"]),
        (
            dataclasses.replace(SETTINGS, tenant_limits={"one": {}}),
            ["limits of tenant one was added"],
        ),
        (dataclasses.replace(SETTINGS, max_hold_age=5.0), ["max-hold-age"]),
        (
            dataclasses.replace(SETTINGS, zookeeper=ZooKeeperSettings((ZooKeeperServer("other"),))),
            ["how to reach ZooKeeper; reconnecting"],
        ),
        (
            dataclasses.replace(SETTINGS, webapp=WebAppSettings(port=1)),
            ["where the web server listens"],
        ),
    ],
)
def test_each_change_is_named(new: Settings, said: list[str]) -> None:
    assert changes(SETTINGS, new) == said
