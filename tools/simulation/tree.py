"""The tree of znodes that one server of the simulated ensemble has applied. Pure.

The leader prepares a request against its tree, which either fails or becomes effects; every
server applies the same effects in the same order. The rules are those of ZooKeeper 3.9's
PrepRequestProcessor and DataTree; ``tests/contract`` compares them with a real server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from nodepool_k8s.zookeeper.operations import Check, Create, Delete, Operation, SetData

SEQUENCE_DIGITS = 10


class RequestFailed(Exception):
    """A request that changes nothing, with ZooKeeper's name of the error."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class MultiFailed(RequestFailed):
    """A multi that changes nothing; ``errors`` has one entry an operation.

    The operation at fault has its own error, those before it ``RolledBack`` and those after
    it ``RuntimeInconsistency``, as in ZooKeeper's answer.
    """

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("MultiFailed")
        self.errors = tuple(errors)


# --- requests that write ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateSequence:
    """Create a znode whose name ends in the next sequence number of its parent."""

    path: str
    data: bytes = b""
    ephemeral: bool = False


SingleWrite: TypeAlias = Operation | CreateSequence
"""The launcher's own operations, and the one that is in none of its transactions."""


@dataclass(frozen=True, slots=True)
class Multi:
    """All of it or nothing."""

    operations: tuple[SingleWrite, ...]


Write: TypeAlias = SingleWrite | Multi


# --- effects -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Created:
    """A znode came to be; ``owner`` is the session of an ephemeral one, else 0."""

    path: str
    data: bytes
    owner: int


@dataclass(frozen=True, slots=True)
class Changed:
    """A znode got other data."""

    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Deleted:
    """A znode went."""

    path: str


Effect: TypeAlias = Created | Changed | Deleted


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of a znode's stat that clients of this project read."""

    version: int
    created_zxid: int
    modified_zxid: int
    owner: int
    created_ms: int
    modified_ms: int
    children: int


@dataclass(slots=True)
class _Znode:
    data: bytes
    owner: int
    zxid: int
    milliseconds: int
    version: int = 0
    modified_zxid: int = 0
    modified_ms: int = 0
    creations: int = 0
    """Children that were ever created here: the next sequence number."""
    children: set[str] = field(default_factory=set)

    def stat(self) -> Stat:
        return Stat(
            version=self.version,
            created_zxid=self.zxid,
            modified_zxid=self.modified_zxid,
            owner=self.owner,
            created_ms=self.milliseconds,
            modified_ms=self.modified_ms,
            children=len(self.children),
        )


class Tree:
    """All znodes, as of one transaction id."""

    def __init__(self) -> None:
        self._znodes = {"/": _Znode(b"", 0, 0, 0)}
        self._ephemerals: dict[int, dict[str, None]] = {}
        """By session, in the order in which they were created."""

    # --- reading ---------------------------------------------------------------------------

    def get(self, path: str) -> tuple[bytes, Stat]:
        """Data and stat. Raises RequestFailed."""
        znode = self._existing(path)
        return znode.data, znode.stat()

    def children(self, path: str) -> tuple[str, ...]:
        """Names of the children, sorted. Raises RequestFailed."""
        return tuple(sorted(self._existing(path).children))

    def exists(self, path: str) -> Stat | None:
        """The stat; None where no such znode exists."""
        znode = self._znodes.get(path)
        return None if znode is None else znode.stat()

    def walk(self, path: str = "/") -> Iterator[tuple[str, bytes, Stat]]:
        """Every znode at and below a path, parents first."""
        znode = self._znodes.get(path)
        if znode is None:
            return
        yield path, znode.data, znode.stat()
        for name in sorted(znode.children):
            yield from self.walk(_join(path, name))

    def ephemerals(self, session: int) -> tuple[str, ...]:
        """Paths of the ephemeral znodes of a session, in the order of their creation."""
        return tuple(self._ephemerals.get(session, ()))

    def _existing(self, path: str) -> _Znode:
        znode = self._znodes.get(path)
        if znode is None:
            raise RequestFailed("NoNode")
        return znode

    # --- preparing, by the leader ----------------------------------------------------------

    def perform(self, write: Write, session: int, zxid: int, now_ms: int) -> list[Effect]:
        """Do what a request asks for; what it did, one entry an operation (a check: none).

        Raises RequestFailed or MultiFailed, and changes nothing then.
        """
        if not isinstance(write, Multi):
            return self._perform_one(write, session, zxid, now_ms)
        effects: list[Effect] = []
        undo: list[_Undo] = []
        for number, operation in enumerate(write.operations):
            undo.append(self._snapshot(operation))
            try:
                effects += self._perform_one(operation, session, zxid, now_ms)
            except RequestFailed as failed:
                for step in reversed(undo):
                    self._restore(step)
                rest = len(write.operations) - number - 1
                errors = ["RolledBack"] * number + [failed.error]
                raise MultiFailed(errors + ["RuntimeInconsistency"] * rest) from failed
        return effects

    def _perform_one(
        self, operation: SingleWrite, session: int, zxid: int, now_ms: int
    ) -> list[Effect]:
        effect = self._prepare(operation, session)
        if effect is None:
            return []
        self.apply(effect, zxid, now_ms)
        return [effect]

    def _prepare(self, operation: SingleWrite, session: int) -> Effect | None:
        match operation:
            case Create(path, data, ephemeral):
                return Created(self._new_path(path), data, session if ephemeral else 0)
            case CreateSequence(path, data, ephemeral):
                path = self._with_sequence(path)
                return Created(self._new_path(path), data, session if ephemeral else 0)
            case SetData(path, data, version):
                self._require_version(path, version)
                return Changed(path, data)
            case Delete(path, version):
                if self._require_version(path, version).children:
                    raise RequestFailed("NotEmpty")
                return Deleted(path)
            case Check(path, version):
                self._require_version(path, version)
                return None

    def _with_sequence(self, path: str) -> str:
        return f"{path}{self._existing(_parent(path)).creations:0{SEQUENCE_DIGITS}d}"

    def _new_path(self, path: str) -> str:
        parent = self._existing(_parent(path))
        if path in self._znodes:
            raise RequestFailed("NodeExists")
        if parent.owner:
            raise RequestFailed("NoChildrenForEphemerals")
        return path

    def _require_version(self, path: str, version: int) -> _Znode:
        znode = self._existing(path)
        if version not in (-1, znode.version):
            raise RequestFailed("BadVersion")
        return znode

    # --- applying, by every server -----------------------------------------------------------

    def apply(self, effect: Effect, zxid: int, now_ms: int) -> None:
        """Take in what the leader has decided."""
        match effect:
            case Created(path, data, owner):
                self._znodes[path] = _Znode(
                    data, owner, zxid, now_ms, modified_zxid=zxid, modified_ms=now_ms
                )
                parent = self._znodes[_parent(path)]
                parent.children.add(_name(path))
                parent.creations += 1
                if owner:
                    self._ephemerals.setdefault(owner, {})[path] = None
            case Changed(path, data):
                znode = self._znodes[path]
                znode.data, znode.version = data, znode.version + 1
                znode.modified_zxid, znode.modified_ms = zxid, now_ms
            case Deleted(path):
                znode = self._znodes.pop(path)
                self._znodes[_parent(path)].children.discard(_name(path))
                if znode.owner:
                    self._drop_ephemeral(znode.owner, path)

    def _drop_ephemeral(self, owner: int, path: str) -> None:
        paths = self._ephemerals[owner]
        del paths[path]
        if not paths:
            del self._ephemerals[owner]

    # --- undoing a multi ------------------------------------------------------------------------

    def _snapshot(self, operation: SingleWrite) -> _Undo:
        """What the operation may change: the znode (or, with a sequence, its parent's children)."""
        parent = self._znodes.get(_parent(operation.path))
        path = operation.path
        if isinstance(operation, CreateSequence) and parent is not None:
            path = self._with_sequence(path)
        return _Undo(
            path,
            _copied(self._znodes.get(path)),
            0 if parent is None else parent.creations,
        )

    def _restore(self, step: _Undo) -> None:
        now = self._znodes.get(step.path)
        parent = self._znodes.get(_parent(step.path))
        if now is not None and now.owner:
            self._drop_ephemeral(now.owner, step.path)
        if step.znode is None:
            self._znodes.pop(step.path, None)
            if parent is not None:
                parent.children.discard(_name(step.path))
        else:
            self._znodes[step.path] = step.znode
            if parent is not None:
                parent.children.add(_name(step.path))
            if step.znode.owner:
                self._ephemerals.setdefault(step.znode.owner, {})[step.path] = None
        if parent is not None:
            parent.creations = step.creations


@dataclass(frozen=True, slots=True)
class _Undo:
    path: str
    znode: _Znode | None
    creations: int


def _copied(znode: _Znode | None) -> _Znode | None:
    if znode is None:
        return None
    return _Znode(
        znode.data,
        znode.owner,
        znode.zxid,
        znode.milliseconds,
        znode.version,
        znode.modified_zxid,
        znode.modified_ms,
        znode.creations,
        set(znode.children),
    )


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _join(path: str, name: str) -> str:
    return f"{path.rstrip('/')}/{name}"
