"""Runs `python -m cluster`, as tools/localcluster does."""

from .cli import main

main(prog_name="localcluster")
