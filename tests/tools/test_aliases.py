"""Nodepool's program names come with the extra ``nodepool``, and only with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
FOLDERS = ("nodepool_k8s", "aliases")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources, in which a build may leave files."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    return folder


class Environment:
    """A virtual environment with our dependencies, without this package's programs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        (packages,) = (folder / "lib").glob("python*/site-packages")
        (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(self, requirement: str, cwd: Path) -> None:
        """Install as an admin does, but without the network."""
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            self._folder / "bin/python",
        ]
        run(*pip, "install", "--no-index", "--no-build-isolation", requirement, cwd=cwd)

    def extras(self) -> set[str]:
        """The extras of the installed package, from its metadata."""
        (metadata,) = self._folder.glob("lib/python*/site-packages/nodepool_k8s-*/METADATA")
        lines = metadata.read_text().splitlines()
        return {line.split()[1] for line in lines if line.startswith("Provides-Extra: ")}

    def programs(self) -> set[str]:
        return {path.name for path in (self._folder / "bin").glob("nodepool*")}

    def run(self, program: str, *arguments: str) -> str:
        return run(self._folder / "bin" / program, *arguments, cwd=self._folder)


def test_only_the_extra_installs_nodepools_program_names(tmp_path: Path, checkout: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install(".", checkout)
    assert environment.programs() == {"nodepool-k8s"}
    assert {"test", "nodepool"} < environment.extras()
    environment.install(".[nodepool]", checkout)
    assert environment.programs() == {"nodepool-k8s", "nodepool", "nodepool-launcher"}
    assert environment.run("nodepool", "--version").startswith("nodepool, version ")
    assert ", version " in environment.run("nodepool-launcher", "--version")
    help_ = environment.run("nodepool", "--help")
    assert "Usage: nodepool [OPTIONS] COMMAND" in help_
    assert "request-list" in help_
    assert "Usage: nodepool-launcher [OPTIONS]\n" in environment.run("nodepool-launcher", "--help")


def test_both_packages_have_one_version() -> None:
    lines = [
        [line for line in (ROOT / path).read_text().splitlines() if line.startswith("version = ")]
        for path in ("setup.cfg", "aliases/setup.cfg")
    ]
    assert len(lines[0]) == 1
    assert lines[0] == lines[1]
