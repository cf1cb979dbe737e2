"""What a right file means: defaults, inheritance, and what is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nodepool_k8s.config.settings import (
    AccessTokenSettings,
    Label,
    LaunchSettings,
    Placement,
    Pool,
    Provider,
    Security,
    Settings,
    TopLabel,
    Volumes,
    WebAppSettings,
    Workload,
    ZooKeeperServer,
    ZooKeeperTLS,
)
from nodepool_k8s.model import LabelType

if TYPE_CHECKING:
    from tests.unit.config.conftest import Site

ZK = "zookeeper-servers: [{host: zk}]\n"


def pool(settings: Settings) -> Pool:
    """The only pool."""
    (only,) = settings.pools
    return only


def pod(settings: Settings) -> Label:
    """The only label."""
    (only,) = pool(settings).labels.values()
    return only


def provider(site: Site, keys: str, pool_keys: str = "") -> Provider:
    """A provider with these keys, and one pool with those."""
    text = f"{ZK}labels: [{{name: a}}]\nproviders:\n- name: p\n  driver: kubernetes\n"
    text += "".join(f"  {line}\n" for line in keys.splitlines())
    text += "  pools:\n  - name: m\n    labels: [{name: a, type: pod, image: i}]\n"
    text += "".join(f"    {line}\n" for line in pool_keys.splitlines())
    return site.load(text).providers[0]


def test_the_least_there_can_be(site: Site) -> None:
    settings = site.load(ZK)
    assert settings.zookeeper.servers == (ZooKeeperServer("zk", 2281, ""),)
    assert (settings.zookeeper.tls, settings.zookeeper.timeout) == (None, 10.0)
    assert (settings.providers, settings.labels, settings.max_hold_age) == ((), {}, None)
    assert settings.webapp == WebAppSettings(8005, "0.0.0.0")
    (notice,) = settings.notices
    assert "no provider has the kubernetes driver" in notice


def test_defaults_of_a_provider_a_pool_and_a_label(site: Site) -> None:
    settings = site.label("image: i")
    launch = LaunchSettings(
        300.0, 120.0, None, 1.0, "ready", AccessTokenSettings("request", 604800)
    )
    label = Label("small", LabelType.POD, image="i", launch=launch)
    expected = Provider("kube", "here", (Pool("kube", "main", {"small": label}),))
    assert settings.providers == (expected,)
    assert settings.labels == {"small": TopLabel("small", 0, 0.0), "space": TopLabel("space")}


def test_sections_may_be_empty(site: Site) -> None:
    settings = site.load(ZK + "labels:\nproviders:\nwebapp:\nzookeeper-tls:\ndiskimages:\n")
    assert settings.providers == ()


ZOOKEEPERS = [
    ("[{host: a}, {host: b, port: 1}]", "a:2281,b:1"),
    ("[{host: a, chroot: /x}, {host: b}]", "a:2281,b:2281/x"),
    ("[{host: a}, {host: b, chroot: x/}]", "a:2281,b:2281/x"),
    ("[{host: a, chroot: /x/y}, {host: b, chroot: x/y/}]", "a:2281,b:2281/x/y"),
    (
        "[{host: '::1'}, {host: '[fe80::2]'}, {host: 10.0.0.1}]",
        "[::1]:2281,[fe80::2]:2281,10.0.0.1:2281",
    ),
]


@pytest.mark.parametrize(("servers", "hosts"), ZOOKEEPERS)
def test_an_ensemble_has_one_chroot(site: Site, servers: str, hosts: str) -> None:
    assert site.load(f"zookeeper-servers: {servers}").zookeeper.hosts == hosts


@pytest.mark.parametrize(("value", "timeout"), [("10", 10.0), ("2.5", 2.5), ("1m", 60.0)])
def test_the_session_timeout_is_any_number(site: Site, value: str, timeout: float) -> None:
    assert site.load(ZK + f"zookeeper-timeout: {value}").zookeeper.timeout == timeout


def test_tls_files_must_be_readable(site: Site, tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("pem")
    section = "".join(f"{key}: {tmp_path}/{key}\n  " for key in ("cert", "key", "ca"))
    (problem,) = site.problems(f"{ZK}zookeeper-tls:\n  {section}")
    assert (problem.line, problem.path) == (5, "zookeeper-tls.ca")
    assert "expected a PEM file that can be read (No such file or directory)" in problem.message
    (tmp_path / "ca").write_text("pem")
    settings = site.load(f"{ZK}zookeeper-tls:\n  {section}")
    assert settings.zookeeper.tls == ZooKeeperTLS(
        f"{tmp_path}/cert", f"{tmp_path}/key", f"{tmp_path}/ca"
    )


def test_the_secure_file_replaces_zookeepers_sections(site: Site, tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("pem")
    files = "".join(f"  {key}: {tmp_path}/pem\n" for key in ("cert", "key", "ca"))
    secure = f"zookeeper-servers: [{{host: other}}]\nzookeeper-tls:\n{files}"
    unused = "zookeeper-tls: {cert: /nowhere, key: /nowhere, ca: /nowhere}\n"
    zookeeper = site.load(ZK + unused, secure=secure).zookeeper
    assert zookeeper.hosts == "other:2281"
    assert zookeeper.tls == ZooKeeperTLS(*[f"{tmp_path}/pem"] * 3)


@pytest.mark.parametrize("secure", ["", "# nothing", "zookeeper-servers: []"])
def test_a_secure_file_may_leave_the_servers_to_the_other(site: Site, secure: str) -> None:
    assert site.load(ZK, secure=secure).zookeeper.hosts == "zk:2281"


def test_servers_may_be_in_the_secure_file_alone(site: Site) -> None:
    assert site.load("labels: []", secure=ZK).zookeeper.hosts == "zk:2281"


def test_what_the_secure_file_is_not_for(site: Site) -> None:
    settings = site.load(ZK, secure="diskimages: []\nlabels: [{name: a}]\n")
    assert settings.labels == {}
    assert "secure.yaml:1: diskimages: passed over: this launcher builds no" in settings.notices[1]
    assert "labels: passed over: it is not read from the secure file" in settings.notices[2]


def test_nodepools_other_sections_and_drivers_are_passed_over(site: Site) -> None:
    text = ZK + (
        "labels: [{name: a}]\n"
        "diskimages: [{name: x, anything: 1}]\nelements-dir: /e\nimages-dir: /i\n"
        "build-log-dir: /b\nbuild-log-retention: 3\n"
        "providers:\n"
        "- {name: cloud, region-name: r, pools: [{name: P_P, labels: [{name: a}]}]}\n"
        "- {name: static, driver: static, pools: 3}\n"
        "- {name: own, driver: ours, pools: 3}\n"
        "- {name: fake-kube, driver: kubernetes, pools: [{name: m}]}\n"
    )
    settings = site.load(text)
    assert [entry.name for entry in settings.providers] == ["fake-kube"]
    places = [notice.partition("nodepool.yaml:")[2] for notice in settings.notices]
    assert [place.partition(": passed")[0] for place in places[:5]] == [
        "3: diskimages",
        "4: elements-dir",
        "5: images-dir",
        "6: build-log-dir",
        "7: build-log-retention",
    ]
    assert places[5].startswith("9: providers[0]: provider 'cloud' passed over: it names no driver")
    assert "driver 'static' is not this launcher's" in places[6]
    assert "provider 'own' passed over: driver 'ours'" in places[7]
    assert places[8].endswith("pool 'm' has no labels")


LIMITS: list[tuple[str, str, dict[str, int]]] = [
    ("", "", {}),
    ("max-servers: 2", "", {"instances": 2000}),
    ("max-servers: 2", "max-servers: 3", {"instances": 3000}),
    ("max-cores: 1.5\nmax-ram: 9", "max-cores: 0", {"cores": 0, "ram": 9000}),
    ("max-resources: {a: 1, b: 2}", "max-resources: {b: 0.5}", {"a": 1000, "b": 500}),
    ("", "max-resources: {ephemeral-storage: 7}", {"ephemeral-storage": 7000}),
    ("max-cores: 4.1", "", {"cores": 4100}),
    ("max-cores: 0.0009", "", {"cores": 0}),
]


@pytest.mark.parametrize(("keys", "pool_keys", "limits"), LIMITS)
def test_limits_are_the_pools_or_else_the_providers(
    site: Site, keys: str, pool_keys: str, limits: dict[str, int]
) -> None:
    assert provider(site, keys, pool_keys).pools[0].limits == limits


@pytest.mark.parametrize(
    ("keys", "pool_keys", "disabled"),
    [
        ("", "max-servers: 0", True),
        ("", "max-servers: -1", True),
        ("max-servers: 0", "", True),
        ("max-servers: 0", "max-servers: 1", False),
        ("", "", False),
    ],
)
def test_no_servers_disable_a_pool(site: Site, keys: str, pool_keys: str, disabled: bool) -> None:
    assert provider(site, keys, pool_keys).pools[0].disabled is disabled


def test_options_of_a_provider(site: Site) -> None:
    keys = "launch-retries: 0\npriority: 7\nmax-concurrency: 4\naccess-role: namespace\n"
    found = provider(site, keys + "api-server-url: https://k:6443", "node-attributes: {a: [1]}")
    assert (found.context, found.launch_retries, found.max_concurrency) == (None, 0, 4)
    assert (found.access_role, found.api_server_url) == ("namespace", "https://k:6443")
    assert (found.pools[0].priority, found.pools[0].node_attributes) == (7, {"a": [1]})
    assert provider(site, "priority: 7", "priority: 0").pools[0].priority == 0


@pytest.mark.parametrize("value", ["0", "-1"])
def test_no_concurrency_limit(site: Site, value: str) -> None:
    assert provider(site, f"max-concurrency: {value}").max_concurrency is None


DEFAULT = "default-label-"

RESOURCES: list[tuple[str, str, dict[str, Any]]] = [
    ("cpu: 2", "", {"cpu": 2, "cpu_limit": 2}),
    ("cpu: 0.5\ncpu-limit: 4", "", {"cpu": 0.5, "cpu_limit": 4}),
    ("cpu-limit: 4", "", {"cpu": 4, "cpu_limit": 4}),
    ("", f"{DEFAULT}cpu: 3", {"cpu": 3, "cpu_limit": 3}),
    ("cpu: 2", f"{DEFAULT}cpu: 3\n{DEFAULT}cpu-limit: 5", {"cpu": 2, "cpu_limit": 5}),
    ("cpu-limit: 6", f"{DEFAULT}cpu: 3\n{DEFAULT}cpu-limit: 5", {"cpu": 3, "cpu_limit": 6}),
    ("memory: 512.0", "", {"memory": 512, "memory_limit": 512}),
    ("", f"{DEFAULT}memory: 8\n{DEFAULT}memory-limit: 9", {"memory": 8, "memory_limit": 9}),
    ("", f"{DEFAULT}storage-limit: 9", {"storage": 9, "storage_limit": 9}),
    ("gpu: 1.0\ngpu-resource: g", "", {"gpu": 1, "gpu_resource": "g"}),
    ("", f"{DEFAULT}extra-resources: {{a: 1}}", {"extra_resources": {"a": 1}}),
    (
        "extra-resources: {b: 2, c: 3}",
        f"{DEFAULT}extra-resources: {{a: 1, b: 1}}",
        {"extra_resources": {"a": 1, "b": 2, "c": 3}},
    ),
]


@pytest.mark.parametrize(("lines", "pool_lines", "expected"), RESOURCES)
def test_resources_are_the_labels_or_else_the_pools(
    site: Site, lines: str, pool_lines: str, expected: dict[str, Any]
) -> None:
    text = with_pool_keys(site.text("image: i\n" + lines), pool_lines)
    found = pod(site.load(text))
    assert {name: getattr(found, name) for name in expected} == expected


def with_pool_keys(text: str, lines: str) -> str:
    """Put lines into the pool of a text that has a label."""
    keys = "".join(f"        {line}\n" for line in lines.splitlines())
    return text.replace("        labels:\n", f"{keys}        labels:\n", 1)


@pytest.mark.parametrize(
    ("kind", "lines"), [("pod", "spec: {containers: [{name: a}]}"), ("namespace", "")]
)
def test_defaults_of_the_pool_are_for_generated_pods(site: Site, kind: str, lines: str) -> None:
    keys = f"{DEFAULT}cpu: 3\n{DEFAULT}memory-limit: 5\n{DEFAULT}extra-resources: {{a: 1}}"
    found = pod(site.load(with_pool_keys(site.text(lines, kind=kind), keys)))
    assert (found.cpu, found.memory_limit, found.extra_resources) == (None, None, {})


def test_every_option_of_a_generated_pod(site: Site) -> None:
    lines = (
        "image: i\nimage-pull: Never\nlabels: {a: b}\ndynamic-labels: {c: '{request.id}'}\n"
        "annotations: {d: 'e f'}\npython-path: /py\nshell-type: csh\nenv: [{name: A, value: ''}]\n"
        "node-selector: {g: h}\nscheduler-name: s\nprivileged: true\n"
        "volumes: [{name: v, emptyDir: {}}]\nvolume-mounts: [{name: v, mountPath: /v}]"
    )
    expected = Label(
        "small",
        LabelType.POD,
        image="i",
        image_pull="Never",
        labels={"a": "b"},
        dynamic_labels={"c": "{request.id}"},
        annotations={"d": "e f"},
        python_path="/py",
        shell_type="csh",
        placement=Placement(node_selector={"g": "h"}, scheduler_name="s"),
        workload=Workload(env=(("A", ""),)),
        security=Security(privileged=True),
        volumes=Volumes(
            raw=({"name": "v", "emptyDir": {}},),
            mounts=({"name": "v", "mountPath": "/v"},),
        ),
    )
    assert pod(site.label(lines)) == expected


def test_a_raw_spec_is_verbatim(site: Site) -> None:
    lines = "spec: {containers: [{name: a, x: [1, null, 2.5]}], y: {z: true}}\nannotations: {a: b}"
    found = pod(site.label(lines))
    assert found.spec == {"containers": [{"name": "a", "x": [1, None, 2.5]}], "y": {"z": True}}
    assert (found.image, found.annotations) == (None, {"a": "b"})


def test_pod_options_of_a_namespace_label_are_left_alone(site: Site) -> None:
    settings = site.load(site.text("image: i\ncpu: 1\nlabels: {a: b}", kind="namespace"))
    found = pod(settings)
    assert (found.type, found.image, found.cpu, found.labels) == (
        "namespace",
        None,
        None,
        {"a": "b"},
    )
    (notice,) = settings.notices
    assert notice.endswith(
        ":13: providers[0].pools[0].labels[0]: no effect on a namespace label: image, cpu"
    )


def test_the_nearest_launch_option_counts(site: Site) -> None:
    label_keys = "image: i\nlaunch-timeout: 3s\naccess-token: {type: secret}"
    pool_keys = "launch-timeout: 2m\nimage-pull-timeout: 2h\nready-when: running"
    keys = (
        "launch-timeout: 1d\nimage-pull-timeout: 1\nunschedulable-timeout: 1.5m\n"
        "deletion-grace: 5\nready-when: ready\naccess-token: {lifetime: 1h}"
    )
    text = with_pool_keys(site.text(label_keys), pool_keys)
    text = text.replace(
        "    pools:\n", "".join(f"    {line}\n" for line in keys.splitlines()) + "    pools:\n"
    )
    assert pod(site.load(text)).launch == LaunchSettings(
        launch_timeout=3.0,
        image_pull_timeout=7200.0,
        unschedulable_timeout=90.0,
        deletion_grace=5.0,
        ready_when="running",
        access_token=AccessTokenSettings("secret", 3600.0),
    )


def test_labels_holds_tenants_and_the_web_page(site: Site) -> None:
    settings = site.load(
        ZK + "labels: [{name: a, min-ready: -1, max-ready-age: 1h}]\n"
        "max-hold-age: 2d\nwebapp: {port: 0, listen_address: '::'}\n"
        "tenant-resource-limits:\n- {tenant-name: t, max-servers: 1, max-cores: 2, max-ram: 3,"
        " gpus: 4, max-volumes: 5}\n"
    )
    assert settings.labels == {"a": TopLabel("a", -1, 3600.0)}
    assert settings.max_hold_age == 172800.0
    assert settings.webapp == WebAppSettings(0, "::")
    limits = {"instances": 1000, "cores": 2000, "ram": 3000, "gpus": 4000, "volumes": 5000}
    assert settings.tenant_limits == {"t": limits}


@pytest.mark.parametrize(
    ("top", "provider", "pool", "fair"),
    [
        (None, None, None, False),
        ("true", None, None, True),
        ("", None, None, False),
        ("true", "false", None, False),
        (None, "true", None, True),
        ("false", "true", "false", False),
        ("false", "false", "true", True),
    ],
)
def test_the_nearest_fair_share_counts(
    site: Site, top: str | None, provider: str | None, pool: str | None, fair: bool
) -> None:
    text = site.text("image: i")
    if pool is not None:
        text = with_pool_keys(text, f"fair-share: {pool}")
    if provider is not None:
        text = text.replace("    pools:\n", f"    fair-share: {provider}\n    pools:\n")
    if top is not None:
        text += f"\nfair-share: {top}\n"
    (only,) = site.load(text).pools
    assert only.fair_share is fair


@pytest.mark.parametrize("value", ["0", "-1"])
def test_no_limit_of_holds(site: Site, value: str) -> None:
    assert site.load(ZK + f"max-hold-age: {value}").max_hold_age is None


NOTICED = [
    ("image: i\ngpu-resource: g", "gpu-resource: no effect without gpu"),
    ("image: i\ndynamic-labels: {a: '{request.colour}'}", "names something that requests do not"),
    ("image: i\ndynamic-labels: {a: '{node.id}'}", "names something that requests do not have"),
    ("image: i\nenv: [{name: A, value: 1}]", "becomes text as it is written; quote it"),
]


@pytest.mark.parametrize(("lines", "message"), NOTICED)
def test_what_has_no_effect_is_told(site: Site, lines: str, message: str) -> None:
    (notice,) = site.label(lines).notices
    assert message in notice


def test_usual_templates_are_not_remarked_on(site: Site) -> None:
    fields = "{request.requestor_data[job_name]}-{request.tenant_name!s:.10}-{{x}}"
    assert site.label(f"image: i\ndynamic-labels: {{a: '{fields}'}}").notices == ()
