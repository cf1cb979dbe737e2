"""The pods' addresses: a subnet that nothing on this machine uses yet."""

import hashlib
import ipaddress
from collections.abc import Iterable
from pathlib import Path

ROUTES = Path("/proc/net/route")
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_CANDIDATES = 120 * 256


def free_subnet(seed: str, routes: Iterable[str] | None = None) -> str:
    """A /24 of 10.128.0.0 and up, picked by `seed`, that overlaps no route."""
    lines = ROUTES.read_text(encoding="ascii").splitlines() if routes is None else routes
    used = [network for line in lines if (network := _network(line))]
    first = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4]) % _CANDIDATES
    for offset in range(_CANDIDATES):
        subnet = _candidate((first + offset) % _CANDIDATES)
        if not any(subnet.overlaps(network) for network in used):
            return str(subnet)
    # If every subnet overlaps some wide route, none is better than another.
    return str(_candidate(first))


def _candidate(number: int) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(f"10.{128 + number // 256}.{number % 256}.0/24")


def _network(line: str) -> ipaddress.IPv4Network | None:
    fields = line.split()
    if len(fields) < 8 or fields[0] == "Iface":
        return None
    address, mask = (_address(fields[column]) for column in (1, 7))
    network = ipaddress.IPv4Network(f"{address}/{mask}", strict=False)
    # The default route overlaps everything.
    return network if network.prefixlen else None


def _address(text: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(text), "little"))
