"""The commands that work a launcher by hand, as processes; and that no secret gets out."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from harness.requestor import REQUESTS

from tests.support.commands import refused, run, start
from tests.support.launchers import Launchers
from tests.support.site import Site, SiteMaker, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration


async def test_request_list_and_delete(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), pod_label("other-pod"))
    await launchers.start(site)
    plain = (await run(site, "request", "--no-wait", "pod")).strip()
    await zuul.answered(plain)
    asked = json.loads(await run(site, "request", "--no-wait", "--json", "pod", "other-pod"))
    request = await zuul.answered(asked["id"])
    assert request["node_types"] == ["pod", "other-pod"]

    listed: list[dict[str, Any]] = json.loads(await run(site, "list", "--json"))
    assert [entry["state"] for entry in listed] == ["ready"] * 3
    assert {entry["allocated_to"] for entry in listed} == {plain, asked["id"]}
    assert {entry["locked"] for entry in listed} == {"unlocked"}
    table = await run(site, "list")
    assert all(entry["id"] in table and entry["external_id"] in table for entry in listed)

    requests = json.loads(await run(site, "request-list", "--json"))
    assert [entry["id"] for entry in requests] == [plain, asked["id"]]
    assert plain in await run(site, "request-list")

    (node_id,) = (await zuul.answered(plain))["nodes"]
    await run(site, "delete", node_id)
    await zuul.gone(node_id)


async def test_delete_tells_what_cannot_be_deleted(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label())
    await launchers.start(site)
    assert "there is no node 0000000099" in await refused(site, "delete", "0000000099")
    request_id = await zuul.submit("pod")
    await zuul.answered(request_id)
    ((node_id, _),) = (locks := await zuul.accept(request_id)).items()
    assert "is locked by another process" in await refused(site, "delete", node_id)
    await zuul.give_back(locks)


async def test_a_failed_requests_reason_is_listed(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), pool={"max-servers": 1})
    await launchers.start(site)
    told = await refused(site, "request", "pod", "pod")
    assert "max-servers is 1" in told
    request_id = await zuul.submit("pod", "pod")
    await zuul.answered(request_id, "failed")
    (listed,) = [
        entry
        for entry in json.loads(await run(site, "request-list", "--json"))
        if entry["id"] == request_id
    ]
    assert "max-servers is 1" in listed["reasons"][0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_wait_gives_the_node_back(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, number: int
) -> None:
    site = make_site(pod_label())
    await launchers.start(site)
    process = start(site, "request", "--wait", "--json", "pod")

    async def in_use() -> list[str]:
        nodes = await zuul.nodes()
        return [name for name, node in nodes.items() if node["state"] == "in-use"]

    (node_id,) = await eventually(in_use, "the node in use")
    assert not await zuul.children(REQUESTS)
    process.send_signal(number)
    out, err = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    (shown,) = json.loads(out)
    assert shown["id"] == node_id
    assert shown["connection_port"]["token"] == "redacted"
    await zuul.gone(node_id)


async def test_an_interrupted_wait_withdraws_an_unfinished_request(
    make_site: SiteMaker, zuul: Zuul
) -> None:
    process = start(make_site(pod_label()), "request", "pod")  # No launcher runs.

    async def submitted() -> list[str]:
        return await zuul.children(REQUESTS)

    await eventually(submitted, "the request")
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 130
    assert not await zuul.children(REQUESTS)


async def test_config_validate_tells_by_its_status(make_site: SiteMaker, tmp_path: Path) -> None:
    site = make_site(pod_label())
    assert "valid" in await run(site, "config-validate")
    wrong = make_site(pod_label(memory="much"))
    assert "labels[0].memory" in await refused(wrong, "config-validate")
    assert "labels[0].memory" in await refused(wrong, "launcher")
    missing = Site(site.cluster, site.chroot, tmp_path / "nonesuch.yaml")
    assert "nonesuch.yaml" in await refused(missing, "config-validate")


async def test_no_token_gets_into_a_log_or_a_commands_output(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(
        pod_label(),
        pod_label("lasting", access_token={"type": "secret"}),
        pod_label("hopeless", node_selector={"no": "where"}, unschedulable_timeout=1),
        provider={"launch-retries": 1},
    )
    launcher = await launchers.spawn(site)  # It logs all it can.
    request_id = await zuul.submit("pod", "lasting")
    request = await zuul.answered(request_id)
    tokens = []
    for node_id in request["nodes"]:
        node = await zuul.node(node_id)
        assert node is not None
        tokens.append(node["connection_port"]["token"])
    await zuul.answered(await zuul.submit("hopeless"), "failed")
    outputs = [await run(site, *command) for command in (("list",), ("list", "--json"))]
    outputs += [await run(site, "request-list", "--json")]
    await zuul.use_and_return(request_id)
    await zuul.gone(*request["nodes"])
    assert "DEBUG" in launcher.text()
    for text in [*outputs, launcher.text()]:
        for token in tokens:
            # A JWT's signature is its last part; no piece of it may show.
            assert token not in text
            assert token.rpartition(".")[2] not in text
