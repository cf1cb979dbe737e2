"""What systemd receives, on a socket of the test's own."""

import asyncio
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodepool_k8s.launcher.systemd import SystemdNotifier

Listener = tuple[str, socket.socket]


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    path = str(tmp_path / "notify")
    address = path if request.param == "path" else f"@{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{address[1:]}" if request.param == "abstract" else address)
        listening.settimeout(20)
        yield address, listening


def heard(listening: socket.socket) -> str:
    return listening.recv(65536).decode()


def test_the_life_of_a_launcher(listener: Listener) -> None:
    address, listening = listener
    notifier = SystemdNotifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    assert heard(listening) == "READY=1"
    notifier.status("2 pools,\nno nodes")
    assert heard(listening) == "STATUS=2 pools, no nodes"
    notifier.status("2 pools,\nno nodes")  # Nothing new.
    before = time.monotonic_ns() // 1000
    with notifier.reloading():
        first, second = heard(listening).split("\n")
        assert first == "RELOADING=1"
        name, value = second.split("=")
        assert name == "MONOTONIC_USEC"
        assert before <= int(value) <= time.monotonic_ns() // 1000
    assert heard(listening) == "READY=1"
    notifier.stopping(2.5)
    assert heard(listening) == "STOPPING=1\nEXTEND_TIMEOUT_USEC=2500000"
    notifier.close()
    notifier.ready()
    listening.setblocking(False)
    with pytest.raises(BlockingIOError):
        heard(listening)


def test_a_reload_that_failed_has_ended_all_the_same(listener: Listener) -> None:
    address, listening = listener
    notifier = SystemdNotifier({"NOTIFY_SOCKET": address})
    with pytest.raises(ValueError, match="bad"), notifier.reloading():
        raise ValueError("bad")
    assert heard(listening).startswith("RELOADING=1\n")
    assert heard(listening) == "READY=1"
    notifier.close()


async def test_the_watchdog_is_fed_by_the_loop_alone(listener: Listener) -> None:
    address, listening = listener
    notifier = SystemdNotifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000"})
    keeping = asyncio.create_task(notifier.keep(lambda: "well"))
    fed = [await asyncio.to_thread(heard, listening) for _ in range(4)]
    assert fed == ["WATCHDOG=1", "STATUS=well", "WATCHDOG=1", "WATCHDOG=1"]
    # While the loop is stuck, nothing else feeds the watchdog.
    listening.settimeout(0.2)
    silent = threading.Event()

    def listen_while_stuck() -> None:
        try:
            while True:
                heard(listening)
        except TimeoutError:
            silent.set()

    thread = threading.Thread(target=listen_while_stuck)
    thread.start()
    assert silent.wait(20)  # It blocks this loop.
    thread.join()
    listening.settimeout(20)
    assert await asyncio.to_thread(heard, listening) == "WATCHDOG=1"
    keeping.cancel()
    await asyncio.wait({keeping})
    notifier.close()


async def test_the_watchdog_of_another_process_is_not_fed(listener: Listener) -> None:
    address, listening = listener
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000", "WATCHDOG_PID": "1"}
    notifier = SystemdNotifier(environ)
    states = iter(f"state {number}" for number in range(9))
    keeping = asyncio.create_task(notifier.keep(lambda: next(states)))
    assert await asyncio.to_thread(heard, listening) == "STATUS=state 0"
    keeping.cancel()
    await asyncio.wait({keeping})
    notifier.close()
    assert not environ


def test_our_own_watchdog_is_ours(listener: Listener) -> None:
    address, listening = listener
    pid = str(os.getpid())
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000", "WATCHDOG_PID": pid}
    notifier = SystemdNotifier(environ)

    async def keep() -> None:
        keeping = asyncio.create_task(notifier.keep(lambda: ""))
        assert await asyncio.to_thread(heard, listening) == "WATCHDOG=1"
        keeping.cancel()
        await asyncio.wait({keeping})

    asyncio.run(keep())
    notifier.close()


async def test_without_systemd_nothing_is_kept() -> None:
    notifier = SystemdNotifier({})
    assert not notifier.listened_to
    notifier.ready()
    await notifier.keep(lambda: pytest.fail("there is no socket"))


def test_programs_that_we_start_do_not_speak_for_us() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    SystemdNotifier(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative"])
def test_an_address_that_is_not_understood_is_told(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not SystemdNotifier({"NOTIFY_SOCKET": address}).listened_to
    assert "NOTIFY_SOCKET is not a valid address" in caplog.text


def test_a_listener_that_is_gone_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with caplog.at_level(logging.WARNING):
        notifier.ready()
    assert "Notifying systemd of READY=1 failed: " in caplog.text
    notifier.close()
