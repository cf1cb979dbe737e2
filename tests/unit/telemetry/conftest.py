"""What the tests of figures share: readings of the registry, and a UDP socket that listens."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.figures import Readings


@pytest.fixture
def readings() -> Readings:
    return Readings()


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def udp(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with socket.socket(request.param, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1" if request.param == socket.AF_INET else "::1", 0))
        server.settimeout(10)
        yield server
