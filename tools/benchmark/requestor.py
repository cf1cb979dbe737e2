"""The load: requests nodes through ZooKeeper, uses and returns them, as Zuul does.

One kazoo client. Answers are awaited by one-shot watches, whose callbacks only take the
time and hand over; the locking and writing is done here, in order, by the main thread, as
Zuul's scheduler does it. The nodes of a burst are accepted after the last one's answer: Zuul
is on another machine, and here its work would be taken from the launcher's cores. A worker of
its own (see ``workers``).

All times are seconds of the monotonic clock, which the processes of one machine share.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.recipe.lock import Lock

from benchmark import workers
from benchmark.errors import BenchmarkError

REQUESTS = "/nodepool/requests"
NODES = "/nodepool/nodes"
POOLS = "/nodepool/components/pool"
PREFIX = "200-"
"""Zuul's normal priority."""
REQUESTOR = "zuul-bench"
TENANT = "bench"
ANSWERS = ("fulfilled", "failed")
SESSION_S = 30.0
LOCK_S = 30.0
POLL_S = 0.1


@dataclass
class Leased:
    """A node of ours: its lock is held from acceptance until it is used."""

    id: str
    lock: Lock
    used: float = 0.0
    gone: float = 0.0

    @property
    def path(self) -> str:
        return f"{NODES}/{self.id}"


@dataclass
class Order:
    """One request and what became of it. ``fulfilled`` is when the answer was read."""

    submitted: float
    path: str = ""
    fulfilled: float = 0.0
    accepted: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)
    nodes: list[Leased] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.path.rpartition("/")[2]

    def times(self) -> dict[str, float]:
        """What the benchmark is told."""
        node = self.nodes[0]
        return {
            "submitted": self.submitted,
            "fulfilled": self.fulfilled,
            "accepted": self.accepted,
            "used": node.used,
            "gone": node.gone,
        }


class Requestor:
    """Zuul's part of the protocol, for any number of requests at a time."""

    def __init__(self, hosts: str) -> None:
        _make_chroot(hosts)
        self._client = KazooClient(hosts=hosts, timeout=SESSION_S)
        self._client.start()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._held: list[Order] = []

    def close(self) -> None:
        """End the session."""
        self._client.stop()
        self._client.close()

    # --- commands ----------------------------------------------------------------------

    def await_launcher(self, labels: list[str], within: float) -> None:
        """Until a pool that serves these labels is registered."""
        deadline = time.monotonic() + within
        while not any(set(labels) <= served for served in self._served()):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"no launcher has registered a pool with {labels}")
            time.sleep(POLL_S)

    def launch(
        self, label: str, count: int, at_once: bool, within: float, pause: float = 0.0
    ) -> dict[str, Any]:
        """Request ``count`` nodes and keep them in use.

        All at once, or one after the other with ``pause`` seconds between.
        ``cpu`` is what the load has taken, in seconds, for requests and their answers.
        """
        deadline = time.monotonic() + within
        orders: list[Order] = []
        cpu = 0.0
        for size in [count] if at_once else [1] * count:
            time.sleep(pause)
            before = time.process_time()
            batch = self._submit(label, size)
            self._await_answers(batch, deadline)
            cpu += time.process_time() - before
            self._accept_all(batch)
            orders += batch
        self._held += orders
        return {"orders": [order.times() for order in orders], "cpu": cpu}

    def release(self, within: float) -> list[dict[str, float]]:
        """Return every node that is in use; answers when their records are gone."""
        orders, self._held = self._held, []
        self._return_all(orders, time.monotonic() + within)
        return [order.times() for order in orders]

    def cycle(self, label: str, count: int, within: float) -> list[dict[str, float]]:
        """``count`` times: request a node, use it, return it, see it go."""
        deadline = time.monotonic() + within
        orders: list[Order] = []
        for _ in range(count):
            orders += self._submit(label, 1)
            self._await_answers(orders[-1:], deadline)
            self._accept_all(orders[-1:])
            self._return_all(orders[-1:], deadline)
        return [order.times() for order in orders]

    # --- requests ----------------------------------------------------------------------

    def _served(self) -> Iterable[set[str]]:
        if not self._client.exists(POOLS):
            return
        for child in self._client.get_children(POOLS):
            data, _ = self._client.get(f"{POOLS}/{child}")
            yield set(json.loads(data)["supported_labels"])

    def _submit(self, label: str, count: int) -> list[Order]:
        """Create the requests without awaiting each one's creation; then watch them."""
        orders, created = [], []
        for _ in range(count):
            data = _encode(request(label))
            orders.append(Order(submitted=time.monotonic()))
            created.append(
                self._client.create_async(
                    f"{REQUESTS}/{PREFIX}", data, sequence=True, makepath=True
                )
            )
        for order, result in zip(orders, created, strict=True):
            order.path = result.get(timeout=LOCK_S)
            self._read(order)
        return orders

    def _read(self, order: Order) -> None:
        if not order.fulfilled:
            result = self._client.get_async(order.path, watch=lambda _: self._read(order))
            result.rawlink(self._catching(order, lambda found: self._seen(order, found)))

    def _seen(self, order: Order, result: Any) -> None:
        data, _ = result.get()
        record = json.loads(data)
        if record["state"] in ANSWERS:
            order.fulfilled, order.record = time.monotonic(), record
            self._inbox.put(order)

    def _await_answers(self, orders: list[Order], deadline: float) -> None:
        for _ in orders:
            self._next(deadline, "an answer to a request")

    def _accept_all(self, orders: list[Order]) -> None:
        for order in orders:
            self._accept(order)

    def _accept(self, order: Order) -> None:
        """Zuul's acceptance: check, lock, check again, remove the request, use the nodes."""
        if order.record["state"] != "fulfilled":
            raise BenchmarkError(f"request {order.id} has failed: {order.record}")
        order.nodes = [Leased(node, self._lock(node)) for node in order.record["nodes"]]
        for node in order.nodes:
            self._check(order, node.id)
            if not node.lock.acquire(timeout=LOCK_S):
                raise BenchmarkError(f"node {node.id} of fulfilled request {order.id} is locked")
        records = [self._check(order, node.id) for node in order.nodes]
        self._client.delete(order.path)
        for node, record in zip(order.nodes, records, strict=True):
            record["user_data"] = {"zuul_system": REQUESTOR, "project_name": "bench/project"}
            self._store(node, record, "in-use")
        order.accepted = time.monotonic()

    def _check(self, order: Order, node: str) -> dict[str, Any]:
        data, _ = self._client.get(f"{NODES}/{node}")
        record: dict[str, Any] = json.loads(data)
        if record["allocated_to"] != order.id or record["state"] != "ready":
            raise BenchmarkError(f"node {node} is not ready for request {order.id}: {record}")
        return record

    def _lock(self, node: str) -> Lock:
        return Lock(self._client, f"{NODES}/{node}/lock")

    def _store(self, node: Leased, record: dict[str, Any], state: str) -> None:
        record["state"], record["state_time"] = state, time.time()
        self._client.set(node.path, _encode(record))

    # --- returning ---------------------------------------------------------------------

    def _return_all(self, orders: list[Order], deadline: float) -> None:
        nodes = [node for order in orders for node in order.nodes]
        for node in nodes:
            data, _ = self._client.get(node.path)
            node.used = time.monotonic()
            self._store(node, json.loads(data), "used")
            node.lock.release()
            self._look(node)
        for _ in nodes:
            self._next(deadline, "the removal of a used node's record")

    def _look(self, node: Leased) -> None:
        result = self._client.exists_async(node.path, watch=lambda _: self._look(node))
        result.rawlink(self._catching(node, lambda found: self._missed(node, found)))

    def _missed(self, node: Leased, result: Any) -> None:
        if result.get() is None and not node.gone:
            node.gone = time.monotonic()
            self._inbox.put(node)

    # --- the inbox ---------------------------------------------------------------------

    def _catching(self, subject: Any, then: Callable[[Any], None]) -> Callable[[Any], None]:
        """For kazoo's thread: what goes wrong there goes to the main thread."""

        def call(result: Any) -> None:
            try:
                then(result)
            except (KazooException, ValueError, KeyError) as error:
                self._inbox.put(BenchmarkError(f"{subject}: {error!r}"))

        return call

    def _next(self, deadline: float, what: str) -> Any:
        try:
            item = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise BenchmarkError(f"waited in vain for {what}") from None
        if isinstance(item, BenchmarkError):
            raise item
        return item


def _make_chroot(hosts: str) -> None:
    servers, _, chroot = hosts.partition("/")
    client = KazooClient(hosts=servers)
    client.start()
    client.ensure_path(f"/{chroot}")
    client.stop()
    client.close()


def _encode(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True).encode()


def request(label: str) -> dict[str, Any]:
    """A request with Zuul's keys."""
    now = time.time()
    return {
        "state": "requested",
        "state_time": now,
        "created_time": now,
        "node_types": [label],
        "nodes": [],
        "declined_by": [],
        "requestor": REQUESTOR,
        "requestor_data": {
            "build_set_uuid": uuid.uuid4().hex,
            "tenant_name": TENANT,
            "pipeline_name": "check",
            "job_uuid": uuid.uuid4().hex,
            "job_name": "bench-job",
            "span_info": None,
        },
        "provider": None,
        "relative_priority": 0,
        "event_id": uuid.uuid4().hex,
        "tenant_name": TENANT,
    }


def _serve(requestor: Requestor) -> None:
    commands: dict[str, Callable[..., Any]] = {
        "await_launcher": requestor.await_launcher,
        "launch": requestor.launch,
        "release": requestor.release,
        "cycle": requestor.cycle,
    }
    for line in sys.stdin:
        do, given = workers.receive(line)
        try:
            workers.reply(commands[do](**given))
        except (BenchmarkError, KazooException) as error:
            workers.reply(error=f"{type(error).__name__}: {error}")


def main() -> None:
    """``python -m benchmark.requestor HOSTS`` (kazoo's form, with a chroot)."""
    logging.basicConfig(level=logging.WARNING)
    requestor = Requestor(sys.argv[1])
    try:
        _serve(requestor)
    finally:
        requestor.close()


if __name__ == "__main__":
    main()
