"""The reference pages' examples as labels, seen in what the API server stored."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness.api import MERGE, ApiError, Object

from tests.integration.launcher.test_launcher_labels import stored
from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.reference import ACCEPTED, PROFILES, SOURCES, V100, part
from tests.support.site import IMAGE, Options, SiteMaker, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

CLAIMING = {"hub-a-claim", "hub-a-ephemeral", "hub-b-claim", "hub-c-claim", "metaflow-claims"}
CLAIMS = 6
"""How many claims these examples have, none of which names a class."""
VOLUMES = "/api/v1/persistentvolumes"


@pytest.fixture
async def disks(admin: Admin, make_site: SiteMaker) -> AsyncIterator[None]:
    """What claims are bound to: the cluster has nothing that would make volumes for them."""
    names = [f"disk-{make_site.chroot[-8:]}-{number}" for number in range(CLAIMS)]
    for name in names:
        spec = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": "/nowhere"},
        }
        await admin.call("POST", VOLUMES, {"metadata": {"name": name}, "spec": spec})
    yield
    for name in names:
        await admin.call("DELETE", f"{VOLUMES}/{name}")


@pytest.fixture
async def amd64(admin: Admin) -> AsyncIterator[None]:
    """The architecture that pages ask for, which a fake node has none of."""
    paths = [
        f"/api/v1/nodes/{node['metadata']['name']}"
        for node in (await admin.call("GET", "/api/v1/nodes"))["items"]
    ]
    for architecture in ("amd64", None):
        for path in paths:
            labels = {"metadata": {"labels": {"kubernetes.io/arch": architecture}}}
            await admin.call("PATCH", path, labels, MERGE)
        if architecture:
            yield


@pytest.fixture
async def sources(admin: Admin, make_site: SiteMaker) -> AsyncIterator[str]:
    """The namespace where the Secrets and ConfigMaps of the pages are."""
    name = f"sources-{make_site.chroot[-8:]}"
    await admin.create_namespace(name, {})
    for path, body in SOURCES.items():
        resource, _, own = path.partition("/")
        await admin.call(
            "POST", f"/api/v1/namespaces/{name}/{resource}", {"metadata": {"name": own}, **body}
        )
    yield name
    await admin.delete_namespace(name)


async def make_their_claim(zuul: Zuul, admin: Admin, make_site: SiteMaker) -> None:
    """Play what makes the claim that a page names, in the namespace of the node."""

    async def namespace() -> str | None:
        nodes = (await zuul.nodes()).items()
        names = [
            make_site.namespace(node_id) for node_id, node in nodes if "hub-c-claim" in node["type"]
        ]
        return names[0] if names and await admin.namespace(names[0]) else None

    claim = {
        "metadata": {"name": "pvc-name-on-k8s"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    inside = await eventually(namespace, "the namespace of the node is there")
    await admin.call("POST", f"/api/v1/namespaces/{inside}/persistentvolumeclaims", claim)


def _main(**fields: Any) -> Object:
    return {"containers": [{"name": "main", "image": IMAGE, **fields}]}


async def test_the_example_of_nodepools_page_is_served(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    labels = (
        namespace_label("kubernetes-namespace"),
        pod_label("pod-fedora", image="docker.io/fedora:28"),
    )
    await launchers.start(make_site(*labels, provider={"name": "kubespray"}))
    request_id = await zuul.submit("kubernetes-namespace", "pod-fedora")
    found = await stored(zuul, admin, request_id)
    assert {node["provider"] for _, _, node in found.values()} == {"kubespray"}
    pod, namespace, _ = found["pod-fedora"]
    wanted = ACCEPTED["pod-fedora"].seen
    assert part(pod, wanted) == wanted
    assert namespace["metadata"]["name"].startswith(make_site.pool)
    assert await admin.pods(found["kubernetes-namespace"][1]["metadata"]["name"]) == []


def labels_of(names: list[str]) -> list[Options]:
    images: dict[str, Options] = {
        name: {} if "spec" in ACCEPTED[name].options else {"image": IMAGE} for name in names
    }
    return [
        {"name": name, "type": "pod", **images[name], **ACCEPTED[name].options} for name in names
    ]


async def look(zuul: Zuul, admin: Admin, request_id: str, names: list[str]) -> dict[str, str]:
    """Compare all that is stored with what the pages ask for; the namespaces by label."""
    found = await stored(zuul, admin, request_id)
    namespaces = {name: each[1]["metadata"]["name"] for name, each in found.items()}
    pods = {name: part(found[name][0], ACCEPTED[name].seen) for name in names}
    assert pods == {name: ACCEPTED[name].seen for name in names}
    wanted = {
        f"/api/v1/namespaces/{namespaces[name]}/{path}": each
        for name in names
        for path, each in ACCEPTED[name].objects.items()
    }
    objects = {path: part(await admin.get(path), each) for path, each in wanted.items()}
    assert objects == wanted
    return namespaces


# Before the others: these nodes last until the cluster has removed their namespaces, which
# takes it a while when there are many.
@pytest.mark.usefixtures("disks")
async def test_the_claims_that_the_pages_ask_for_are_stored(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    names = [name for name in ACCEPTED if name in CLAIMING]
    await launchers.start(make_site(*labels_of(names)))
    request_id = await zuul.submit(*names)
    await make_their_claim(zuul, admin, make_site)
    namespaces = await look(zuul, admin, request_id, names)
    await end_claims(admin, list(namespaces.values()))


@pytest.mark.usefixtures("amd64")
async def test_what_the_pages_ask_for_is_stored(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, sources: str
) -> None:
    names = [name for name in ACCEPTED if name not in CLAIMING]
    provider = {"compute-pool-key": "kubernetes.io/os", "source-namespace": sources}
    await launchers.start(
        make_site(*labels_of(names), provider=provider, top={"profiles": PROFILES})
    )
    await look(zuul, admin, await zuul.submit(*names), names)


async def end_claims(admin: Admin, namespaces: list[str]) -> None:
    """Spare the end of the test what a cluster takes: it looks again at pods and claims in a
    namespace that is to go after 8 or 16 seconds.
    """
    for resource in ("pods", "persistentvolumeclaims"):
        paths = [f"/api/v1/namespaces/{namespace}/{resource}" for namespace in namespaces]
        for path in paths:
            await admin.call("DELETE", f"{path}?gracePeriodSeconds=0")

        async def gone(paths: list[str] = paths) -> bool:
            return not any([(await admin.call("GET", path))["items"] for path in paths])

        await eventually(gone, f"no {resource} left")


REFUSED_THERE: dict[str, tuple[Object, str]] = {
    "seconds of a toleration without an end": (
        {"tolerations": [{**V100, "tolerationSeconds": 300}]},
        "effect must be 'NoExecute' when `tolerationSeconds` is set",
    ),
    "words as a key": ({"nodeSelector": {"Node selector key.": "value"}}, "Invalid value"),
    "half a gpu": (_main(resources={"limits": {"nvidia.com/gpu": "500m"}}), "must be an integer"),
    "limits below requests": (
        _main(resources={"requests": {"cpu": "16"}, "limits": {"cpu": "12"}}),
        "must be less than or equal to cpu limit",
    ),
    "two mounts at one path": (
        {
            **_main(volumeMounts=[{"name": name, "mountPath": "/data"} for name in ("a", "b")]),
            "volumes": [{"name": name, "emptyDir": {}} for name in ("a", "b")],
        },
        "must be unique",
    ),
    "privileges without more": (
        _main(securityContext={"privileged": True, "allowPrivilegeEscalation": False}),
        "cannot set `allowPrivilegeEscalation` to false",
    ),
}


@pytest.mark.parametrize(("spec", "told"), REFUSED_THERE.values(), ids=list(REFUSED_THERE))
async def test_what_is_refused_here_would_be_refused_there(
    admin: Admin, spec: Object, told: str
) -> None:
    pod = {"metadata": {"name": "refused"}, "spec": {**_main(), **spec}}
    with pytest.raises(ApiError) as refusal:
        await admin.call("POST", "/api/v1/namespaces/default/pods?dryRun=All", pod)
    assert told in str(refusal.value)
