"""What a pod takes: quantities, GPUs and quality of service, and what of it is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nodepool_k8s.policy.usage import usage

if TYPE_CHECKING:
    from nodepool_k8s.config.settings import Label
    from tests.unit.config.conftest import Site

LABEL = "providers[0].pools[0].labels[0]"
POOL = "providers[0].pools[0]"


def text(site: Site, lines: str, pool: str = "") -> str:
    """A label whose lines begin on line 16, in a pool whose lines begin on line 12."""
    whole = site.text(f"image: i\n{lines}")
    keys = "".join(f"        {line}\n" for line in pool.splitlines())
    return whole.replace("      - name: main\n", f"      - name: main\n{keys}")


def pod(site: Site, lines: str, pool: str = "") -> Label:
    settings = site.load(text(site, lines, pool))
    (found,) = settings.pools[0].labels.values()
    return found


def amounts(label: Label) -> dict[str, Any]:
    """What is asked for, by the names of the settings."""
    names = ("cpu", "memory", "storage", "gpu")
    found = {
        name: getattr(label, name) for name in (*names, *(f"{name}_limit" for name in names[:3]))
    }
    return {name: amount for name, amount in found.items() if amount is not None}


def both(**named: Any) -> dict[str, Any]:
    """Requests that are limits, too."""
    return named | {f"{name}_limit": amount for name, amount in named.items()}


QUANTITIES = [
    ("resources: {cpu: 2, mem: 4Gi, gpu: '1'}", both(cpu=2, memory=4096) | {"gpu": 1}),
    ("resources: {cpu: '2', memory: 512Mi}", both(cpu=2, memory=512)),
    ("resources: {cpu: 500m}", both(cpu=0.5)),
    ("resources: {cpu: 0.5}", both(cpu=0.5)),
    ("resources: {mem: 500M, disk: 10Gi}", both(memory=477, storage=10738)),
    ("resources: {storage: 10G}", both(storage=10000)),
    (
        'resources: {cpu: {requests: "2", limits: "4"}, mem: {requests: 4Gi, limits: 8Gi}}',
        {"cpu": 2, "cpu_limit": 4, "memory": 4096, "memory_limit": 8192},
    ),
    ('resources: {cpu: {"requests": "12", "limits": "16"}}', {"cpu": 12, "cpu_limit": 16}),
    ("resources: {mem: {requests: 64Gi}}", {"memory": 65536}),
    ("resources: {mem: {limits: 1Gi}}", both(memory=1024)),
    ("resources: {gpu: {limits: '1'}}", {"gpu": 1}),
    ("resources: {gpu: {requests: 2, limits: '2'}}", {"gpu": 2}),
    ("resources: {}", {}),
    ("gpu: 0", {"gpu": 0}),
]


@pytest.mark.parametrize(("lines", "expected"), QUANTITIES)
def test_resources_in_kubernetes_quantities(
    site: Site, lines: str, expected: dict[str, Any]
) -> None:
    assert amounts(pod(site, f"{lines}\ngpu-vendor: nvidia")) == expected


GPUS = [
    ("gpu: 2\ngpu-vendor: nvidia", {"nvidia.com/gpu": 2, "instances": 1}),
    ("gpu: 2\ngpu-vendor: amd", {"amd.com/gpu": 2, "instances": 1}),
    ("gpu: 1\ngpu-vendor: amd\ngpu-resource: gpu.example.org/x", {"gpu.example.org/x": 1}),
    ("resources: {gpu: 3}\ngpu-vendor: amd", {"amd.com/gpu": 3}),
    (
        "resources: {cpu: 2, mem: 4Gi, disk: 1G}",
        {"cores": 2, "ram": 4096, "ephemeral-storage": 1000},
    ),
    ("gpu: 0", {"instances": 1}),
]


@pytest.mark.parametrize(("lines", "counted"), GPUS)
def test_quota_counts_resources_and_gpus_by_name(
    site: Site, lines: str, counted: dict[str, Any]
) -> None:
    assert usage(pod(site, lines)).numbers() == {"instances": 1, **counted}


WITHOUT = [
    ("gpu: 0", ("nvidia.com/gpu.present", "amd.com/gpu.present")),
    ("gpu: 0\ngpu-vendor: amd", ("amd.com/gpu.present",)),
    ("gpu: 0\ngpu-resource: nvidia.com/mig-1g.5gb", ("nvidia.com/gpu.present",)),
    ("resources: {gpu: '0'}\ngpu-vendor: nvidia", ("nvidia.com/gpu.present",)),
    ("gpu: 1\ngpu-vendor: nvidia", ()),
    ("cpu: 1", ()),
]


@pytest.mark.parametrize(("lines", "labels"), WITHOUT)
def test_no_gpus_means_a_node_without_any(site: Site, lines: str, labels: tuple[str, ...]) -> None:
    assert pod(site, lines).placement.without == labels


QOS = [
    ("qos: Guaranteed\ncpu: 2\nmemory: 512", "", both(cpu=2, memory=512)),
    ("qos: Guaranteed\ncpu: 2\nmemory-limit: 512", "", both(cpu=2, memory=512)),
    (
        "qos: Guaranteed\nresources: {cpu: {requests: 1}, mem: {requests: 1Gi}}",
        "",
        both(cpu=1, memory=1024),
    ),
    ("qos: Burstable\ncpu: 2\nmemory: 512", "", {"cpu": 2, "memory": 512}),
    ("qos: Burstable\nresources: {cpu: 2}", "", {"cpu": 2}),
    ("qos: Burstable\ncpu: 2\ncpu-limit: 4", "", {"cpu": 2, "cpu_limit": 4}),
    ("qos: BestEffort", "", {}),
    ("qos: BestEffort\ngpu: 1\ngpu-vendor: amd", "", {"gpu": 1}),
    # What is inherited from further away gives way.
    ("qos: BestEffort", "default-label-cpu: 2\ndefault-label-memory: 9", {}),
    (
        "qos: Guaranteed\nmemory: 9",
        "default-label-cpu: 2\ndefault-label-cpu-limit: 4",
        both(cpu=2, memory=9),
    ),
    ("qos: Burstable\ncpu: 2", "default-label-cpu-limit: 4", {"cpu": 2}),
    ("cpu: 2\nmemory: 9", "default-label-qos: Burstable", {"cpu": 2, "memory": 9}),
]


@pytest.mark.parametrize(("lines", "pool", "expected"), QOS)
def test_a_quality_of_service_decides_limits(
    site: Site, lines: str, pool: str, expected: dict[str, Any]
) -> None:
    assert amounts(pod(site, lines, pool)) == expected


def test_best_effort_counts_one_server_alone(site: Site) -> None:
    pool = "default-label-cpu: 2\ndefault-label-memory: 512\ndefault-label-storage: 5"
    assert usage(pod(site, "qos: BestEffort", pool)).numbers() == {"instances": 1}


NEARER = [
    ("cpu: 1", "default-label-resources: {cpu: 2, mem: 4Gi}", both(cpu=1, memory=4096)),
    ("resources: {cpu: 1}", "default-label-cpu: 2\ndefault-label-memory: 3", both(cpu=1, memory=3)),
    (
        "resources: {cpu: {requests: 1}}",
        "default-label-resources: {cpu: 2, disk: 1G}",
        {"cpu": 1, **both(storage=1000)},
    ),
    ("cpu-limit: 3", "default-label-resources: {cpu: 2}", both(cpu=3)),
    ("gpu: 1\ngpu-vendor: amd", "default-label-resources: {gpu: 2}", {"gpu": 1}),
]


@pytest.mark.parametrize(("lines", "pool", "expected"), NEARER)
def test_of_two_ways_to_say_it_the_nearer_counts(
    site: Site, lines: str, pool: str, expected: dict[str, Any]
) -> None:
    assert amounts(pod(site, lines, pool)) == expected


REFUSED = [
    ("resources: {memory: 4Ei}", ".resources.memory", "a Kubernetes quantity"),
    ("resources: {cpu: much}", ".resources.cpu", "a Kubernetes quantity of cores, like 2, 0.5"),
    ("resources: {cpu: 0}", ".resources.cpu", "a Kubernetes quantity of cores"),
    ("resources: {cpu: 4Gi}", ".resources.cpu", "a Kubernetes quantity of cores"),
    ("resources: {cpu: {requests: x}}", ".resources.cpu.requests", "found 'x', expected a Kuber"),
    ("resources: {cpu: {request: 1}}", ".resources.cpu.request", "did you mean 'requests'?"),
    ("resources: {mem: 4096}", ".resources.mem", "say the unit: 4096Mi, 4096M or 4096Gi"),
    ("resources: {mem: '4096'}", ".resources.mem", "say the unit: 4096Mi"),
    ("resources: {mem: {limits: 64}}", ".resources.mem.limits", "say the unit: 64Mi"),
    ("resources: {storage: 10}", ".resources.storage", "say the unit: 10Mi"),
    ("resources: {disk: 10XB}", ".resources.disk", "with its unit, like 512Mi, 4Gi or 500M"),
    ("resources: {mem: 100m}", ".resources.mem", "with its unit"),
    ("resources: {mem: 0Gi}", ".resources.mem", "with its unit"),
    ("resources: {gpu: 0.5}", ".resources.gpu", "a whole number of GPUs"),
    ("resources: {gpu: '0.5'}", ".resources.gpu", "a whole number of GPUs"),
    ("resources: {tpu: 1}", ".resources.tpu", "is not an option here; did you mean 'gpu'?"),
    ("resources: {mem: 1Gi, memory: 2Gi}", "", "found 'memory' beside 'mem' on line 16"),
    ("resources: [cpu]", ".resources", "found a list, expected a mapping with cpu"),
    (
        "resources: {cpu: {requests: 4, limits: 2}}",
        ".resources.cpu.limits",
        "found 2, expected requests (4) or more: a limit is not below its request",
    ),
    (
        "resources: {mem: {requests: 1Gi, limits: 512Mi}}",
        ".resources.mem.limits",
        "('1Gi') or more",
    ),
    (
        "resources: {gpu: {requests: 1, limits: 2}}\ngpu-vendor: amd",
        ".resources.gpu.limits",
        "one number for both",
    ),
    ("resources: {gpu: 1}", ".resources.gpu", "needs gpu-resource beside it"),
    ("resources: {cpu: 1}\ncpu: 2", ".cpu", "cannot be given together with resources"),
    ("resources: {cpu: 1}\nmemory-limit: 2", ".memory-limit", "cannot be given together with res"),
    ("resources: {cpu: 1}\ngpu: 2\ngpu-vendor: amd", ".gpu", "cannot be given together with resou"),
    ("gpu: 0.5\ngpu-vendor: amd", ".gpu", "Kubernetes has no fractional extended resources"),
    ("gpu: 1", ".gpu", "or gpu-vendor: nvidia or amd"),
    ("gpu: 1\ngpu-vendor: intel", ".gpu-vendor", "found 'intel', expected nvidia or amd"),
    ("qos: guaranteed", ".qos", "did you mean 'Guaranteed'?"),
    ("qos: Guaranteed", ".qos", "it needs cpu and memory, and cpu is not given"),
    ("qos: Guaranteed\ncpu: 1", ".qos", "it needs cpu and memory, and memory is not given"),
    ("qos: Guaranteed\ncpu: 1\nmemory: 1\ncpu-limit: 2", ".qos", "the limit of cpu is not what"),
    ("qos: Burstable", ".qos", "it needs cpu or memory, and neither is given"),
    ("qos: Burstable\nstorage: 5", ".qos", "it needs cpu or memory"),
    (
        "qos: Burstable\ncpu: 1\ncpu-limit: 1\nmemory: 1\nmemory-limit: 1",
        ".qos",
        "the limits are what is requested, which is Guaranteed",
    ),
    ("qos: BestEffort\ncpu: 1", ".qos", "contradicts the resources: it has neither cpu nor memory"),
    ("qos: BestEffort\nresources: {mem: 1Gi}", ".qos", "and memory is given"),
]


@pytest.mark.parametrize(("lines", "path", "message"), REFUSED)
def test_wrong_resources_are_refused(site: Site, lines: str, path: str, message: str) -> None:
    (problem,) = site.problems(text(site, lines))
    assert problem.path == (LABEL + path if path else "")
    wanted = path.split(".")[1] if path else "resources"
    lines_of = {line.split(":")[0]: number for number, line in enumerate(lines.splitlines(), 16)}
    assert problem.line == lines_of[wanted]
    assert message in problem.message


POOLS_REFUSED = [
    ("default-label-resources: {mem: 5}", ".default-label-resources.mem", "say the unit"),
    (
        "default-label-resources: {cpu: {requests: 4, limits: 2}}",
        ".default-label-resources.cpu.limits",
        "expected requests (4) or more",
    ),
    (
        "default-label-cpu: 2\ndefault-label-resources: {cpu: 2}",
        ".default-label-cpu",
        "cannot be given together with default-label-resources",
    ),
    (
        "default-label-qos: Best",
        ".default-label-qos",
        "expected Guaranteed, Burstable or BestEffort",
    ),
]


@pytest.mark.parametrize(("pool", "path", "message"), POOLS_REFUSED)
def test_a_pools_wrong_resources_are_told_once_and_there(
    site: Site, pool: str, path: str, message: str
) -> None:
    (problem,) = site.problems(text(site, "cpu: 9", pool))
    assert (problem.path, problem.line) == (POOL + path, 12)
    assert message in problem.message


def test_a_vendor_without_gpus_is_noticed(site: Site) -> None:
    settings = site.load(text(site, "gpu-vendor: amd"))
    assert "gpu-vendor: no effect without gpu" in settings.notices[0]
    assert site.load(text(site, "", "default-label-gpu-vendor: amd")).notices == ()
