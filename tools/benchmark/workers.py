"""Processes that take commands as lines of JSON, and answer each with one line.

Both ends of the pipe: ``Worker`` for the process that asks, ``serve`` for the one that is
asked. A worker ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from benchmark.errors import BenchmarkError

Commands = Mapping[str, Callable[..., Awaitable[Any]]]

TOOLS = Path(__file__).resolve().parents[1]

END_S = 10.0
"""How long a worker may take to end by itself."""
CHECK_EVERY_S = 0.5


def environment() -> dict[str, str]:
    """This process's environment, with the packages of tools/ importable."""
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{TOOLS}{os.pathsep}{known}" if known else str(TOOLS)}


class Worker:
    """One such process, ``python -m MODULE ARGUMENTS``."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, name=module, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put("")

    def ask(
        self, do: str, *, timeout: float, meanwhile: Callable[[], None] | None = None, **given: Any
    ) -> Any:
        """The answer to one command, within ``timeout`` seconds.

        ``meanwhile`` is called now and then, and raises if there is no point in waiting.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **given}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise BenchmarkError(f"{self._name} has ended before {do!r}") from error
        return self._answer(do, time.monotonic() + timeout, meanwhile)

    def _answer(self, do: str, deadline: float, meanwhile: Callable[[], None] | None) -> Any:
        while time.monotonic() < deadline:
            try:
                line = self._replies.get(timeout=CHECK_EVERY_S)
            except queue.Empty:
                if meanwhile is not None:
                    meanwhile()
                continue
            if not line:
                raise BenchmarkError(f"{self._name} ended during {do!r}")
            document = json.loads(line)
            if "error" in document:
                raise BenchmarkError(f"{self._name}, {do!r}: {document['error']}")
            return document["result"]
        raise BenchmarkError(f"{self._name} has not answered {do!r} in time")

    def close(self) -> None:
        """End it; killed if it does not end by itself."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def serve(commands: Commands, expected: tuple[type[Exception], ...]) -> None:
    """Answer commands until standard input ends; errors of the expected kinds are answers."""
    known: tuple[type[Exception], ...] = (BenchmarkError, *expected)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        given = json.loads(line)
        do = given.pop("do")
        try:
            _reply({"result": await commands[do](**given)})
        except known as error:
            _reply({"error": f"{type(error).__name__}: {error}"})


def _reply(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
