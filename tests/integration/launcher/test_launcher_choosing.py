"""Which pool serves a request, and who says that none can."""

import json

import pytest
from harness.requestor import REQUESTS

from tests.support.launchers import Launchers
from tests.support.site import Options, SiteMaker, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration


def one_pool(provider: str, pool: str, *labels: str, **options: object) -> Options:
    entry = {"name": pool, "labels": [pod_label(name) for name in labels], **options}
    return {"name": provider, "pools": [entry]}


async def provider_of(zuul: Zuul, request_id: str) -> str:
    request = await zuul.answered(request_id)
    node = await zuul.node(request["nodes"][0])
    assert node is not None
    return f"{node['provider']}"


async def test_a_request_goes_to_the_provider_it_names(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    pool = make_site.pool
    site = make_site.of([one_pool("one", pool, "pod"), one_pool("two", f"{pool}-2", "pod")])
    await launchers.start(site)
    for wanted in ("one", "two", "two", "one"):
        assert await provider_of(zuul, await zuul.submit("pod", provider=wanted)) == wanted


async def test_a_provider_that_cannot_serve_it_is_passed_over(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    pool = make_site.pool
    site = make_site.of([one_pool("one", pool, "pod"), one_pool("two", f"{pool}-2", "other")])
    await launchers.start(site)
    assert await provider_of(zuul, await zuul.submit("pod", provider="two")) == "one"
    assert await provider_of(zuul, await zuul.submit("pod", provider="unheard-of")) == "one"


async def test_a_label_that_no_pool_has_fails_with_the_reason(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    pool = make_site.pool
    site = make_site.of([one_pool("one", pool, "pod"), one_pool("two", f"{pool}-2", "other")])
    await launchers.start(site)
    request = await zuul.answered(await zuul.submit("pod", "nonesuch"), "failed")
    assert sorted(request["declined_by"]) == sorted(
        component["id"] for component in await zuul.components()
    )
    reasons = request["nodepool_k8s"]["reasons"]
    assert len(reasons) == 2
    assert all("nonesuch" in reason for reason in reasons)


async def test_labels_of_two_pools_in_one_request_fail(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    pool = make_site.pool
    site = make_site.of([one_pool("one", pool, "pod"), one_pool("two", f"{pool}-2", "other")])
    await launchers.start(site)
    await zuul.answered(await zuul.submit("pod", "other"), "failed")


async def test_the_pool_of_higher_priority_fills_up_first(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    first = one_pool("first", make_site.pool, "pod", **{"max-servers": 2, "priority": 10})
    second = one_pool("second", f"{make_site.pool}-2", "pod", **{"max-servers": 2, "priority": 20})
    await launchers.start(make_site.of([second, first]))
    served = [await provider_of(zuul, await zuul.submit("pod")) for _ in range(4)]
    assert served == ["first", "first", "second", "second"]


async def test_waiting_requests_move_to_a_higher_pool_with_room(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    first = one_pool("first", make_site.pool, "pod", **{"max-servers": 1, "priority": 10})
    second = one_pool("second", f"{make_site.pool}-2", "pod", **{"max-servers": 1, "priority": 20})
    await launchers.start(make_site.of([second, first]))
    ids = [await zuul.submit("pod") for _ in range(3)]
    assert {await provider_of(zuul, ids[0]), await provider_of(zuul, ids[1])} == {
        *("first", "second")
    }

    async def both_paused() -> bool:
        return all(component["paused"] for component in await zuul.components())

    await eventually(both_paused, "both at their limits")
    await zuul.use_and_return(ids[0])
    assert await provider_of(zuul, ids[2]) == "first"


async def waits_untouched(zuul: Zuul, request_id: str) -> None:
    """A later request is served while this one is left alone."""
    await zuul.use_and_return(await zuul.submit("pod"))
    request = await zuul.request(request_id)
    assert request is not None
    assert request["state"] == "requested"
    assert not request.get("declined_by")


async def test_another_launcher_with_the_label_delays_our_refusal(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await zuul.register(id="other-launcher", supported_labels=["pod", "bare-metal"])
    await launchers.start(make_site(pod_label()))
    request_id = await zuul.submit("bare-metal")
    await waits_untouched(zuul, request_id)
    # Now the other one declines, as Nodepool does.
    path = f"{REQUESTS}/{request_id}"
    data, stat = await zuul.do(zuul.kazoo.get, path)
    declined = {**json.loads(data), "declined_by": ["other-launcher"]}
    await zuul.do(zuul.kazoo.set, path, json.dumps(declined).encode(), version=stat.version)
    request = await zuul.answered(request_id, "failed")
    (ours,) = [entry["id"] for entry in await zuul.components() if entry["id"] != "other-launcher"]
    assert request["declined_by"] == ["other-launcher", ours]


async def test_a_launcher_that_leaves_holds_back_nothing(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    path = await zuul.register(id="other-launcher", supported_labels=["bare-metal"])
    await launchers.start(make_site(pod_label()))
    request_id = await zuul.submit("bare-metal")
    await waits_untouched(zuul, request_id)
    await zuul.delete(path)
    await zuul.answered(request_id, "failed")


async def test_we_do_not_fail_what_another_launcher_has_not_declined(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    other = await zuul.register(id="other-launcher", supported_labels=["unrelated"])
    await launchers.start(make_site(pod_label()))
    request_id = await zuul.submit("nonesuch")

    async def declined_by_us() -> bool:
        request = await zuul.request(request_id)
        return bool(request and request.get("declined_by"))

    await eventually(declined_by_us, "declined")
    request = await zuul.request(request_id)
    assert request is not None
    assert request["state"] == "requested"
    # When it goes without an answer, nobody else would ever give one.
    await zuul.delete(other)
    failed = await zuul.answered(request_id, "failed")
    assert failed["declined_by"] == request["declined_by"]


async def test_a_launcher_of_higher_priority_goes_first(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    record = {"id": "other-launcher", "supported_labels": ["pod", "both"], "priority": 1}
    path = await zuul.register(**record)
    await launchers.start(make_site(pod_label("both"), pod_label("ours")))
    request_id = await zuul.submit("both")
    await zuul.use_and_return(await zuul.submit("ours"))
    request = await zuul.request(request_id)
    assert request is not None
    assert request["state"] == "requested"
    await zuul.put(path, {**(await zuul.get(path) or {}), "paused": True})
    await zuul.answered(request_id)
