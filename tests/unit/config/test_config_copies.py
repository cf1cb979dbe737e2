"""Copies, service accounts, replicas and ready-checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nodepool_k8s.config.settings import Copies, CopySource, Label

if TYPE_CHECKING:
    from tests.unit.config.conftest import Site

LABEL = "providers[0].pools[0].labels[0]"
IMAGE = "image: i\n"


def text_of(site: Site, lines: str, kind: str = "pod") -> str:
    """A provider with a source-namespace."""
    text = site.text(lines, kind=kind)
    return text.replace("driver: kubernetes\n", "driver: kubernetes\n    source-namespace: build\n")


def label_of(site: Site, lines: str, kind: str = "pod") -> Label:
    (label,) = site.load(text_of(site, lines, kind)).pools[0].labels.values()
    return label


def secret(name: str, namespace: str = "build") -> CopySource:
    return CopySource("Secret", namespace, name)


def config_map(name: str, namespace: str = "build") -> CopySource:
    return CopySource("ConfigMap", namespace, name)


MOUNTED = """\
volumes:
  - {volume_type: secret, name: a, mount_path: /a, spec: {secret_name: x}}
  - {volume_type: config_map, name: b, mount_path: /b, spec: {name: y, namespace: other}}
"""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", Copies()),
        ("secrets: []", Copies()),
        ("secrets: [b, a]", Copies(env=(secret("b"), secret("a")))),
        (
            "secrets: [{name: a}, {name: b, namespace: other}]",
            Copies(env=(secret("a"), secret("b", "other"))),
        ),
        ("config_maps: [a]\nsecrets: [a]", Copies(env=(config_map("a"), secret("a")))),
        (
            "image_pull_secrets: [a]\nsecrets: [a]",
            Copies(env=(secret("a"),), image_pull=(secret("a"),)),
        ),
        ("service_account: robot", Copies(service_account="robot")),
        (MOUNTED, Copies(mounted=(secret("x"), config_map("y", "other")))),
        # A volume means what a list names in full.
        (
            MOUNTED + "secrets: [{name: x, namespace: far}]",
            Copies(
                env=(secret("x", "far"),), mounted=(secret("x", "far"), config_map("y", "other"))
            ),
        ),
    ],
)
def test_what_is_copied(site: Site, lines: str, expected: Copies) -> None:
    assert label_of(site, IMAGE + lines).copies == expected


def test_each_source_is_copied_once(site: Site) -> None:
    lines = f"{IMAGE}image-pull-secrets: [x]\nsecrets: [x]\n{MOUNTED}"
    assert label_of(site, lines).copies.sources == (secret("x"), config_map("y", "other"))


def test_a_namespace_label_gets_copies_too(site: Site) -> None:
    lines = "secrets: [a]\nservice-account: robot"
    expected = Copies(env=(secret("a"),), service_account="robot")
    assert label_of(site, lines, "namespace").copies == expected


def test_a_pool_has_defaults_for_them(site: Site) -> None:
    defaults = "default-label-secrets: [a]\n        default-label-service-account: robot"
    text = text_of(site, f"{IMAGE}secrets: [b]").replace(
        "        labels:\n", f"        {defaults}\n        labels:\n"
    )
    (label,) = site.load(text).pools[0].labels.values()
    assert label.copies == Copies(env=(secret("b"),), service_account="robot")


WRONG = [
    ("secrets: a", ".secrets", "found 'a', expected a list of Secrets: of each a name, or a mapp"),
    ("secrets: [1]", ".secrets[0]", "found 1, expected a name, or a mapping with name and namesp"),
    ("secrets: [A]", ".secrets[0]", "found 'A', expected the name of a Secret: lower-case"),
    ("secrets: [{namespace: a}]", ".secrets[0].name", "is missing, expected the name of a Secret"),
    ("secrets: [{name: a, space: b}]", ".secrets[0].space", "is not an option here"),
    ("secrets: [{name: a, namespace: A}]", ".secrets[0].namespace", "the name of a namespace"),
    ("secrets: [a, a]", ".secrets[1]", "expected each Secret once; the first is"),
    (
        "secrets: [a]\nimage-pull-secrets: [{name: a, namespace: b}]",
        ".image-pull-secrets[0]",
        "is from another namespace than providers[0].pools[0].labels[0].secrets[0], line 17, and "
        "both would be copied to one Secret a",
    ),
    ("secrets: [zuul-worker]", ".secrets[0]", "cannot be copied: the requestor's token may be in"),
    ("config-maps: [kube-root-ca.crt]", ".config-maps[0]", "cannot be copied: each namespace has"),
    ("service-account: a b", ".service-account", "expected the name of a service account"),
    ("service-account: zuul-worker", ".service-account", "expected another name than zuul-worker"),
    ("replicas: 0", ".replicas", "found 0, expected a whole number of pods, 1 or more"),
    ("replicas: 1.5", ".replicas", "found 1.5, expected a whole number of pods, 1 or more"),
    ("replicas: '2'", ".replicas", "found '2', expected a whole number of pods, 1 or more"),
    ("ready-check: ready", ".ready-check", "found 'ready', expected running or exec"),
]


@pytest.mark.parametrize(("lines", "place", "message"), WRONG)
def test_what_is_refused(site: Site, lines: str, place: str, message: str) -> None:
    (problem,) = site.problems(text_of(site, IMAGE + lines))
    assert problem.file == "nodepool.yaml"
    assert problem.line == 16 + len(lines.splitlines())
    assert problem.path == LABEL + place
    assert message in problem.message


@pytest.mark.parametrize(
    ("lines", "place", "how"),
    [
        ("secrets: [a]", ".secrets[0]", "write it as a mapping with name and namespace, or give"),
        ("config-maps: [{name: a}]", ".config-maps[0]", "write it as a mapping with name and name"),
        (
            "volumes: [{volume-type: secret, name: a, mount-path: /a, spec: {secret-name: x}}]",
            ".volumes[0].spec",
            "give it a namespace, or give the provider a source-namespace",
        ),
    ],
)
def test_a_source_without_a_namespace(site: Site, lines: str, place: str, how: str) -> None:
    (problem,) = site.problems(site.text(IMAGE + lines))
    assert (problem.line, problem.path) == (16, LABEL + place)
    assert "does not say where the" in problem.message
    assert how in problem.message


def test_the_name_of_the_last_replica_has_to_fit(site: Site) -> None:
    text = text_of(site, f"{IMAGE}replicas: 12")
    (problem,) = site.problems(text.replace("small", "a" * 61))
    assert problem.path == f"{LABEL}.replicas"
    assert "found 12, expected 1, or a label with a name of at most 60 char" in problem.message
    assert list(site.load(text.replace("small", "a" * 60)).pools[0].labels) == ["a" * 60]


def test_a_raw_spec_takes_none_of_them(site: Site) -> None:
    lines = "spec: {containers: [{name: c, image: i}]}\nready-check: exec\n"
    for option in ("secrets: [a]", "replicas: 2", "service-account: a"):
        (problem,) = site.problems(text_of(site, lines + option))
        assert "cannot be given together with spec" in problem.message
    assert label_of(site, lines).launch.ready_check == "exec"


@pytest.mark.parametrize(("lines", "expected"), [("", 1), ("replicas: 1", 1), ("replicas: 3", 3)])
def test_replicas(site: Site, lines: str, expected: int) -> None:
    assert label_of(site, IMAGE + lines).replicas == expected


def test_nothing_of_them_has_an_effect_on_a_namespace(site: Site) -> None:
    settings = site.load(text_of(site, "replicas: 2", "namespace"))
    assert any("no effect on a namespace label: replicas" in note for note in settings.notices)
    (label,) = settings.pools[0].labels.values()
    assert label.replicas == 1


def test_the_nearest_ready_check_counts(site: Site) -> None:
    text = text_of(site, IMAGE)
    both = text.replace("source-namespace", "ready-check: exec\n    source-namespace")
    (label,) = site.load(both).pools[0].labels.values()
    assert label.launch.ready_check == "exec"
    own = both.replace("image: i\n", "image: i\n            ready-check: running\n")
    (label,) = site.load(own).pools[0].labels.values()
    assert label.launch.ready_check == "running"
