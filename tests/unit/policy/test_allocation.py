"""Who takes a request, who leaves it, who declines it: by table."""

from typing import Any

import pytest

from nodepool_k8s.config.settings import Label, Pool
from nodepool_k8s.model import Component, LabelType, NodeRequest, RequestState, Resources
from nodepool_k8s.policy import allocation
from nodepool_k8s.policy.allocation import Decline, Ignore, Take, Yield

ME = "me"
ONE = Resources.of(instances=1)


def a_request(*labels: str, **changes: Any) -> NodeRequest:
    fields: dict[str, Any] = {"id": "200-0000000001", "state": RequestState.REQUESTED}
    return NodeRequest(node_types=labels, **{**fields, **changes})


def a_pool(*labels: str, **changes: Any) -> Pool:
    known = {name: Label(name, LabelType.NAMESPACE) for name in labels}
    return Pool(provider="ours", name="main", labels=known, **changes)


def component(identity: str, *labels: str, **changes: Any) -> Component:
    fields: dict[str, Any] = {"provider_name": "theirs", **changes}
    return Component(identity, supported_labels=frozenset(labels), **fields)


def asked(request: NodeRequest, pool: Pool, *others: Component) -> allocation.Answer:
    mine = component(ME, *pool.labels, provider_name="ours", priority=pool.priority)
    usage = dict.fromkeys(pool.labels, ONE)
    return allocation.answer(request, pool, ME, [mine, *others], usage)


@pytest.mark.parametrize("state", [state for state in RequestState if state != "requested"])
def test_only_requested_requests_wait(state: RequestState) -> None:
    assert asked(a_request("a", state=state), a_pool("a")) == Ignore()


def test_what_we_declined_waits_for_those_who_have_not() -> None:
    declined, another = a_request("a", declined_by=(ME,)), component("it", "b")
    assert isinstance(asked(declined, a_pool("a"), another), Yield)


@pytest.mark.parametrize("declined_by", [(ME,), ("it", ME), (ME, "gone")])
def test_what_everybody_declined_who_is_left_fails(declined_by: tuple[str, ...]) -> None:
    declined = a_request("a", declined_by=declined_by)
    others = [component("it")] if "it" in declined_by else []
    assert isinstance(asked(declined, a_pool("a"), *others), Decline)
    registered = [component(ME), *others]
    answer = allocation.after_decline(declined, ME, registered)
    assert answer == (RequestState.FAILED, declined_by)


def test_what_fits_is_taken_with_what_it_counts() -> None:
    assert asked(a_request("a", "a", "b"), a_pool("a", "b")) == Take(Resources.of(instances=3))


OTHERS: list[tuple[str, dict[str, Any], Component, type]] = [
    ("equal priority", {}, component("it", "a"), Take),
    ("lower priority", {}, component("it", "a", priority=200), Take),
    ("higher priority", {}, component("it", "a", priority=1), Yield),
    ("higher, but paused", {}, component("it", "a", priority=1, paused=True), Take),
    ("higher, without the label", {}, component("it", "b", priority=1), Take),
    ("higher, but declined", {"declined_by": ("it",)}, component("it", "a", priority=1), Take),
    ("asks for it", {"provider": "theirs"}, component("it", "a", priority=200), Yield),
    ("asks for it, paused", {"provider": "theirs"}, component("it", "a", paused=True), Yield),
    ("asks for it, without", {"provider": "theirs"}, component("it", "b"), Take),
    ("asks for us", {"provider": "ours"}, component("it", "a"), Take),
    ("asks for us, lower", {"provider": "ours"}, component("it", "a", priority=1), Take),
    (
        "asks for us, a pool of ours is higher",
        {"provider": "ours"},
        component("it", "a", provider_name="ours", priority=1),
        Yield,
    ),
    ("asks for nobody", {"provider": "unheard-of"}, component("it", "a"), Take),
    (
        "asks for a pool of Nodepool's, which leaves it to our priority",
        {"provider": "theirs"},
        component("host-PoolWorker.theirs-main-1", "a", priority=200),
        Take,
    ),
    (
        "asks for a pool of Nodepool's of our priority",
        {"provider": "theirs"},
        component("host-PoolWorker.theirs-main-1", "a"),
        Yield,
    ),
]


@pytest.mark.parametrize(("changes", "other", "kind"), [row[1:] for row in OTHERS])
def test_others_may_come_first(changes: dict[str, Any], other: Component, kind: type) -> None:
    assert isinstance(asked(a_request("a", **changes), a_pool("a"), other), kind)


@pytest.mark.parametrize(
    ("better", "kind"),
    [
        (component("third", "a", priority=1), Take),
        (component("third", "a", priority=1, paused=True), Yield),
        (component("third", "b", priority=1), Yield),
        (component("third", "a", priority=50), Yield),
        (component("third", "a", priority=1, provider_name="ours"), Yield),
    ],
)
def test_nodepools_pool_of_our_provider_may_leave_a_request(better: Component, kind: type) -> None:
    nodepools = component("host-PoolWorker.ours-2", "a", provider_name="ours", priority=50)
    answer = asked(a_request("a", provider="ours"), a_pool("a"), nodepools, better)
    assert isinstance(answer, kind)


def test_a_label_we_lack_is_left_to_who_has_it() -> None:
    request, pool = a_request("a", "z"), a_pool("a")
    assert isinstance(asked(request, pool, component("it", "a", "z")), Yield)
    answer = asked(request, pool, component("it", "z"), component("too", "a"))
    assert isinstance(answer, Decline)
    assert "z" in answer.reason


def test_a_pool_without_servers_declines() -> None:
    answer = asked(a_request("a"), a_pool("a", disabled=True))
    assert answer == Decline("max-servers of the pool is 0")


def test_what_never_fits_is_declined() -> None:
    answer = asked(a_request("a", "a"), a_pool("a", limits={"instances": 1000}))
    assert isinstance(answer, Decline)
    assert "max-servers is 1" in answer.reason


# --- order ----------------------------------------------------------------------------------


def test_order_is_priority_relative_priority_sequence() -> None:
    rows = [
        ("100-0000000009", 9),
        ("200-0000000005", -1),
        ("200-0000000002", 0),
        ("200-0000000003", 0),
        ("200-0000000001", 1),
        ("300-0000000000", 0),
        ("900-0000000000", 0),
    ]
    requests = [a_request("a", id=name, relative_priority=number) for name, number in rows]
    assert sorted(requests[3:] + requests[:3], key=allocation.order) == requests


# --- declining ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declined_by", "others", "state"),
    [
        ((), [], RequestState.FAILED),
        ((), ["it"], RequestState.REQUESTED),
        (("it",), ["it"], RequestState.FAILED),
        (("it",), ["it", "too"], RequestState.REQUESTED),
        (("gone",), [], RequestState.FAILED),
    ],
)
def test_a_request_fails_when_every_pool_has_declined(
    declined_by: tuple[str, ...], others: list[str], state: RequestState
) -> None:
    request = a_request("a", declined_by=declined_by)
    registered = [component(name) for name in (ME, *others)]
    assert allocation.after_decline(request, ME, registered) == (state, (*declined_by, ME))
