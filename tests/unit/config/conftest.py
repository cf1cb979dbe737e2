"""A configuration file made of text, read as the launcher reads it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodepool_k8s.config import Settings, load
from nodepool_k8s.errors import ConfigError, Problem

HEAD = """\
zookeeper-servers:
  - host: zk
labels:
  - name: small
  - name: space
providers:
  - name: kube
    driver: kubernetes
    context: here
    pools:
      - name: main
        labels:
"""


@dataclass
class Site:
    """A folder with a configuration in it."""

    folder: Path

    def load(
        self,
        text: str,
        *,
        secure: str | None = None,
        environ: Mapping[str, str] | None = None,
        contexts: Set[str] | None = frozenset({"here"}),
    ) -> Settings:
        """Read a text, and a secure one beside it."""
        main, other = self.folder / "nodepool.yaml", self.folder / "secure.yaml"
        main.write_bytes(text.encode())
        if secure is not None:
            other.write_bytes(secure.encode())
        return load(
            str(main),
            None if secure is None else str(other),
            environ=environ or {},
            contexts=lambda: None if contexts is None else set(contexts),
        )

    def problems(
        self,
        text: str,
        *,
        secure: str | None = None,
        environ: Mapping[str, str] | None = None,
        contexts: Set[str] | None = frozenset({"here"}),
    ) -> list[Problem]:
        """What is wrong with a text, with bare file names."""
        with pytest.raises(ConfigError) as caught:
            self.load(text, secure=secure, environ=environ, contexts=contexts)
        return [
            Problem(Path(problem.file).name, problem.line, problem.path, problem.message)
            for problem in caught.value.problems
        ]

    def label(self, lines: str) -> Settings:
        """Read a pool with one label, given as the lines after its name and type."""
        return self.load(self.text(lines))

    @staticmethod
    def text(lines: str, *, kind: str = "pod", name: str = "small") -> str:
        """A configuration with one label, on line 13, whose lines begin on line 15."""
        text = f"{HEAD}          - name: {name}\n            type: {kind}\n"
        return text + "".join(f"            {line}\n" for line in lines.splitlines())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty folder for a configuration."""
    return Site(tmp_path)
