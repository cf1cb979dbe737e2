"""A requestor that wants to know is told what its request waits for, by whoever has it."""

from __future__ import annotations

import pytest
from kazoo.exceptions import NoNodeError

from nodepool_k8s.model import Phase, Progress
from nodepool_k8s.znodes import paths
from nodepool_k8s.znodes.paths import progress_path
from nodepool_k8s.znodes.progress import parse_progress
from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import SiteMaker, manual_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration


async def progress(zuul: Zuul, request_id: str) -> Progress | None:
    try:
        data, _ = await zuul.do(zuul.kazoo.get, progress_path(request_id))
    except NoNodeError:
        return None
    return parse_progress(request_id, data)


async def told(zuul: Zuul, request_id: str, phase: Phase, why: str, place: int | None) -> Progress:
    async def check() -> Progress | None:
        found = await progress(zuul, request_id)
        right = found is not None and (found.phase, found.position) == (phase, place)
        return found if right and found is not None and why in found.why else None

    found: Progress = await eventually(check, f"{request_id} is {phase} at {place}: {why}")
    return found


async def told_nothing(zuul: Zuul, request_id: str) -> None:
    async def check() -> bool:
        return await progress(zuul, request_id) is None

    await eventually(check, f"the progress of {request_id} is gone")


async def test_progress_is_written_for_requests_that_ask_for_it(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label(), pool={"max-servers": 1})
    first = await launchers.start(site)
    launched = await zuul.submit("pod", progress=True)
    (node_id,) = await zuul.building(launched)
    found = await told(zuul, launched, Phase.LAUNCHING, "", None)
    assert (found.node, found.pool) == (node_id, f"local/{make_site.pool}")
    silent = await zuul.submit("pod")
    waits = await zuul.submit("pod", progress=True)
    await told(zuul, waits, Phase.QUEUED, "1 of 1 instances in use, 1 needed", 2)
    await zuul.cancel(silent)
    await told(zuul, waits, Phase.QUEUED, "1 of 1 instances in use, 1 needed", 1)
    assert set(await zuul.children(paths.PROGRESS)) == {launched, waits}
    # Another launcher comes to the first's end.
    second = await launchers.start(site)
    await admin.make_ready(make_site.namespace(node_id))
    await zuul.answered(launched)
    await told_nothing(zuul, launched)
    await first.stop()
    await told(zuul, waits, Phase.QUEUED, "1 of 1 instances in use, 1 needed", 1)
    await zuul.use_and_return(launched)
    (node_id,) = await zuul.building(waits)
    await told(zuul, waits, Phase.LAUNCHING, "", None)
    await admin.make_ready(make_site.namespace(node_id))
    await zuul.use_and_return(waits)
    await told_nothing(zuul, waits)
    await second.stop()
