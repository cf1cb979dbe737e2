"""Whom a label's pod runs as and what it may do, and what its own level forbids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nodepool_k8s.config.settings import Security

if TYPE_CHECKING:
    from tests.unit.config.conftest import Site

LABEL = "providers[0].pools[0].labels[0]"
IMAGE = "image: i\n"


def security(site: Site, lines: str, *defaults: str) -> Security:
    keys = "".join(f"        default-label-{line}\n" for line in defaults)
    text = site.text(IMAGE + lines).replace("        labels:\n", f"{keys}        labels:\n", 1)
    (label,) = site.load(text).pools[0].labels.values()
    return label.security


ALL = Security(
    privileged=False,
    allow_privilege_escalation=False,
    run_as_user=1000,
    run_as_group=0,
    run_as_non_root=True,
    fs_group=1000,
)
LINES = (
    "privileged: false\nallow-privilege-escalation: false\nrun-as-user: 1000\nrun-as-group: 0\n"
    "run-as-non-root: true\nfs-group: 1000"
)


@pytest.mark.parametrize("lines", [LINES, LINES.replace("-", "_")])
def test_each_option_by_itself_and_in_the_context(site: Site, lines: str) -> None:
    assert security(site, lines) == ALL
    inside = lines.replace("\n", "\n  ")
    for key in ("security-context", "security_context"):
        assert security(site, f"{key}:\n  {inside}") == ALL


def test_the_same_in_both_places_is_no_contradiction(site: Site) -> None:
    lines = "security-context: {run-as-user: 5, fs-group: 6}\nrun-as-user: 5"
    assert security(site, lines) == Security(run_as_user=5, fs_group=6)


def test_what_stands_nearer_counts(site: Site) -> None:
    default = "run-as-user: 7"
    assert security(site, "", default).run_as_user == 7
    assert security(site, "run-as-user: 5", default).run_as_user == 5
    assert security(site, "security-context: {run-as-user: 5}", default).run_as_user == 5
    assert security(site, "security-context: {fs-group: 5}", default).run_as_user == 7


@pytest.mark.parametrize("level", ["privileged", "baseline", "restricted"])
def test_a_level(site: Site, level: str) -> None:
    assert security(site, f"pod-security: {level}\n{LINES}").pod_security == level


def test_a_namespace_label_has_the_level_alone(site: Site) -> None:
    settings = site.load(site.text("pod-security: baseline\nfs-group: 5", kind="namespace"))
    (label,) = settings.pools[0].labels.values()
    assert label.security == Security(pod_security="baseline")
    (notice,) = settings.notices
    assert notice.endswith("no effect on a namespace label: fs-group")


RESTRICTED = "pod-security: restricted\n"
BASELINE = "pod-security: baseline\n"

WRONG = [
    ("run-as-user: root", ".run-as-user", "found 'root', expected the number of a user, 0 to 2147"),
    ("run-as-group: -1", ".run-as-group", "found -1, expected the number of a group"),
    ("fs-group: 2147483648", ".fs-group", "found 2147483648, expected the number of a group"),
    ("run-as-user: true", ".run-as-user", "found true, expected the number of a user"),
    ("run-as-non-root: 1", ".run-as-non-root", "found 1, expected true or false"),
    ("security-context: true", ".security-context", "found true, expected a mapping with any of"),
    (
        "security-context: {runAsUsr: 1}",
        ".security-context.runAsUsr",
        "is not an option here; did you mean 'run-as-user'?",
    ),
    (
        "security-context: {run_as_user: nobody}",
        ".security-context.run_as_user",
        "found 'nobody', expected the number of a user",
    ),
    (
        "privileged: true\nallow-privilege-escalation: false",
        ".allow-privilege-escalation",
        "found false, expected true, or nothing: the label is privileged",
    ),
    (
        "privileged: true\nsecurity-context: {allow_privilege_escalation: false}",
        ".security-context.allow_privilege_escalation",
        "the label is privileged",
    ),
    (
        "run-as-user: 0\nrun-as-non-root: true",
        ".run-as-user",
        "found 0, expected 1 or more: run-as-non-root is true, and 0 is root",
    ),
    (
        "security-context: {run-as-user: 5}\nrun-as-user: 6",
        ".security-context.run-as-user",
        "found 5, expected what providers[0].pools[0].labels[0].run-as-user, line 17 says",
    ),
    ("pod-security: strict", ".pod-security", "found 'strict', expected privileged, baseline or"),
    (BASELINE + "privileged: true", ".privileged", "expected false, because pod-security is base"),
    (
        BASELINE + "volumes: [{name: v, hostPath: {path: /}}]",
        ".volumes[0].hostPath",
        "is a kind of volume that is forbidden, because pod-security is baseline",
    ),
    (RESTRICTED + "privileged: true", ".privileged", "expected false, because pod-security is re"),
    (RESTRICTED + "run-as-user: 0", ".run-as-user", "found 0, expected 1 or more, because"),
    (RESTRICTED + "run-as-non-root: false", ".run-as-non-root", "found false, expected true"),
    (
        RESTRICTED + "allow-privilege-escalation: true",
        ".allow-privilege-escalation",
        "found true, expected false, because pod-security is restricted",
    ),
    (
        RESTRICTED + "security-context: {privileged: true}",
        ".security-context.privileged",
        "expected false, because pod-security is restricted",
    ),
    (
        RESTRICTED + "volumes: [{name: v, nfs: {}}, {name: w, secret: {secretName: s}}]",
        ".volumes[0].nfs",
        "is a kind of volume that is forbidden, because pod-security is restricted",
    ),
    (
        BASELINE + "labels: {pod-security.kubernetes.io/enforce: privileged}",
        ".labels['pod-security.kubernetes.io/enforce']",
        "cannot be given together with pod-security",
    ),
    (
        BASELINE + "dynamic-labels: {pod-security.kubernetes.io/warn: '{request.id}'}",
        ".dynamic-labels['pod-security.kubernetes.io/warn']",
        "cannot be given together with pod-security",
    ),
]


@pytest.mark.parametrize(("lines", "path", "message"), WRONG)
def test_what_contradicts_itself_is_refused(
    site: Site, lines: str, path: str, message: str
) -> None:
    found = site.problems(site.text(IMAGE + lines))
    assert [problem.path for problem in found] == [LABEL + path]
    assert message in found[0].message
    key = path.strip(".").split(".")[0].split("[")[0]
    numbered = enumerate((IMAGE + lines).splitlines(), 15)
    assert found[0].line == next(n for n, line in numbered if line.startswith(key))


def test_baseline_lets_pass_what_only_restricted_forbids(site: Site) -> None:
    lines = "run-as-user: 0\nallow-privilege-escalation: true\nvolumes: [{name: v, nfs: {}}]"
    assert security(site, BASELINE + lines).run_as_user == 0


@pytest.mark.parametrize("default", ["network-policy: deny-all", "pod-security: baseline"])
def test_a_notice_tells_that_a_spec_has_no_pool_default(site: Site, default: str) -> None:
    text = site.text("spec: {containers: [{name: a}]}").replace(
        "        labels:\n", f"        default-label-{default}\n        labels:\n", 1
    )
    (notice,) = site.load(text).notices
    assert notice.endswith("does not hold for a label with a spec")
