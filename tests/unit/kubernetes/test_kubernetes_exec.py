"""Commands over a websocket: every channel, every end, and who waits for whom."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSMsgType, web

from nodepool_k8s.errors import (
    ApiError,
    ClusterUnreachable,
    CommandError,
    CommandNotStarted,
    KubernetesError,
)
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.exec import V4, V5, NodeApi, execute

if TYPE_CHECKING:
    from tests.unit.kubernetes.fakeapi import FakeApi, Handler, status
else:
    from fakeapi import FakeApi, Handler, status

Script = Callable[[web.WebSocketResponse], Awaitable[None]]

SUCCESS = {"status": "Success"}


def failed(code: int) -> dict[str, Any]:
    causes = [{"reason": "ExitCode", "message": str(code)}]
    return {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code {code}",
        "details": {"causes": causes},
    }


def ending(answer: dict[str, Any] | bytes) -> bytes:
    return b"\3" + (answer if isinstance(answer, bytes) else json.dumps(answer).encode())


def speaks(script: Script, *protocols: str) -> Handler:
    """A container in which every command does what the script says."""

    async def handler(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(protocols=protocols or (V5, V4), max_msg_size=0)
        await ws.prepare(request)
        await script(ws)
        await ws.close()
        return ws

    return handler


def says(*messages: bytes) -> Script:
    async def script(ws: web.WebSocketResponse) -> None:
        for message in messages:
            await ws.send_bytes(message)

    return script


@pytest.fixture
async def node(api: FakeApi) -> AsyncIterator[NodeApi]:
    made = NodeApi({"host": api.url, "token": "node's"})
    yield made
    await made.close()


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.data = b""

    async def __call__(self, data: bytes) -> None:
        self.data += data


async def source(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def run(node: NodeApi, **options: Any) -> int:
    async with asyncio.timeout(20):
        return await execute(node, "space", "pod", ["some", "command &"], **options)


async def test_what_is_asked_for(api: FakeApi, node: NodeApi) -> None:
    api.handler = speaks(says(ending(SUCCESS)))
    assert await run(node) == 0
    assert await run(node, stdin=source(), container="second") == 0
    plain, fed = api.requests
    assert plain.path == "/api/v1/namespaces/space/pods/pod/exec"
    assert plain.query.getall("command") == ["some", "command &"]
    assert plain.headers["Authorization"] == "Bearer node's"
    assert [plain.query.get(key) for key in ("stdout", "stderr", "stdin", "container")] == [
        "true",
        "true",
        None,
        None,
    ]
    assert (fed.query["stdin"], fed.query["container"]) == ("true", "second")


async def test_stdout_and_stderr_come_apart_and_as_they_are(api: FakeApi, node: NodeApi) -> None:
    parts = b"\1", b"\2", b"\1\0\xff\r\n", b"\2bad\n", b"\1\3", ending(SUCCESS)
    api.handler = speaks(says(*parts))
    out, err = Kept(), Kept()
    assert await run(node, stdout=out, stderr=err) == 0
    assert (out.data, err.data) == (b"\0\xff\r\n\3", b"bad\n")


@pytest.mark.parametrize("code", [1, 3, 126, 137, 255])
async def test_the_exit_status(api: FakeApi, node: NodeApi, code: int) -> None:
    api.handler = speaks(says(ending(failed(code))))
    assert await run(node) == code


@pytest.mark.parametrize(
    "answer",
    [
        b"no json",
        b"[]",
        b"7",
        pytest.param(b"[" * 100_000, id="nested too deep"),
        {"status": "Failure", "reason": "NonZeroExitCode"},
        {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": []}},
        {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [7]}},
        failed("many"),  # type: ignore[arg-type]
    ],
)
async def test_an_exit_status_that_cannot_be_read_is_an_error(
    api: FakeApi, node: NodeApi, answer: Any
) -> None:
    api.handler = speaks(says(ending(answer)))
    with pytest.raises(CommandError, match="exit status cannot be read"):
        await run(node)


async def test_what_the_runtime_says_is_told(api: FakeApi, node: NodeApi) -> None:
    missing = 'exec: "x": executable file not found in $PATH'
    absent = 'exec: "/x": stat /x: no such file or directory'
    away = "while dialing: dial unix /run/runtime.sock: connect: no such file or directory"
    for message, kind in (
        (missing, CommandNotStarted),
        (absent, CommandNotStarted),
        (away, CommandError),
        ("container not running", CommandError),
    ):
        answer = {"status": "Failure", "reason": "InternalError", "message": message}
        api.handler = speaks(says(ending(answer)))
        with pytest.raises(CommandError) as caught:
            await run(node)
        assert (type(caught.value), str(caught.value)) == (kind, message)


async def test_a_connection_that_ends_first_is_an_error(api: FakeApi, node: NodeApi) -> None:
    async def cut(ws: web.WebSocketResponse) -> None:
        await ws.send_bytes(b"\1some")
        assert ws._req is not None
        assert ws._req.transport is not None
        ws._req.transport.abort()

    for script in (says(b"\1some"), cut):
        api.handler = speaks(script)
        with pytest.raises(CommandError, match="before the command's exit status came"):
            await run(node)


async def test_a_refusal_has_the_servers_words(api: FakeApi, node: NodeApi) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return status(403, "Forbidden", "pods/exec is not for you")

    api.handler = refuse
    with pytest.raises(ApiError, match="403 Forbidden: pods/exec is not for you"):
        await run(node)


async def test_a_server_that_is_not_there(api: FakeApi) -> None:
    node = NodeApi({"host": "http://127.0.0.1:9"})
    with pytest.raises(ClusterUnreachable, match="cannot be reached"):
        await run(node)
    await node.close()


async def test_a_server_without_the_protocol(api: FakeApi, node: NodeApi) -> None:
    api.handler = speaks(says(ending(SUCCESS)), "channel.k8s.io")
    with pytest.raises(CommandError, match="speaks neither v5"):
        await run(node)


@pytest.mark.parametrize(
    ("annotations", "chosen"),
    [({}, "first"), ({"kubectl.kubernetes.io/default-container": "second"}, "second")],
)
async def test_the_default_container_is_the_one_kubectl_chooses(
    api: FakeApi, node: NodeApi, annotations: dict[str, str], chosen: str
) -> None:
    pod = {
        "metadata": {"annotations": annotations},
        "spec": {"containers": [{"name": "first"}, {"name": "second"}]},
    }

    async def handler(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/exec"):
            return web.json_response(pod)
        if "container" not in request.query:
            return status(400, "BadRequest", "a container name must be specified for pod pod")
        return await speaks(says(ending(SUCCESS)))(request)

    api.handler = handler
    assert await run(node) == 0
    assert api.requests[-1].query["container"] == chosen


# --- standard input -------------------------------------------------------------------------


async def test_stdin_comes_whole_and_in_order_and_ends(api: FakeApi, node: NodeApi) -> None:
    got, ends = b"", []

    async def read(ws: web.WebSocketResponse) -> None:
        nonlocal got
        async for message in ws:
            if message.data[0] == 255:
                ends.append(message.data[1:])
                break
            assert message.data[0] == 0
            got += message.data[1:]
        await ws.send_bytes(ending(SUCCESS))

    api.handler = speaks(read)
    chunks = [b"a", b"", bytes(range(256)) * 1000, b"z" * 32767]
    assert await run(node, stdin=source(*chunks)) == 0
    assert got == b"".join(chunks)
    assert ends == [b"\0"]


async def test_a_server_that_cannot_end_stdin_is_told(api: FakeApi, node: NodeApi) -> None:
    async def read(ws: web.WebSocketResponse) -> None:
        async for _ in ws:
            pass

    api.handler = speaks(read, V4)
    with pytest.raises(CommandError, match=r"older than Kubernetes 1\.30"):
        await run(node, stdin=source(b"some"))


async def test_a_command_may_end_before_its_stdin(api: FakeApi, node: NodeApi) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"y\n" * 100

    api.handler = speaks(says(b"\1done", ending(failed(3))))
    assert await run(node, stdin=endless()) == 3


async def test_what_the_source_or_a_sink_raises_ends_it(api: FakeApi, node: NodeApi) -> None:
    ended = asyncio.Event()

    async def until_closed(ws: web.WebSocketResponse) -> None:
        await ws.send_bytes(b"\1some")
        async for _ in ws:
            pass
        ended.set()

    async def broken_source() -> AsyncIterator[bytes]:
        yield b"some"
        raise OSError("the disk is gone")

    async def broken_sink(_: bytes) -> None:
        raise OSError("the disk is gone")

    api.handler = speaks(until_closed)
    for options in ({"stdin": broken_source()}, {"stdout": broken_sink}):
        ended.clear()
        with pytest.raises(OSError, match="the disk is gone"):
            await run(node, **options)
        async with asyncio.timeout(10):
            await ended.wait()


# --- who waits for whom ---------------------------------------------------------------------

FEW = 8 * 2**20
"""Bytes that sockets and queues between the two ends may hold, at most."""


async def test_a_command_that_does_not_read_holds_up_its_source(
    api: FakeApi, node: NodeApi
) -> None:
    taken, enough = 0, asyncio.Event()

    async def counted() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 65536
            yield bytes(65536)
            if taken > 20 * FEW:
                enough.set()

    async def stubborn(ws: web.WebSocketResponse) -> None:
        assert ws._req is not None
        assert ws._req.transport is not None
        ws._req.transport.pause_reading()
        before = -1
        while before != taken:
            before = taken
            await asyncio.sleep(0.1)
        await ws.send_bytes(ending(SUCCESS))

    api.handler = speaks(stubborn)
    assert await run(node, stdin=counted()) == 0
    assert 0 < taken < FEW
    assert not enough.is_set()


async def test_a_sink_that_is_slow_holds_up_the_command(api: FakeApi, node: NodeApi) -> None:
    sent = 0
    go_on = asyncio.Event()

    async def write(ws: web.WebSocketResponse) -> None:
        nonlocal sent
        for _ in range(FEW // 32768 * 4):
            await ws.send_bytes(b"\1" + bytes(32767))
            sent += 32767
        await ws.send_bytes(ending(SUCCESS))

    got = 0

    async def slow(data: bytes) -> None:
        nonlocal got
        got += len(data)
        await go_on.wait()

    api.handler = speaks(write)
    running = asyncio.create_task(run(node, stdout=slow))
    before = -1
    while before != sent or not sent:
        before = sent
        await asyncio.sleep(0.1)
    assert sent < FEW
    go_on.set()
    assert await running == 0
    assert got == sent


async def test_cancelling_hangs_up_on_a_command_that_does_not_read(
    api: FakeApi, node: NodeApi
) -> None:
    gone = asyncio.Event()

    async def stubborn(ws: web.WebSocketResponse) -> None:
        assert ws._req is not None
        transport = ws._req.transport
        assert transport is not None
        transport.pause_reading()
        await ws.send_bytes(b"\1some")
        await go_on.wait()
        transport.resume_reading()
        async for message in ws:
            assert message.type is WSMsgType.BINARY
        gone.set()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    go_on, started = asyncio.Event(), asyncio.Event()

    async def seen(_: bytes) -> None:
        started.set()

    api.handler = speaks(stubborn)
    running = asyncio.create_task(run(node, stdin=endless(), stdout=seen))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    go_on.set()
    async with asyncio.timeout(10):
        await gone.wait()


# --- whom it speaks to ------------------------------------------------------------------------


@pytest.mark.parametrize("record", [None, 22, {}, {"host": ""}])
def test_a_record_of_another_driver_is_an_error(record: object) -> None:
    with pytest.raises(KubernetesError, match="no node of a Kubernetes provider"):
        NodeApi(record)


@pytest.mark.parametrize("authorities", ["!", base64.b64encode(b"not PEM").decode(), 7])
def test_authorities_that_are_none_are_an_error(authorities: object) -> None:
    with pytest.raises(KubernetesError, match="authorities in the node's record cannot be used"):
        NodeApi({"host": "https://here", "ca_crt": authorities})


async def test_a_launchers_client_opens_websockets_as_well(api: FakeApi, kube_config: Path) -> None:
    client = ApiClient("ctx")
    await client.connect()
    api.handler = speaks(says(b"\1here", ending(failed(7))))
    out = Kept()
    assert await execute(client, "space", "pod", ["x"], stdout=out) == 7
    assert out.data == b"here"
    assert api.requests[0].headers["Authorization"] == "Bearer first"
    await client.close()
