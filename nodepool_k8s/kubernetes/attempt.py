"""One attempt at one node: creates its namespace, access and pods, and waits for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from nodepool_k8s.aio import run_to_completion, settle_all
from nodepool_k8s.backoff import Backoff
from nodepool_k8s.drivers.driver import AttemptContext
from nodepool_k8s.drivers.outcomes import (
    BackendTrouble,
    CapacityRefused,
    Created,
    Failure,
    Permanent,
    Ready,
    Retryable,
)
from nodepool_k8s.errors import CommandNotStarted, KubernetesError, describe
from nodepool_k8s.kubernetes import diagnosis, pod_failures
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.kubernetes.refusals import Meaning, is_unanswered, judge
from nodepool_k8s.manifests import NodeObjects
from nodepool_k8s.model import AccessToken, LabelType, Pod
from nodepool_k8s.policy.dynamic_labels import dynamic_labels

log = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
"""How long a ready-check that fails for transient reasons is repeated."""

STEPS = ("namespace", "objects", "ready", "check")
"""Of an attempt, in order."""

T = TypeVar("T")


class KubernetesAttempt:
    """Each attempt has a namespace of its own: the one before may still be Terminating."""

    def __init__(self, cluster: Cluster, context: AttemptContext) -> None:
        self._cluster = cluster
        self._context = context
        self._label = context.label
        self._launch = context.label.launch
        self._began = time.monotonic()
        self._objects = self._new_objects()
        self._namespace = self._objects.namespace_name
        # What an earlier call of ``create`` has done already.
        self._uid = ""
        self._access: AccessToken | None = None
        self._has_pods = False

    def _new_objects(self) -> NodeObjects:
        context = self._context
        labels, warnings = dynamic_labels(context.label.dynamic_labels, context.request)
        for warning in warnings:
            log.warning("Label %s: %s", context.label.name, warning)
        return NodeObjects(
            deployment=self._cluster.deployment,
            provider=context.provider,
            pool=context.pool,
            label=context.label,
            node_id=context.node_id,
            attempt=context.number,
            dynamic_labels=labels,
            allocated=not context.request.for_spare,
        )

    # --- creating -------------------------------------------------------------------------------

    async def create(
        self,
    ) -> Created | CapacityRefused | BackendTrouble | Retryable | Permanent:
        """Create the namespace, then access and pods concurrently."""
        try:
            await self._create_namespace()
            self._context.report("its objects in the cluster")
            await settle_all([self._create_access(), self._create_pods()])
        except KubernetesError as error:
            return self._refused(error)
        self._context.step_done("objects")
        return Created()

    async def _create_namespace(self) -> None:
        if self._uid:
            return
        self._context.report("its namespace")
        creator = self._cluster.creator
        namespace = await self._call(lambda: creator.create_namespace(self._objects))
        self._uid = namespace.uid
        self._context.step_done("namespace")

    async def _create_access(self) -> None:
        if self._access is None:
            creator = self._cluster.creator
            self._access = await self._call(lambda: creator.create_access(self._objects))

    async def _create_pods(self) -> None:
        if self._label.type is not LabelType.POD or self._has_pods:
            return
        # Fencing: the record with the namespace's UID, under a lock that is still ours,
        # is written before the pod. A launcher that lost its lock creates no pod.
        await self._context.record({"uid": self._uid})
        await self._call(lambda: self._cluster.creator.create_pod(self._objects))
        self._has_pods = True

    async def _call(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        # Finish even if cancelled: a pending creation must not race with the deletion.
        return await run_to_completion(call(), is_pointless=self._context.is_pointless)

    @staticmethod
    def _refused(
        error: KubernetesError,
    ) -> CapacityRefused | BackendTrouble | Retryable | Permanent:
        if is_unanswered(error):
            return BackendTrouble(describe(error))
        refusal = judge(error)
        match refusal.meaning:
            case Meaning.CAPACITY:
                return CapacityRefused(refusal.reason)
            case Meaning.PERMANENT:
                return Permanent(refusal.reason, refusal.failure)
            case Meaning.RETRYABLE | Meaning.TRANSIENT:
                # A transient one was retried for some seconds already.
                return Retryable(refusal.reason, refusal.failure)

    # --- waiting --------------------------------------------------------------------------------

    async def wait_ready(self) -> Ready | Retryable | Permanent:
        """Wait for the pods, diagnosed at each change, and run the ready-check."""
        if self._label.type is LabelType.NAMESPACE:
            return self._ready(None)
        outcome = await self._wait_for_pods()
        if not isinstance(outcome, Pod):
            return outcome
        self._context.step_done("ready")
        if self._launch.ready_check == "exec":
            failed = await self._check()
            if failed is not None:
                return failed
            self._context.step_done("check")
        return self._ready(outcome)

    async def _wait_for_pods(self) -> Pod | Retryable | Permanent:
        posted = diagnosis.Observation(posted=time.monotonic())
        seen: diagnosis.Observations = dict.fromkeys(self._objects.pod_names, posted)
        while True:
            now = time.monotonic()
            pods = self._cluster.pods(self._namespace)
            verdict, seen = diagnosis.diagnose_all(pods, seen, now, self._launch)
            match verdict:
                case diagnosis.PodReady(pod):
                    return pod
                case diagnosis.PodPending(until, reason):
                    self._context.report(reason)
                    await self._cluster.changed(self._namespace, until - now)
                case diagnosis.PodRejected(reason):
                    failure = self._failure(pods, timed_out=False)
                    return Permanent(await self._with_events(reason), failure)
                case diagnosis.PodFailed(reason, timed_out):
                    failure = self._failure(pods, timed_out=timed_out)
                    return Retryable(await self._with_events(reason), failure)

    def _failure(self, pods: tuple[Pod, ...], *, timed_out: bool) -> Failure:
        return pod_failures.of_pods(pods, timed_out=timed_out, count=self._label.replicas)

    async def _check(self) -> Retryable | None:
        """Run a command in each pod with the requestor's token.

        Transient failures are retried for a while, as long as the pods are usable.
        """
        assert self._access is not None
        deadline = time.monotonic() + CHECK_SECONDS
        backoff = Backoff()
        self._context.report("its ready-check")
        while True:
            try:
                await self._cluster.creator.try_commands(
                    self._namespace, self._objects.pod_names, self._access
                )
            except KubernetesError as error:
                lost = self._why_unusable()
                if lost is not None:
                    pods = self._cluster.pods(self._namespace)
                    return Retryable(lost, self._failure(pods, timed_out=False))
                self._context.report(f"its ready-check: {describe(error)}")
                late = time.monotonic() >= deadline and not self._may_come_back(error)
                if isinstance(error, CommandNotStarted) or late:
                    reason = f"the ready-check failed: {describe(error)}"
                    return Retryable(await self._with_events(reason), Failure.CHECK)
                await backoff.wait()
            else:
                return None

    def _may_come_back(self, error: KubernetesError) -> bool:
        waited = time.monotonic() - self._began
        return is_unanswered(error) and waited < self._launch.launch_timeout

    async def _with_events(self, reason: str) -> str:
        """Append the last Warning events to the reason: some causes appear only there."""
        try:
            events = await self._cluster.reader.events(self._namespace)
        except KubernetesError:
            events = []
        return "; ".join([reason, *events])

    def is_ready(self) -> bool:
        """Whether its pods are still usable."""
        return self._label.type is LabelType.NAMESPACE or self._why_unusable() is None

    def _why_unusable(self) -> str | None:
        pods = self._cluster.pods(self._namespace)
        return diagnosis.why_unusable(pods, self._launch, self._label.replicas)

    # --- the end of an attempt --------------------------------------------------------------

    async def remove(self, grace: float) -> None:
        """Delete the attempt's objects; returns when its pods are gone."""
        await self._cluster.deleter.delete_node(self._namespace, grace)
        await self._cluster.deleter.pods_gone(self._namespace)

    def _ready(self, pod: Pod | None) -> Ready:
        assert self._access is not None
        return Ready(
            fields=self._record_fields(self._access, pod),
            driver_data={"token_expires": self._access.expires, "token_issued": time.time()},
        )

    def _record_fields(self, access: AccessToken, pod: Pod | None) -> dict[str, Any]:
        """What a requestor needs to use the node, in Nodepool's form."""
        cluster, provider = self._cluster, self._context.provider
        connection: dict[str, Any] = {
            "name": self._namespace,
            "namespace": self._namespace,
            "host": provider.api_server_url or cluster.api_url,
            "skiptls": cluster.skip_tls,
            "token": access.token,
            "user": "zuul-worker",
        }
        if not cluster.skip_tls and cluster.ca_crt is not None:
            connection["ca_crt"] = cluster.ca_crt
        fields: dict[str, Any] = {
            "cloud": provider.context,
            "connection_port": connection,
            "ssh_port": connection,
            "connection_type": "namespace",
            "python_path": self._label.python_path,
            "shell_type": self._label.shell_type,
            "attributes": dict(self._context.pool.node_attributes) or None,
        }
        if pod is not None:
            connection["pod"] = pod.name
            fields |= {"connection_type": "kubectl", "interface_ip": pod.name, "host_id": pod.host}
        return fields
