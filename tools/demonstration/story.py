"""The story of the demo, a function for each chapter; each checks what it shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from cluster import Progress
from harness.launcher import CONNECTED, LauncherProcess, command
from kubernetes.aio import client as kubernetes
from kubernetes.aio import config as kube_config

from demonstration import figures
from demonstration.errors import DemoError
from demonstration.node_api import NodeApi
from demonstration.screen import Screen
from nodepool_k8s.client import HeldNode, Requestor
from nodepool_k8s.config import Settings
from nodepool_k8s.config.settings import Pool
from nodepool_k8s.errors import Vanished
from nodepool_k8s.model import Node, Resources
from nodepool_k8s.znodes.ledgers import parse_ledger
from nodepool_k8s.znodes.nodes import driver_data_of
from nodepool_k8s.znodes.paths import ledger_path, node_path

POD_LABEL = "pod-fedora"
NAMESPACE_LABEL = "kubernetes-namespace"
LABELS = (POD_LABEL, NAMESPACE_LABEL)

START_SECONDS = 60.0
READY_SECONDS = 330.0
"""A little more than the launcher's own timeout of an attempt."""
GONE_SECONDS = 90.0
POLL_SECONDS = 0.01

COMMAND = 'echo "$(id -un)@$(hostname), $(uname -sm):" /*'


@dataclass(frozen=True)
class Scene:
    """Where the story takes place."""

    screen: Screen
    progress: Progress
    config: Path
    settings: Settings
    environ: Mapping[str, str]
    """What the launcher is started with."""
    kubeconfig: Path
    real_node: bool
    log: Path

    @property
    def pool(self) -> Pool:
        """The pool that serves both labels."""
        return self.settings.pools[0]


@dataclass(frozen=True)
class Taken:
    """A node that the demo has accepted, with how long it took."""

    accepted: HeldNode
    seconds: float

    @property
    def node(self) -> Node:
        """Its record."""
        return self.accepted.node

    @property
    def namespace(self) -> str:
        """The node's Kubernetes namespace."""
        return self.node.external_id or ""

    @property
    def connection(self) -> Mapping[str, str]:
        """How to reach it, token included: never printed."""
        found: Mapping[str, str] = self.node.extra["connection_port"]
        return found


async def tell(scene: Scene) -> None:
    """Run every chapter, from the launcher's start to its end. Raises DemoError."""
    async with AsyncExitStack() as stack:
        launcher = await _start_launcher(scene, stack)
        requestor = await stack.enter_async_context(
            Requestor.connected(scene.settings.zookeeper, "the demo")
        )
        before = await _in_use(scene, requestor)
        pod, namespace = await _obtain_both(scene, requestor, stack)
        await _use_pod(scene, pod, elsewhere=namespace.namespace)
        await _use_namespace(scene, namespace)
        await _show_quota(scene, requestor, before, [pod, namespace])
        await _return(scene, requestor, [pod, namespace])
        await _show_free(scene, requestor, before, [pod, namespace])
        await _stop_launcher(scene, launcher)


# --- the launcher ---------------------------------------------------------------------------


async def _start_launcher(scene: Scene, stack: AsyncExitStack) -> LauncherProcess:
    scene.screen.chapter("The launcher")
    scene.screen.line(f"$ nodepool-k8s launcher -c etc/{scene.config.name}")
    with scene.progress.step("connected to ZooKeeper and to the cluster, pools registered"):
        # In a session of its own, so that Ctrl-C reaches it only when the demo stops it.
        launcher = LauncherProcess(
            command(scene.config), scene.log, scene.environ, new_session=True
        )
        stack.push_async_callback(launcher.terminate)
        await launcher.logged(f"{CONNECTED} {scene.pool.provider}", START_SECONDS)
    limits = figures.quota(Resources(), scene.pool.limits)
    scene.screen.line(f"pool {scene.pool.key}, quota in use: {limits}")
    return launcher


async def _stop_launcher(scene: Scene, launcher: LauncherProcess) -> None:
    launcher.check()
    with scene.progress.step("launcher stopped by SIGTERM"):
        status = await launcher.terminate()
    if status != 0:
        raise DemoError(f"the launcher ended with status {status} when asked to stop")


# --- requests -------------------------------------------------------------------------------


async def _obtain_both(
    scene: Scene, requestor: Requestor, stack: AsyncExitStack
) -> tuple[Taken, Taken]:
    scene.screen.chapter("Two node requests, written to ZooKeeper at once")
    waits = [asyncio.ensure_future(_obtain(scene, requestor, label, stack)) for label in LABELS]
    try:
        async with asyncio.timeout(READY_SECONDS):
            pod, namespace = await asyncio.gather(*waits)
    except TimeoutError as error:
        raise DemoError(f"a request was not fulfilled in {READY_SECONDS:.0f} s") from error
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
    return pod, namespace


async def _obtain(scene: Scene, requestor: Requestor, label: str, stack: AsyncExitStack) -> Taken:
    began = time.monotonic()
    request_id = await requestor.submit([label])
    try:
        request = await requestor.wait(request_id)
        seconds = time.monotonic() - began
        (accepted,) = await requestor.accept(request)
    except BaseException:
        await asyncio.shield(requestor.cancel(request_id))
        raise
    # Also when the demo is interrupted; nodes that are already returned are left alone.
    stack.push_async_callback(requestor.give_back, [accepted])
    taken = Taken(accepted, seconds)
    scene.screen.good(f"{label}: fulfilled {seconds * 1000:.0f} ms after request {request_id}")
    scene.screen.line(
        f"   node {taken.node.id} in namespace {taken.namespace}: "
        f"{figures.steps(driver_data_of(taken.node))}"
    )
    return taken


# --- using the nodes ----------------------------------------------------------------------------


async def _use_pod(scene: Scene, pod: Taken, *, elsewhere: str) -> None:
    scene.screen.chapter("Both nodes in use, each with its own token")
    async with NodeApi.of(pod.connection) as api:
        if scene.real_node:
            await _run_command(scene, api, pod.connection["pod"])
        else:
            scene.screen.line(f"{POD_LABEL}: nothing runs on a fake node, so no command in the pod")
            scene.screen.good(
                f"{POD_LABEL}: the token lists the pods: {'; '.join(await api.pods())}"
            )
        status = await api.status_elsewhere(elsewhere)
    if status != 403:
        raise DemoError(f"the token of {pod.namespace} got {status} in namespace {elsewhere}")
    scene.screen.line(f"   the same token in namespace {elsewhere}: refused ({status})")


async def _run_command(scene: Scene, api: NodeApi, pod: str) -> None:
    began = time.monotonic()
    printed = await api.run(pod, ["/bin/sh", "-c", COMMAND])
    seconds = time.monotonic() - began
    if pod not in printed:
        raise DemoError(f"the command ran somewhere else: {printed}")
    scene.screen.good(f"{POD_LABEL}: ran a command in pod {pod} in {seconds * 1000:.0f} ms")
    scene.screen.quoted(f"$ {COMMAND}\n{printed}")


async def _use_namespace(scene: Scene, namespace: Taken) -> None:
    async with NodeApi.of(namespace.connection) as api:
        await api.create_config_map("made-by-the-demo")
    scene.screen.good(f"{NAMESPACE_LABEL}: created a ConfigMap in {namespace.namespace}")


# --- quota --------------------------------------------------------------------------------------


async def _in_use(scene: Scene, requestor: Requestor) -> Resources:
    path = ledger_path(scene.pool.provider, scene.pool.name)
    try:
        data, _ = await requestor.client.get(path)
    except Vanished:  # Nothing was ever claimed.
        return Resources()
    return parse_ledger(data)


async def _show_quota(
    scene: Scene, requestor: Requestor, before: Resources, taken: list[Taken]
) -> None:
    used = await _in_use(scene, requestor)
    expected = sum((entry.node.claimed or Resources() for entry in taken), before)
    if used != expected:
        raise DemoError(f"the quota ledger says {used}, the nodes' records {expected}")
    scene.screen.line(f"quota in use: {figures.quota(used, scene.pool.limits)}")


# --- returning -----------------------------------------------------------------------------------


async def _return(scene: Scene, requestor: Requestor, taken: list[Taken]) -> None:
    scene.screen.chapter("Both nodes returned")
    scene.screen.line("a pod counts until it has ended, a namespace until all in it is gone")
    await requestor.give_back([entry.accepted for entry in taken])
    began = time.monotonic()
    with scene.progress.step("nodes removed"):
        await asyncio.gather(*(_removed(scene, requestor, entry, began) for entry in taken))


async def _removed(scene: Scene, requestor: Requestor, taken: Taken, began: float) -> None:
    while await requestor.client.exists(node_path(taken.node.id)) is not None:
        if time.monotonic() - began > GONE_SECONDS:
            raise DemoError(f"node {taken.node.id} is not gone after {GONE_SECONDS:.0f} s")
        await asyncio.sleep(POLL_SECONDS)
    seconds = time.monotonic() - began
    label = ", ".join(taken.node.type)
    scene.screen.good(f"{label}: record gone, slot free {seconds:.2f} s after it was returned")


async def _show_free(
    scene: Scene, requestor: Requestor, before: Resources, taken: list[Taken]
) -> None:
    used = await _in_use(scene, requestor)
    if used != before:
        raise DemoError(f"the quota ledger is not back at {before}, but says {used}")
    scene.screen.line(f"quota in use: {figures.quota(used, scene.pool.limits)}")
    async with await kube_config.new_client_from_config(str(scene.kubeconfig)) as api:
        core = kubernetes.CoreV1Api(api)
        for entry in taken:
            state = await _namespace_state(core, entry.namespace)
            if state == "Active":
                raise DemoError(f"namespace {entry.namespace} is not being deleted")
            scene.screen.line(f"   namespace {entry.namespace}: {state}")


async def _namespace_state(core: kubernetes.CoreV1Api, name: str) -> str:
    try:
        return str((await core.read_namespace(name)).status.phase)
    except kubernetes.ApiException as error:
        if error.status != 404:
            raise
        return "gone"
