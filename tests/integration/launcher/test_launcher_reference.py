"""The reference pages' examples as labels, seen in what the API server stored."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.launcher.test_launcher_labels import stored
from tests.support.admin import MERGE, Admin, Object, Refused
from tests.support.launchers import Launchers
from tests.support.reference import ACCEPTED, PROFILES, SOURCES, V100, part
from tests.support.site import IMAGE, SiteMaker, namespace_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

CLAIMS = 6
"""How many claims the examples have, none of which names a class."""
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


@pytest.mark.usefixtures("disks", "amd64")
async def test_what_the_pages_ask_for_is_stored(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, sources: str
) -> None:
    labels = [
        {
            "name": name,
            "type": "pod",
            **({} if "spec" in example.options else {"image": IMAGE}),
            **example.options,
        }
        for name, example in ACCEPTED.items()
    ]
    provider = {"compute-pool-key": "kubernetes.io/os", "source-namespace": sources}
    # Nodepool's page has a namespace beside its pod.
    space = namespace_label("kubernetes-namespace")
    await launchers.start(make_site(*labels, space, provider=provider, top={"profiles": PROFILES}))
    request_id = await zuul.submit(space["name"], *ACCEPTED)
    await make_their_claim(zuul, admin, make_site)
    found = await stored(zuul, admin, request_id)
    namespaces = {name: each[1]["metadata"]["name"] for name, each in found.items()}

    pods = {name: part(found[name][0], example.seen) for name, example in ACCEPTED.items()}
    assert pods == {name: example.seen for name, example in ACCEPTED.items()}
    objects = {
        (name, path): part(await admin.get(_path(namespaces[name], path)), wanted)
        for name, example in ACCEPTED.items()
        for path, wanted in example.objects.items()
    }
    assert objects == {
        (name, path): wanted
        for name, example in ACCEPTED.items()
        for path, wanted in example.objects.items()
    }
    assert await admin.pods(namespaces["kubernetes-namespace"]) == []


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
    with pytest.raises(Refused) as refusal:
        await admin.call("POST", "/api/v1/namespaces/default/pods?dryRun=All", pod)
    assert told in str(refusal.value)


def _path(namespace: str, path: str) -> str:
    return f"/api/v1/namespaces/{namespace}/{path}"
