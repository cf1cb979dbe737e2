"""A ZooKeeper ensemble in memory, on the clock of the event loop that runs it.

It has what an ensemble does to its clients: followers that lag, answers and events in the
order of the wire, sessions that expire, connections that break before or after a request
took effect, servers that die, freeze or lose their quorum, throttled and oversized requests.
Every delay and every choice comes from one seeded random generator, so a run under a virtual
clock repeats exactly.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeAlias

from nodepool_k8s.zookeeper.operations import Create, SetData
from simulation.tree import (
    Created,
    CreateSequence,
    Deleted,
    Effect,
    Multi,
    RequestFailed,
    Tree,
    Write,
)

MAX_REQUEST_BYTES = 1024 * 1024 - 1
"""``jute.maxbuffer``: a server hangs up on a client that sends a larger request."""

TICK_SECONDS = 0.5
"""Between two looks of the leader for sessions that have timed out."""


# --- requests that read ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Get:
    """Data and stat."""

    path: str


@dataclass(frozen=True, slots=True)
class Children:
    """Names of the children."""

    path: str


@dataclass(frozen=True, slots=True)
class Exists:
    """The stat, or None."""

    path: str


@dataclass(frozen=True, slots=True)
class Sync:
    """Let the server catch up with the leader."""

    path: str


@dataclass(frozen=True, slots=True)
class AddWatch:
    """Watch everything at and below a path until the connection ends."""

    path: str


Request: TypeAlias = Get | Children | Exists | Sync | AddWatch | Write


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """What a recursive watch tells: CREATED, CHANGED or DELETED, and where."""

    kind: str
    path: str
    zxid: int


class ConnectionBroke(Exception):
    """The connection ended before the answer: the request may have taken effect."""


class SessionExpired(Exception):
    """The session is over; nothing it asked for after its end took effect."""


class State(Enum):
    """What a client is told of its session; kazoo's states."""

    CONNECTED = auto()
    SUSPENDED = auto()
    LOST = auto()


# --- the servers ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transaction:
    """One entry of the log."""

    zxid: int
    milliseconds: int
    effects: tuple[Effect, ...]
    ended_session: int = 0
    """The session that this transaction closes; 0 for all others."""


@dataclass(slots=True)
class Session:
    """A session as the leader knows it."""

    id: int
    timeout: float
    """Seconds."""
    heard: float
    """The loop's time at which its client was last heard of."""


@dataclass(frozen=True, slots=True)
class Delays:
    """How long things take, in seconds; each is drawn evenly from nothing to this much."""

    network: float = 0.002
    commit: float = 0.004
    lag: float = 0.0
    """Of followers, behind the commit."""


class Server:
    """One member: its copy of the tree, and the connections that it serves."""

    def __init__(self, ensemble: Ensemble, number: int) -> None:
        self.number = number
        self.up = True
        self.frozen = False
        self.lag = 0.0
        """Seconds behind the commits, beyond the ensemble's ``Delays.lag``."""
        self.tree = Tree()
        self.applied = 0
        """Transactions of the log that are in the tree."""
        self.links: list[Link] = []
        self._ensemble = ensemble
        self._next_apply = 0.0

    @property
    def zxid(self) -> int:
        """The last transaction in its tree."""
        return self._ensemble.log[self.applied - 1].zxid if self.applied else 0

    def committed(self) -> None:
        """The leader has committed another transaction: apply it, in order, some time later."""
        loop, ensemble = self._ensemble.loop, self._ensemble
        delays = ensemble.delays
        lag = 0.0 if ensemble.leader is self else ensemble.draw(delays.lag) + self.lag
        # Never earlier than the transaction before.
        self._next_apply = max(self._next_apply, loop.time() + ensemble.draw(delays.commit) + lag)
        loop.call_at(self._next_apply, self._apply_up_to, len(ensemble.log))

    def catch_up(self) -> None:
        """Apply everything now: a server that came back, or was asked to sync."""
        self._apply_up_to(len(self._ensemble.log))

    def _apply_up_to(self, position: int) -> None:
        if not self.up or self.frozen:
            return
        while self.applied < min(position, len(self._ensemble.log)):
            transaction = self._ensemble.log[self.applied]
            self.applied += 1
            for effect in transaction.effects:
                self.tree.apply(effect, transaction.zxid, transaction.milliseconds)
                for link in list(self.links):
                    link.watched(effect, transaction.zxid)
            for link in list(self.links):
                link.applied(transaction)
        for link in list(self.links):
            link.proceed()


class Ensemble:
    """Some servers with one log."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rng: random.Random,
        servers: int = 1,
        delays: Delays | None = None,
    ) -> None:
        self.loop = loop
        self.delays = delays or Delays()
        self.log: list[Transaction] = []
        self.servers = [Server(self, number) for number in range(servers)]
        self.leader: Server | None = self.servers[0]
        self.truth = Tree()
        """What all servers will show when they have caught up."""
        self.sessions: dict[int, Session] = {}
        self.throttled = 0.0
        """The part of all requests that is answered with ThrottledOp."""
        self.requests: dict[str, int] = {}
        """How many requests of which kind were served."""
        self.failures: dict[str, int] = {}
        """How many requests failed, by error."""
        self.on_commit: Callable[[Transaction], None] | None = None
        """Called after each transaction; a judge's place."""
        self._rng = rng
        self._zxid = 0
        self._next_session = 1
        self._ticking: asyncio.TimerHandle | None = None

    def draw(self, longest: float) -> float:
        """A delay of up to so many seconds."""
        return self._rng.uniform(0.0, longest) if longest else 0.0

    def chance(self, part: float) -> bool:
        """True in that part of all calls."""
        return part > 0 and self._rng.random() < part

    def pick(self) -> Server | None:
        """A server that a client may connect to; None where no server answers."""
        if not self.has_quorum:
            return None
        alive = [server for server in self.servers if server.up and not server.frozen]
        return self._rng.choice(alive) if alive else None

    # --- quorum ------------------------------------------------------------------------------

    @property
    def has_quorum(self) -> bool:
        """Whether more than half of the servers work together."""
        return self.leader is not None

    def elect(self) -> None:
        """Choose the leader anew: the server that has applied most, if there is a majority."""
        alive = [server for server in self.servers if server.up and not server.frozen]
        if 2 * len(alive) <= len(self.servers):
            self._lose_leader()
            return
        if self.leader in alive:
            return
        for server in alive:
            server.catch_up()
        self.leader = max(alive, key=lambda server: server.applied)
        now = self.loop.time()
        for session in self.sessions.values():
            # A new leader gives every session its whole timeout again.
            session.heard = now

    def _lose_leader(self) -> None:
        self.leader = None
        for server in self.servers:
            for link in list(server.links):
                link.broken()

    def kill(self, server: Server) -> None:
        """Stop a server: its connections break, and its memory is gone until it comes back."""
        server.up = False
        for link in list(server.links):
            link.broken()
        self.elect()

    def restart(self, server: Server) -> None:
        """Start a killed or frozen server again."""
        server.up, server.frozen = True, False
        if self.leader is None:
            self.elect()
        if self.leader is not None:
            server.catch_up()

    def freeze(self, server: Server) -> None:
        """Stop a server without closing its connections, which clients notice later."""
        server.frozen = True
        self.elect()

    # --- writing -------------------------------------------------------------------------------

    def open_session(self, timeout: float) -> Session:
        """Begin a session."""
        session = Session(self._next_session, timeout, self.loop.time())
        self._next_session += 1
        self.sessions[session.id] = session
        self._tick_later()
        return session

    def close_session(self, session_id: int) -> None:
        """End a session: its ephemeral znodes go in one transaction."""
        if self.sessions.pop(session_id, None) is None:
            return
        self._zxid += 1
        now = self.now_ms
        effects: list[Effect] = []
        for path in self.truth.ephemerals(session_id):
            effect = Deleted(path)
            self.truth.apply(effect, self._zxid, now)
            effects.append(effect)
        self._commit(Transaction(self._zxid, now, tuple(effects), session_id))

    def propose(self, write: Write, session_id: int) -> Transaction:
        """Decide on a request and commit it. Raises RequestFailed, SessionExpired."""
        if session_id not in self.sessions:
            raise SessionExpired
        now = self.now_ms
        effects = self.truth.perform(write, session_id, self._zxid + 1, now)
        self._zxid += 1
        transaction = Transaction(self._zxid, now, tuple(effects))
        self._commit(transaction)
        return transaction

    @property
    def now_ms(self) -> int:
        """The ensemble's clock, milliseconds since the loop began."""
        return int(self.loop.time() * 1000)

    def _commit(self, transaction: Transaction) -> None:
        self.log.append(transaction)
        for server in self.servers:
            if server.up and not server.frozen:
                server.committed()
        if self.on_commit is not None:
            self.on_commit(transaction)

    # --- sessions that time out -------------------------------------------------------------------

    def _tick_later(self) -> None:
        # Only while there are sessions, so that a virtual clock can come to rest.
        if self._ticking is None and self.sessions:
            self._ticking = self.loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        if self.has_quorum:
            now = self.loop.time()
            for session in list(self.sessions.values()):
                if now - session.heard > session.timeout:
                    self.close_session(session.id)
        self._tick_later()


# --- one connection ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Pending:
    """A request at a server, in the order in which it arrived."""

    request: Request
    answer: asyncio.Future[Any]
    zxid: int = 0
    """Of its transaction, once it was proposed; the answer waits until that is applied."""
    result: Any = None
    error: Exception | None = None
    proposed: bool = False


class Link:
    """A client's connection to one server: two channels that keep their order."""

    def __init__(self, client: Client, server: Server, ensemble: Ensemble) -> None:
        self.server = server
        self.alive = True
        self._client = client
        self._ensemble = ensemble
        self._queue: deque[_Pending] = deque()
        self._watches: list[str] = []
        self._sent = 0.0
        self._received = 0.0
        server.links.append(self)

    # --- from the client to the server --------------------------------------------------------

    def send(self, pending: _Pending) -> None:
        """Put a request on the wire."""
        self._sent = max(self._sent, self._after_network())
        self._ensemble.loop.call_at(self._sent, self._arrived, pending)

    def _arrived(self, pending: _Pending) -> None:
        if not self.alive or not self.server.up or self.server.frozen:
            return
        if _size(pending.request) > MAX_REQUEST_BYTES:
            self.broken()
            return
        self._queue.append(pending)
        self.proceed()

    def proceed(self) -> None:
        """Serve what may be served now, in order."""
        if not self.alive or self.server.frozen:
            return
        for pending in self._queue:
            if pending.proposed:
                continue
            if not isinstance(pending.request, Get | Children | Exists | Sync | AddWatch):
                self._propose(pending, pending.request)
            elif pending is self._queue[0]:
                self._read(pending)
            else:
                break  # A read waits for the session's own writes before it.
        self._answer_in_order()

    def _propose(self, pending: _Pending, write: Write) -> None:
        pending.proposed = True
        self._count(pending.request)
        try:
            if self._ensemble.chance(self._ensemble.throttled):
                raise RequestFailed("ThrottledOp")
            transaction = self._ensemble.propose(write, self._client.session_id)
        except (RequestFailed, SessionExpired) as error:
            pending.error = error
            self._count_failure(error)
        else:
            pending.zxid = transaction.zxid
            pending.result = _created_path(pending.request, transaction)

    def _read(self, pending: _Pending) -> None:
        pending.proposed = True
        self._count(pending.request)
        tree = self.server.tree
        try:
            match pending.request:
                case Get(path):
                    pending.result = tree.get(path)
                case Children(path):
                    pending.result = list(tree.children(path))
                case Exists(path):
                    pending.result = tree.exists(path)
                case AddWatch(path):
                    self._watches.append(path)
                case Sync():
                    pending.zxid = self._ensemble.log[-1].zxid if self._ensemble.log else 0
        except RequestFailed as error:
            pending.error = error
            self._count_failure(error)

    def applied(self, transaction: Transaction) -> None:
        """The server has applied a transaction; answers that waited for it may go."""
        if transaction.ended_session == self._client.session_id:
            self.broken()
            return
        self._answer_in_order()

    def _answer_in_order(self) -> None:
        while self._queue and self._queue[0].proposed and self._queue[0].zxid <= self.server.zxid:
            pending = self._queue.popleft()
            self._deliver(self._client.answered, pending)

    # --- from the server to the client ----------------------------------------------------------

    def watched(self, effect: Effect, zxid: int) -> None:
        """Tell of an effect that a watch of this connection covers."""
        if any(_is_below(effect.path, watch) for watch in self._watches):
            kind = (
                "CREATED"
                if isinstance(effect, Created)
                else "DELETED"
                if isinstance(effect, Deleted)
                else "CHANGED"
            )
            self._deliver(self._client.heard, WatchEvent(kind, effect.path, zxid))

    def _deliver(self, receive: Callable[[Any], None], message: Any) -> None:
        self._received = max(self._received, self._after_network())
        self._ensemble.loop.call_at(self._received, self._received_now, receive, message)

    def _received_now(self, receive: Callable[[Any], None], message: Any) -> None:
        if self.alive:
            self._client.zxid = max(self._client.zxid, self.server.zxid)
            receive(message)

    def broken(self) -> None:
        """End the connection; what was on the wire is lost in both directions."""
        if self.alive:
            self.alive = False
            self.server.links.remove(self)
            self._client.disconnected(self)

    def _after_network(self) -> float:
        return self._ensemble.loop.time() + self._ensemble.draw(self._ensemble.delays.network)

    # --- counting ------------------------------------------------------------------------------

    def _count(self, request: Request) -> None:
        name = type(request).__name__
        self._ensemble.requests[name] = self._ensemble.requests.get(name, 0) + 1

    def _count_failure(self, error: Exception) -> None:
        name = error.error if isinstance(error, RequestFailed) else type(error).__name__
        self._ensemble.failures[name] = self._ensemble.failures.get(name, 0) + 1


# --- a client --------------------------------------------------------------------------------


@dataclass(slots=True)
class Client:
    """One client: it connects, keeps its session alive, and connects again.

    ``on_state`` and ``on_event`` are called in the order of the wire, and an answer's future
    is resolved in that order too.
    """

    ensemble: Ensemble
    timeout: float = 10.0
    on_state: Callable[[State], None] = lambda _state: None
    on_event: Callable[[WatchEvent], None] = lambda _event: None
    session_id: int = 0
    zxid: int = 0
    """The last transaction that this client has seen: it refuses servers behind it."""
    paused: bool = False
    """A process that stands still: it sends no pings and takes nothing in."""
    _link: Link | None = None
    _waiting: list[_Pending] = field(default_factory=list)
    _closed: bool = False
    _timer: asyncio.TimerHandle | None = None
    _inbox: list[Callable[[], None]] = field(default_factory=list)

    def start(self) -> None:
        """Connect, and stay connected until ``close``."""
        self._connect()

    def request(self, request: Request) -> asyncio.Future[Any]:
        """Send a request. Its answer raises RequestFailed, ConnectionBroke or SessionExpired."""
        answer: asyncio.Future[Any] = self.ensemble.loop.create_future()
        pending = _Pending(request, answer)
        if self._link is None or not self._link.alive:
            answer.set_exception(ConnectionBroke())
        else:
            self._waiting.append(pending)
            self._link.send(pending)
        return answer

    def cut(self) -> None:
        """Break the connection; the client connects again."""
        if self._link is not None:
            self._link.broken()

    def close(self) -> None:
        """End the session in an orderly way."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self.ensemble.has_quorum:
            self.ensemble.close_session(self.session_id)
        self.cut()

    # --- pausing the process ----------------------------------------------------------------------

    def pause(self) -> None:
        """Stand still, as on SIGSTOP."""
        self.paused = True

    def resume(self) -> None:
        """Go on: what arrived meanwhile is taken in now."""
        self.paused = False
        inbox, self._inbox = self._inbox, []
        for action in inbox:
            action()

    def _take_in(self, action: Callable[[], None]) -> None:
        if self.paused:
            self._inbox.append(action)
        else:
            action()

    # --- what the connection brings -------------------------------------------------------------

    def answered(self, pending: _Pending) -> None:
        """An answer arrived."""
        self._take_in(lambda: self._settle(pending))

    def heard(self, event: WatchEvent) -> None:
        """A watch fired."""
        self._take_in(lambda: self.on_event(event))

    def _settle(self, pending: _Pending) -> None:
        if pending in self._waiting:
            self._waiting.remove(pending)
        if pending.answer.done():
            return
        if pending.error is not None:
            pending.answer.set_exception(pending.error)
        else:
            pending.answer.set_result(pending.result)

    def disconnected(self, link: Link) -> None:
        """The connection is gone: requests under way have unknown outcomes."""
        self._take_in(lambda: self._after_disconnect(link))

    def _after_disconnect(self, link: Link) -> None:
        if link is not self._link:
            return
        self._link = None
        waiting, self._waiting = self._waiting, []
        for pending in waiting:
            if not pending.answer.done():
                pending.answer.set_exception(ConnectionBroke())
        if self._closed:
            self.on_state(State.LOST)
            return
        self.on_state(State.SUSPENDED)
        self._later(self._connect, 0.05)

    def _later(self, action: Callable[[], None], longest: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.ensemble.loop.call_later(
            0.01 + self.ensemble.draw(longest), lambda: self._take_in(action)
        )

    # --- connecting ---------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._closed or (self._link is not None and self._link.alive):
            return
        server = self.ensemble.pick()
        if server is None or server.zxid < self.zxid:
            self._later(self._connect, 0.5)
            return
        if self.session_id and self.session_id not in self.ensemble.sessions:
            self.session_id, self.zxid = 0, 0
            self.on_state(State.LOST)
        if not self.session_id:
            self.session_id = self.ensemble.open_session(self.timeout).id
        self._link = Link(self, server, self.ensemble)
        self._ping()
        self.on_state(State.CONNECTED)

    def _ping(self) -> None:
        link = self._link
        if self._closed or link is None or not link.alive:
            return
        if link.server.frozen or not link.server.up:
            # The answer to the last ping did not come.
            link.broken()
            return
        session = self.ensemble.sessions.get(self.session_id)
        if session is None:
            link.broken()
            return
        session.heard = self.ensemble.loop.time()
        self._timer = self.ensemble.loop.call_later(
            self.timeout / 3, lambda: self._take_in(self._ping)
        )


# --- helpers ---------------------------------------------------------------------------------


def _is_below(path: str, watched: str) -> bool:
    return watched == "/" or path == watched or path.startswith(watched + "/")


def _created_path(request: Request, transaction: Transaction) -> Any:
    """What a write answers: a create its path, a multi the path of each create in it."""
    created = [effect.path for effect in transaction.effects if isinstance(effect, Created)]
    if isinstance(request, Create | CreateSequence):
        return created[0]
    return created if isinstance(request, Multi) else None


def _size(request: Request) -> int:
    """Bytes of a request on the wire, near enough."""
    if isinstance(request, Multi):
        return sum(9 + _size(operation) for operation in request.operations)
    data = len(request.data) if isinstance(request, Create | CreateSequence | SetData) else 0
    return data + len(request.path) + 40
