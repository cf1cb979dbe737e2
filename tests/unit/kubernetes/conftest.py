"""The fake API server, running, and the rules of these tests."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

if TYPE_CHECKING:
    from tests.unit.kubernetes.fakeapi import FakeApi, write_kube_config
else:
    from fakeapi import FakeApi, write_kube_config


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    fake = FakeApi()
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{tail:.*}", fake.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (address,) = runner.addresses
    fake.port = address[1]
    yield fake
    await runner.cleanup()


@pytest.fixture
def kube_config(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kube/config that leads to the fake API server, named by the environment."""
    path = tmp_path / "config"
    write_kube_config(path, api.url, {"token": "first"})
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every back-off is its shortest."""
    monkeypatch.setattr("random.random", lambda: 0.0)


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    yield
    current = asyncio.current_task()
    left = [task for task in asyncio.all_tasks() if task is not current and not task.done()]
    ours = [task for task in left if "nodepool_k8s" in repr(task.get_coro())]
    assert not ours
