"""The commands that operators know from Nodepool, and what they promise."""

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from harness.requestor import LEDGERS, NODES, REQUESTS

from tests.support import commands
from tests.support.admin import Admin
from tests.support.commands import Done, done, ended, listed, on_terminal, refused, run, start
from tests.support.launchers import Launchers
from tests.support.site import Site, SiteMaker, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"
PROVIDER = "local"


async def put_node(zuul: Zuul, state: str = "ready", **keys: Any) -> str:
    """Write a node's record as Nodepool's launcher does; return its id."""
    record = {
        "state": state,
        "state_time": time.time(),
        "created_time": time.time(),
        "type": ["pod"],
        "provider": PROVIDER,
        "pool": "main",
        "launcher": "somewhere",
        "allocated_to": None,
        "external_id": None,
        "resources": {"cores": 1, "ram": 256, "instances": 1},
        "connection_type": "kubectl",
        "connection_port": {"token": TOKEN, "host": "https://there", "pod": "pod"},
        "driver_data": None,
        **keys,
    }
    path = await zuul.create(f"{NODES}/", record, sequence=True)
    return path.rpartition("/")[2]


async def tree(zuul: Zuul) -> dict[str, bytes]:
    """The data of all znodes, by path."""

    def read(path: str, found: dict[str, bytes]) -> dict[str, bytes]:
        found[path] = zuul.kazoo.get(path)[0]
        for name in zuul.kazoo.get_children(path):
            read(f"{path.rstrip('/')}/{name}", found)
        return found

    return await asyncio.to_thread(read, "/", {})


# --- listings ------------------------------------------------------------------------------


async def test_list_prints_one_line_per_node_for_scripts(make_site: SiteMaker, zuul: Zuul) -> None:
    site = make_site(pod_label())
    long = "a-namespace-with-a-long-name-" * 5
    ids = [await put_node(zuul, external_id=f"{long}{number}") for number in range(3)]
    heading, *lines = (await run(site, "list")).splitlines()  # COLUMNS is 40.
    assert heading.split()[:4] == ["ID", "Provider", "Pool", "Label"]
    assert [line.split()[0] for line in lines] == ids
    for number, line in enumerate(lines):
        assert f" {long}{number} " in line
        assert line.split()[5] == "ready"


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("options", [(), ("--detail",)])
async def test_a_listing_fits_the_terminal_without_truncation(
    make_site: SiteMaker, zuul: Zuul, width: int, options: tuple[str, ...]
) -> None:
    site = make_site(pod_label())
    comment = "kept-for-the-night-shift-[really]-" * 5
    node_id = await put_node(zuul, external_id="main-0000000000", comment=comment, state="hold")
    lines = await on_terminal(site, "list", *options, width=width)
    assert (lines[0] == node_id) is (width < (200 if options else 80))
    assert all(len(line) <= width for line in lines), lines
    assert any(line.strip().startswith(node_id) for line in lines)
    if lines[0] == node_id:  # One block per node; long values are wrapped.
        together = "".join(line.strip() for line in lines)
        assert "main-0000000000" in together
        assert (comment in together) is bool(options)
    else:
        assert all(cell in " ".join(lines).split() for cell in (PROVIDER, "hold", "unlocked"))


async def test_list_detail_shows_the_reason_of_a_hold(make_site: SiteMaker, zuul: Zuul) -> None:
    site = make_site(pod_label())
    held = {"hold_job": "acme p job ref", "comment": "look at it", "hold_expiration": 3600}
    used = {"user_data": {"zuul_system": "zuul-1"}, "interface_ip": "the-pod", "username": "root"}
    await put_node(zuul, "hold", tenant_name="acme", **held, **used)
    output = await run(site, "list", "--detail")
    for text in ("acme p job ref", "look at it", "3600", "zuul_system: zuul-1", "the-pod", "acme"):
        assert text in output
        assert text not in await run(site, "list")


async def test_no_listing_shows_tokens_or_terminal_escapes(
    make_site: SiteMaker, zuul: Zuul
) -> None:
    site = make_site(pod_label())
    await put_node(zuul, comment=f"\x1b[2J{TOKEN}\nsecond line", driver_data={"password": "s3cret"})
    await zuul.submit("pod", requestor_data={"deep": [{"token": TOKEN}]})
    for command in (["list"], ["list", "--detail"], ["list", "--json"], ["info", PROVIDER]):
        output = await run(site, *command)
        assert TOKEN.rpartition(".")[2] not in output
        assert "s3cret" not in output
        assert "\x1b" not in output
    assert len((await run(site, "list", "--detail")).splitlines()) == 2
    assert TOKEN not in await run(site, "request-list", "--json")
    shown = await on_terminal(site, "list", "--detail", width=80)
    assert "\x1b" not in "".join(shown)


async def test_every_listing_is_json_for_scripts(make_site: SiteMaker, zuul: Zuul) -> None:
    site = make_site(pod_label())
    for command in ("list", "request-list", "label-list", "component-list"):
        assert await listed(site, command) == []
    node_id = await put_node(zuul, external_id="main-1")
    request_id = await zuul.submit("pod", "pod", event_id="e1", tenant_name="acme")
    await zuul.register(id="a-pool", provider_name=PROVIDER, supported_labels=["pod"])
    (node,) = await listed(site, "list")
    assert (node["id"], node["server_id"], node["external_id"]) == (node_id, "main-1", "main-1")
    assert (node["label"], node["state"], node["locked"]) == (["pod"], "ready", "unlocked")
    assert node["connection_port"] == {"token": "redacted", "host": "https://there", "pod": "pod"}
    (request,) = await listed(site, "request-list")
    assert (request["id"], request["node_types"]) == (request_id, ["pod", "pod"])
    (label,) = await listed(site, "label-list")
    assert (label["label"], label["pools"]) == ("pod", ["a-pool"])
    (component,) = await listed(site, "component-list")
    assert (component["id"], component["supported_labels"]) == ("a-pool", ["pod"])


async def test_request_list_is_in_the_order_of_service_with_details(
    make_site: SiteMaker, zuul: Zuul
) -> None:
    site = make_site(pod_label())
    late = await zuul.submit("pod", relative_priority=5, event_id="the-event", tenant_name="acme")
    early = await zuul.submit("pod", priority=100)
    assert [line.split()[0] for line in (await run(site, "request-list")).splitlines()] == [
        "ID",
        early,
        late,
    ]
    detail = await run(site, "request-list", "--detail")
    assert "the-event" in detail
    assert "acme" in detail


async def test_label_list_shows_launchers_and_nodes_of_a_label(
    make_site: SiteMaker, zuul: Zuul
) -> None:
    site = make_site(
        pod_label(), top={"labels": [{"name": "pod", "min-ready": 2}, {"name": "unserved"}]}
    )
    await zuul.register(id="p1", provider_name="one", supported_labels=["pod", "other"])
    await zuul.register(id="p2", provider_name="two", supported_labels=["pod"], paused=True)
    await put_node(zuul)
    await put_node(zuul, "in-use")
    other, pod = await listed(site, "label-list")
    assert pod == {
        "label": "pod",
        "providers": ["one", "two"],
        "pools": ["p1", "p2"],
        "paused": False,
        "min_ready": 2,
        "nodes": {"in-use": 1, "ready": 1},
    }
    assert (other["label"], other["min_ready"], other["nodes"]) == ("other", None, {})
    assert "in-use: 1, ready: 1" in await run(site, "label-list")


async def test_component_list_shows_the_pools_of_every_launcher(
    make_site: SiteMaker, zuul: Zuul, launchers: Launchers
) -> None:
    site = make_site(pod_label(), provider={"priority": 7})
    await zuul.register(id="theirs", supported_labels=["x"], paused=True)
    await launchers.start(site)
    theirs, ours = sorted(await listed(site, "component-list"), key=lambda row: row["priority"] < 8)
    assert (theirs["id"], theirs["paused"], theirs["version"]) == ("theirs", True, "11.0.0")
    assert (ours["provider_name"], ours["priority"]) == (PROVIDER, 7)
    assert ours["supported_labels"] == ["pod"]
    assert "theirs" in await run(site, "component-list")


async def test_an_unreadable_record_is_named_among_the_others(
    make_site: SiteMaker, zuul: Zuul
) -> None:
    site = make_site(pod_label())
    broken = (await zuul.create(f"{NODES}/", b"{", sequence=True)).rpartition("/")[2]
    node_id = await put_node(zuul)
    found = await done(site, "list", "--json")
    assert found.status == 0
    assert [row["id"] for row in json.loads(found.out)] == [node_id]
    assert broken in found.err
    assert len(found.err.splitlines()) == 1


async def test_info_shows_pools_quota_and_nodes_of_a_provider(
    make_site: SiteMaker, zuul: Zuul, launchers: Launchers
) -> None:
    site = make_site(pod_label(cpu=0.5, memory=64), pool={"max-servers": 3, "max-cores": 2})
    await launchers.start(site)
    request_id = await zuul.submit("pod")
    (node_id,) = (await zuul.answered(request_id))["nodes"]
    other = await put_node(zuul, provider="other")
    found = await listed(site, "info", PROVIDER)
    assert [node["id"] for node in found["nodes"]] == [node_id]
    assert [pool["supported_labels"] for pool in found["pools"]] == [["pod"]]
    quota = {row["resource"]: (row["pool"], row["used"], row["limit"]) for row in found["quota"]}
    assert quota == {
        "instances": (make_site.pool, 1, 3),
        "cores": (make_site.pool, 0.5, 2),
        "ram": (make_site.pool, 64, None),
    }
    output = await run(site, "info", PROVIDER)
    assert node_id in output
    assert other not in output
    assert "Pools: none" in await run(site, "info", "other")
    assert "has provider nonesuch" in await refused(site, "info", "nonesuch")
    await zuul.delete(f"{NODES}/{other}")


# --- hold ----------------------------------------------------------------------------------


async def test_hold_records_reason_and_duration(make_site: SiteMaker, zuul: Zuul) -> None:
    site = make_site(pod_label())
    node_id = await put_node(zuul, hostname="kept-key", unknown={"kept": 1})
    before = await zuul.node(node_id)
    await run(site, "hold", "--reason", "look at it", "--expire-after", "90m", node_id)
    held = await zuul.node(node_id)
    assert before is not None
    assert held is not None
    assert (held["state"], held["comment"], held["hold_expiration"]) == ("hold", "look at it", 5400)
    assert type(held["hold_expiration"]) is int
    assert held["state_time"] > before["state_time"]
    assert (held["connection_port"], held["unknown"]) == (before["connection_port"], {"kept": 1})
    assert not await zuul.held_locks()
    # Again without a duration: no limit, and the comment stays.
    await run(site, "hold", node_id)
    held = await zuul.node(node_id)
    assert held is not None
    assert (held["hold_expiration"], held["comment"]) == (None, "look at it")


async def test_a_held_node_stays_until_its_hold_expires(
    make_site: SiteMaker, zuul: Zuul, launchers: Launchers
) -> None:
    site = make_site(pod_label())
    await launchers.start(site)
    request = await zuul.answered(request_id := await zuul.submit("pod", "pod"))
    await zuul.cancel(request_id)
    short, long = request["nodes"]
    await eventually_held(site, short, "--expire-after", "1")
    await eventually_held(site, long, "--expire-after", "1h")
    await zuul.gone(short)
    assert (await zuul.states()) == {long: "hold"}


async def eventually_held(site: Site, node_id: str, *options: str) -> None:
    """Hold a node as soon as it is unlocked."""

    async def hold() -> bool:
        return (await done(site, "hold", *options, node_id)).status == 0

    await eventually(hold, f"{node_id} held")


async def test_hold_refuses_a_node_in_use_and_names_its_user(
    make_site: SiteMaker, zuul: Zuul
) -> None:
    site = make_site(pod_label())
    use = {"requestor": "zuul-1", "tenant_name": "acme", "allocated_to": "200-0000000007"}
    node_id = await put_node(zuul, "in-use", **use)
    lock = await zuul.lock(f"{NODES}/{node_id}/lock")
    before = await tree(zuul)
    output = await refused(site, "hold", node_id)
    for text in (node_id, "in-use", "zuul-1", "acme", "200-0000000007"):
        assert text in output
    assert await tree(zuul) == before
    await zuul.unlock(lock)


async def test_hold_refuses_missing_and_unholdable_nodes(make_site: SiteMaker, zuul: Zuul) -> None:
    site = make_site(pod_label())
    request_id = await zuul.submit("pod")
    promised = await put_node(zuul, allocated_to=request_id, requestor="zuul-1")
    states = ("init", "building", "deleting", "deleted", "failed", "aborted")
    nodes = {state: await put_node(zuul, state) for state in states}
    before = await tree(zuul)
    assert "there is no node 0000000099" in await refused(site, "hold", "0000000099")
    assert request_id in await refused(site, "hold", promised)
    for state, node_id in nodes.items():
        assert f"is {state}" in await refused(site, "hold", node_id)
    assert await tree(zuul) == before


# --- delete --------------------------------------------------------------------------------


async def test_delete_leaves_the_deletion_to_the_launcher(make_site: SiteMaker, zuul: Zuul) -> None:
    site = make_site(pod_label())
    node_id = await put_node(zuul, "hold")
    found = await done(site, "delete", node_id)
    assert found.status == 0
    assert f"node {node_id} will be deleted" in found.out
    assert f"No launcher serves provider {PROVIDER}" in found.err
    assert (await zuul.states()) == {node_id: "deleting"}
    assert not await zuul.held_locks()
    await zuul.register(id="one", provider_name=PROVIDER)
    assert not (await done(site, "delete", node_id)).err


async def test_delete_refuses_missing_and_used_nodes(make_site: SiteMaker, zuul: Zuul) -> None:
    site = make_site(pod_label())
    node_id = await put_node(zuul, "in-use", requestor="zuul-1")
    lock = await zuul.lock(f"{NODES}/{node_id}/lock")
    before = await tree(zuul)
    for now in ((), ("--now",)):
        assert "no node 0000000099" in await refused(site, "delete", *now, "0000000099")
    assert "zuul-1" in await refused(site, "delete", node_id)
    assert await tree(zuul) == before
    await zuul.unlock(lock)


async def ready_nodes(zuul: Zuul, launchers: Launchers, site: Site, *labels: str) -> list[str]:
    """Unlocked nodes that a launcher created before it stopped."""
    launcher = await launchers.start(site)
    request_id = await zuul.submit(*labels)
    nodes: list[str] = (await zuul.answered(request_id))["nodes"]
    await launcher.stop()
    await zuul.cancel(request_id)
    return nodes


async def test_delete_now_removes_everything_without_a_launcher(
    make_site: SiteMaker, zuul: Zuul, launchers: Launchers, admin: Admin
) -> None:
    site = make_site(pod_label(), namespace_label())
    nodes = await ready_nodes(zuul, launchers, site, "pod", "namespace")
    for node_id in nodes:
        found = await done(site, "delete", "--now", node_id)
        assert found.status == 0, found
        assert f"node {node_id} is deleted" in found.out
        steps = ("connecting", f"deleting {make_site.namespace(node_id)}", "its record")
        assert all(step in found.err for step in steps)  # The steps are reported.
    assert await zuul.states() == {}
    assert not any(any(claimed.values()) for claimed in (await zuul.ledgers()).values())
    assert await admin.namespaces(await zuul.deployment()) == []


async def test_delete_now_that_is_blocked_says_what_blocks_it(
    make_site: SiteMaker, zuul: Zuul, launchers: Launchers, admin: Admin
) -> None:
    site = make_site(namespace_label())
    (node_id,) = await ready_nodes(zuul, launchers, site, "namespace")
    namespace = make_site.namespace(node_id)
    metadata = {"name": "stuck", "finalizers": ["nodepool-k8s.test/nobody"]}
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    await admin.call("POST", path, {"metadata": metadata})
    output = await refused(site, "delete", "--now", "--timeout", "10", node_id)
    assert namespace in output
    assert "nodepool-k8s.test/nobody" in output
    assert await zuul.states() == {node_id: "deleting"}
    assert not await zuul.held_locks()
    merge = "application/merge-patch+json"
    await admin.call("PATCH", f"{path}/stuck", {"metadata": {"finalizers": None}}, merge)
    await launchers.start(site)
    await zuul.gone(node_id)


async def test_delete_now_refuses_nodes_of_unknown_clusters(
    make_site: SiteMaker, zuul: Zuul, tmp_path: Path
) -> None:
    site = make_site(pod_label())
    theirs = await put_node(zuul)
    ours: dict[str, Any] = {"driver_data": {"nodepool_k8s": {"type": "pod"}}}
    lost = await put_node(zuul, provider="gone", external_id="gone-1", **ours)
    before = await tree(zuul)
    assert "created by another program" in await refused(site, "delete", "--now", theirs)
    assert "nodepool-k8s erase gone" in await refused(site, "delete", "--now", lost)
    assert await tree(zuul) == before


# --- erase ---------------------------------------------------------------------------------


async def test_erase_removes_only_the_lost_providers_records(
    make_site: SiteMaker, zuul: Zuul, launchers: Launchers, admin: Admin
) -> None:
    site = make_site(pod_label(), namespace_label())
    nodes = await ready_nodes(zuul, launchers, site, "pod", "namespace")
    other = await put_node(zuul, provider="other")
    request_id = await zuul.submit("pod")
    found = await done(site, "erase", PROVIDER, answer="y\n")
    assert found.status == 0, found
    assert f"Provider {PROVIDER} has 2 node records" in found.out
    assert f"erased 2 node records of provider {PROVIDER}" in found.out
    assert list(await zuul.states()) == [other]
    assert await zuul.children(REQUESTS) == [request_id]
    assert await zuul.children(LEDGERS) == []
    # The printed command finds the objects that are left in the cluster.
    deployment = await zuul.deployment()
    left = {entry["metadata"]["name"] for entry in await admin.namespaces(deployment)}
    assert left == {make_site.namespace(node_id) for node_id in nodes}
    assert f"nodepool-k8s/deployment={deployment},nodepool_provider_name={PROVIDER}" in found.err
    for namespace in left:
        await admin.delete_namespace(namespace)


@pytest.mark.parametrize("answer", ["", "n\n", "\n"])
async def test_erase_needs_confirmation(make_site: SiteMaker, zuul: Zuul, answer: str) -> None:
    site = make_site(pod_label())
    await put_node(zuul)
    before = await tree(zuul)
    await refused(site, "erase", PROVIDER, answer=answer)
    assert await tree(zuul) == before


async def test_erase_refuses_a_served_used_or_unknown_provider(
    make_site: SiteMaker, zuul: Zuul
) -> None:
    site = make_site(pod_label())
    node_id = await put_node(zuul, "in-use", requestor="zuul-1")
    lock = await zuul.lock(f"{NODES}/{node_id}/lock")
    before = await tree(zuul)
    output = await refused(site, "erase", PROVIDER, answer="y\n")
    assert "locked" in output
    assert "zuul-1" in output
    for force in ((), ("--force",)):
        output = await refused(site, "erase", *force, "nonesuch", answer="y\n")
        assert "no records of provider nonesuch" in output
    assert await tree(zuul) == before
    await zuul.unlock(lock)
    await zuul.register(id="one", provider_name=PROVIDER)
    before = await tree(zuul)
    assert "served by a launcher on elsewhere" in await refused(site, "erase", PROVIDER)
    assert await tree(zuul) == before


async def test_erase_with_force_does_not_ask_and_breaks_locks(
    make_site: SiteMaker, zuul: Zuul
) -> None:
    site = make_site(pod_label())
    claimed = {"cores": 1000, "instances": 1000}
    ours = {"driver_data": {"nodepool_k8s": {"claimed": claimed}}}
    await zuul.do(zuul.kazoo.ensure_path, f"{LEDGERS}/{PROVIDER}")
    await zuul.create(f"{LEDGERS}/{PROVIDER}/main", {"claimed": claimed})
    used = await put_node(zuul, "in-use", **ours)
    await put_node(zuul)
    await zuul.lock(f"{NODES}/{used}/lock")
    await zuul.register(id="one", provider_name=PROVIDER)
    output = await run(site, "erase", "--force", PROVIDER)
    assert "erased 2 node records" in output
    assert await zuul.children(NODES) == []
    assert await zuul.children(LEDGERS) == []


# --- the programs --------------------------------------------------------------------------


async def test_options_before_the_command_work_as_in_nodepool(
    make_site: SiteMaker, zuul: Zuul, tmp_path: Path
) -> None:
    site = make_site(pod_label())
    node_id = await put_node(zuul)
    secure = tmp_path / "secure.yaml"
    secure.write_text("{}\n")
    before = ("-c", str(site.path), "-s", str(secure))
    for entry in ("main", "nodepool"):
        assert node_id in await run(site, "list", entry=entry, before=before)
        # An option after the command takes precedence.
        elsewhere = ("-c", str(tmp_path / "nonesuch.yaml"))
        output = await run(site, "list", "-c", str(site.path), entry=entry, before=elsewhere)
        assert node_id in output
        assert "nonesuch.yaml" in await refused(site, "list", entry=entry, before=elsewhere)
    debugged = await done(site, "list", before=(*before, "--debug"))
    assert "DEBUG" in debugged.err or "INFO" in debugged.err
    assert TOKEN not in debugged.err


async def test_config_validate_works_under_nodepools_name(make_site: SiteMaker) -> None:
    site = make_site(pod_label())
    before = ("-c", str(site.path))
    assert "valid" in await run(site, "config-validate", entry="nodepool", before=before)
    wrong = make_site(pod_label(memory="much"))
    before = ("-c", str(wrong.path))
    output = await refused(wrong, "config-validate", entry="nodepool", before=before)
    assert "labels[0].memory" in output


async def test_every_shell_completes_the_commands(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = await asyncio.to_thread(plain, "completion", shell)
        assert script.status == 0
        assert "_NODEPOOL_K8S_COMPLETE" in script.out
    # Complete in bash itself, as a Tab does.
    (tmp_path / "nodepool-k8s").write_text(
        "#!/bin/sh\nexec " + " ".join(f"'{part}'" for part in commands.program()) + ' "$@"\n'
    )
    (tmp_path / "nodepool-k8s").chmod(0o755)
    tab = (
        'eval "$(nodepool-k8s completion bash)"; complete -p nodepool-k8s; '
        "COMP_WORDS=(nodepool-k8s component-l); COMP_CWORD=1; "
        '_nodepool_k8s_completion nodepool-k8s; echo "${COMPREPLY[@]}"'
    )
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    found = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", tab],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert found.stdout.splitlines()[-1] == "component-list"
    assert (await asyncio.to_thread(plain, "completion", "tcsh")).status == 2


def plain(*arguments: str) -> Done:
    """Run the program without naming a configuration."""
    found = subprocess.run(
        [*commands.program(), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(found.returncode, found.stdout, found.stderr)


BAD = [
    ("lsit",),
    ("image-list",),
    ("list", "--nonesuch"),
    ("list", "too", "many"),
    ("delete",),
    ("delete", ""),
    ("delete", ".."),
    ("delete", "{node}/lock"),
    ("delete", "/nodepool/nodes/{node}"),
    ("delete", "{node}", "{node}"),
    ("delete", "--now", "--timeout", "0", "{node}"),
    ("delete", "--now", "--timeout", "soon", "{node}"),
    ("hold", "all"),
    ("hold", "--expire-after", "0", "{node}"),
    ("hold", "--expire-after", "-5", "{node}"),
    ("hold", "--expire-after", "tomorrow", "{node}"),
    ("hold", "--expire-after", "1e9", "{node}"),
    ("erase",),
    ("erase", ""),
    ("erase", "--yes", "local"),
    ("info",),
    ("info", "lo\ncal"),
    ("request",),
    ("request", "--no-wait", ""),
    ("request", "--no-wait", "pod", "--provider", ""),
    ("completion",),
]


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
async def test_a_bad_command_line_changes_nothing(
    make_site: SiteMaker, zuul: Zuul, arguments: tuple[str, ...]
) -> None:
    site = make_site(pod_label())
    node_id = await put_node(zuul)
    before = await tree(zuul)
    meant = [argument.format(node=node_id) for argument in arguments]
    found = await done(site, *meant, before=("-c", str(site.path)))
    assert (found.status, found.out) == (2, "")
    assert found.err.startswith("Usage: nodepool-k8s")
    assert "Error: " in found.err
    assert await tree(zuul) == before


COMMANDS = [
    ("list",),
    ("label-list", "--json"),
    ("info", "local"),
    ("delete", "--now", "0000000001"),
    ("hold", "0000000001"),
    ("erase", "--force", "local"),
    ("request", "pod"),
]


def unreachable(make_site: SiteMaker) -> Site:
    """A site whose ZooKeeper cannot be reached."""
    servers = [{"host": "127.0.0.1", "port": 1}]
    return make_site(pod_label(), top={"zookeeper-servers": servers})


async def test_an_unreachable_zookeeper_is_reported_in_one_line(make_site: SiteMaker) -> None:
    site = unreachable(make_site)
    found = await asyncio.gather(*(done(site, *command) for command in COMMANDS))
    for each in found:
        assert (each.status, each.out) == (1, "")
        (line,) = each.err.splitlines()
        assert "no ZooKeeper answered at 127.0.0.1:1" in line


async def test_an_interrupted_command_ends_with_one_line(make_site: SiteMaker) -> None:
    process = start(unreachable(make_site), "list", before=())
    await eventually(lambda: handles_interrupts(process.pid), "it waits for ZooKeeper")
    process.send_signal(signal.SIGINT)
    found = await ended(process)
    assert (found.status, found.out) == (130, "")
    assert found.err == "nodepool-k8s: interrupted\n"


def handles_interrupts(pid: int) -> bool:
    """Whether the event loop of a process handles SIGINT: it then handles SIGTERM, too."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


async def test_every_command_names_an_unusable_configuration(
    make_site: SiteMaker, tmp_path: Path
) -> None:
    wrong = make_site(pod_label(memory="much"))
    missing = Site(wrong.cluster, wrong.chroot, tmp_path / "nonesuch.yaml")
    for command in COMMANDS:
        assert "labels[0].memory" in await refused(wrong, *command)
        assert "nonesuch.yaml" in await refused(missing, *command)
