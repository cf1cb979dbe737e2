"""A provider's cluster on the local cluster with fake nodes."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster import LocalCluster

from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.cluster import Cluster

if TYPE_CHECKING:
    from tests.integration.kubernetes.nodebench import Bench, write_kube_config
else:
    from nodebench import Bench, write_kube_config

ByToken = Callable[[str], Awaitable[ApiClient]]


@pytest.fixture
def context(fake_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KUBECONFIG", os.fspath(fake_cluster.kubeconfig))
    return fake_cluster.context


@pytest.fixture
async def bench(context: str) -> AsyncIterator[Bench]:
    made = Bench(context)
    yield made
    await made.close()


@pytest.fixture
async def cluster(bench: Bench) -> Cluster:
    return await bench.cluster()


@pytest.fixture
async def admin(context: str) -> AsyncIterator[ApiClient]:
    """The admin's own view of the cluster, past everything that is tested."""
    client = ApiClient(context)
    await client.connect()
    yield client
    await client.close()


@pytest.fixture
async def by_token(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ByToken]:
    """Clients that have nothing but a token."""
    clients: list[ApiClient] = []

    async def connect(token: str) -> ApiClient:
        path = tmp_path / "by-token"
        with monkeypatch.context() as patch:
            context = write_kube_config(path, cluster, token)
            patch.setenv("KUBECONFIG", str(path))
            client = ApiClient(context)
            await client.connect()
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.close()
