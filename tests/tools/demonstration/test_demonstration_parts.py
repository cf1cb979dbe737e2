"""The demo's parts without a cluster: what they compute, and how they report errors."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cluster import ClusterError, LocalCluster
from demonstration import cli, figures
from demonstration.errors import DemoError
from demonstration.node_api import NodeApi, access
from demonstration.screen import Screen
from harness.api import ApiError
from rich.console import Console

from nodepool_k8s.model import Resources

CONFIG = Path("etc/nodepool.yaml")


# --- figures ------------------------------------------------------------------------------------


def test_steps_in_milliseconds() -> None:
    own = {"steps": {"namespace": 0.0041, "ready": 1.2}, "type": "pod"}
    assert figures.steps(own) == "namespace 4 ms, ready 1200 ms"
    assert figures.steps({}) == ""


def test_quota_of_what_is_limited() -> None:
    used = Resources.of(instances=2, cores=0.5, ram=256, gpu=1)
    limits = {"instances": 10_000, "cores": 8_000}
    assert figures.quota(used, limits) == "2 of 10 servers, 0.5 of 8 cores"
    assert figures.quota(Resources(), limits) == "0 of 10 servers, 0 of 8 cores"


# --- the node's API -----------------------------------------------------------------------------


class Server:
    """An API server that runs every command with the same end."""

    def __init__(self, messages: list[bytes]) -> None:
        self.messages = messages
        self.seen: list[tuple[str, str]] = []

    async def execute(self, request: web.Request) -> web.WebSocketResponse:
        self.seen.append((request.headers["Authorization"], request.query_string))
        socket = web.WebSocketResponse(protocols=["v4.channel.k8s.io"])
        await socket.prepare(request)
        for message in self.messages:
            await socket.send_bytes(message)
        await socket.close()
        return socket

    async def pods(self, _: web.Request) -> web.Response:
        return web.json_response({"message": "not yours"}, status=403)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    server = Server([])
    application = web.Application()
    application.router.add_get("/api/v1/namespaces/n/pods/p/exec", server.execute)
    application.router.add_get("/api/v1/namespaces/{name}/pods", server.pods)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield server, str(runner.addresses[0][1])
    await runner.cleanup()


def connection(port: str) -> dict[str, object]:
    host = f"http://127.0.0.1:{port}"
    return {"host": host, "namespace": "n", "token": "t0ken", "skiptls": True}


async def test_a_command_is_run_with_the_nodes_token(server: tuple[Server, str]) -> None:
    played, port = server
    played.messages = [b"\x01one ", b"\x02two", b'\x03{"status":"Success"}']
    async with NodeApi.of(connection(port)) as api:
        assert await api.run("p", ["echo", "a b"]) == "one two"
    assert played.seen == [("Bearer t0ken", "stdout=1&stderr=1&command=echo&command=a b")]


@pytest.mark.parametrize("end", [b'\x03{"status":"Failure"}', b"\x01cut off"])
async def test_a_command_that_fails_is_told(server: tuple[Server, str], end: bytes) -> None:
    played, port = server
    played.messages = [end]
    async with NodeApi.of(connection(port)) as api:
        with pytest.raises(DemoError, match="the command in the pod failed"):
            await api.run("p", ["false"])


async def test_a_token_without_rights_is_told(server: tuple[Server, str]) -> None:
    async with NodeApi.of(connection(server[1])) as api:
        assert await api.status_elsewhere("other") == 403
        with pytest.raises(ApiError, match=r"403.*not yours"):
            await api.pods()


def test_a_certificate_that_is_none_is_no_trust() -> None:
    nonsense = base64.b64encode(b"nonsense").decode()
    with pytest.raises(OSError):  # noqa: PT011 - ssl's own, whatever it says
        access({"skiptls": False, "ca_crt": nonsense, "token": "t0ken", "host": "https://n"})


# --- the frame ----------------------------------------------------------------------------------


@pytest.fixture
def screen() -> Screen:
    return Screen(Console(record=True, force_terminal=False, width=200, file=open(os.devnull, "w")))


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (ClusterError("no port is free"), 1, "FAILED: no port is free"),
        (DemoError("nothing happened"), 1, "FAILED: nothing happened"),
        (aiohttp.ClientError("cut off"), 1, "FAILED: cut off"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_whatever_goes_wrong_everything_is_taken_down(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, told: str
) -> None:
    down = []

    def up(*_: object) -> None:
        raise raised

    monkeypatch.setattr(LocalCluster, "up", up)
    monkeypatch.setattr(LocalCluster, "down", lambda *_: down.append(True))
    assert cli.demonstrate(screen, "fake") == status
    assert down == [True]
    assert told in screen.console.export_text()


# --- the whole ----------------------------------------------------------------------------------


async def demo(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "demonstration", *arguments),
        env={**os.environ, "PYTHONPATH": "tools"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.integration
async def test_the_demo_with_a_fake_node() -> None:
    status, output = await demo("--nodes", "fake")
    assert status == 0, output
    assert "nothing runs on a fake node" in output
    assert "Nothing is left behind." in output


@pytest.mark.e2e
async def test_the_demo_with_a_real_node() -> None:
    status, output = await demo("--nodes", "real")
    assert status == 0, output
    assert "root@pod-fedora" in output
    assert "Nothing is left behind." in output
