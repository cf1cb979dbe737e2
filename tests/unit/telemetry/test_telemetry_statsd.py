"""statsd: Nodepool's keys, sent to a real socket, and errors for bad variables."""

from __future__ import annotations

import socket

import pytest

from nodepool_k8s.config.settings import Pool, Provider, Settings, ZooKeeperSettings
from nodepool_k8s.model import Component, Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.snapshot import count_records
from nodepool_k8s.telemetry.statsd import (
    Address,
    BadEnvironment,
    Statsd,
    address,
    launch_keys,
    launcher_gauges,
    leaked_key,
    limit_gauges,
    record_gauges,
)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"STATSD_HOST": ""}, None),
        ({"STATSD_PORT": "8126"}, None),
        ({"STATSD_HOST": "stats"}, Address("stats", 8125)),
        ({"STATSD_HOST": "stats", "STATSD_PORT": "9125"}, Address("stats", 9125)),
        ({"STATSD_HOST": "[::1]", "STATSD_PORT": ""}, Address("::1", 8125)),
    ],
)
def test_where_the_server_is(environ: dict[str, str], expected: Address | None) -> None:
    assert address(environ) == expected


@pytest.mark.parametrize("port", ["many", "0", "-1", "65536", "8125/udp", "1e3", "٣"])
def test_a_bad_port_is_named_with_what_was_expected(port: str) -> None:
    with pytest.raises(BadEnvironment, match=r"STATSD_PORT is .*1 to 65535"):
        address({"STATSD_HOST": "stats", "STATSD_PORT": port})


async def test_launches_and_gauges_arrive(udp: socket.socket) -> None:
    host, port = udp.getsockname()[:2]
    statsd = Statsd(Address(host, port))
    await statsd.resolve()
    statsd.launched("local", "zuul.example:1", "ready", 1.5)
    assert udp.recv(2048).decode().splitlines() == [
        "nodepool.launch.provider.local.ready:1500.000000|ms",
        "nodepool.launch.provider.local.ready:1|c",
        "nodepool.launch.ready:1500.000000|ms",
        "nodepool.launch.ready:1|c",
        "nodepool.launch.requestor.zuul_example_1.ready:1500.000000|ms",
        "nodepool.launch.requestor.zuul_example_1.ready:1|c",
    ]
    statsd.gauges([("nodepool.nodes.ready", 3), ("nodepool.nodes.used", 0)])
    assert udp.recv(2048) == b"nodepool.nodes.ready:3|g\nnodepool.nodes.used:0|g"
    statsd.incr(leaked_key("my.provider"))
    assert udp.recv(2048) == b"nodepool.provider.my_provider.leaked.nodes:1|c"
    statsd.close()
    statsd.incr("nodepool.after")


async def test_many_gauges_are_cut_into_packets(udp: socket.socket) -> None:
    host, port = udp.getsockname()[:2]
    statsd = Statsd(Address(host, port))
    await statsd.resolve()
    sent = [(f"nodepool.label.label-{number}.nodes.ready", number) for number in range(100)]
    statsd.gauges(sent)
    lines: list[str] = []
    while len(lines) < len(sent):
        packet = udp.recv(65535)
        assert len(packet) <= 512
        lines += packet.decode().splitlines()
    assert lines == [f"{key}:{value}|g" for key, value in sent]
    statsd.close()


async def test_a_server_that_is_away_disturbs_nothing() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        host, port = gone.getsockname()
    statsd = Statsd(Address(host, port))
    await statsd.resolve()
    for _ in range(10):
        statsd.launched("local", "zuul", "ready", 0.1)
    statsd.close()


async def test_an_unknown_host_name_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    statsd = Statsd(Address("no-such-host.invalid"))
    await statsd.resolve()
    await statsd.resolve()
    statsd.launched("local", "zuul", "ready", 0.1)
    statsd.gauges([("nodepool.nodes.ready", 1)])
    assert len(caplog.records) == 1
    assert "no-such-host.invalid" in caplog.text


def test_names_become_one_part_of_a_key_each() -> None:
    assert launch_keys("cloud.one:a|b", "ué x", "error.unknown") == [
        "nodepool.launch.provider.cloud_one_a_b.error.unknown",
        "nodepool.launch.error.unknown",
        "nodepool.launch.requestor.u__x.error.unknown",
    ]


def request(*labels: str) -> NodeRequest:
    return NodeRequest("200-0000000000", RequestState.REQUESTED, labels)


def pool(name: str, provider: str, *labels: str) -> Component:
    return Component(f"host-{name}", provider, frozenset(labels), pool=name)


def test_the_gauges_of_all_records() -> None:
    records = count_records(
        requests=[request("small"), request("small", "big"), request("unheard-of")],
        nodes=[
            Node("1", NodeState.READY, ("small",), provider="one"),
            Node("2", NodeState.IN_USE, ("small", "fedora.40"), provider="one"),
            Node("3", NodeState.READY, ("gone",), provider="removed"),
        ],
        components=[
            pool("main", "one", "small", "big"),
            pool("other", "two", "small"),
            Component("nameless", "two", frozenset(["small"])),
        ],
    )
    gauges = dict(record_gauges(records))
    assert {key: value for key, value in gauges.items() if value} == {
        "nodepool.nodes.ready": 2,
        "nodepool.nodes.in-use": 1,
        "nodepool.label.small.nodes.ready": 1,
        "nodepool.label.small.nodes.in-use": 1,
        "nodepool.label.fedora_40.nodes.in-use": 1,
        "nodepool.label.gone.nodes.ready": 1,
        "nodepool.provider.one.nodes.ready": 1,
        "nodepool.provider.one.nodes.in-use": 1,
        "nodepool.provider.removed.nodes.ready": 1,
        "nodepool.provider.one.pool.main.addressable_requests": 2,
        "nodepool.provider.two.pool.other.addressable_requests": 1,
    }
    for kind in NodeState:
        for part in ("nodes", "label.big.nodes", "provider.two.nodes"):
            assert f"nodepool.{part}.{kind}" in gauges


def test_the_gauges_of_limits_have_no_infinity() -> None:
    one = Provider(
        "one",
        None,
        (
            Pool("one", "a", {}, limits={"instances": 4000}),
            Pool("one", "b", {}, limits={"instances": 6000}),
            Pool("one", "c", {}, disabled=True),
        ),
    )
    two = Provider("two", None, (Pool("two", "a", {}, limits={"cores": 1000}),))
    settings = Settings(
        ZooKeeperSettings(()),
        (one, two),
        {},
        tenant_limits={"tenant.one": {"instances": 2000, "cores": 1500}},
    )
    assert dict(limit_gauges(settings)) == {
        "nodepool.provider.one.max_servers": 10,
        "nodepool.tenant_limits.tenant_one.instances": 2,
        "nodepool.tenant_limits.tenant_one.cores": 1.5,
    }


def test_the_gauge_of_the_launcher_itself() -> None:
    ((key, value),) = launcher_gauges(7)
    assert key.startswith("nodepool.launcher.")
    assert key.endswith(".zk.client.connection_queue")
    assert key.count(".") == 5
    assert value == 7
