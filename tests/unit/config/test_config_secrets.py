"""Nothing that may be a secret is repeated in a message, a notice or a repr."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.config.conftest import Site

ZK = "zookeeper-servers: [{host: zk}]\n"

SECURE = [
    "zookeeper-servers: [{host: s3cr3t x, port: s3cr3t, chroot: 's3cr3t y'}]",
    "zookeeper-tls: {cert: /s3cr3t, key: /s3cr3t, ca: s3cr3t}",
    "zookeeper-tls: s3cr3t",
    "zookeeper-servers: [s3cr3t]",
    "s3cr3t",
    "zookeeper-tls: 's3cr3t",
    "zookeeper-tls: *s3cr3t",
    "zookeeper-tls: !s3cr3t x",
    "zookeeper-servers: [{host: a, chroot: s3cr3t}, {host: b, chroot: t}]",
]


@pytest.mark.parametrize("secure", SECURE)
def test_the_secure_files_values_stay_unsaid(site: Site, secure: str) -> None:
    found = site.problems("labels: []", secure=secure)
    assert any(problem.file == "secure.yaml" for problem in found)
    assert "s3cr3t" not in "".join(map(str, found))


ENV = ["{A: s3cr3t}", "[A=s3cr3t]", "s3cr3t", "[{name: A=s3cr3t, value: b}]"]
ENV += ["[{name: A, value: [s3cr3t]}]", "[{name: A, valeu: s3cr3t}]"]


@pytest.mark.parametrize("env", ENV)
def test_values_of_env_stay_unsaid(site: Site, env: str) -> None:
    found = site.problems(site.text(f"image: i\nenv: {env}"))
    assert "s3cr3t" not in "".join(map(str, found))


def test_env_is_left_out_of_notices_and_reprs(site: Site) -> None:
    settings = site.label("image: i\nenv: [{name: A, value: 90210}]")
    assert settings.pools[0].labels["small"].workload.env == (("A", "90210"),)
    assert "90210" not in repr(settings)


VARIABLE_IN_LABEL = ["labels: {'%(NODEPOOL_X) ': 3}", "memory: %(NODEPOOL_X)Gi"]

VARIABLE = [
    ZK + "webapp: {port: %(NODEPOOL_X)}",
    ZK + "webapp: {port: 'a %(NODEPOOL_X) b'}",
    ZK + "webapp: {%(NODEPOOL_X): 3}",
    ZK + "labels: [{name: %(NODEPOOL_X)}, {name: %(NODEPOOL_X)}]",
    ZK + "webapp: {%(NODEPOOL_X): 3, %(NODEPOOL_X): 4}",
]


@pytest.mark.parametrize("text", VARIABLE)
def test_values_of_the_environment_stay_unsaid(site: Site, text: str) -> None:
    for value in ("s3cr3t", "90210"):
        found = site.problems(text, environ={"NODEPOOL_X": value})
        assert value not in "".join(map(str, found))


@pytest.mark.parametrize("line", VARIABLE_IN_LABEL)
def test_values_of_the_environment_stay_unsaid_in_labels(site: Site, line: str) -> None:
    for value in ("s3cr3t", "90210"):
        found = site.problems(site.text(f"image: i\n{line}"), environ={"NODEPOOL_X": value})
        assert value not in "".join(map(str, found))


def test_what_surrounds_a_variable_is_said(site: Site) -> None:
    text = ZK + "webapp: {port: %(NODEPOOL_X), listen_address: 'not me'}"
    shown = "".join(map(str, site.problems(text, environ={"NODEPOOL_X": "s3cr3t"})))
    assert "found text (not shown), expected a port number" in shown
    assert "found 'not me', expected a host name" in shown
