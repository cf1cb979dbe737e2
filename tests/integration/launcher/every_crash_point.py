"""A launcher dies before and after each of its effects, one by one; writes docs/crash-points.md.

Not among the tests that are found, as it takes many minutes: ``tools/crash-points`` runs it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cluster import LocalCluster

from nodepool_k8s.policy import upkeep
from tests.support import crashtable, waiting
from tests.support.admin import Admin
from tests.support.crashing import AFTER, BEFORE, CrashPoint
from tests.support.crashpoints import (
    DRAFT_S,
    PATIENCE_S,
    Death,
    Plays,
    deaths,
    expect_nothing_wrong,
)
from tests.support.crashstories import STORIES
from tests.support.crashtable import NEVER_CAME, OUTLIVED, Row

pytestmark = pytest.mark.integration

TOGETHER = 12
"""So many are played at a time: more, and the controllers cannot keep up with the namespaces."""

RECORDINGS = 4
"""Which effects come always, and which at times."""


@pytest.mark.parametrize("name", STORIES)
async def test_the_next_launcher_ends(
    name: str,
    fake_cluster: LocalCluster,
    admin: Admin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(fake_cluster.kubeconfig))
    monkeypatch.setattr(upkeep, "DRAFT_SECONDS", DRAFT_S)
    monkeypatch.setattr(waiting, "PATIENCE_S", PATIENCE_S)
    plays = Plays(STORIES, fake_cluster, admin, tmp_path, TOGETHER)
    recordings = await plays.record([name], RECORDINGS)
    rows = crashtable.merged(recordings[name])
    outcomes = await plays.die(deaths({name: rows}))
    expect_nothing_wrong(outcomes)

    def played(row: Row) -> Row:
        before, after = (
            outcomes[Death(name, CrashPoint(row.effect, when))].came for when in (BEFORE, AFTER)
        )
        return replace(
            row,
            always=row.always and before and after,
            before=OUTLIVED if before else NEVER_CAME,
            after=OUTLIVED if after else NEVER_CAME,
        )

    write(name, [played(row) for row in rows])


def write(name: str, rows: list[Row]) -> None:
    page = crashtable.PAGE.read_text()
    there = {**crashtable.read(page), STORIES[name].title: rows}
    titles = [story.title for story in STORIES.values() if story.title in there]
    crashtable.PAGE.write_text(crashtable.written({title: there[title] for title in titles}, page))
