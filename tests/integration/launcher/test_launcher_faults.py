"""What is away holds up only who needs it, and a launcher that froze touches nothing it lost."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cluster import LocalCluster
from harness import kubeconfig, nodepool_yaml, yamlfile
from harness.proxy import Proxy
from harness.requestor import NODES
from kazoo.exceptions import NoNodeError

from nodepool_k8s.launcher.intervals import Intervals
from tests.support.admin import DEPLOYMENT, Admin
from tests.support.launchers import Launchers, RunningLauncher
from tests.support.site import Options, Site, SiteMaker, manual_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Recorder, Zuul

pytestmark = pytest.mark.integration

AWAY = "through-a-proxy"
QUICK_SESSION = {"zookeeper-timeout": 4}
OFTEN = Intervals(upkeep=0.5)


@pytest.fixture
async def api(
    local_cluster: LocalCluster,
    make_site: SiteMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Proxy]:
    """In front of the API server, for launchers that use the context ``AWAY``.

    Tests name it before their launchers, which it has to outlive.
    """
    document = yamlfile.load(local_cluster.kubeconfig)
    async with Proxy.to(local_cluster.api_server_url.removeprefix("https://")) as proxy:
        path = tmp_path / "kubeconfig"
        server = f"https://{proxy.address}"
        yamlfile.replace(path, kubeconfig.with_context(document, AWAY, server))
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield proxy


def two_providers(make_site: SiteMaker, *labels: Options, away: Options | None = None) -> Site:
    """``near``, and ``far`` behind the proxy, which comes first where it can."""
    near = {"name": f"{make_site.pool}-near", "labels": list(labels)}
    far = {"name": f"{make_site.pool}-far", "labels": list(labels), "priority": 1}
    return make_site.of(
        [
            {"name": "near", "pools": [near]},
            {"name": "far", "context": AWAY, "pools": [far], **(away or {})},
        ]
    )


async def pool(zuul: Zuul, provider: str) -> dict[str, Any]:
    (record,) = [each for each in await zuul.components() if each["provider_name"] == provider]
    return record


async def paused(zuul: Zuul, provider: str, *, so: bool = True) -> None:
    async def check() -> bool:
        return (await pool(zuul, provider))["paused"] is so

    await eventually(check, f"the pool of {provider} paused: {so}")


async def provider_of(zuul: Zuul, request_id: str) -> str:
    request = await zuul.answered(request_id)
    node = await zuul.node(request["nodes"][0])
    assert node is not None
    return str(node["provider"])


async def test_an_unreachable_cluster_pauses_only_its_own_pools(
    api: Proxy, make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    running = await launchers.start(two_providers(make_site, pod_label()))
    first = await zuul.submit("pod")
    assert await provider_of(zuul, first) == "far"
    await api.refuse()
    await paused(zuul, "far")
    # Whatever anybody asks for is served where it can be; who names the provider waits.
    named = await zuul.submit("pod", provider="far")
    for _ in range(3):
        assert await provider_of(zuul, await zuul.submit("pod")) == "near"
    assert not (await pool(zuul, "near"))["paused"]
    request = await zuul.request(named)
    assert request is not None
    assert request["state"] == "requested"
    assert not running.launcher.snapshots.obstacles(), "the other provider serves"
    assert running.launcher.scope is not None
    assert (
        running.launcher.scope.queues[f"far/{make_site.pool}-far"].waits_for
        == "the cluster of provider far"
    )
    api.restore()
    await paused(zuul, "far", so=False)
    assert await provider_of(zuul, named) == "far"
    await zuul.use_and_return(first)


async def test_a_pool_is_paused_until_its_cluster_first_answers(
    api: Proxy, make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await api.refuse()
    await launchers.start(two_providers(make_site, pod_label()))
    await paused(zuul, "far")
    assert await provider_of(zuul, await zuul.submit("pod")) == "near"
    api.restore()
    await paused(zuul, "far", so=False)
    assert await provider_of(zuul, await zuul.submit("pod")) == "far"


async def test_an_outage_of_the_cluster_uses_up_no_attempt(
    api: Proxy, make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label(), provider={"context": AWAY, "launch-retries": 1})
    running = await launchers.start(site)
    waits_for_pod = await zuul.submit("pod")
    (early,) = await zuul.building(waits_for_pod)
    await eventually(lambda: admin.pod(make_site.namespace(early)), "its pod")
    # What is asked of the cluster arrives, and no answer comes back.
    api.lose_answers()
    waits_for_answer = await zuul.submit("pod")
    (late,) = await zuul.building(waits_for_answer)
    await asyncio.wait_for(api.lost_answer.wait(), 30)
    await api.refuse()
    await paused(zuul, "local")
    await eventually(lambda: running.launcher.snapshots.obstacles(), "it is not ready")
    # The call was tried for some seconds by then: an attempt would have failed.
    await eventually(lambda: any("cannot be reached" in why for why in waits(running)))
    await admin.make_ready(make_site.namespace(early))
    api.restore()
    assert (await zuul.answered(waits_for_pod))["nodes"] == [early]
    await eventually(lambda: admin.pod(make_site.namespace(late)), "its pod")
    await admin.make_ready(make_site.namespace(late))
    assert (await zuul.answered(waits_for_answer))["nodes"] == [late]
    await paused(zuul, "local", so=False)
    assert not running.launcher.snapshots.obstacles()


def waits(running: RunningLauncher) -> list[str]:
    """What each launch is waiting for."""
    scope = running.launcher.scope
    assert scope is not None
    return [
        launch.waits_for
        for fulfilment in scope.fulfilments.values()
        for launch in fulfilment.launches
    ]


async def test_ready_and_used_nodes_outlive_a_cluster_outage(
    api: Proxy, make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(pod_label(), provider={"context": AWAY}))
    used, left, spare = [await zuul.submit("pod") for _ in range(3)]
    locks = await accepted(zuul, used)
    (left_node,) = (await zuul.answered(left))["nodes"]
    (spare_node,) = (await zuul.answered(spare))["nodes"]
    await zuul.cancel(spare)
    await eventually(lambda: unallocated(zuul, spare_node), "a node is nobody's")
    await api.refuse()
    await paused(zuul, "local")
    await zuul.give_back(await accepted(zuul, left))
    during = await zuul.submit("pod")
    api.restore()
    # What was given back meanwhile goes; the ready one is whoever's waits.
    await zuul.gone(left_node)
    assert (await zuul.answered(during))["nodes"] == [spare_node]
    (used_node,) = locks
    assert await admin.pod(make_site.namespace(used_node)) is not None
    await zuul.give_back(locks)


@pytest.mark.parametrize("for_a_moment", [True, False])
async def test_nodes_outlive_an_outage_of_zookeeper(
    local_cluster: LocalCluster,
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    for_a_moment: bool,
) -> None:
    async with Proxy.to(local_cluster.zookeeper) as proxy:
        servers = [nodepool_yaml.server(proxy.address, make_site.chroot)]
        top = {**QUICK_SESSION, "zookeeper-servers": servers}
        site = make_site(manual_label(), pod_label("quick"), top=top)
        running = await launchers.start(site)
        used, spare = [await zuul.submit("quick") for _ in range(2)]
        locks = await accepted(zuul, used)
        (spare_node,) = (await zuul.answered(spare))["nodes"]
        await zuul.cancel(spare)
        await eventually(lambda: unallocated(zuul, spare_node), "a node is nobody's")
        slow = await zuul.submit("pod")
        (slow_node,) = await zuul.building(slow)
        await eventually(lambda: admin.pod(make_site.namespace(slow_node)), "its pod")
        await proxy.refuse()
        await eventually(lambda: running.launcher.snapshots.obstacles(), "it is not ready")
        during = await zuul.submit("quick")
        if for_a_moment:
            await admin.make_ready(make_site.namespace(slow_node))
        else:
            await eventually(partial(nobody_serves, zuul), "its session is over")
        for node_id in (*locks, spare_node, slow_node):
            namespace = await admin.namespace(make_site.namespace(node_id))
            assert namespace is not None
            assert "deletionTimestamp" not in namespace["metadata"]
        proxy.restore()
        assert (await zuul.answered(during))["nodes"] == [spare_node]
        await eventually(lambda: not running.launcher.snapshots.obstacles(), "it is ready")
        if not for_a_moment:
            # Who dies does not come back: another node is made in its place.
            await zuul.gone(slow_node)
            (slow_node,) = await zuul.building(slow)
            await eventually(lambda: admin.pod(make_site.namespace(slow_node)), "its pod")
            await admin.make_ready(make_site.namespace(slow_node))
        assert (await zuul.answered(slow))["nodes"] == [slow_node]
        (used_node,) = locks
        assert (await zuul.states())[used_node] == "in-use"
        assert await admin.pod(make_site.namespace(used_node), "quick") is not None
        await zuul.give_back(locks)
        await launchers.leave_nothing()


async def nobody_serves(zuul: Zuul) -> bool:
    return not await zuul.components()


async def accepted(zuul: Zuul, request_id: str) -> dict[str, Any]:
    await zuul.answered(request_id)
    return await zuul.accept(request_id)


async def unallocated(zuul: Zuul, node_id: str) -> bool:
    node = await zuul.node(node_id)
    return node is not None and node["allocated_to"] is None


class Watchman:
    """Looks again and again at the nodes that count, and at every pod of the deployment."""

    def __init__(self, zuul: Zuul, admin: Admin, deployment: str) -> None:
        self._zuul, self._admin = zuul, admin
        self._path = f"/api/v1/pods?labelSelector={DEPLOYMENT}={deployment}"
        self.namespaces: set[str] = set()
        """Where pods were seen."""
        self.most_nodes = Recorder(self._nodes)
        self.most_pods = Recorder(self._pods)

    def _nodes(self) -> int:
        names = self._zuul.kazoo.get_children(NODES)
        return sum(self._counts(name) for name in names)

    def _counts(self, name: str) -> bool:
        try:
            data, _ = self._zuul.kazoo.get(f"{NODES}/{name}")
        except NoNodeError:
            return False
        return bool(data) and json.loads(data)["state"] != "init"

    def _pods(self) -> int:
        found = self._admin.call_from_thread("GET", self._path)["items"]
        self.namespaces |= {pod["metadata"]["namespace"] for pod in found}
        return len(found)


async def test_a_frozen_launcher_touches_nothing_that_it_lost(
    api: Proxy, make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    limit = {"max-servers": 2}
    far = {"context": AWAY}
    first = await launchers.spawn(
        make_site(pod_label(), pool=limit, top=QUICK_SESSION, provider=far)
    )
    await zuul.use_and_return(await zuul.submit("pod"))
    await eventually(lambda: nobody(zuul), "the first node is gone")
    watchman = Watchman(zuul, admin, await zuul.deployment())
    api.lose_answers()
    async with watchman.most_nodes, watchman.most_pods:
        requests = [await zuul.submit("pod") for _ in range(6)]
        # It has asked for the namespaces and heard nothing when it freezes: pods come next.
        lost = [name for each in requests[:2] for name in await zuul.building(each)]
        for node_id in lost:
            await eventually(partial(admin.namespace, make_site.namespace(node_id)), "made")
        first.send_signal(signal.SIGSTOP)
        try:
            # Its session ends meanwhile.
            await launchers.start(make_site(pod_label(), pool=limit, top=QUICK_SESSION), OFTEN)
            await zuul.gone(*lost)
            for request_id in requests[:2]:
                await zuul.answered(request_id)
            others = await zuul.nodes()
        finally:
            api.restore()
            first.send_signal(signal.SIGCONT)
        await eventually(lambda: "starting a new one" in first.text(), "it knows")
        await eventually(lambda: first.text().count("Serving pools") == 2, "it serves again")
        assert others == await zuul.nodes(), "others' records were changed"
        for request_id in requests:
            await zuul.use_and_return(request_id)
        await eventually(partial(none_of, admin, make_site, lost), "what came late goes")
    assert await first.terminate() == 0
    assert watchman.most_nodes.maximum == 2
    assert watchman.most_pods.maximum == 2
    assert not watchman.namespaces & {make_site.namespace(node_id) for node_id in lost}


async def nobody(zuul: Zuul) -> bool:
    return not await zuul.nodes()


async def none_of(admin: Admin, make_site: SiteMaker, node_ids: list[str]) -> bool:
    found = [await admin.namespace(make_site.namespace(node_id)) for node_id in node_ids]
    return all(each is None or "deletionTimestamp" in each["metadata"] for each in found)
