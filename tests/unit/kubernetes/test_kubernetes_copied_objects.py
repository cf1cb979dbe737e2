"""What nodes get copies of: read once, kept current, and never told."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from nodepool_k8s.config.settings import CopySource
from nodepool_k8s.errors import ClusterUnreachable, SourceUnusable
from nodepool_k8s.kubernetes import copied_objects
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.copied_objects import CopiedObjects
from nodepool_k8s.model import SourceContent
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.unit.kubernetes.fakeapi import FakeApi, Watched, event, status
else:
    from fakeapi import FakeApi, Watched, event, status

CREDS = CopySource("Secret", "build", "creds")
PASSWORD = "cGFzc3dvcmQ="


def raw(password: Any = PASSWORD, version: int = 1, uid: str = "u") -> dict[str, Any]:
    return {
        "metadata": {"name": "creds", "uid": uid, "resourceVersion": str(version)},
        "type": "Opaque",
        "data": {"P": password},
    }


class Scene:
    """One source on a scripted API server."""

    def __init__(self, client: ApiClient) -> None:
        self.secret = Watched()
        self.direct: web.Response | None = None
        self.refused = False
        self.paths: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.sources = CopiedObjects(client, self.spawn)

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(coroutine, name=name))
        return self.tasks[-1]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        if request.path.endswith("/creds"):
            return self.direct or status(404, "NotFound")
        assert request.query["fieldSelector"] == "metadata.name=creds"
        if self.refused:
            return status(403, "Forbidden", 'User "u" cannot list secrets')
        return await self.secret.answer(request)

    async def until(self, password: str) -> None:
        async def is_so() -> bool:
            return (await self.sources.content(CREDS)).data == {"P": password}

        await eventually(is_so, timeout=5)


@pytest.fixture
async def scene(api: FakeApi, kube_config: Path) -> AsyncIterator[Scene]:
    client = ApiClient("ctx")
    await client.connect()
    made = Scene(client)
    api.handler = made.answer
    yield made
    made.secret.closing.set()
    await made.sources.close()
    assert all(task.done() for task in made.tasks)
    await client.close()


async def test_a_source_is_read_once(scene: Scene) -> None:
    scene.secret.lists = [[raw()]]
    for _ in range(3):
        expected = SourceContent("Opaque", {"P": PASSWORD})
        assert await scene.sources.content(CREDS) == expected
        scene.sources.want([CREDS])
    assert scene.secret.listed == 1
    assert set(scene.paths) == {"/api/v1/namespaces/build/secrets"}
    assert len(scene.tasks) == 1


async def test_a_source_is_kept_current(scene: Scene) -> None:
    scene.secret.lists = [[raw()]]
    another = raw("YW5vdGhlcg==", 2, "v")
    changes = [event("DELETED", raw(version=2)), event("ADDED", another), Watched.HOLD]
    scene.secret.watches = [changes]
    await scene.until("YW5vdGhlcg==")
    assert scene.secret.listed == 1


async def test_a_missing_source_is_looked_for_once_more(scene: Scene) -> None:
    with pytest.raises(SourceUnusable, match="Secret build/creds does not exist"):
        await scene.sources.content(CREDS)
    # Its watch is late.
    scene.direct = web.json_response(raw())
    assert (await scene.sources.content(CREDS)).data == {"P": PASSWORD}


async def test_a_source_that_may_not_be_read(scene: Scene) -> None:
    scene.refused = True
    scene.direct = status(403, "Forbidden", 'User "u" cannot get secrets')
    with pytest.raises(SourceUnusable, match="may not be read by the launcher's account: 403") as e:
        await scene.sources.content(CREDS)
    assert "etc/kubernetes/copies.yaml" in str(e.value)
    # The rights came, and the watch has not noticed.
    scene.direct = web.json_response(raw())
    assert (await scene.sources.content(CREDS)).data == {"P": PASSWORD}


async def test_a_source_that_could_not_be_read_yet(
    scene: Scene, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: web.Request) -> web.StreamResponse:
        return status(500, "InternalError", "etcd is away")

    api.handler = broken
    with pytest.raises(ClusterUnreachable, match="could not be read yet: 500"):
        await scene.sources.content(CREDS)

    async def silent(_: web.Request) -> web.StreamResponse:
        await scene.secret.closing.wait()
        return status(500, "InternalError")

    monkeypatch.setattr(copied_objects, "FIRST_SECONDS", 0.05)
    api.handler = silent
    with pytest.raises(ClusterUnreachable, match="Secret build/other could not be read yet"):
        await scene.sources.content(CopySource("Secret", "build", "other"))
    api.handler = scene.answer


async def test_what_was_read_is_good_while_the_watch_is_broken(scene: Scene, api: FakeApi) -> None:
    scene.secret.lists = [[raw()]]
    scene.secret.watches = [[event("MODIFIED", raw(version=2))]]
    await scene.until(PASSWORD)

    async def away(_: web.Request) -> web.StreamResponse:
        return status(503, "ServiceUnavailable")

    api.handler = away
    await eventually(lambda: len(api.requests) >= 4, timeout=5)
    assert (await scene.sources.content(CREDS)).data == {"P": PASSWORD}
    api.handler = scene.answer


async def test_what_nobody_wants_any_more_is_not_watched(scene: Scene) -> None:
    scene.secret.lists = [[raw()]]
    scene.sources.want([CREDS])
    await scene.sources.content(CREDS)
    scene.sources.want([])
    await asyncio.wait(scene.tasks)
    # By a launch that is under way still.
    assert (await scene.sources.content(CREDS)).data == {"P": PASSWORD}
    assert scene.secret.listed == 2


async def test_nothing_is_watched_once_it_is_closed(scene: Scene) -> None:
    scene.sources.want([CREDS])
    await scene.sources.close()
    with pytest.raises(ClusterUnreachable, match="closed"):
        await scene.sources.content(CREDS)
    assert len(scene.tasks) == 1


@pytest.mark.parametrize("data", [{"P": {"not": PASSWORD}}, [PASSWORD], PASSWORD])
async def test_what_a_source_holds_is_never_logged(
    scene: Scene, caplog: pytest.LogCaptureFixture, data: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    broken = {**raw(), "data": data}
    scene.secret.lists = [[broken]]
    scene.secret.watches = [[event("MODIFIED", broken)], [b"no JSON: " + PASSWORD.encode() + b"\n"]]
    with pytest.raises(SourceUnusable):
        await scene.sources.content(CREDS)
    await eventually(lambda: "watch failed" in caplog.text, timeout=5)
    assert "its data is not a mapping of texts" in caplog.text
    assert PASSWORD not in caplog.text
