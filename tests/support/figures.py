"""Readings of the launcher's metrics in this process, apart from those of earlier tests."""

from __future__ import annotations

from nodepool_k8s.telemetry.metrics import REGISTRY

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Readings:
    """Growth of metrics since this was created: the registry belongs to the process."""

    def __init__(self) -> None:
        self._before = self._all()

    @staticmethod
    def _all() -> Samples:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for metric in REGISTRY.collect()
            for sample in metric.samples
        }

    def now(self, name: str, **labels: str) -> float | None:
        """The value of a series; None if there is no such series."""
        return self._all().get((f"nodepool_k8s_{name}", frozenset(labels.items())))

    def grown(self, name: str, **labels: str) -> float:
        """The growth of a series."""
        key = (f"nodepool_k8s_{name}", frozenset(labels.items()))
        return self._all().get(key, 0.0) - self._before.get(key, 0.0)
