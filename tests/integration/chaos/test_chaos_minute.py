"""A minute of faults: launchers that share a pool keep their promises through every kind."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from cluster import sources
from faults.nemesis import KINDS

pytestmark = pytest.mark.integration

TOOL = Path(__file__).resolve().parents[3] / "tools" / "chaos"
SEED = 5
SECONDS = 60
"""Of faults; a cluster of its own, whose servers may be restarted, and the end take longer."""
PATIENCE_S = 900


def test_no_promise_is_broken_in_a_minute_of_faults(tmp_path: Path) -> None:
    named = (sources.KUBECONFIG, sources.ZOOKEEPER)
    ended = subprocess.run(
        [TOOL, "--seconds", str(SECONDS), "--seed", str(SEED), "--folder", tmp_path / "chaos"],
        env={name: value for name, value in os.environ.items() if name not in named},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 0, ended.stdout
    injected = set(re.findall(r"fault: ([a-z-]+)", ended.stdout))
    assert len(injected) > len(KINDS) / 2, ended.stdout
    assert re.search(r"requests: used +│ +[1-9]", ended.stdout), ended.stdout
    assert re.search(r"violations +│ +0 ", ended.stdout), ended.stdout
