"""The operations of a transaction, which is applied as a whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Check:
    """The znode must exist at that version (-1: any)."""

    path: str
    version: int = -1


@dataclass(frozen=True, slots=True)
class Create:
    """Create the znode."""

    path: str
    data: bytes = b""
    ephemeral: bool = False


@dataclass(frozen=True, slots=True)
class SetData:
    """Replace the znode's data, if it is at that version."""

    path: str
    data: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the znode, which must have no children."""

    path: str
    version: int = -1


Operation: TypeAlias = Check | Create | SetData | Delete
