"""One node from claimed to ready: its attempts, each with a namespace of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from nodepool_k8s import telemetry
from nodepool_k8s.aio import gather_first, run_to_completion
from nodepool_k8s.backoff import Backoff
from nodepool_k8s.config.settings import Label
from nodepool_k8s.errors import (
    ClusterUnreachable,
    CommandNotStarted,
    KubernetesError,
    LaunchError,
    describe,
)
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.launcher.pool_queue import PoolQueue
from nodepool_k8s.logs import bind_log_context
from nodepool_k8s.manifests import NodeObjects
from nodepool_k8s.model import AccessToken, LabelType, NodeRequest, NodeState, Pod
from nodepool_k8s.policy import diagnosis, failures
from nodepool_k8s.policy.dynamic_labels import dynamic_labels
from nodepool_k8s.znodes.nodes import with_driver_data
from nodepool_k8s.zookeeper.store import HeldNode

log = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
"""How long a ready-check is tried that fails for reasons that may pass."""

T = TypeVar("T")


STEPS = ("namespace", "objects", "ready", "check")
"""Of an attempt, in order."""


class Launch:
    """The launch of one node. ``held`` is always what was last written, or is to be."""

    launched = True

    def __init__(
        self, site: LaunchContext, queue: PoolQueue, held: HeldNode, request: NodeRequest
    ) -> None:
        self.held = held
        self.written = False
        """Whether ``held``, as ready, stands in ZooKeeper."""
        self.failure = ""
        self._waits_for = "its turn"
        self._site = site
        self._queue = queue
        self._request = request
        self._label: Label = site.pool.labels[held.node.type[0]]
        self._attempts = 0
        """How many were made; each has a number, which is never used again."""
        self._steps: dict[str, float] = {}
        self._step_began = 0.0
        self._attempt_began = 0.0
        self._figures = telemetry.LaunchFigures(request, queue.pool, self._label.name, held.node.id)

    @property
    def waits_for(self) -> str:
        """What it is waiting for, for a person."""
        return self._waits_for

    @waits_for.setter
    def waits_for(self, what: str) -> None:
        self._waits_for = what
        self._queue.news()

    @property
    def step(self) -> str:
        """The step that it is at, by the name that figures have it under."""
        return next((step for step in STEPS if step not in self._steps), STEPS[-1])

    async def run(self) -> None:
        """Launch the node; ``held`` is ready then, but not written.

        Raises LaunchError with the reason of the last attempt.
        """
        bind_log_context(node=self.held.node.id, label=self._label.name)
        with self._figures.launching():
            await self._attempt_until_ready()

    async def _attempt_until_ready(self) -> None:
        attempts = max(1, self._site.provider.launch_retries)
        while True:
            if self._attempts:
                await self._remove_attempt()
            self._attempts += 1
            try:
                await self._attempt(self._attempts - 1)
            except LaunchError as error:
                self._figures.attempt_failed(error, self._steps)
                self.failure = str(error)
                self._site.failed(self._request, self.held.node, self.failure)
                log.warning(
                    "Attempt %d of %d at node %s failed%s: %s",
                    self._attempts,
                    attempts,
                    self.held.node.id,
                    " for good" if error.permanent else "",
                    error,
                )
                if error.permanent or self._attempts >= attempts:
                    raise LaunchError(
                        f"label {self._label.name}: {error}", failure=error.failure
                    ) from error
            else:
                return

    def is_ready(self) -> bool:
        """Whether the node is ready, and its pods still are."""
        if self.held.node.state is not NodeState.READY:
            return False
        if self._label.type is LabelType.NAMESPACE:
            return True
        pods = self._site.cluster.pods(self.held.node.external_id or "")
        return diagnosis.why_unusable(pods, self._label.launch, self._label.replicas) is None

    async def write(self) -> None:
        """Write the ready node."""
        self.held = await self._site.store.write_node(self.held)
        self.written = True

    # --- one attempt ------------------------------------------------------------------------

    async def _attempt(self, number: int) -> None:
        self._steps = {}
        self._attempt_began = self._step_began = time.monotonic()
        self._figures.attempt_begins()
        objects = self._objects(number)
        if number:
            # Before the namespace exists: whoever finds the record finds the namespace.
            self.written = False
            await self._record(external_id=objects.namespace_name)
        async with self._queue.create_slots:
            access = await self._make_objects(objects)
        pod: Pod | None = None
        if self._label.type is LabelType.POD:
            pod = await self._wait_until_ready(objects)
            self._step_done("ready")
            if self._label.launch.ready_check == "exec":
                await self._check(objects, access)
                self._step_done("check")
        self._finish(objects, access, pod)

    async def _make_objects(self, objects: NodeObjects) -> AccessToken:
        """Make all that the node is made of; its pod starts while its siblings are made."""
        cluster = self._site.cluster
        self.waits_for = "its namespace"
        namespace = await self._ask(lambda: cluster.creator.create_namespace(objects))
        self._step_done("namespace")
        self.waits_for = "its objects in the cluster"
        access = self._ask(lambda: cluster.creator.create_access(objects))
        has_pod = self._label.type is LabelType.POD
        others = [self._post_pod(objects, namespace.uid)] if has_pod else []
        token = await gather_first(access, *others)
        self._step_done("objects")
        return token

    async def _post_pod(self, objects: NodeObjects, uid: str) -> None:
        # Fencing: the record with the namespace's UID, under a lock that is still ours,
        # comes before the pod. A launcher that froze meanwhile posts none.
        await self._record(driver_data=with_driver_data(self.held.node, uid=uid))
        await self._ask(lambda: self._site.cluster.creator.create_pod(objects))

    def _objects(self, attempt: int) -> NodeObjects:
        labels, warnings = dynamic_labels(self._label.dynamic_labels, self._request)
        for warning in warnings:
            log.warning("Label %s: %s", self._label.name, warning)
        return NodeObjects(
            deployment=self._site.cluster.deployment,
            provider=self._site.provider,
            pool=self._site.pool,
            label=self._label,
            node_id=self.held.node.id,
            attempt=attempt,
            dynamic_labels=labels,
            allocated=not self._request.for_spare,
        )

    async def _record(self, **changes: Any) -> None:
        self.held = await run_to_completion(
            self._site.store.write_node(self.held.evolve(**changes))
        )

    async def _ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make something in the cluster, to the end.

        Waits where a ResourceQuota is used up, and, for no longer than ``launch-timeout``,
        where the cluster cannot be reached. Raises LaunchError.
        """
        refusals, absences = Backoff(), Backoff()
        try:
            while True:
                try:
                    # When the session is over, the node is another launcher's to remove.
                    return await run_to_completion(
                        call(), is_pointless=lambda: self._site.store.session_over
                    )
                except KubernetesError as error:
                    if self._may_come_back(error):
                        self.waits_for = describe(error)
                        await absences.wait()
                        continue
                    judgement = diagnosis.judge(error)
                    if not isinstance(judgement, diagnosis.QuotaWait):
                        permanent = isinstance(judgement, diagnosis.Permanent)
                        raise LaunchError(
                            describe(error),
                            permanent=permanent,
                            failure=failures.of_refusal(error),
                        ) from error
                if not refusals.failures:
                    self._queue.refused_by_cluster(refused=True)
                    log.warning("Waiting, no attempt used up: %s", judgement.reason)
                self.waits_for = judgement.reason
                await refusals.wait()
        finally:
            if refusals.failures:
                self._queue.refused_by_cluster(refused=False)

    def _may_come_back(self, error: KubernetesError) -> bool:
        # All that is asked for here can be asked again: what is there already is taken over.
        waited = time.monotonic() - self._attempt_began
        return isinstance(error, ClusterUnreachable) and waited < self._label.launch.launch_timeout

    # --- waiting for the pod ----------------------------------------------------------------

    async def _wait_until_ready(self, objects: NodeObjects) -> Pod:
        cluster, namespace = self._site.cluster, objects.namespace_name
        posted = diagnosis.Observation(posted=time.monotonic())
        watch: diagnosis.Observations = dict.fromkeys(objects.pod_names, posted)
        while True:
            now = time.monotonic()
            pods = cluster.pods(namespace)
            verdict, watch = diagnosis.diagnose_all(pods, watch, now, self._label.launch)
            match verdict:
                case diagnosis.Ready(pod):
                    return pod
                case diagnosis.Wait(until, reason):
                    self.waits_for = reason
                    await cluster.changed(namespace, until - now)
                case diagnosis.Permanent(reason):
                    failure = self._failure(pods, timed_out=False)
                    text = await self._with_events(namespace, reason)
                    raise LaunchError(text, permanent=True, failure=failure)
                case diagnosis.Retryable(reason, timed_out):
                    failure = self._failure(pods, timed_out=timed_out)
                    text = await self._with_events(namespace, reason)
                    raise LaunchError(text, failure=failure)

    def _failure(self, pods: tuple[Pod, ...], *, timed_out: bool) -> failures.Failure:
        return failures.of_pods(pods, timed_out=timed_out, count=self._label.replicas)

    async def _check(self, objects: NodeObjects, access: AccessToken) -> None:
        """Run a command in each pod, as the node's requestor is about to.

        What may pass is tried again for a while, as long as the pods are there.
        """
        cluster, namespace = self._site.cluster, objects.namespace_name
        deadline = time.monotonic() + CHECK_SECONDS
        backoff = Backoff()
        self.waits_for = "its ready-check"
        while True:
            try:
                await cluster.creator.try_commands(namespace, objects.pod_names, access)
            except KubernetesError as error:
                pods = cluster.pods(namespace)
                count = self._label.replicas
                lost = diagnosis.why_unusable(pods, self._label.launch, count)
                if lost is not None:
                    raise LaunchError(lost, failure=self._failure(pods, timed_out=False)) from error
                self.waits_for = f"its ready-check: {describe(error)}"
                over = time.monotonic() >= deadline and not self._may_come_back(error)
                if isinstance(error, CommandNotStarted) or over:
                    reason = f"the ready-check failed: {describe(error)}"
                    text = await self._with_events(namespace, reason)
                    raise LaunchError(text, failure=failures.Failure.CHECK) from error
                await backoff.wait()
            else:
                return

    async def _with_events(self, namespace: str, reason: str) -> str:
        """The reason, with the cluster's last warnings: some causes appear only there."""
        try:
            events = await self._site.cluster.reader.events(namespace)
        except KubernetesError:
            events = []
        return "; ".join([reason, *events])

    # --- the ends of an attempt -----------------------------------------------------------

    async def _remove_attempt(self) -> None:
        """Delete a failed attempt's objects, so that the next one fits into the same quota."""
        namespace = self.held.node.external_id or ""
        grace = self._label.launch.deletion_grace
        backoff = Backoff()
        while True:
            try:
                await self._site.cluster.deleter.delete_node(namespace, grace)
                await self._site.cluster.deleter.pods_gone(namespace)
            except KubernetesError as error:
                log.warning("A failed attempt cannot be removed yet: %s", error)
                await backoff.wait()
            else:
                return

    def _finish(self, objects: NodeObjects, access: AccessToken, pod: Pod | None) -> None:
        log.info(
            "Node %s is ready: %s",
            self.held.node.id,
            ", ".join(f"{step} {seconds:.3f} s" for step, seconds in self._steps.items()),
        )
        self._figures.ready(self._steps)
        node = self.held.node
        self.held = self.held.move_to(
            NodeState.READY,
            time.time(),
            extra={**node.extra, **ready_fields(self._site, objects, access, pod)},
            driver_data=with_driver_data(
                node,
                steps={step: round(seconds, 4) for step, seconds in self._steps.items()},
                token_expires=access.expires,
                token_issued=time.time(),
            ),
        )

    def _step_done(self, name: str) -> None:
        now = time.monotonic()
        self._steps[name] = now - self._step_began
        self._step_began = now


def ready_fields(
    site: LaunchContext, objects: NodeObjects, access: AccessToken, pod: Pod | None
) -> dict[str, Any]:
    """What a requestor needs to use the node, in Nodepool's form."""
    cluster = site.cluster
    connection: dict[str, Any] = {
        "name": objects.namespace_name,
        "namespace": objects.namespace_name,
        "host": site.provider.api_server_url or cluster.api_url,
        "skiptls": cluster.skip_tls,
        "token": access.token,
        "user": "zuul-worker",
    }
    if not cluster.skip_tls and cluster.ca_crt is not None:
        connection["ca_crt"] = cluster.ca_crt
    fields: dict[str, Any] = {
        "cloud": site.provider.context,
        "connection_port": connection,
        "ssh_port": connection,
        "connection_type": "namespace",
        "python_path": objects.label.python_path,
        "shell_type": objects.label.shell_type,
        "attributes": dict(objects.pool.node_attributes) or None,
    }
    if pod is not None:
        connection["pod"] = pod.name
        fields |= {"connection_type": "kubectl", "interface_ip": pod.name, "host_id": pod.host}
    return fields
