"""Free ports and a free subnet."""

import ipaddress
import socket

import pytest
from cluster import network, ports

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
""".splitlines()


def test_each_name_gets_a_port_of_its_own() -> None:
    names = [f"name-{number}" for number in range(50)]

    allocated = ports.allocate(names)

    assert list(allocated) == names
    assert len(set(allocated.values())) == len(names)


def test_an_allocated_port_can_be_bound() -> None:
    port = ports.allocate(["one"])["one"]

    with socket.socket() as listener:
        listener.bind((ports.HOST, port))


@pytest.mark.parametrize(
    ("log", "taken"),
    [
        ("listen tcp 127.0.0.1:80: bind: address already in use", True),
        ("java.net.BindException: Address already in use", True),
        ("everything is well", False),
    ],
)
def test_a_log_tells_whether_the_port_was_taken(log: str, taken: bool) -> None:
    assert ports.was_taken(log) is taken


def test_a_subnet_is_picked_by_the_folder() -> None:
    one, two = (network.free_subnet(folder, ROUTES) for folder in ("/one", "/two"))

    assert one == network.free_subnet("/one", ROUTES)
    assert one != two
    assert ipaddress.IPv4Network(one).prefixlen == 24


def test_a_subnet_that_is_routed_is_not_picked() -> None:
    first = ipaddress.IPv4Network(network.free_subnet("/one", ROUTES))
    destination = int(first.network_address).to_bytes(4, "little").hex().upper()
    route = f"veth0\t{destination}\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"

    second = ipaddress.IPv4Network(network.free_subnet("/one", [*ROUTES, route]))

    assert not first.overlaps(second)
