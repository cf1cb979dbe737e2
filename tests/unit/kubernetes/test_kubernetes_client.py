"""The client: what it sends, and what becomes of every kind of failure."""

import asyncio
import json
import socket
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from nodepool_k8s.errors import ApiError, ClusterUnreachable, KubernetesError, NotFound
from nodepool_k8s.kubernetes import client as client_module
from nodepool_k8s.kubernetes.client import ApiClient

if TYPE_CHECKING:
    from tests.unit.kubernetes.fakeapi import FakeApi, status, write_kube_config
else:
    from fakeapi import FakeApi, status, write_kube_config


@pytest.fixture
async def client(kube_config: Path) -> AsyncIterator[ApiClient]:
    made = ApiClient("ctx")
    await made.connect()
    yield made
    await made.close()


async def ok(_: web.Request) -> web.Response:
    return web.json_response({"kind": "Thing"})


async def test_plain_json_goes_out_and_comes_in(api: FakeApi, client: ApiClient) -> None:
    api.handler = ok
    assert await client.post("/api/v1/things", {"a": [1]}, {"dryRun": "All"}) == {"kind": "Thing"}
    (request,) = api.requests
    assert (request.method, request.path_qs) == ("POST", "/api/v1/things?dryRun=All")
    assert request.headers["Authorization"] == "Bearer first"
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(api.bodies[0]) == {"a": [1]}


async def test_a_patch_is_a_merge_patch(api: FakeApi, client: ApiClient) -> None:
    api.handler = ok
    await client.patch("/api/v1/things/x", {})
    assert api.requests[0].headers["Content-Type"] == "application/merge-patch+json"


async def test_selectors_are_escaped(api: FakeApi, client: ApiClient) -> None:
    api.handler = ok
    await client.get("/x", {"labelSelector": "a/b=c", "limit": 1})
    assert api.requests[0].query["labelSelector"] == "a/b=c"


async def test_a_status_becomes_an_error_of_ours(api: FakeApi, client: ApiClient) -> None:
    async def busy(_: web.Request) -> web.Response:
        return status(429, "TooManyRequests", "slow down", {"Retry-After": "3"})

    api.handler = busy
    with pytest.raises(ApiError, match="slow down") as caught:
        await client.get("/x")
    error = caught.value
    assert (error.status, error.reason, error.retry_after) == (429, "TooManyRequests", 3.0)


async def test_404_is_an_error_of_its_own(client: ApiClient) -> None:
    with pytest.raises(NotFound, match="not scripted"):
        await client.get("/x")


async def test_an_answer_of_a_proxy_is_told_as_it_is(api: FakeApi, client: ApiClient) -> None:
    async def proxy(_: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>Bad Gateway", content_type="text/html")

    api.handler = proxy
    with pytest.raises(ApiError, match="502 Bad Gateway: <html>Bad Gateway"):
        await client.get("/x")


@pytest.mark.parametrize("text", ["<html>", "[]", ""])
async def test_an_answer_that_is_no_object(api: FakeApi, client: ApiClient, text: str) -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(text=text)

    api.handler = nonsense
    with pytest.raises(ClusterUnreachable):
        await client.get("/x")


async def test_a_broken_connection_has_an_unknown_outcome(api: FakeApi, client: ApiClient) -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    api.handler = hang_up
    with pytest.raises(ClusterUnreachable) as caught:
        await client.post("/x", {})
    assert caught.value.__cause__ is not None


async def test_nobody_listens(kube_config: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        write_kube_config(kube_config, f"http://127.0.0.1:{closed.getsockname()[1]}", {})
        client = ApiClient("ctx")
        await client.connect()
        with pytest.raises(ClusterUnreachable, match="cannot be reached"):
            await client.get("/x")
        await client.close()


async def test_a_server_that_never_answers_times_out(
    api: FakeApi, kube_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CALL_TIMEOUT_SECONDS", 0.05)

    over = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    api.handler = silent
    client = ApiClient("ctx")
    await client.connect()
    with pytest.raises(ClusterUnreachable, match="time"):
        await client.get("/x")
    over.set()
    await client.close()


async def test_a_call_without_an_answer_makes_watches_open_anew(
    api: FakeApi, kube_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CALL_TIMEOUT_SECONDS", 0.05)
    over = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if request.path == "/watched":
            await response.prepare(request)
            await response.write(b"first\n")
        await over.wait()
        return response

    api.handler = silent
    client = ApiClient("ctx")
    await client.connect()

    async def watch() -> None:
        async with client.stream("/watched", {}, "application/json", 60) as lines:
            assert await anext(lines) == b"first"
            with pytest.raises(ClusterUnreachable, match="time"):
                await client.get("/x")
            await anext(lines)

    with pytest.raises(ClusterUnreachable, match="cannot be reached"):
        await watch()
    over.set()
    await client.close()


async def test_a_watch_that_is_not_answered_is_given_up(
    api: FakeApi, kube_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "WATCH_ANSWER_SECONDS", 0.05)
    over = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    api.handler = silent
    client = ApiClient("ctx")
    await client.connect()
    with pytest.raises(ClusterUnreachable, match="cannot be reached"):
        async with client.stream("/watched", {}, "application/json", 60):
            raise AssertionError("it was answered")
    over.set()
    await client.close()


async def test_refused_credentials_are_read_again_once(
    api: FakeApi, client: ApiClient, kube_config: Path
) -> None:
    async def only_second(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer second":
            return status(401, "Unauthorized")
        return await ok(request)

    api.handler = only_second
    with pytest.raises(ApiError, match="401"):
        await client.get("/x")
    assert len(api.requests) == 2
    write_kube_config(kube_config, api.url, {"token": "second"})
    assert await client.get("/x") == {"kind": "Thing"}
    assert await client.get("/x") == {"kind": "Thing"}
    assert len(api.requests) == 5


async def test_a_credential_plugin_is_asked(api: FakeApi, kube_config: Path) -> None:
    script = textwrap.dedent(
        """
        print('{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",'
              '"status": {"token": "by-plugin"}}')
        """
    )
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", script],
    }
    write_kube_config(kube_config, api.url, {"exec": plugin})
    api.handler = ok
    client = ApiClient("ctx")
    await client.connect()
    await client.get("/x")
    assert api.requests[0].headers["Authorization"] == "Bearer by-plugin"
    await client.close()


async def test_an_unknown_context_is_named(kube_config: Path) -> None:
    with pytest.raises(KubernetesError, match=r"context elsewhere of .* cannot be used"):
        await ApiClient("elsewhere").connect()


async def test_a_broken_certificate_is_named(kube_config: Path, tmp_path: Path) -> None:
    broken = tmp_path / "ca.crt"
    broken.write_text("no certificate")
    authority = {"certificate-authority": str(broken)}
    write_kube_config(kube_config, "https://127.0.0.1:1", {}, **authority)
    with pytest.raises(KubernetesError, match="context ctx: a certificate cannot be used"):
        await ApiClient("ctx").connect()


async def test_no_configuration_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(KubernetesError, match="nor an in-cluster service account"):
        await ApiClient(None).connect()
    with pytest.raises(KubernetesError, match=r"context ctx: .* does not exist"):
        await ApiClient("ctx").connect()


async def test_a_closed_client_says_so(client: ApiClient) -> None:
    await client.close()
    with pytest.raises(ClusterUnreachable, match="closed"):
        await client.get("/x")
    with pytest.raises(KubernetesError, match="not connected"):
        _ = ApiClient("ctx").configuration
