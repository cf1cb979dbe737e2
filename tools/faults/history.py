"""The last events of every request, node and namespace, and of the run."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

EVENTS = 60
"""Events kept for one object."""
OBJECTS = 20_000
"""Objects kept, the newest ones: a run may last for hours."""


@dataclass
class History:
    """Events in the order in which they were seen, in seconds since the start."""

    began: float = field(default_factory=time.monotonic)
    _objects: dict[str, deque[tuple[float, str]]] = field(default_factory=dict)

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def note(self, text: str, *objects: str) -> None:
        """Record an event of some objects."""
        event = (self.now(), text)
        for name in objects:
            if name not in self._objects:
                self._objects[name] = deque(maxlen=EVENTS)
                if len(self._objects) > OBJECTS:
                    self._objects.pop(next(iter(self._objects)))
            self._objects[name].append(event)

    def of(self, objects: tuple[str, ...]) -> list[str]:
        """The events of these objects, one line each, in order."""
        lines = {
            (when, f"{when:8.3f}  {name}: {text}")
            for name in objects
            for when, text in self._objects.get(name, ())
        }
        return [line for _, line in sorted(lines)]
