"""Every way in which a file can be wrong: where it is said to be, and how it is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.config.conftest import Site

LABEL = "providers[0].pools[0].labels[0]"
IMAGE = "image: i\n"

WRONG_LABELS = [
    ("image: 3", 15, ".image", "found 3, expected the name of a container image"),
    ("image: a b", 15, ".image", "found 'a b', expected the name of a container image"),
    ("", 13, "", "a pod label needs an image, or a spec"),
    (IMAGE + "memroy: 3", 16, ".memroy", "is not an option here; did you mean 'memory'?"),
    (IMAGE + "max_servers: 3", 16, ".max_servers", "is not an option here; expected one of: name"),
    (IMAGE + "memory: 4Gi", 16, ".memory", "the unit is MiB: write 4096"),
    (IMAGE + "memory: 1500M", 16, ".memory", "write 1431"),
    (IMAGE + "memory: '512'", 16, ".memory", "found '512', expected a whole number of MiB, 1"),
    (IMAGE + "memory: '512'", 16, ".memory", "write 512 without quotes"),
    (IMAGE + "memory: 0", 16, ".memory", "found 0, expected a whole number of MiB, 1 or more"),
    (IMAGE + "memory: 1.5", 16, ".memory", "found 1.5, expected a whole number"),
    (IMAGE + "memory: .inf", 16, ".memory", "found inf, expected a whole number"),
    (IMAGE + "memory: true", 16, ".memory", "found true, expected a whole number"),
    (IMAGE + "memory:", 16, ".memory", "found nothing, expected a whole number"),
    (IMAGE + "storage: 10Gi", 16, ".storage", "the unit is MB: write 10738"),
    (IMAGE + "storage: -5", 16, ".storage", "found -5, expected a whole number of MB, 1 or more"),
    (IMAGE + "cpu: 500m", 16, ".cpu", "write 0.5 without quotes"),
    (IMAGE + "cpu: -1", 16, ".cpu", "found -1, expected a number of cores, more than 0"),
    (IMAGE + "cpu: .nan", 16, ".cpu", "found nan, expected a number of cores"),
    (IMAGE + "cpu: 0x" + "f" * 5000, 16, ".cpu", "found a number of very many digits"),
    (IMAGE + "cpu: 4\ncpu-limit: 2", 17, ".cpu-limit", "found 2, expected cpu (4) or more"),
    (IMAGE + "memory: 9\nmemory-limit: 8", 17, ".memory-limit", "expected memory (9) or more"),
    (IMAGE + "storage: 9\nstorage-limit: 8", 17, ".storage-limit", "storage (9) or more"),
    (IMAGE + "gpu: 0.5\ngpu-resource: g", 16, ".gpu", "no fractional extended resources"),
    (IMAGE + "gpu: 1", 16, ".gpu", "needs gpu-resource beside it"),
    (IMAGE + "image-pull: always", 16, ".image-pull", "did you mean 'Always'?"),
    (IMAGE + "image-pull: 1", 16, ".image-pull", "expected Always, IfNotPresent or Never"),
    (IMAGE + "privileged: maybe", 16, ".privileged", "found 'maybe', expected true or false"),
    (IMAGE + "extra-resources: {a: -1}", 16, ".extra-resources.a", "found -1, expected a whole"),
    (IMAGE + "extra-resources: [a]", 16, ".extra-resources", "write 'key: value' lines"),
    (IMAGE + "env: {A: b}", 16, ".env", "found a mapping, expected a list of mappings"),
    (IMAGE + "env: [{name: 1A, value: b}]", 16, ".env[0].name", "found '1A', expected the name of"),
    (IMAGE + "env: [{name: A}]", 16, ".env[0].value", "is missing, expected text"),
    (IMAGE + "env: [{name: A, value: [b]}]", 16, ".env[0].value", "found a list, expected text"),
    (IMAGE + "env: [{name: A, value: }]", 16, ".env[0].value", "found nothing, expected text"),
    (
        IMAGE + "env: [{name: A, value: b, valueFrom: c}]",
        16,
        ".env[0].valueFrom",
        "is not an option here",
    ),
    (
        IMAGE + "env:\n- name: A\n  value: b\n- name: A\n  value: c",
        19,
        ".env[1].name",
        f"no other variable has; the first is {LABEL}.env[0].name, line 17",
    ),
    (IMAGE + "labels: {-a: b}", 16, ".labels.-a", "found key '-a', expected letters, digits"),
    (IMAGE + "labels: {a: 'b c'}", 16, ".labels.a", "found 'b c', expected at most 63 letters"),
    (IMAGE + f"labels: {{a: {'b' * 64}}}", 16, ".labels.a", "expected at most 63 letters"),
    (IMAGE + "labels: {a.b/c/d: e}", 16, ".labels['a.b/c/d']", "found key 'a.b/c/d', expected"),
    (IMAGE + "labels: [a]", 16, ".labels", "found a list, expected a mapping of names"),
    (IMAGE + "annotations: {a: {b: c}}", 16, ".annotations.a", "found a mapping, expected text"),
    (IMAGE + "dynamic-labels: {a: '{b'}", 16, ".dynamic-labels.a", "expected a format string"),
    (IMAGE + "dynamic-labels: {a: {b: c}}", 16, ".dynamic-labels.a", "quote it, or YAML reads"),
    (IMAGE + "node-selector: {a: [b]}", 16, ".node-selector.a", "found a list, expected at most"),
    (IMAGE + "volumes: [{emptyDir: {}}]", 16, ".volumes[0].name", "is missing, expected a volume"),
    (IMAGE + "volumes: [a]", 16, ".volumes[0]", "found 'a', expected a Kubernetes volume"),
    (
        IMAGE + "volume-mounts: [{name: v, mountPath: /v}]",
        16,
        ".volume-mounts[0].name",
        "one of the",
    ),
    (
        IMAGE + "volumes: [{name: v}]\nvolume-mounts: [{name: v, mountPath: v}]",
        17,
        ".volume-mounts[0].mountPath",
        "found 'v', expected an absolute path",
    ),
    (
        IMAGE + "volumes: [{name: v}]\nvolume-mounts:\n- {name: v, mountPath: /v}\n"
        "- {name: v, mountPath: /v/}",
        19,
        ".volume-mounts[1].mountPath",
        "a path at which nothing else is mounted",
    ),
    (IMAGE + "spec: {containers: [{name: a}]}", 15, ".image", "together with spec"),
    ("cpu: 1\nspec: {containers: [{name: a}]}", 15, ".cpu", "together with spec"),
    ("spec: []", 15, ".spec", "found an empty list, expected a Kubernetes pod spec"),
    ("spec: {}", 15, ".spec.containers", "is missing, expected a list of at least one"),
    ("spec: {containers: []}", 15, ".spec.containers", "found an empty list, expected a list of"),
    ("spec: {containers: [{image: a}]}", 15, ".spec.containers[0].name", "is missing"),
    ("spec: {containers: [3]}", 15, ".spec.containers[0]", "expected a Kubernetes container"),
    ("spec: {x: 2020-01-01, containers: [{name: a}]}", 15, ".spec.x", "found a date"),
    ("spec: {containers: [{name: a}, {name: a}]}", 15, ".spec.containers[1].name", "no other"),
    (IMAGE + "launch-timeout: 0", 16, ".launch-timeout", "found 0, expected a number of seconds"),
    (IMAGE + "launch-timeout: 5 min", 16, ".launch-timeout", "a duration like 90s, 5m, 12h or 7d"),
    (IMAGE + "launch-timeout: '90'", 16, ".launch-timeout", "write 90s"),
    (IMAGE + "deletion-grace: 0", 16, ".deletion-grace", "0 would be a forced delete"),
    (IMAGE + "ready-when: running!", 16, ".ready-when", "did you mean 'running'?"),
    (IMAGE + "access-token: secret", 16, ".access-token", "expected a mapping with type and"),
    (IMAGE + "access-token: {type: sekret}", 16, ".access-token.type", "did you mean 'secret'?"),
    (IMAGE + "access-token: {lifetime: 5m}", 16, ".access-token.lifetime", "600 s or more"),
]


@pytest.mark.parametrize(("lines", "line", "path", "message"), WRONG_LABELS)
def test_a_wrong_label_is_named(site: Site, lines: str, line: int, path: str, message: str) -> None:
    found = site.problems(site.text(lines))
    assert [(problem.file, problem.line, problem.path) for problem in found] == [
        ("nodepool.yaml", line, LABEL + path)
    ]
    assert message in found[0].message


ZK = "zookeeper-servers: [{host: zk}]\n"
LABELS = "labels: [{name: small}]\n"
KUBE = "{name: kube, driver: kubernetes, pools: %s}"

WRONG_FILES = [
    ("", None, "", "is empty, expected a mapping with zookeeper-servers"),
    ("# nothing\n", None, "", "is empty"),
    ("- a", 1, "", "found a list, expected a mapping with zookeeper-servers"),
    ("a: [b\nc: d", 2, "", "column 2: is not YAML: while parsing a flow sequence"),
    (ZK + "\tlabels: 3", 2, "", "is not YAML"),
    (ZK + "a: \x01", 2, "", "column 4: YAML cannot hold the character U+0001"),
    (ZK + "webapp: *x", 2, "", "column 9: found an alias (*) without its anchor"),
    (ZK + "diskimages: &x [*x]", 2, "", "found an alias (*) to what it is itself a part of"),
    (ZK + "diskimages: !x y", 2, "", "found a scalar that is not the type it is meant to be"),
    (ZK + "diskimages: 2020-99-99", 2, "", "is not the timestamp it is meant to be; quote it"),
    (ZK + "diskimages: !!int x", 2, "", "found a scalar that is not the int it is meant to be"),
    (ZK + "diskimages: !x {}", 2, "", "found a tag (!) that means nothing here"),
    (ZK + "diskimages: {[a]: b}", 2, "", "found a list or a mapping as a key"),
    (ZK + "diskimages: {<<: 3}", 2, "", "'<<' merges mappings"),
    (ZK + "diskimages: " + "[" * 9999, 2, "", "more than 100 levels inside one another"),
    (ZK + "---\na: b", 2, "", "column 1: found a second document"),
    (ZK + "labels: []\nlabels: []", 3, "", "key 'labels' is here twice, first on line 2"),
    (LABELS, 1, "zookeeper-servers", "is missing, expected a list of servers"),
    ("zookeeper-servers: []", 1, "zookeeper-servers", "is missing"),
    (
        "zookeeper-servers: [{port: 1}]",
        1,
        "zookeeper-servers[0].host",
        "is missing, expected a host",
    ),
    (
        "zookeeper-servers: [{host: 'a:1'}]",
        1,
        "zookeeper-servers[0].host",
        "write host: a and port: 1",
    ),
    (
        "zookeeper-servers: [{host: a, port: 65536}]",
        1,
        "zookeeper-servers[0].port",
        "from 1 to 65535",
    ),
    ("zookeeper-servers: {host: a}", 1, "zookeeper-servers", "begin each entry with '-'"),
    (
        "zookeeper-servers:\n- {host: a, chroot: /a}\n- {host: b}\n- {host: c, chroot: b}",
        4,
        "zookeeper-servers[2].chroot",
        "found 'b', expected the same chroot for every server of the ensemble",
    ),
    (ZK + "zookeeper-timeout: -1", 2, "zookeeper-timeout", "found -1, expected a number of"),
    (ZK + "max-hold-age: long", 2, "max-hold-age", "found 'long', expected a number of seconds"),
    (ZK + "webapp: {prot: 1}", 2, "webapp.prot", "did you mean 'port'?"),
    (ZK + "provider: []", 2, "provider", "did you mean 'providers'?"),
    (ZK + "tenant-resource-limits: [3]", 2, "tenant-resource-limits[0]", "with tenant-name"),
    (
        ZK + "tenant-resource-limits: [{max-core: 1, tenant-name: a}]",
        2,
        "tenant-resource-limits[0].max-core",
        "did you mean 'max-cores'?",
    ),
    (
        ZK + "tenant-resource-limits:\n- tenant-name: a\n- tenant-name: a",
        4,
        "tenant-resource-limits[1].tenant-name",
        "no other tenant has",
    ),
    (ZK + "labels: [{name: 3}]", 2, "labels[0].name", "found 3, expected a name; quote it"),
    (ZK + "labels: [small]", 2, "labels[0]", "found 'small', expected a label: a mapping"),
    (ZK + "labels: [{name: a, min_ready: 1}]", 2, "labels[0].min_ready", "mean 'min-ready'?"),
    (ZK + "labels: [{name: a, max-ready-age: -1}]", 2, "labels[0].max-ready-age", "0 s or more"),
    (ZK + "labels:\n- name: a\n- name: a", 4, "labels[1].name", "no other label has"),
    (ZK + "providers: [3]", 2, "providers[0]", "found 3, expected a provider"),
    (ZK + "providers: [{driver: kubernetes}]", 2, "providers[0].name", "is missing"),
    (
        ZK + "providers: [{name: a, driver: kubernets}]",
        2,
        "providers[0].driver",
        "did you mean kubernetes?",
    ),
    (ZK + "providers: [{name: a, driver: 3}]", 2, "providers[0].driver", "found 3, expected the"),
    (
        ZK + f"providers: [{KUBE}]" % "[{name: Main_1}]",
        2,
        "providers[0].pools[0].name",
        "for example 'main-1'",
    ),
    (
        ZK + f"providers: [{KUBE}]" % f"[{{name: {'a' * 49}}}]",
        2,
        "providers[0].pools[0].name",
        "at most 48 characters, because namespaces are named",
    ),
    (
        ZK + f"providers: [{KUBE}]" % "[{name: a}, {name: a}]",
        2,
        "providers[0].pools[1].name",
        "no other pool of this provider has",
    ),
    (
        ZK + f"providers: [{KUBE}, {KUBE}]" % ("[]", "[]"),
        2,
        "providers[1].name",
        "no other provider has",
    ),
    (
        ZK + f"providers: [{KUBE}]" % "[{name: a, max-resources: {cores: 1}}]",
        2,
        "providers[0].pools[0].max-resources.cores",
        "write max-cores",
    ),
    (
        ZK + f"providers: [{KUBE}]" % "[{name: a, max-ram: 8Gi}]",
        2,
        "providers[0].pools[0].max-ram",
        "write 8192",
    ),
    (
        ZK
        + f"providers: [{KUBE}]" % "[{name: a, default-label-cpu: 2, default-label-cpu-limit: 1}]",
        2,
        "providers[0].pools[0].default-label-cpu-limit",
        "found 1, expected default-label-cpu (2) or more",
    ),
    (
        ZK + "providers: [{name: a, driver: kubernetes, launch-retries: -1}]",
        2,
        "providers[0].launch-retries",
        "0 or more",
    ),
    (
        ZK + "providers: [{name: a, driver: kubernetes, max-concurrency: -2}]",
        2,
        "providers[0].max-concurrency",
        "0 and -1 mean no limit",
    ),
    (
        ZK + "providers: [{name: a, driver: kubernetes, api-server-url: k:6443}]",
        2,
        "providers[0].api-server-url",
        "expected an address like https://",
    ),
    (
        ZK + "providers: [{name: a, driver: kubernetes, access-role: admin}]",
        2,
        "providers[0].access-role",
        "expected cluster or namespace",
    ),
    (
        ZK + "zookeeper-tls: {cert: /nowhere/c, key: /nowhere/k}",
        2,
        "zookeeper-tls.ca",
        "is missing, expected the path of a PEM file",
    ),
]


@pytest.mark.parametrize(("text", "line", "path", "message"), WRONG_FILES)
def test_a_wrong_file_is_named(
    site: Site, text: str, line: int | None, path: str, message: str
) -> None:
    found = site.problems(text)
    assert ("nodepool.yaml", line, path) in [
        (problem.file, problem.line, problem.path) for problem in found
    ]
    assert any(message in problem.message for problem in found if problem.path == path)
    assert len(found) == 1


WRONG_NAMES = [
    ("Small", "pod", "image: i", "lower-case letters, digits and '-', at most 63 characters"),
    ("small.one", "pod", "image: i", "because the pod and its container are named as the label"),
    ("small_one", "pod", "spec: {containers: [{name: a}]}", "because the pod is named as"),
]


@pytest.mark.parametrize(("name", "kind", "lines", "message"), WRONG_NAMES)
def test_a_pod_is_named_as_its_label(
    site: Site, name: str, kind: str, lines: str, message: str
) -> None:
    text = site.text(lines, kind=kind, name=name).replace("- name: space", f"- name: {name}")
    (problem,) = site.problems(text)
    assert problem.path == f"{LABEL}.name"
    assert message in problem.message


def test_names_that_no_pod_has_are_free(site: Site) -> None:
    spec = "spec: {containers: [{name: a}]}"
    for name, kind, lines in (("Any_thing", "namespace", ""), ("a.b", "pod", spec)):
        text = site.text(lines, kind=kind, name=name).replace("- name: space", f"- name: {name}")
        assert list(site.load(text).pools[0].labels) == [name]


@pytest.mark.parametrize("kind", ["Pod", "3", "[]", ""])
def test_a_type_is_namespace_or_pod(site: Site, kind: str) -> None:
    (problem,) = site.problems(site.text("image: i", kind=kind))
    assert (problem.line, problem.path) == (14, f"{LABEL}.type")
    assert "expected namespace or pod" in problem.message


def test_a_label_must_be_listed(site: Site) -> None:
    (problem,) = site.problems(site.text("image: i", name="smal"))
    assert "found 'smal', expected a label of the top-level labels list" in problem.message
    assert "did you mean 'small'?" in problem.message


def test_a_default_limit_below_a_labels_request(site: Site) -> None:
    text = site.text("image: i\ncpu: 4").replace(
        "        labels:", "        default-label-cpu-limit: 2\n        labels:"
    )
    (problem,) = site.problems(text)
    assert (problem.line, problem.path) == (17, f"{LABEL}.cpu")
    assert "the pool's default-label-cpu-limit (2) or less" in problem.message


def test_everything_is_reported_at_once_in_the_files_order(site: Site) -> None:
    text = site.text("memory: 4Gi\ncpu: 2\ncpu-limit: 1\ngpu: 1\nnope: 1", name="other")
    found = site.problems(text + "webapp: 3\n", secure="zookeeper-tls: 3")
    assert [(problem.file, problem.line, problem.path) for problem in found] == [
        ("nodepool.yaml", 13, LABEL),
        ("nodepool.yaml", 13, f"{LABEL}.name"),
        ("nodepool.yaml", 15, f"{LABEL}.memory"),
        ("nodepool.yaml", 17, f"{LABEL}.cpu-limit"),
        ("nodepool.yaml", 18, f"{LABEL}.gpu"),
        ("nodepool.yaml", 19, f"{LABEL}.nope"),
        ("nodepool.yaml", 20, "webapp"),
        ("secure.yaml", 1, "zookeeper-tls"),
    ]


def test_the_second_of_two_labels_of_a_pool(site: Site) -> None:
    text = (
        site.text("", kind="namespace") + "          - name: small\n            type: namespace\n"
    )
    (problem,) = site.problems(text)
    assert (problem.line, problem.path) == (15, "providers[0].pools[0].labels[1].name")
