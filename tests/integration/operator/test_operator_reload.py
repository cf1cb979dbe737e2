"""A changed configuration is taken up without a restart, and a bad one changes nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import kubeconfig, yamlfile
from harness.launcher import LauncherProcess
from harness.requestor import POOLS
from harness.zookeeper import Record, create_chroot, delete_chroot

from nodepool_k8s.launcher.intervals import Intervals
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import (
    Options,
    Site,
    SiteMaker,
    manual_label,
    namespace_label,
    pod_label,
)
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

QUICK = Intervals(files=0.05, upkeep=0.3)
"""Looks often, so that the tests need not wait."""


async def pools(zuul: Zuul) -> dict[str, Record]:
    """The pools that are registered, by name."""
    return {entry["name"]: entry for entry in await zuul.components()}


async def registered(zuul: Zuul, *names: str) -> dict[str, Record]:
    """Wait until exactly these pools are."""

    async def check() -> dict[str, Record]:
        found = await pools(zuul)
        assert sorted(found) == sorted(names)
        return found

    found: dict[str, Record] = await eventually(check, f"pools {names}")
    return found


async def shown(zuul: Zuul, name: str, **keys: Any) -> None:
    """Wait until the pool's record says so."""

    async def check() -> bool:
        record = (await pools(zuul))[name]
        assert {key: record[key] for key in keys} == keys
        return True

    await eventually(check, f"pool {name} with {keys}")


async def in_use(zuul: Zuul, *labels: str, **changes: Any) -> Any:
    """Nodes of a request that was served, with the locks that their requestor holds."""
    request_id = await zuul.submit(*labels, **changes)
    assert (await zuul.answered(request_id))["state"] == "fulfilled"
    return await zuul.accept(request_id)


async def make_ready(admin: Admin, namespace: str) -> None:
    await eventually(lambda: admin.pod(namespace), f"the pod of {namespace}")
    await admin.make_ready(namespace)


def two_pools(make_site: SiteMaker, *labels: Options, second: list[Options]) -> list[Options]:
    return [
        {"name": make_site.pool, "labels": list(labels)},
        {"name": f"{make_site.pool}-2", "labels": second},
    ]


# --- what is new -----------------------------------------------------------------------------


async def test_a_new_label_is_served(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label())
    await launchers.start(site, QUICK)
    before = await zuul.children(POOLS)
    site.become(make_site(pod_label(), namespace_label("new")))
    await shown(zuul, make_site.pool, supported_labels=["new", "pod"])
    assert await zuul.children(POOLS) == before  # It stays registered all the time.
    await zuul.use_and_return(await zuul.submit("pod", "new"))


async def test_a_new_pool_and_a_new_provider_are_served(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label())
    await launchers.start(site, QUICK)
    first = {"name": "local", "pools": two_pools(make_site, pod_label(), second=[pod_label("a")])}
    third = {"name": f"{make_site.pool}-3", "labels": [pod_label("b")]}
    site.become(make_site.of([first, {"name": "other", "pools": [third]}]))
    await registered(zuul, *(f"{make_site.pool}{end}" for end in ("", "-2", "-3")))
    await zuul.use_and_return(await zuul.submit("a"))
    locks = await in_use(zuul, "b")
    assert {(await zuul.node(node_id) or {})["provider"] for node_id in locks} == {"other"}
    await zuul.give_back(locks)


async def test_what_was_declined_by_nobody_yet_waits_for_no_restart(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    """A request that another pool may serve later is looked at anew when the pool changes."""
    site = make_site(pod_label())
    await launchers.start(site, QUICK)
    elsewhere = await zuul.register(id="elsewhere", supported_labels=["new"], priority=100)
    waiting = await zuul.submit("new")  # Left to the other one, which does nothing.
    site.become(make_site(pod_label(), pod_label("new")))
    await zuul.use_and_return(waiting)
    await zuul.delete(elsewhere)


# --- what is different -----------------------------------------------------------------------


async def test_a_raised_limit_wakes_what_waits_for_it(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), pool={"max-servers": 1})
    await launchers.start(site, QUICK)
    locks = await in_use(zuul, "pod")
    second = await zuul.submit("pod")
    await shown(zuul, make_site.pool, paused=True)
    site.become(make_site(pod_label(), pool={"max-servers": 2}))
    await zuul.use_and_return(second)
    await shown(zuul, make_site.pool, paused=False)
    await zuul.give_back(locks)


async def test_requests_above_a_lowered_limit_are_declined(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), pool={"max-servers": 2})
    await launchers.start(site, QUICK)
    locks = await in_use(zuul, "pod", "pod")
    single, double = await zuul.submit("pod"), await zuul.submit("pod", "pod")
    site.become(make_site(pod_label(), pool={"max-servers": 1}))
    request = await zuul.answered(double, "failed")
    assert "max-servers is 1" in str(request["nodepool_k8s"])
    assert (await zuul.request(single) or {})["state"] == "requested"
    await zuul.give_back(locks)
    await zuul.use_and_return(single)


async def test_max_concurrency_and_priority_take_effect(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label(), provider={"max-concurrency": 1})
    await launchers.start(site, QUICK)
    requests = [await zuul.submit("pod") for _ in range(2)]
    await zuul.building(requests[0])
    site.become(make_site(manual_label(), provider={"max-concurrency": 2, "priority": 7}))
    for request_id in requests:
        (node_id,) = await zuul.building(request_id)
        await make_ready(admin, make_site.namespace(node_id))
        await zuul.use_and_return(request_id)
    await shown(zuul, make_site.pool, priority=7)


async def test_changed_tenant_limits_take_effect(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    def limited(servers: int) -> Options:
        return {"tenant-resource-limits": [{"tenant-name": "one", "max-servers": servers}]}

    site = make_site(pod_label(), top=limited(1))
    await launchers.start(site, QUICK)
    locks = await in_use(zuul, "pod", tenant_name="one")
    second = await zuul.submit("pod", tenant_name="one")
    await zuul.use_and_return(await zuul.submit("pod", tenant_name="two"))
    assert (await zuul.request(second) or {})["state"] == "requested"
    site.become(make_site(pod_label(), top=limited(2)))
    await zuul.use_and_return(second)
    await zuul.give_back(locks)


async def test_a_moved_provider_removes_its_nodes_from_the_old_place(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = yamlfile.load(make_site.cluster.kubeconfig)
    path = tmp_path / "kubeconfig"
    yamlfile.replace(path, kubeconfig.with_context(document, "moved"))
    monkeypatch.setenv("KUBECONFIG", str(path))
    site = make_site(pod_label())
    await launchers.start(site, QUICK)
    before = await in_use(zuul, "pod")
    site.become(make_site(pod_label(), provider={"context": "moved"}))

    async def cloud() -> bool:
        locks = await in_use(zuul, "pod")
        clouds = {(await zuul.node(node_id) or {})["cloud"] for node_id in locks}
        await zuul.give_back(locks)
        return clouds == {"moved"}

    await eventually(cloud, "a node in the other context")
    await zuul.give_back(before)
    await zuul.gone(*before)


# --- what is gone ----------------------------------------------------------------------------


async def test_a_removed_pools_requests_go_to_others(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    first, second = two_pools(make_site, pod_label(), second=[pod_label()])
    full, idle = {**first, "max-servers": 1, "priority": 1}, {**second, "max-servers": 2}
    site = make_site.of([{"name": "local", "pools": [full]}])
    await launchers.start(site, QUICK)
    locks = await in_use(zuul, "pod")
    waiting = await zuul.submit("pod")
    await shown(zuul, full["name"], paused=True)
    site.become(make_site.of([{"name": "local", "pools": [idle]}]))
    await registered(zuul, idle["name"])
    request = await zuul.answered(waiting)
    assert request["state"] == "fulfilled"
    assert not request["declined_by"]
    await zuul.use_and_return(waiting)
    await zuul.give_back(locks)
    await zuul.gone(*locks)


async def test_a_request_for_a_removed_label_fails_with_the_reason(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), pod_label("old"), pool={"max-servers": 1})
    await launchers.start(site, QUICK)
    locks = await in_use(zuul, "pod")
    waiting = await zuul.submit("old")
    site.become(make_site(pod_label(), pool={"max-servers": 1}))
    request = await zuul.answered(waiting, "failed")
    assert "no pool has label old" in str(request["nodepool_k8s"])
    await zuul.give_back(locks)


@pytest.mark.parametrize("gone", ["label", "pool", "provider"])
async def test_a_launch_finishes_with_the_settings_at_its_start(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, gone: str
) -> None:
    changed = {"api-server-url": "https://changed.example"}
    first, second = two_pools(make_site, manual_label(), second=[pod_label("other")])
    old = {**first, "node-attributes": {"was": "here"}}
    site = make_site.of([{"name": "local", "pools": [old, second]}])
    await launchers.start(site, QUICK)
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    match gone:
        case "label":
            new = {**first, "labels": [pod_label("other")], "node-attributes": {"is": "new"}}
            provider: Options = {"name": "local", "pools": [new], **changed}
        case "pool":
            provider = {"name": "local", "pools": [second], **changed}
        case _:
            provider = {"name": "another", "pools": [second], **changed}
    site.become(make_site.of([provider]))
    await registered(zuul, *(pool["name"] for pool in provider["pools"]))
    for pool in provider["pools"]:
        await shown(zuul, pool["name"], supported_labels=["other"])
    await zuul.use_and_return(await zuul.submit("other"))
    await make_ready(admin, make_site.namespace(node_id))
    assert (await zuul.answered(request_id))["nodes"] == [node_id]
    locks = await zuul.accept(request_id)
    node = await zuul.node(node_id)
    assert node is not None
    assert node["attributes"] == {"was": "here"}
    assert node["connection_port"]["host"] == admin.url
    await zuul.give_back(locks)
    await zuul.gone(node_id)


# --- bad files -------------------------------------------------------------------------------


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def wrong_lines(text: str) -> list[int]:
    lines = enumerate(text.splitlines(), 1)
    return sorted(number for number, line in lines if line.endswith((": pot", ": lots")))


async def test_a_bad_file_is_reported_once_and_changes_nothing(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(pod_label(), pool={"max-servers": 3})
    launcher = await launchers.start(site, QUICK)
    good = site.path.read_text()
    before = await pools(zuul)
    bad = good.replace("type: pod", "type: pot").replace("max-servers: 3", "max-servers: lots")
    site.path.write_text(bad)
    await eventually(lambda: len(errors(caplog)) == 3, "the report")
    head, *problems = errors(caplog)
    assert "the current one stays in use" in head
    for problem, what in zip(sorted(problems), wrong_lines(bad), strict=True):
        assert problem.startswith(f"{site.path}:{what}: ")
    site.path.write_text(bad)  # Again the same.
    await zuul.use_and_return(await zuul.submit("pod"))
    assert await pools(zuul) == before
    site.path.unlink()
    await eventually(lambda: "there is no such file" in errors(caplog)[-1], "that it is gone")
    assert len(errors(caplog)) == 5
    site.become(make_site(pod_label(), pod_label("new")))
    await shown(zuul, make_site.pool, supported_labels=["new", "pod"])
    await zuul.use_and_return(await zuul.submit("new"))
    assert len(errors(caplog)) == 5
    assert launcher.launcher.ready.is_set()


async def test_a_mounted_config_map_is_noticed(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, tmp_path: Path
) -> None:
    """The kubelet puts new files beside the old ones, and then swaps a link to their folder."""
    mount = tmp_path / "mount"
    mount.mkdir()
    for name, labels in (("..1", [pod_label()]), ("..2", [pod_label(), pod_label("new")])):
        (mount / name).mkdir()
        make_site(*labels).path.rename(mount / name / "nodepool.yaml")
    (mount / "..data").symlink_to("..1")
    (mount / "nodepool.yaml").symlink_to("..data/nodepool.yaml")
    await launchers.start(Site(make_site.cluster, make_site.chroot, mount / "nodepool.yaml"), QUICK)
    (mount / "..swap").symlink_to("..2")
    (mount / "..swap").replace(mount / "..data")
    await shown(zuul, make_site.pool, supported_labels=["new", "pod"])
    await zuul.use_and_return(await zuul.submit("new"))


def reported(launcher: LauncherProcess, number: int) -> Callable[[], bool]:
    return lambda: launcher.text().count("cannot be used") == number


async def test_sighup_loads_at_once_and_says_what_came_of_it(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label())
    launcher = await launchers.spawn(site)
    launcher.send_signal(signal.SIGHUP)
    await eventually(lambda: "nothing has changed" in launcher.text(), "an answer")
    good = site.path.read_text()
    site.path.write_text(good.replace("type: pod", "type: pot"))
    for number in (1, 2):  # Whoever asks twice is told twice.
        launcher.send_signal(signal.SIGHUP)
        await eventually(reported(launcher, number), "a report")
    site.become(make_site(pod_label(), pod_label("new")))
    launcher.send_signal(signal.SIGHUP)
    await shown(zuul, make_site.pool, supported_labels=["new", "pod"])
    await zuul.use_and_return(await zuul.submit("new"))
    assert "label new was added" in launcher.text()


# --- ZooKeeper -------------------------------------------------------------------------------


@pytest.fixture
async def other_zuul(make_site: SiteMaker) -> AsyncIterator[Zuul]:
    """A requestor in another chroot: another ZooKeeper, as far as a launcher can tell."""
    hosts = f"{make_site.hosts}-other"
    await create_chroot(hosts)
    async with Zuul.connected(hosts) as other:
        yield other
    await delete_chroot(hosts)


def servers(make_site: SiteMaker, **changes: object) -> Options:
    host, _, port = make_site.cluster.zookeeper.rpartition(":")
    server = {"host": host, "port": int(port), "chroot": make_site.chroot, **changes}
    return {"zookeeper-servers": [server]}


def write_secure(path: Path, content: Options) -> None:
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump(content))
    os.replace(new, path)


async def test_a_changed_secure_file_changes_the_zookeeper(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    other_zuul: Zuul,
    admin: Admin,
    tmp_path: Path,
) -> None:
    secure = tmp_path / "secure.yaml"
    write_secure(secure, servers(make_site))
    plain = make_site(pod_label(), manual_label("slow"))
    site = Site(plain.cluster, plain.chroot, plain.path, secure)
    launcher = await launchers.start(site, QUICK)
    await zuul.use_and_return(await zuul.submit("pod"))

    write_secure(secure, servers(make_site, chroot=f"{make_site.chroot}-other"))
    await other_zuul.use_and_return(await other_zuul.submit("pod"))
    assert await zuul.components() == []

    async def emptied() -> bool:
        return not await other_zuul.states()

    await eventually(emptied, "its nodes removed there")
    write_secure(secure, servers(make_site))
    await zuul.use_and_return(await zuul.submit("pod"))
    assert await other_zuul.components() == []
    assert len(launcher.clients) == 3


async def test_an_unreachable_zookeeper_is_logged_and_replaced(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(pod_label())
    launcher = await launchers.start(site, QUICK)
    site.become(make_site(pod_label(), top=servers(make_site, host="127.0.0.1", port=1)))
    await eventually(lambda: not launcher.launcher.ready.is_set(), "not ready")
    await eventually(lambda: any("no ZooKeeper answered" in each for each in errors(caplog)))
    assert not launcher.launcher.ready.is_set()
    site.become(make_site(pod_label()))
    await launcher.ready()
    await zuul.use_and_return(await zuul.submit("pod"))


async def test_a_launcher_waits_for_a_zookeeper_that_is_not_there_yet(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patient = ZooKeeperClient.start
    site = make_site(pod_label(), top=servers(make_site, host="127.0.0.1", port=1))
    with monkeypatch.context() as hasty:
        hasty.setattr(ZooKeeperClient, "start", lambda client: patient(client, timeout=0.3))
        launcher = launchers.start_unready(site, QUICK)
        await eventually(lambda: len(errors(caplog)) >= 2, "tried twice")
    assert all("no ZooKeeper answered" in each for each in errors(caplog))
    site.become(make_site(pod_label()))
    await launcher.ready()
    await zuul.use_and_return(await zuul.submit("pod"))
