"""The launcher process: waiting for what it logs, and reporting how it ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.launcher import LauncherEnded, LauncherProcess

Start = Callable[[str], LauncherProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Python programs in a launcher's place."""
    started: list[LauncherProcess] = []

    def start(program: str) -> LauncherProcess:
        argv = [sys.executable, "-uSc", program]
        started.append(LauncherProcess(argv, tmp_path / "launcher.log", os.environ))
        return started[-1]

    yield start
    for process in started:
        process.end(signal.SIGKILL)


async def test_a_line_of_the_log_is_awaited(start: Start) -> None:
    process = start("import time; print('Serving'); time.sleep(99)")
    await process.logged("Serving", 10)
    assert process.status is None
    assert await process.terminate() == -signal.SIGTERM


async def test_an_early_end_is_told_with_the_log(start: Start) -> None:
    process = start("import sys; sys.exit('no such file')")
    with pytest.raises(LauncherEnded, match="ended with status 1") as raised:
        await process.logged("Serving", 10)
    assert raised.value.__notes__ == ["no such file"]


async def test_a_line_that_does_not_come_is_told(start: Start) -> None:
    process = start("import time; print('Connecting'); time.sleep(99)")
    await process.logged("Connecting", 10)
    with pytest.raises(TimeoutError, match="'Serving'"):
        await process.logged("Serving", 0)


async def test_the_log_of_an_earlier_process_is_not_its_own(start: Start) -> None:
    assert await start("print('Serving')").wait() == 0
    second = start("print('Connecting')")
    await second.wait()
    assert second.text() == "Connecting\n"
    assert second.log.read_text() == "Serving\nConnecting\n"


async def test_a_process_that_ignores_sigterm_is_killed(start: Start) -> None:
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    process = start(f"{ignore}; print('here'); time.sleep(99)")
    await process.logged("here", 10)
    assert process.end(within=0.05) == -signal.SIGKILL
