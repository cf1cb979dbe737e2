"""What is left behind is put right: of crashes, of removed providers, of stuck namespaces."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from harness import kubeconfig, yamlfile
from harness.api import Object
from harness.requestor import NODES, REQUEST_LOCKS, zuul_request
from harness.zookeeper import Record

from nodepool_k8s import admin as admin_module
from nodepool_k8s.launcher.intervals import Intervals
from nodepool_k8s.launcher.provider_upkeep import Stuck
from nodepool_k8s.launcher.session import SessionScope
from nodepool_k8s.launcher.upkeep import Upkeep
from nodepool_k8s.model import ProviderCluster
from nodepool_k8s.znodes.paths import provider_cluster_path
from nodepool_k8s.znodes.provider_clusters import encode_provider_cluster
from tests.support.admin import DEPLOYMENT, Admin
from tests.support.launchers import Launchers, RunningLauncher
from tests.support.site import Options, SiteMaker, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

QUICK = Intervals(files=0.05, upkeep=0.2, stuck=1.0)
"""Looks often, so that the tests need not wait."""

HOMES = "/nodepool-k8s/clusters"


def provider(make_site: SiteMaker, name: str, *labels: Options, **options: Any) -> Options:
    """A provider with a pool of its own."""
    return {"name": name, "pools": [{"name": f"{make_site.pool}-{name}", "labels": [*labels]}]} | {
        key.replace("_", "-"): value for key, value in options.items()
    }


async def in_use(zuul: Zuul, *labels: str) -> Any:
    request_id = await zuul.submit(*labels)
    await zuul.answered(request_id)
    return await zuul.accept(request_id)


async def nothing_left(zuul: Zuul, admin: Admin) -> None:
    """No namespace of this deployment that is not on its way out."""
    deployment = await zuul.deployment()

    async def check() -> bool:
        return not await admin.namespaces(deployment)

    await eventually(check, "no namespace left")


async def passes(launcher: RunningLauncher, number: int) -> None:
    """Let upkeep go over everything so many times more."""
    for _ in range(number):
        await upkeep(launcher).step()
        for driver in launcher.launcher.providers.open:
            await scope_of(launcher).provider_upkeep.step_for(driver)


def scope_of(launcher: RunningLauncher) -> SessionScope:
    scope = launcher.launcher.scope
    assert scope is not None
    return scope


def upkeep(launcher: RunningLauncher) -> Upkeep:
    return scope_of(launcher).upkeep


# --- providers that were taken out -----------------------------------------------------------


async def test_nodes_of_a_removed_provider_go_when_they_come_back(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    kept, gone = (
        provider(make_site, "kept", pod_label("a")),
        provider(make_site, "gone", pod_label("b"), namespace_label("c")),
    )
    site = make_site.of([kept, gone])
    await launchers.start(site, QUICK)
    locks = await in_use(zuul, "b", "c")
    site.become(make_site.of([kept]))
    await eventually(lambda: registered_are(zuul, "kept"))
    # Jobs go on.
    assert {node["state"] for node in (await zuul.nodes()).values()} == {"in-use"}
    await zuul.give_back(locks)
    await zuul.gone(*locks)
    await nothing_left(zuul, admin)

    async def forgotten() -> bool:
        return len(await zuul.children(HOMES)) == 1

    await eventually(forgotten, "the cluster forgotten for that provider")


async def registered_are(zuul: Zuul, *providers: str) -> bool:
    return sorted(entry["provider_name"] for entry in await zuul.components()) == sorted(providers)


async def test_nodes_of_a_removed_provider_go_after_a_restart_too(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    document = yamlfile.load(make_site.cluster.kubeconfig)
    yamlfile.replace(tmp_path / "kubeconfig", kubeconfig.with_context(document, "second"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    gone = provider(make_site, "gone", pod_label("b"), context="second")
    first = await launchers.start(make_site.of([gone]), QUICK)
    locks = await in_use(zuul, "b")
    deployment = await zuul.deployment()
    await first.stop()
    await zuul.give_back(locks)
    leaked = f"{make_site.pool}-gone-0000000099"
    labels = {"nodepool_node_id": "0000000099", "nodepool_provider_name": "gone"}
    await admin.create_namespace(leaked, {DEPLOYMENT: deployment, **labels})

    # One that serves nothing in any cluster, and has only that to connect to.
    second = await launchers.start(make_site.of([]), QUICK)
    await zuul.gone(*locks)
    await nothing_left(zuul, admin)

    async def closed() -> bool:
        clusters = second.launcher.providers.retired
        return not clusters and not await zuul.children(HOMES)

    await eventually(closed, "the connection closed, when nothing was left")


@pytest.mark.parametrize("gone", [True, False])
async def test_nodes_of_an_unreachable_cluster_are_reported_once(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    caplog: pytest.LogCaptureFixture,
    gone: bool,
) -> None:
    """Its context is gone, or its name has come to mean another cluster."""
    caplog.set_level("INFO")
    context = "no-such-context" if gone else make_site.cluster.context
    home = ProviderCluster("lost", context, "another-cluster")
    node = left_node("lost", "pool", state="used", context=context, cluster=home.cluster)
    path = await zuul.create(f"{NODES}/", node, sequence=True)
    await zuul.create(provider_cluster_path(home), encode_provider_cluster(home), makepath=True)
    site = make_site(pod_label())
    launcher = await launchers.start(site, QUICK)

    def said(what: str) -> list[str]:
        return [each.getMessage() for each in caplog.records if what in each.getMessage()]

    (warning,) = await eventually(lambda: said("What is left of provider lost"), "a warning")
    await passes(launcher, 3)
    assert len(said("What is left of provider lost")) == 1
    assert len(said("Connected to the cluster of provider lost")) == (0 if gone else 1)
    assert ("has no context no-such-context" if gone else "is another cluster now") in warning
    assert "erase lost" in warning
    assert await zuul.get(path) is not None
    async with admin_module.Admin.connected(site.settings().zookeeper) as operator:
        assert await operator.erase("lost", force=False, on_progress=lambda _: None) == 1
    assert await zuul.get(path) is None
    assert await zuul.get(provider_cluster_path(home)) is None


def left_node(provider: str, pool: str, *, state: str, **own: object) -> Record:
    """A node as a launcher of ours left it."""
    claimed = {"type": "pod", "claimed": {"instances": 1000}, **own}
    return {
        "state": state,
        "state_time": time.time(),
        "created_time": time.time(),
        "type": ["pod"],
        "provider": provider,
        "pool": pool,
        "allocated_to": None,
        "external_id": None,
        "resources": {"cores": 0, "ram": 0, "instances": 1},
        "driver_data": {"nodepool_k8s": claimed},
    }


async def test_nodes_of_a_provider_served_elsewhere_stay(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    theirs = await zuul.register(id="theirs", provider_name="theirs", name="pool")
    launcher = await launchers.start(make_site(pod_label()), QUICK)
    locks = await in_use(zuul, "pod")
    (ours,) = locks
    own = ((await zuul.node(ours) or {})["driver_data"])["nodepool_k8s"]
    home = {"context": own["context"], "cluster": own["cluster"]}
    path = await zuul.create(
        f"{NODES}/", left_node("theirs", "pool", state="used", **home), sequence=True
    )
    spare = await zuul.create(
        f"{NODES}/", left_node("theirs", "pool", state="ready", **home), sequence=True
    )
    await passes(launcher, 3)
    assert (await zuul.get(path) or {})["state"] == "used"
    assert (await zuul.get(spare) or {})["state"] == "ready"
    await zuul.delete(theirs)  # It is gone, and nobody serves that provider any more.
    await zuul.gone(path.rpartition("/")[2], spare.rpartition("/")[2])
    await zuul.give_back(locks)


@pytest.mark.parametrize("gone", ["label", "pool", "provider"])
async def test_unused_ready_nodes_that_no_pool_offers_any_more_go(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, gone: str
) -> None:
    both = {"labels": [{"name": "a"}, {"name": "b", "min-ready": 1}]}
    pool = {"name": make_site.pool, "labels": [namespace_label("a"), namespace_label("b")]}
    other = {"name": f"{make_site.pool}-2", "labels": [namespace_label("a")]}
    site = make_site.of([{"name": "local", "pools": [pool]}], both)
    await launchers.start(site, QUICK)

    async def spare() -> list[str]:
        nodes = await zuul.nodes()
        return [name for name, node in nodes.items() if node["state"] == "ready"]

    found = await eventually(spare, "a ready node")
    left: dict[str, Options] = {
        "label": {"name": "local", "pools": [{**pool, "labels": [namespace_label("a")]}]},
        "pool": {"name": "local", "pools": [other]},
        "provider": {"name": "other", "pools": [other]},
    }
    site.become(make_site.of([left[gone]]))
    await zuul.gone(*found)
    await nothing_left(zuul, admin)


async def test_unused_ready_nodes_of_a_pool_served_elsewhere_stay(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(namespace_label("a"), namespace_label("b"), top={
        "labels": [{"name": "a"}, {"name": "b", "min-ready": 1}]})  # fmt: skip
    launcher = await launchers.start(site, QUICK)

    async def spare() -> list[str]:
        nodes = await zuul.nodes()
        return [name for name, node in nodes.items() if node["state"] == "ready"]

    (node_id,) = await eventually(spare, "a ready node")
    keys = {"provider_name": "local", "name": make_site.pool, "supported_labels": ["b"]}
    theirs = await zuul.register(id="theirs", **keys)
    site.become(make_site(namespace_label("a")))
    await passes(launcher, 4)
    assert (await zuul.node(node_id) or {})["state"] == "ready"
    await zuul.delete(theirs)
    await zuul.gone(node_id)


async def test_leaked_namespaces_of_renamed_pools_are_deleted(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(pod_label())
    await launchers.start(site, QUICK)
    ours, theirs = await zuul.deployment(), str(uuid.uuid4())
    names = {name: f"{make_site.pool}-{name}-0000000042" for name in ("renamed", "foreign")}
    labels = {"nodepool_node_id": "0000000042", "nodepool_provider_name": "was-here"}
    await admin.create_namespace(names["foreign"], {**labels, DEPLOYMENT: theirs})
    try:
        await admin.create_namespace(names["renamed"], {**labels, DEPLOYMENT: ours})
        await nothing_left(zuul, admin)
        namespace = await admin.namespace(names["foreign"])
        assert namespace is not None
        assert "deletionTimestamp" not in namespace["metadata"]
    finally:
        await admin.delete_namespace(names["foreign"])


# --- ZooKeeper -------------------------------------------------------------------------------


async def test_only_stale_request_locks_are_deleted(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    stale, held, waiting = [f"{REQUEST_LOCKS}/200-000000090{number}" for number in range(3)]
    for path in (stale, waiting):
        await zuul.create(path, b"", makepath=True)
    lock = await zuul.lock(held)
    # One that no launcher can read, and that is there all the same.
    await zuul.create(waiting.replace("requests-lock", "requests"), b"not JSON", makepath=True)
    launcher = await launchers.start(make_site(pod_label()), QUICK)

    async def gone() -> bool:
        return stale.rpartition("/")[2] not in await zuul.children(REQUEST_LOCKS)

    await eventually(gone, "the stale lock gone")
    await passes(launcher, 2)
    left = await zuul.children(REQUEST_LOCKS)
    assert {held.rpartition("/")[2], waiting.rpartition("/")[2]} <= set(left)
    await zuul.unlock(lock)
    await zuul.delete(waiting.replace("requests-lock", "requests"))

    async def none() -> bool:
        return not await zuul.children(REQUEST_LOCKS)

    await eventually(none, "the others gone, too")


async def test_a_pending_request_without_a_lock_is_asked_for_anew(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label()), QUICK)
    left = await zuul.submit_raw(zuul_request(["pod"], state="pending"))
    await zuul.use_and_return(left)


async def test_empty_node_znodes_go(make_site: SiteMaker, launchers: Launchers, zuul: Zuul) -> None:
    await launchers.start(make_site(pod_label()), QUICK)
    bare = await zuul.create(f"{NODES}/", b"", sequence=True)
    contended = await zuul.create(f"{NODES}/", b"", sequence=True)
    await zuul.create(f"{contended}/lock", b"")

    async def gone() -> bool:
        return not await zuul.children(NODES)

    await eventually(gone, f"{bare} and {contended} gone")


# --- Terminating -----------------------------------------------------------------------------


async def test_a_stuck_namespace_is_reported_with_what_blocks_it(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    caplog: pytest.LogCaptureFixture,
) -> None:
    launcher = await launchers.start(make_site(pod_label()), QUICK)
    locks = await in_use(zuul, "pod")
    (node_id,) = locks
    name = make_site.namespace(node_id)
    held: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "held", "finalizers": ["nodepool-k8s.test/nobody"]},
    }
    await admin.call("POST", f"/api/v1/namespaces/{name}/configmaps", held)
    await zuul.give_back(locks)
    await zuul.gone(node_id)  # For a pod label its pods count, and they are gone.

    def stuck() -> tuple[Stuck, ...]:
        return scope_of(launcher).stuck_deletions

    def told() -> list[str]:
        texts = [record.getMessage() for record in caplog.records]
        return [text for text in texts if text.startswith(f"Deletion of {name} at provider local")]

    await eventually(lambda: "nobody" in str(stuck()) and told(), "the report")
    (entry,) = stuck()
    assert (entry.provider, entry.external_id) == ("local", name)
    assert time.time() - 60 < entry.since < time.time()
    assert any("nodepool-k8s.test/nobody" in blocker for blocker in entry.blockers)
    await eventually(lambda: len(told()) >= 2 and "nobody" in told()[-1], "a second report")
    await passes(launcher, 5)
    assert len(told()) <= 4  # Ever more seldom, not with each pass.
    patch = {"metadata": {"finalizers": None}}
    merge = "application/merge-patch+json"
    await admin.call("PATCH", f"/api/v1/namespaces/{name}/configmaps/held", patch, merge)
    await eventually(lambda: not stuck(), "nothing stuck any more")
    assert await admin.namespace(name) is None
