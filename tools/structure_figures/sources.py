"""Python files of a package, from the working tree or from a revision of git."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

Sources: TypeAlias = Mapping[str, str]
"""The text of each module by its dotted name; a package's is that of its ``__init__.py``."""


def module_name(path: str) -> str:
    """The dotted name of the module in a file."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def working_tree(root: Path, package: str) -> Sources:
    """Read a package below ``root``."""
    return {
        module_name(path.relative_to(root).as_posix()): path.read_text()
        for path in sorted((root / package).rglob("*.py"))
    }


def at_revision(root: Path, package: str, revision: str) -> Sources:
    """Read a package of the repository at ``root``. Raises CalledProcessError."""
    command = ["git", "-C", str(root), "archive", "--format=tar", revision, package]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    sources = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None and member.name.endswith(".py"):
                sources[module_name(member.name)] = file.read().decode()
    return sources
