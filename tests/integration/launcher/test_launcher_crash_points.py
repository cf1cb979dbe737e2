"""A launcher dies before and after its effects, and the next one ends it: some of all the points.

All of them, and the tables, are ``tools/crash-points``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cluster import LocalCluster

from nodepool_k8s.policy import upkeep
from tests.support import crashtable, waiting
from tests.support.admin import Admin
from tests.support.crashpoints import DRAFT_S, PATIENCE_S, Plays, deaths, expect_nothing_wrong
from tests.support.crashstories import STORIES

pytestmark = pytest.mark.integration

TOGETHER = 16
"""So many stories are played at a time: most of each is waiting for the dead one's session."""

EVERY = 31
"""Of all crash points, which are played; odd: before and after."""

ENOUGH = 0.8
"""The share of the chosen deaths that have to come: on a slow machine writes race otherwise."""


async def test_the_next_launcher_ends_what_one_that_died_had_begun(
    fake_cluster: LocalCluster, admin: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(fake_cluster.kubeconfig))
    monkeypatch.setattr(upkeep, "DRAFT_SECONDS", DRAFT_S)
    monkeypatch.setattr(waiting, "PATIENCE_S", PATIENCE_S)
    plays = Plays(STORIES, fake_cluster, admin, tmp_path, TOGETHER)
    shown = crashtable.read(crashtable.PAGE.read_text())
    assert set(shown) == {story.title for story in STORIES.values()}, "run tools/crash-points"
    always = {
        name: [row for row in shown[story.title] if row.always] for name, story in STORIES.items()
    }
    chosen = deaths(always)[::EVERY]
    recordings, outcomes = await asyncio.gather(plays.record(STORIES), plays.die(chosen))
    recorded = [effect for found in recordings.values() for effect in found[0]]
    assert not crashtable.differences(shown, recorded), "run tools/crash-points"
    expect_nothing_wrong(outcomes)
    came = [death for death, outcome in outcomes.items() if outcome.came]
    assert len(came) > ENOUGH * len(chosen), set(chosen) - set(came)
