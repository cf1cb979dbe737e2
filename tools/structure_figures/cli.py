"""``tools/structure``: the option, and what is printed."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from structure_figures import figures, sources

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "nodepool_k8s"
PACKAGES_WITH_FLOORS = ("launcher", "kubernetes", "zookeeper", "config")


def report(found: sources.Sources) -> Iterator[str]:
    """The figures as lines of text."""
    lines = sum(text.count("\n") for text in found.values())
    yield f"lines                        {lines} in {len(found)} files"
    yield f"lines of code                {figures.lines_of_code(found)}"
    referenced = figures.referenced_once(found)
    yield (
        f"functions used once          {referenced.percent(referenced.once):.1f} % "
        f"({referenced.once} of {referenced.functions}) in their file; "
        f"{referenced.percent(referenced.only_there):.1f} % ({referenced.only_there}) "
        "and in no other file"
    )
    for package in PACKAGES_WITH_FLOORS:
        chain = figures.longest_import_chain(found, f"{PACKAGE}.{package}")
        names = " > ".join(module.rpartition(".")[2] for module in chain)
        yield f"{'import floors of ' + package:28} {len(chain)}: {names}"
    yield "largest classes"
    for size in figures.largest_classes(found):
        yield f"    {size.lines:5} lines              {size.module}.{size.name}"
    shared = figures.shared_class_names(found)
    yield f"shared names of classes      {len(shared)}"
    for name, modules in shared.items():
        yield f"    {name:24} {', '.join(modules)}"


def main() -> None:
    """Print the figures of the working tree, or of a revision."""
    parser = argparse.ArgumentParser(
        prog="tools/structure",
        description="Measures how nodepool_k8s is built: its lines, functions that are used once, "
        "import floors (the longest chain of imports inside a package), largest classes, and "
        "classes that share a name.",
    )
    parser.add_argument("revision", nargs="?", help="a revision of git; else the working tree")
    revision = parser.parse_args().revision
    try:
        found = (
            sources.at_revision(ROOT, PACKAGE, revision)
            if revision
            else sources.working_tree(ROOT, PACKAGE)
        )
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr.decode().strip())
    print(*report(found), sep="\n")
