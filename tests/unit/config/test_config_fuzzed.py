"""Whatever is in a file, it is read or refused with a ConfigError."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodepool_k8s.config import load, schema
from nodepool_k8s.config.document import compose
from nodepool_k8s.config.options import network, security, volumes
from nodepool_k8s.config.settings import VolumeKind
from nodepool_k8s.errors import ConfigError

KEYS = st.sampled_from(sorted({key for keys in schema.SECTIONS.values() for key in keys}))
WORDS = ["kubernetes", "pod", "namespace", "a", "4Gi", "500m", "90s", "", "/a", "{request.id}", "{"]
NUMBERS: st.SearchStrategy[Any] = st.integers() | st.floats() | st.sampled_from([10**400, 2**64])
SCALARS = st.none() | st.booleans() | NUMBERS | st.sampled_from(WORDS) | st.text(max_size=9)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)


def section(keys: Any, inner: st.SearchStrategy[Any] = VALUES, **fixed: Any) -> Any:
    """A mapping with some of a section's keys, and whatever behind them."""
    free = st.dictionaries(st.sampled_from(sorted(keys)), inner, max_size=6)
    return st.tuples(free, st.fixed_dictionaries({}, optional=fixed)).map(
        lambda two: two[0] | two[1]
    )


PROFILE_NAMES = st.sampled_from(["a", "b", "c", "d"])
PROFILE = PROFILE_NAMES | st.lists(PROFILE_NAMES, max_size=3)
PROFILES = section(schema.PROFILE.keys, name=PROFILE_NAMES, profile=PROFILE)
LABELS = section(
    schema.LABEL.keys,
    name=st.just("a"),
    type=st.sampled_from(["pod", "namespace"]),
    profile=PROFILE,
)
POOLS = section(schema.POOL.keys, name=st.just("m"), labels=st.lists(LABELS, max_size=3))
PROVIDERS = section(
    schema.PROVIDER.keys, driver=st.just("kubernetes"), pools=st.lists(POOLS, max_size=2)
)
FILES = (
    section(
        schema.MAIN.keys,
        providers=st.lists(PROVIDERS, max_size=2),
        profiles=st.lists(PROFILES, max_size=3),
    )
    | VALUES
)

FUZZED = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read(folder: Path, content: bytes, secure: bytes | None = None) -> None:
    """Read a file; only ConfigError may come out of it."""
    (folder / "main").write_bytes(content)
    (folder / "secure").write_bytes(secure or b"")
    environ = {"NODEPOOL_A": "a: b\n- ", "NODEPOOL_B": "\udcff\x01"}
    with suppress(ConfigError):
        load(f"{folder}/main", f"{folder}/secure", environ=environ, contexts=lambda: {"a"})


@FUZZED
@given(data=FILES, other=FILES)
def test_any_structure(tmp_path: Path, data: Any, other: Any) -> None:
    read(tmp_path, json.dumps(data).encode(), json.dumps(other).encode())


TOPICS = (volumes, security, network)
TOPIC_KEYS = sorted({key for topic in TOPICS for key in topic.TOPIC.keys})
TOPIC_WORDS = [
    *map(str, VolumeKind),
    *("name", "spec", "path", "size", "1Gi", "volume_type", "volume-type", "mount_path"),
    *("mount-path", "claim_name", "size_limit", "medium", "Memory", "access_modes"),
    *("ReadWriteOncePod", "secret_name", "tempdir", "/a", "/a/", "/dev/shm", "emptyDir", "a"),
    *("port", "target_port", "ExternalName", "restricted", "deny-all", "ingress", "from"),
    *("ipBlock", "cidr", "10.0.0.0/8", "hostPath", "mountPath", "run_as_user", "env"),
]
KINDS: st.SearchStrategy[Any] = st.sampled_from([str(kind) for kind in VolumeKind])
TOPIC_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, 1, 80, -1, 0.5, 2**70, *TOPIC_WORDS]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(TOPIC_WORDS), inner, max_size=4)
        | st.fixed_dictionaries(
            {"name": inner, "volume-type": KINDS, "mount-path": inner, "spec": inner}
        )
    ),
    max_leaves=15,
)
TOPIC_OPTIONS = st.dictionaries(st.sampled_from(TOPIC_KEYS), TOPIC_VALUES, max_size=6)


@FUZZED
@given(options=TOPIC_OPTIONS, kind=st.sampled_from(["pod", "namespace"]))
def test_any_volumes_security_and_network(
    tmp_path: Path, options: dict[str, Any], kind: str
) -> None:
    label = {**options, "name": "a", "type": kind, "image": "i"}
    pools = [{"name": "m", "labels": [label]}]
    provider = {"name": "p", "driver": "kubernetes", "pools": pools}
    servers = [{"host": "a"}]
    data = {"zookeeper-servers": servers, "labels": [{"name": "a"}], "providers": [provider]}
    read(tmp_path, json.dumps(data).encode())


@FUZZED
@given(content=st.binary(max_size=60))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    read(tmp_path, content)


PIECES = [
    *(
        "a",
        ": ",
        "- ",
        "\n",
        "  ",
        "&x ",
        "*x",
        "<<: ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "!",
        "!!int ",
        "1",
    ),
    *("'", '"', "|\n", "? ", "---\n", "%(NODEPOOL_A)", "%(NODEPOOL_B)", "%(NODEPOOL_C)", "#", "é"),
    *("labels", "providers", "=", "~", "\t", "\r\n", "%", "2020-01-01", "!!binary ", "...\n"),
]


@FUZZED
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=25))
def test_anything_that_looks_like_yaml(tmp_path: Path, pieces: list[str]) -> None:
    read(tmp_path, "".join(pieces).encode())


@FUZZED
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=25))
def test_every_place_has_a_line_of_the_file(pieces: list[str]) -> None:
    text = "".join(pieces)
    document = compose("f", text, {"NODEPOOL_A": "a: b\n- "})
    lines = text.count("\n") + 1
    assert all(1 <= (problem.line or 0) <= lines for problem in document.problems)


@pytest.mark.parametrize("count", [200, 100_000])
def test_depth_is_refused_and_does_not_crash(tmp_path: Path, count: int) -> None:
    for opening in ("[", "{a: ", "- ", "? "):
        (tmp_path / "main").write_text(opening * count)
        with pytest.raises(ConfigError):
            load(f"{tmp_path}/main", environ={})
