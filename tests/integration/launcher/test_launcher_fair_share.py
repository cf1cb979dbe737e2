"""Tenants take turns in a pool that is set so, and in no other."""

from __future__ import annotations

import pytest

from tests.support.launchers import Launchers
from tests.support.site import SiteMaker, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

FLOOD = 4


async def served_in_turn(zuul: Zuul, requests: list[str]) -> list[str]:
    """Use whatever is fulfilled and give it back, one by one; the requests in that order."""
    order: list[str] = []

    async def one_more() -> str | None:
        for request_id in set(requests) - set(order):
            record = await zuul.request(request_id)
            if record is not None and record["state"] == "fulfilled":
                return request_id
        return None

    while len(order) < len(requests):
        request_id = await eventually(one_more, "one more request")
        order.append(request_id)
        await zuul.use_and_return(request_id)
    return order


@pytest.mark.parametrize("fair", [True, False])
async def test_with_fair_share_a_flooding_tenant_does_not_go_first(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, fair: bool
) -> None:
    site = make_site(pod_label("node"), pool={"max-servers": 2}, top={"fair-share": fair})
    first = await zuul.submit("node", tenant_name="flood")
    await launchers.start(site)
    await zuul.answered(first)
    held = await zuul.accept(first)
    # There is room for one, and the flood holds a node already.
    flood = [await zuul.submit("node", tenant_name="flood") for _ in range(FLOOD)]
    late = await zuul.submit("node", tenant_name="late")
    order = await served_in_turn(zuul, [*flood, late])
    # Its first request may have been waited for, or served, when the other tenant came.
    if fair:
        assert late in order[:3]
        assert [each for each in order if each != late] == flood
    else:
        assert order == [*flood, late]
    await zuul.give_back(held)
