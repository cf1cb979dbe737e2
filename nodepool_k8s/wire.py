"""How records look in ZooKeeper: paths of znodes, and JSON.

Nodepool's and Zuul's form, with every key that this launcher does not use kept as
it was read. Pure: reads and makes bytes, knows no client. Sources of the form:
``Node.toDict`` and ``NodeRequest.toDict`` of Nodepool 11, and what Zuul 14 reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote

from nodepool_k8s.errors import MalformedRecord
from nodepool_k8s.model import (
    EMPTY,
    Component,
    Home,
    LabelType,
    Node,
    NodeRequest,
    NodeState,
    Phase,
    Progress,
    RequestState,
    Resources,
)

NODEPOOL = "/nodepool"
REQUESTS = "/nodepool/requests"
REQUEST_LOCKS = "/nodepool/requests-lock"
NODES = "/nodepool/nodes"
POOL_COMPONENTS = "/nodepool/components/pool"

OWN = "/nodepool-k8s"
"""Our own root: never under a path that Nodepool lists."""
DEPLOYMENT = "/nodepool-k8s/deployment"
LEDGERS = "/nodepool-k8s/ledger"
TENANT_LEDGERS = "/nodepool-k8s/tenants"
MIN_READY_OWNERS = "/nodepool-k8s/min-ready"
"""One ephemeral znode a label, of the launcher that asks for its spare nodes."""
HOMES = "/nodepool-k8s/clusters"
PROGRESS = "/nodepool-k8s/progress"
"""One ephemeral znode a request that asks to be told what it waits for."""

LOCK_INFIX = "__lock__"
"""Between the contender's UUID and the sequence, in kazoo's lock recipe."""

DRIVER_KEY = "nodepool_k8s"
"""Our key in a node's ``driver_data``, and in a request for the reasons of a refusal."""

MAX_TRANSACTION = 512 * 1024
"""Bytes of record data in one transaction: half of jute's 1 MiB, to leave room for paths."""


# --- paths ---------------------------------------------------------------------------


def request_path(request_id: str) -> str:
    """The znode of a request."""
    return f"{REQUESTS}/{request_id}"


def request_lock_path(request_id: str) -> str:
    """The lock of a request; never a child of the request, or Zuul's delete would fail."""
    return f"{REQUEST_LOCKS}/{request_id}"


def node_path(node_id: str) -> str:
    """The znode of a node."""
    return f"{NODES}/{node_id}"


def node_lock_path(node_id: str) -> str:
    """The lock of a node."""
    return f"{NODES}/{node_id}/lock"


def ledger_path(provider: str, pool: str) -> str:
    """The quota ledger of a pool; names are quoted, as a znode's name may hold no slash."""
    return f"{LEDGERS}/{quote(provider, safe='')}/{quote(pool, safe='')}"


def pool_of_ledger(path: str) -> tuple[str, str] | None:
    """Provider and pool of a ledger's path; None for another path."""
    parts = path.removeprefix(LEDGERS + "/").split("/")
    return (unquote(parts[0]), unquote(parts[1])) if len(parts) == 2 else None


def tenant_ledger_path(tenant: str) -> str:
    """The quota ledger of a tenant, over all pools."""
    return f"{TENANT_LEDGERS}/{quote(tenant, safe='')}"


def tenant_of_ledger(path: str) -> str | None:
    """The tenant of a ledger's path; None for another path."""
    root, _, name = path.rpartition("/")
    return unquote(name) if root == TENANT_LEDGERS and name else None


def min_ready_path(label: str) -> str:
    """The znode of the launcher that asks for a label's spare nodes."""
    return f"{MIN_READY_OWNERS}/{quote(label, safe='')}"


def label_of_min_ready(path: str) -> str | None:
    """The label of such a path; None for another path."""
    root, _, name = path.rpartition("/")
    return unquote(name) if root == MIN_READY_OWNERS and name else None


def home_path(home: Home) -> str:
    """Where it is kept that a provider has, or had, nodes in a cluster."""
    return f"{HOMES}/{quote(f'{home.provider}@{home.cluster}', safe='')}"


def progress_path(request_id: str) -> str:
    """Where a launcher writes what a request waits for, if that wants to know."""
    return f"{PROGRESS}/{request_id}"


def request_of_progress(path: str) -> str | None:
    """The request of such a path; None for another path."""
    root, _, name = path.rpartition("/")
    return name if root == PROGRESS and name else None


# --- JSON ------------------------------------------------------------------------------


def _decode(data: bytes, what: str) -> dict[str, Any]:
    if not data:
        raise MalformedRecord(f"{what} is empty; expected a JSON object")
    try:
        value = _loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedRecord(f"{what} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise MalformedRecord(f"{what} holds a {type(value).__name__}; expected a JSON object")
    if data.count(b"[") + data.count(b"{") > DEEPEST and _is_deep(value):
        raise MalformedRecord(f"{what} is nested more than {DEEPEST} deep")
    return value


def _loads(data: bytes) -> Any:
    value = json.loads(data.decode())
    if b"\\u" not in data:
        return value
    # Half of a surrogate pair can be written in JSON, and then nowhere else: neither to a
    # path or a terminal nor into another record. A question mark can.
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


DEEPEST = 100
"""Levels of a record; what goes through its values calls itself for each."""


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
    return bool(level)


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _strings(value: object, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):  # Nodepool once wrote a node's type as a plain string.
        return (value,)
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return tuple(value)
    raise MalformedRecord(f"{what} is {value!r:.80}; expected a list of strings")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


LARGEST = 1e15
"""Nothing here is larger: Python's JSON reads NaN, Infinity and any number of digits as well."""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -LARGEST <= value <= LARGEST else None


# --- requests ---------------------------------------------------------------------------

_REQUEST_KEYS = frozenset(
    [
        "state",
        "state_time",
        "node_types",
        "nodes",
        "requestor",
        "requestor_data",
        "provider",
        "relative_priority",
        "event_id",
        "tenant_name",
        "created_time",
        "declined_by",
    ]
)


def parse_request(request_id: str, data: bytes, version: int) -> NodeRequest:
    """Read a request's znode.

    Raises MalformedRecord where it is not a JSON object, has no known state, or no
    list of labels; everything else has a default, as Nodepool's own reading has.
    """
    what = f"request {request_id}"
    raw = _decode(data, what)
    try:
        state = RequestState(str(raw.get("state")))
    except ValueError as error:
        raise MalformedRecord(f"{what} has state {raw.get('state')!r:.40}") from error
    if "node_types" not in raw:
        raise MalformedRecord(f"{what} lacks node_types, the list of labels it asks for")
    if "-" not in request_id:
        raise MalformedRecord(f"{what} is not named <priority>-<sequence>")
    return NodeRequest(
        id=request_id,
        state=state,
        node_types=_strings(raw["node_types"], f"{what}: node_types"),
        nodes=_strings(raw.get("nodes"), f"{what}: nodes"),
        requestor=_text(raw.get("requestor")) or "",
        requestor_data=raw.get("requestor_data"),
        provider=_text(raw.get("provider")),
        relative_priority=int(_number(raw.get("relative_priority")) or 0),
        event_id=_text(raw.get("event_id")),
        tenant_name=_text(raw.get("tenant_name")),
        created_time=_number(raw.get("created_time")),
        state_time=_number(raw.get("state_time")) or 0.0,
        declined_by=_strings(raw.get("declined_by"), f"{what}: declined_by"),
        extra={key: value for key, value in raw.items() if key not in _REQUEST_KEYS},
        version=version,
    )


def encode_request(request: NodeRequest) -> bytes:
    """Write a request as Zuul and Nodepool read it."""
    return _encode(
        {
            **request.extra,
            "state": request.state.value,
            "state_time": request.state_time,
            "declined_by": list(request.declined_by),
            "node_types": list(request.node_types),
            "nodes": list(request.nodes),
            "requestor": request.requestor,
            "requestor_data": request.requestor_data,
            "provider": request.provider,
            "relative_priority": request.relative_priority,
            "event_id": request.event_id,
            "created_time": request.created_time,
            "tenant_name": request.tenant_name,
        }
    )


def refusal_reasons(request: NodeRequest) -> tuple[str, ...]:
    """Why pools of ours refused the request, as they wrote it into the request."""
    reasons = _own(request).get("reasons")
    return tuple(str(reason) for reason in reasons) if isinstance(reasons, list) else ()


def with_reasons(request: NodeRequest, reasons: tuple[str, ...]) -> Mapping[str, Any]:
    """The request's ``extra`` with more reasons of a refusal."""
    own = {**_own(request), "reasons": [*refusal_reasons(request), *reasons]}
    return {**request.extra, DRIVER_KEY: own}


def _own(request: NodeRequest) -> Mapping[str, Any]:
    own = request.extra.get(DRIVER_KEY)
    return own if isinstance(own, dict) else EMPTY


SPARE = MappingProxyType({"reuse": False, DRIVER_KEY: {"spare": True}})
"""The ``extra`` of a request for a spare node that a launcher of ours made."""


def is_own_spare(request: NodeRequest) -> bool:
    """Whether a launcher of ours asked for that spare node (as far as the request still says)."""
    return request.for_spare and _own(request).get("spare") is True


def wants_progress(request: NodeRequest) -> bool:
    """Whether the requestor wants to be told what the request waits for."""
    return request.extra.get("progress") is True


WITH_PROGRESS: Mapping[str, Any] = MappingProxyType({"progress": True})
"""The ``extra`` of a request that wants that."""


# --- progress -----------------------------------------------------------------------------


def encode_progress(progress: Progress) -> bytes:
    """Write what a request waits for; what does not apply is left out."""
    fields = {
        "state": progress.phase.value,
        "pool": progress.pool,
        "position": progress.position,
        "node": progress.node,
        "step": progress.step,
        "why": progress.why,
    }
    return _encode({key: value for key, value in fields.items() if value is not None})


def parse_progress(request_id: str, data: bytes) -> Progress:
    """Read what a request waits for.

    Raises MalformedRecord where it is not a JSON object, or its state is none that is
    known; all else that cannot be read is taken for missing.
    """
    what = f"the progress of request {request_id}"
    raw = _decode(data, what)
    try:
        phase = Phase(str(raw.get("state")))
    except ValueError as error:
        expected = " or ".join(Phase)
        raise MalformedRecord(
            f"{what} has state {raw.get('state')!r:.40}; expected {expected}"
        ) from error
    position = _number(raw.get("position"))
    return Progress(
        phase=phase,
        pool=_text(raw.get("pool")) or "",
        why=_text(raw.get("why")) or "",
        position=int(position) if position is not None and position >= 1 else None,
        node=_text(raw.get("node")),
        step=_text(raw.get("step")),
    )


# --- nodes --------------------------------------------------------------------------------

_NODE_DEFAULTS: Mapping[str, Any] = {
    "cloud": None,
    "az": None,
    "region": None,
    "public_ipv4": None,
    "private_ipv4": None,
    "public_ipv6": None,
    "host_id": None,
    "interface_ip": None,
    "connection_port": 22,
    "ssh_port": 22,
    "image_id": None,
    "hostname": None,
    "comment": None,
    "user_data": None,
    "hold_job": None,
    "host_keys": [],
    "username": None,
    "connection_type": None,
    "shell_type": None,
    "hold_expiration": None,
    "slot": None,
    "attributes": None,
    "python_path": None,
    "node_properties": {},
}

_NODE_KEYS = frozenset(
    [
        "state",
        "state_time",
        "type",
        "provider",
        "pool",
        "launcher",
        "allocated_to",
        "tenant_name",
        "requestor",
        "external_id",
        "created_time",
        "resources",
        "driver_data",
    ]
)


def parse_node(node_id: str, data: bytes, version: int) -> Node:
    """Read a node's znode.

    Raises MalformedRecord where it is not a JSON object or has no known state.
    """
    what = f"node {node_id}"
    raw = _decode(data, what)
    try:
        state = NodeState(str(raw.get("state")))
    except ValueError as error:
        raise MalformedRecord(f"{what} has state {raw.get('state')!r:.40}") from error
    driver_data = raw.get("driver_data")
    driver_data = driver_data if isinstance(driver_data, dict) else EMPTY
    return Node(
        id=node_id,
        state=state,
        type=_strings(raw.get("type"), f"{what}: type"),
        provider=_text(raw.get("provider")),
        pool=_text(raw.get("pool")),
        launcher=_text(raw.get("launcher")),
        allocated_to=_text(raw.get("allocated_to")),
        tenant_name=_text(raw.get("tenant_name")),
        requestor=_text(raw.get("requestor")),
        external_id=_text(raw.get("external_id")),
        created_time=_number(raw.get("created_time")),
        state_time=_number(raw.get("state_time")) or 0.0,
        resources=_resources(raw.get("resources")),
        claimed=_claimed(driver_data),
        counted_for=_counted_for(driver_data),
        driver_data=driver_data,
        extra={key: value for key, value in raw.items() if key not in _NODE_KEYS},
        version=version,
    )


def _resources(value: object) -> Resources | None:
    if not isinstance(value, dict):
        return None
    numbers = {str(name): _number(amount) for name, amount in value.items()}
    return Resources.from_numbers(
        {name: amount for name, amount in numbers.items() if amount is not None and amount > 0}
    )


def _claimed(driver_data: Mapping[str, Any]) -> Resources | None:
    own = driver_data.get(DRIVER_KEY)
    claimed = own.get("claimed") if isinstance(own, dict) else None
    return Resources(_milli(claimed, "claimed")) if isinstance(claimed, dict) else None


def _counted_for(driver_data: Mapping[str, Any]) -> str | None:
    own = driver_data.get(DRIVER_KEY)
    return _text(own.get("tenant")) if isinstance(own, dict) else None


def encode_node(node: Node) -> bytes:
    """Write a node with every key that Nodepool's own records have."""
    driver_data = dict(node.driver_data)
    if node.claimed is not None:
        own = driver_data.get(DRIVER_KEY)
        own = own if isinstance(own, dict) else {}
        counts = {"claimed": dict(node.claimed), "tenant": node.counted_for}
        driver_data[DRIVER_KEY] = {**own, **counts}
    return _encode(
        {
            **_NODE_DEFAULTS,
            **node.extra,
            "state": node.state.value,
            "state_time": node.state_time,
            "type": list(node.type),
            "provider": node.provider,
            "pool": node.pool,
            "launcher": node.launcher,
            "allocated_to": node.allocated_to,
            "tenant_name": node.tenant_name,
            "requestor": node.requestor,
            "external_id": node.external_id,
            "created_time": node.created_time,
            "resources": _resource_numbers(node.resources),
            "driver_data": driver_data or None,
        }
    )


def _resource_numbers(resources: Resources | None) -> dict[str, int | float] | None:
    # Nodepool writes these three for every node, a namespace's zeros included.
    if resources is None:
        return None
    return {"cores": 0, "ram": 0, "instances": 0, **resources.numbers()}


def own_data(node: Node) -> Mapping[str, Any]:
    """What this launcher keeps in the node's ``driver_data``."""
    own = node.driver_data.get(DRIVER_KEY)
    return own if isinstance(own, dict) else EMPTY


KEPT_KEYS = (
    "hold_expiration",
    "hold_job",
    "comment",
    "user_data",
    "hostname",
    "host_id",
    "interface_ip",
    "public_ipv4",
    "private_ipv4",
    "public_ipv6",
    "connection_type",
)


def slim(node: Node) -> Node:
    """The node as it is kept in memory: without tokens and certificates, or what is null."""
    kept = {key: value for key in KEPT_KEYS if (value := node.extra.get(key)) is not None}
    return replace(node, extra=kept or EMPTY)


def hold_expiration(node: Node) -> float | None:
    """Seconds that whoever holds the node wants to have it held; None: for ever."""
    value = node.extra.get("hold_expiration")
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)  # Zuul once wrote it as text.
    seconds = _number(value)
    return seconds if seconds is not None and seconds > 0 else None


def token_times(node: Node) -> tuple[float | None, float]:
    """When the node's token ends (None: never) and when it was granted, since the epoch."""
    own = own_data(node)
    return _number(own.get("token_expires")), _number(own.get("token_issued")) or node.state_time


def wants_reuse(request: NodeRequest) -> bool:
    """Whether a ready node will do, or the request insists on new ones."""
    return request.extra.get("reuse") is not False


def replicas_of(node: Node) -> int:
    """Of how many pods a node with pods is made."""
    count = own_data(node).get("replicas")
    return count if isinstance(count, int) and count > 0 else 1


def ends_with_pods(node: Node) -> bool:
    """Whether all that a node takes is free when its pods are gone.

    Of a namespace, and of what outlives its pods (claims, load balancers), only when the
    namespace is.
    """
    own = own_data(node)
    return own.get("type") == LabelType.POD.value and not own.get("outlives_pods")


def with_own_data(node: Node, **data: object) -> Mapping[str, Any]:
    """The node's ``driver_data`` with more of our own in it."""
    return {**node.driver_data, DRIVER_KEY: {**own_data(node), **data}}


def home_of(node: Node) -> Home | None:
    """The cluster that the node was made in; None where its record does not say."""
    return _home({**own_data(node), "provider": node.provider})


def parse_home(name: str, data: bytes) -> Home:
    """Read which cluster a provider has nodes in. Raises MalformedRecord."""
    home = _home(_decode(data, f"cluster {name}"))
    if home is None:
        raise MalformedRecord(f"cluster {name} lacks its provider or what tells it from others")
    return home


def _home(raw: Mapping[str, Any]) -> Home | None:
    provider, cluster = _text(raw.get("provider")), _text(raw.get("cluster"))
    return Home(provider, _text(raw.get("context")), cluster) if provider and cluster else None


def encode_home(home: Home) -> bytes:
    """Write which cluster a provider has nodes in."""
    return _encode({"provider": home.provider, "context": home.context, "cluster": home.cluster})


# --- the quota ledger ---------------------------------------------------------------------


def parse_ledger(data: bytes) -> Resources:
    """Read a ledger: what its claimed nodes hold, in thousandths.

    Raises MalformedRecord; an empty znode is an empty ledger.
    """
    if not data:
        return Resources()
    return Resources(_milli(_decode(data, "quota ledger").get("claimed", {}), "quota ledger"))


def encode_ledger(claimed: Resources) -> bytes:
    """Write a ledger."""
    return _encode({"claimed": dict(claimed)})


def _milli(value: object, what: str) -> dict[str, int]:
    if not isinstance(value, dict) or not all(map(_is_amount, value.values())):
        raise MalformedRecord(f"{what} is {value!r:.80}; expected whole thousandths by name")
    return value


def _is_amount(value: object) -> bool:
    # Nobody holds less than nothing: what says so would make room that there is not.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


# --- components ----------------------------------------------------------------------------


def encode_component(component: Component, **more: object) -> bytes:
    """Write a component's record with the keys that Nodepool's readers insist on."""
    return _encode(
        {
            "state": "running",
            "kind": "pool",
            "model_api": 0,
            **more,
            "id": component.id,
            "provider_name": component.provider_name,
            "supported_labels": sorted(component.supported_labels),
            "priority": component.priority,
            "paused": component.paused,
        }
    )


def parse_component(name: str, data: bytes) -> Component:
    """Read a pool's component record. Raises MalformedRecord."""
    raw = _decode(data, f"component {name}")
    identity = raw.get("id")
    if not isinstance(identity, str):
        raise MalformedRecord(f"component {name} has no id")
    priority = _number(raw.get("priority"))
    return Component(
        id=identity,
        provider_name=_text(raw.get("provider_name")),
        supported_labels=frozenset(_strings(raw.get("supported_labels"), f"component {name}")),
        priority=100 if priority is None else int(priority),
        paused=bool(raw.get("paused")),
        pool=_text(raw.get("name")) or "",
    )
