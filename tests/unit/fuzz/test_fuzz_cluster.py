"""Everything that is done to a cluster, against an API server that answers what it likes.

Each call does what it promises or says, as an error of ours, what was wrong; none waits for
ever, and no error shows a token.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from yarl import URL

from nodepool_k8s.config.settings import AccessTokenSettings, Label, Pool, Provider
from nodepool_k8s.drivers.outcomes import Failure
from nodepool_k8s.errors import KubernetesError, describe
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.kubernetes.refusals import judge
from nodepool_k8s.manifests import NodeObjects
from nodepool_k8s.model import AccessToken, LabelType, Namespace, Pod
from tests.support import virtualtime
from tests.support.fuzzing import TOKEN, fuzzed
from tests.support.objects import ODD_ANSWERS, broken, pods
from tests.support.scripted import Answer, ScriptedClient

LONGEST_SECONDS = 900.0
"""Six tries of one call with the longest Retry-After between them, and another call so."""
FAULTS = 7
"""One more than a call is tried."""

LABEL = Label("fedora", LabelType.POD, image="fedora")
POOL = Pool("p", "main", {"fedora": LABEL})
OBJECTS = NodeObjects("uuid", Provider("p", None, (POOL,)), POOL, LABEL, "0000000001")
NAME = OBJECTS.namespace_name

Operation = Callable[[Cluster], Coroutine[Any, Any, Any]]


async def start(cluster: Cluster) -> None:
    await cluster.start(lambda name, task: asyncio.create_task(task, name=name))


OPERATIONS: Mapping[str, tuple[Operation, type | tuple[type, ...]]] = {
    "start": (start, type(None)),
    "list_namespaces": (lambda cluster: cluster.reader.list_namespaces(), tuple),
    "get_namespace": (lambda cluster: cluster.reader.get_namespace(NAME), (Namespace, type(None))),
    "list_pods": (lambda cluster: cluster.reader.list_pods(NAME), tuple),
    "events": (lambda cluster: cluster.reader.events(NAME), list),
    "namespace_blockers": (lambda cluster: cluster.reader.namespace_blockers(NAME), list),
    "create_namespace": (lambda cluster: cluster.creator.create_namespace(OBJECTS), Namespace),
    "create_access": (lambda cluster: cluster.creator.create_access(OBJECTS), AccessToken),
    "create_pod": (lambda cluster: cluster.creator.create_pod(OBJECTS), Pod),
    "create_token": (
        lambda cluster: cluster.creator.create_token(NAME, AccessTokenSettings()),
        AccessToken,
    ),
    "secret token": (
        lambda cluster: cluster.creator.create_token(NAME, AccessTokenSettings("secret")),
        AccessToken,
    ),
    "patch_pod": (lambda cluster: cluster.creator.patch_pod(NAME, "fedora", {}), type(None)),
    "patch_namespace": (lambda cluster: cluster.creator.patch_namespace(NAME, {}), type(None)),
    "delete_node": (lambda cluster: cluster.deleter.delete_node(NAME, 3), type(None)),
    "pods_gone": (lambda cluster: cluster.deleter.pods_gone(NAME), type(None)),
    "namespace_gone": (lambda cluster: cluster.deleter.namespace_gone(NAME), type(None)),
}

EVENTS = st.lists(
    st.fixed_dictionaries(
        {"reason": st.just("FailedMount"), "message": st.just("no such volume")},
        optional={
            "count": st.integers(1, 5),
            "lastTimestamp": st.just("2026-01-01T00:00:00Z"),
            "series": st.just({"lastObservedTime": "2026-01-01T00:00:00Z"}),
        },
    ),
    max_size=3,
)


class Server:
    """Answers as an API server does, but for a few of the answers, which are anything."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.faults = data.draw(st.integers(0, FAULTS))

    async def answer(self, method: str, url: URL, body: str) -> Answer:
        usual = self.usual(method, url.path, json.loads(body) if body else {})
        if not self.faults:
            return Answer(200, json.dumps(usual).encode())
        self.faults -= 1
        kind = self.data.draw(st.integers(0, 2))
        if kind == 0:
            odd = self.data.draw(ODD_ANSWERS)
            if isinstance(odd, Exception):
                raise odd
            return odd
        answer = self.data.draw(broken(st.just(usual))) if kind == 1 else usual
        return Answer(200, json.dumps(answer).encode())

    def usual(self, method: str, path: str, body: Any) -> Any:
        if path.endswith("/token"):
            return {"status": {"token": TOKEN, "expirationTimestamp": "2026-01-01T00:00:00Z"}}
        if path.endswith("selfsubjectaccessreviews"):
            return {"status": {"allowed": True}}
        if method == "POST":
            return self.made(body)
        if method == "GET":
            return self.found(path)
        return {}

    @staticmethod
    def made(manifest: Any) -> Any:
        about = {"name": "x", **manifest.get("metadata", {})}
        return {**manifest, "metadata": {**about, "uid": "uid", "resourceVersion": "1"}}

    def found(self, path: str) -> Any:
        place, _, last = path.rpartition("/")
        if last == "events":
            return {"metadata": {"resourceVersion": "1"}, "items": self.data.draw(EVENTS)}
        if last == "namespaces":
            items = [self.made(OBJECTS.namespace())]
            return {"metadata": {"resourceVersion": "1"}, "items": items}
        if last == "pods":
            items = self.data.draw(st.lists(pods(), max_size=1)) if self.faults else []
            return {"metadata": {"resourceVersion": "1"}, "items": items}
        if place.endswith("/secrets"):
            token = base64.b64encode(TOKEN.encode()).decode()
            return {"metadata": {"name": last}, "data": {"token": token}}
        if place.endswith("/namespaces"):
            labels = OBJECTS.namespace()["metadata"]["labels"] if self.faults else {}
            conditions = [{"type": "NamespaceFinalizersRemaining", "status": "True"}]
            return {
                "metadata": {"name": last, "uid": "uid", "labels": labels},
                "status": {"conditions": conditions},
            }
        return self.made(OBJECTS.pod())


def unwatched(_name: str, watch: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start nothing: the mirror shows nothing."""
    watch.close()
    return asyncio.create_task(asyncio.sleep(0))


async def play(operation: Operation, server: Server) -> Any:
    """What an operation returned, or the error that it raised."""
    client = ScriptedClient(server.answer)
    await client.connect()
    cluster = Cluster(OBJECTS.provider, OBJECTS.deployment, client)
    cluster._begin(unwatched, "ClusterRole")
    try:
        return await operation(cluster)
    except KubernetesError as error:
        return error
    finally:
        assert asyncio.get_running_loop().time() < LONGEST_SECONDS
        await cluster.close()


@fuzzed(100)
@given(st.sampled_from(sorted(OPERATIONS)), st.data())
def test_each_call_does_what_it_promises_or_says_what_was_wrong(
    name: str, data: st.DataObject
) -> None:
    operation, promised = OPERATIONS[name]
    logging.disable(logging.WARNING)
    try:
        outcome = virtualtime.run(play(operation, Server(data)))
    finally:
        logging.disable(logging.NOTSET)
    if isinstance(outcome, KubernetesError):
        event(f"{name}: {type(outcome).__name__}")
        assert describe(outcome)
        assert TOKEN not in describe(outcome)
        assert judge(outcome).reason
        assert judge(outcome).failure is not Failure.UNKNOWN
        return
    assert isinstance(outcome, promised)
    if isinstance(outcome, AccessToken):
        assert isinstance(outcome.token, str)
        assert outcome.token
    if isinstance(outcome, list):
        assert all(isinstance(line, str) for line in outcome)
