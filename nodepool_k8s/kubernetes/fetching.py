"""Reads objects from the API server: watches lag, and events are not watched."""

from __future__ import annotations

from nodepool_k8s.errors import NotFound
from nodepool_k8s.kubernetes.client import METADATA_LIST, ApiClient, Object
from nodepool_k8s.kubernetes.parsing import (
    list_items,
    namespace_record,
    optional_integer,
    optional_text,
    parsing,
    pod_record,
    required_text,
)
from nodepool_k8s.kubernetes.reflector import PAGE
from nodepool_k8s.kubernetes.retrying import NAMESPACES, RetryingClient, path_in
from nodepool_k8s.manifests import DEPLOYMENT_LABEL
from nodepool_k8s.model import Namespace, Pod

EVENTS_SHOWN = 5


class ObjectReader:
    """Reads what one deployment has in a cluster. Everything raises KubernetesError."""

    def __init__(self, client: ApiClient, deployment: str) -> None:
        self._client = client
        self._calls = RetryingClient(client)
        self._ours = f"{DEPLOYMENT_LABEL}={deployment}"

    async def list_namespaces(self) -> tuple[Namespace, ...]:
        """The deployment's namespaces."""
        found: list[Namespace] = []
        query: dict[str, str | int] = {"labelSelector": self._ours, "limit": PAGE}
        while True:
            page = await self._calls.get(NAMESPACES, query, METADATA_LIST)
            with parsing("the list of namespaces"):
                found.extend(namespace_record(raw) for raw in list_items(page))
                more = optional_text(page["metadata"], "continue")
            if not more:
                return tuple(found)
            query["continue"] = more

    async def get_namespace(self, name: str) -> Namespace | None:
        """The namespace of that name, of any owner; None where it does not exist."""
        try:
            return namespace_record(await self._calls.get(path_in(name)))
        except NotFound:
            return None

    async def list_pods(self, namespace: str) -> tuple[Pod, ...]:
        """The deployment's pods in a namespace."""
        query: dict[str, str | int] = {"labelSelector": self._ours, "limit": PAGE}
        page = await self._calls.get(path_in(namespace, "pods"), query)
        with parsing(f"the list of pods in {namespace}"):
            return tuple(pod_record(raw) for raw in list_items(page))

    async def has_pods(self, namespace: str) -> bool:
        """Whether pods of the deployment are in a namespace; others do not count."""
        query: dict[str, str | int] = {"limit": 1, "labelSelector": self._ours}
        page = await self._calls.get(path_in(namespace, "pods"), query, METADATA_LIST)
        with parsing(f"the list of pods in {namespace}"):
            return bool(list_items(page))

    async def events(self, namespace: str) -> list[str]:
        """The last Warning events of a namespace: some causes appear nowhere else."""
        query: dict[str, str | int] = {"fieldSelector": "type=Warning", "limit": PAGE}
        page = await self._client.get(path_in(namespace, "events"), query)
        with parsing(f"the list of events in {namespace}"):
            found = sorted(list_items(page), key=_event_time)
            return [_event_text(event) for event in found[-EVENTS_SHOWN:]]

    async def namespace_blockers(self, name: str) -> list[str]:
        """The conditions of a namespace that stays Terminating."""
        try:
            namespace = await self._client.get(path_in(name))
        except NotFound:
            return []
        with parsing(f"namespace {name}"):
            return [
                f"{required_text(condition['type'])}: {optional_text(condition, 'message')}"
                for condition in (namespace.get("status") or {}).get("conditions") or ()
                if condition.get("status") == "True"
            ]


def _event_time(event: Object) -> str:
    series = event.get("series") or {}
    return (
        optional_text(series, "lastObservedTime")
        or optional_text(event, "lastTimestamp")
        or optional_text(event, "eventTime")
        or optional_text(event.get("metadata") or {}, "creationTimestamp")
    )


def _event_text(event: Object) -> str:
    count = optional_integer(event, "count", 1)
    times = f" ({count} times)" if count > 1 else ""
    return f"{optional_text(event, 'reason')}: {optional_text(event, 'message')}{times}"
