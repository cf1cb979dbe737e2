"""What the tests of the Kubernetes adapter create in a local cluster."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from harness import kubeconfig

from nodepool_k8s.config.settings import Label, LaunchSettings, Pool, Provider
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.manifests import NodeObjects
from nodepool_k8s.model import AccessToken, LabelType, Namespace

Made = tuple[Namespace, AccessToken]


class Bench:
    """One deployment's cluster and the nodes that a test creates with it."""

    def __init__(self, context: str) -> None:
        self.deployment = str(uuid.uuid4())
        self.context = context
        self.tasks: list[asyncio.Task[None]] = []
        self.crashed: list[BaseException] = []
        self.clusters: list[Cluster] = []
        self._ids = 0

    async def cluster(self, **options: Any) -> Cluster:
        """Start a cluster of this deployment; closed at the end of the test."""
        provider = Provider(**{"name": "local", "context": self.context, "pools": (), **options})
        made = Cluster(provider, self.deployment)
        await made.start(self.spawn)
        self.clusters.append(made)
        await asyncio.wait_for(made.synced(), 10)
        return made

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        task.add_done_callback(self._ended)
        self.tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.crashed.append(error)

    def objects(
        self,
        kind: LabelType = LabelType.POD,
        *,
        attempt: int = 0,
        node_id: str | None = None,
        launch: LaunchSettings | None = None,
        **options: Any,
    ) -> NodeObjects:
        """Describe a node with an id of its own."""
        self._ids += 1
        name = "pod-fedora" if kind is LabelType.POD else "kubernetes-namespace"
        options.setdefault("image", "docker.io/fedora:28")
        label = Label(name=name, type=kind, launch=launch or LaunchSettings(), **options)
        # A pool of its own for each deployment: names of namespaces are the cluster's.
        pool = Pool(provider="local", name=f"t{self.deployment[:8]}", labels={name: label})
        return NodeObjects(
            deployment=self.deployment,
            provider=Provider(name="local", context=self.context, pools=(pool,)),
            pool=pool,
            label=label,
            node_id=node_id or f"{self._ids:010d}",
            attempt=attempt,
            allocated=True,
        )

    async def close(self) -> None:
        """Remove what is left through the first cluster, which is the admin's; close them all."""
        try:
            if self.clusters:
                admins = self.clusters[0]
                for namespace in await admins.reader.list_namespaces():
                    await admins.deleter.delete_node(namespace.name, 1.0)
        finally:
            for cluster in self.clusters:
                await cluster.close()
        assert not self.crashed
        assert all(task.done() for task in self.tasks)


async def until(cluster: Cluster, namespace: str, true: Callable[[], Any]) -> None:
    """Wait for changes until something is true."""
    async with asyncio.timeout(20):
        while not true():
            await cluster.changed(namespace, None)


def is_ready(cluster: Cluster, namespace: str) -> bool:
    ready = [pod.condition("Ready") for pod in cluster.pods(namespace)]
    return any(condition is not None and condition.status == "True" for condition in ready)


async def make_node(cluster: Cluster, objects: NodeObjects) -> Made:
    """Create a node as the launcher does, and wait until it is ready."""
    namespace = await cluster.creator.create_namespace(objects)
    async with asyncio.TaskGroup() as group:
        access = group.create_task(cluster.creator.create_access(objects))
        if objects.label.type is LabelType.POD:
            group.create_task(cluster.creator.create_pod(objects))
    if objects.label.type is LabelType.POD:
        await until(cluster, namespace.name, lambda: is_ready(cluster, namespace.name))
    return namespace, access.result()


def write_kube_config(path: Path, cluster: Cluster, token: str) -> str:
    """Write a kubeconfig from a node's connection data, as a requestor does; its context."""
    authority = {"certificate_authority_data": cluster.ca_crt or ""}
    kubeconfig.write(path, "by-token", cluster.api_url, {"token": token}, **authority)
    return "by-token"


async def may(client: ApiClient, namespace: str, verb: str, resource: str, group: str = "") -> bool:
    """Ask the API server what the client's own account may do."""
    resource, _, subresource = resource.partition("/")
    review = await client.post(
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {
                "resourceAttributes": {
                    "namespace": namespace,
                    "verb": verb,
                    "group": group,
                    "resource": resource,
                    "subresource": subresource,
                }
            },
        },
    )
    return bool(review["status"]["allowed"])
