"""Any pools, ours and Nodepool's, and any requests: each request comes to an end, the right one.

The rules are written down here a second time, as plainly as can be: see "Nodepool's rules" in
docs/architecture.md.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import event, given
from hypothesis import strategies as st

from nodepool_k8s.config.settings import Label, Pool
from nodepool_k8s.model import Component, LabelType, NodeRequest, RequestState, Resources
from nodepool_k8s.policy import allocation, quota
from nodepool_k8s.policy.allocation import Decline, Ignore, Take, Yield
from tests.support.fuzzing import fuzzed

LABELS = ("a", "b", "c")
USAGE: Mapping[str, Resources] = {
    "a": Resources.of(instances=1),
    "b": Resources.of(instances=1, cores=2),
    "c": Resources.of(instances=1, cores=4),
}


@dataclass(frozen=True)
class Launcher:
    """One registered pool: ours, or (``foreign``) one of a launcher of Nodepool's."""

    component: Component
    pool: Pool
    foreign: bool

    @property
    def id(self) -> str:
        return self.component.id

    def can_serve(self, request: NodeRequest) -> bool:
        """Whether it could ever take it, by its settings alone."""
        wanted = sum((USAGE[label] for label in request.node_types), Resources())
        return (
            set(request.node_types) <= set(self.pool.labels)
            and not self.pool.disabled
            and quota.fits(self.pool.limits, Resources(), wanted)
        )


@st.composite
def launchers(draw: st.DrawFn, number: int) -> Launcher:
    provider = draw(st.sampled_from(["one", "two"]))
    labels = draw(st.frozensets(st.sampled_from(LABELS), max_size=3))
    foreign = draw(st.integers(0, 3)) == 0
    identity = f"host-{'PoolWorker.' if foreign else ''}{number}"
    priority = draw(st.sampled_from([1, 50, 100]))
    pool = Pool(
        provider,
        f"pool-{number}",
        {name: Label(name, LabelType.POD) for name in labels},
        priority=priority,
        limits=draw(st.dictionaries(st.sampled_from(["instances", "cores"]), st.integers(0, 5000))),
        disabled=draw(st.integers(0, 5)) == 0,
    )
    return Launcher(
        Component(identity, provider, labels, priority, paused=draw(st.booleans())), pool, foreign
    )


@st.composite
def sites(draw: st.DrawFn) -> list[Launcher]:
    return [draw(launchers(number=number)) for number in range(draw(st.integers(1, 4)))]


REQUESTS = st.builds(
    NodeRequest,
    id=st.just("200-0000000001"),
    state=st.just(RequestState.REQUESTED),
    node_types=st.lists(st.sampled_from(LABELS), max_size=3).map(tuple),
    provider=st.none() | st.sampled_from(["one", "two", "three"]),
)


def ours(
    launcher: Launcher, request: NodeRequest, components: list[Component]
) -> allocation.Answer:
    return allocation.answer(request, launcher.pool, launcher.id, components, USAGE)


def nodepools(
    launcher: Launcher, request: NodeRequest, components: list[Component]
) -> allocation.Answer:
    """What Nodepool's launcher does: it looks at priorities whatever the request names."""
    if launcher.id in request.declined_by:
        return Ignore()
    wanted = set(request.node_types)
    others = [
        other
        for other in components
        if other.id != launcher.id
        and other.id not in request.declined_by
        and other.supported_labels >= wanted
    ]
    own = launcher.component
    if request.provider not in (None, own.provider_name) and any(
        other.provider_name == request.provider for other in others
    ):
        return Yield("named")
    if any(other.priority < own.priority and not other.paused for other in others):
        return Yield("priority")
    if not wanted <= own.supported_labels:
        return Yield("labels") if others else Decline("labels")
    return Take(Resources()) if launcher.can_serve(request) else Decline("large")


def asked(
    launcher: Launcher, request: NodeRequest, components: list[Component]
) -> allocation.Answer:
    return (nodepools if launcher.foreign else ours)(launcher, request, components)


def leaves(named: Launcher, candidates: list[Launcher]) -> bool:
    """Whether a pool that a request names leaves it to a better one of another provider."""
    return named.foreign and any(
        other.pool.provider != named.pool.provider
        and other.component.priority < named.component.priority
        and not other.component.paused
        for other in candidates
    )


def nobody_of_nodepools_takes(
    site: list[Launcher], request: NodeRequest, components: dict[str, Component]
) -> bool:
    """Whether two of Nodepool's leave it to each other, by name and by priority."""
    candidates = [
        dataclasses.replace(launcher, component=components[launcher.id])
        for launcher in site
        if launcher.foreign
        and launcher.id not in request.declined_by
        and launcher.component.supported_labels >= set(request.node_types)
    ]
    return any(
        leaves(launcher, candidates)
        for launcher in candidates
        if launcher.pool.provider == request.provider
    )


@fuzzed(100)
@given(sites(), REQUESTS, st.data())
def test_every_request_ends_and_fails_only_if_unservable(
    site: list[Launcher], request: NodeRequest, data: st.DataObject
) -> None:
    """Launchers look in any order, pools pause, go on and go for a while; then they settle."""
    components = {launcher.id: launcher.component for launcher in site}
    last = next((launcher for launcher in site if not launcher.foreign), None)
    unsettled = data.draw(st.integers(0, 4))
    for turn in range((len(site) + 1) ** 2 + unsettled):
        if turn < unsettled:
            which = data.draw(st.sampled_from(sorted(components)))
            paused = data.draw(st.booleans())
            components[which] = dataclasses.replace(components[which], paused=paused)
            # Nodepool's do not look again at what they have declined: one of ours stays.
            if last is not None and which != last.id and data.draw(st.booleans()):
                del components[which]
                site = [launcher for launcher in site if launcher.id != which]
            looking = [data.draw(st.sampled_from(site))]
        else:
            looking = data.draw(st.permutations(site))
        for launcher in looking:
            answer = asked(launcher, request, list(components.values()))
            if isinstance(answer, Take):
                assert launcher.can_serve(request)
                event("taken")
                return
            if isinstance(answer, Decline):
                once_more = launcher.id in request.declined_by
                assert not launcher.can_serve(request), "declined what it could take"
                assert not once_more or {*components} <= {*request.declined_by}
                state, declined_by = allocation.after_decline(
                    request, launcher.id, components.values()
                )
                request = dataclasses.replace(request, state=state, declined_by=declined_by)
            if request.state is RequestState.FAILED:
                event("failed")
                assert {*request.declined_by} >= {*components}
                assert not any(launcher.can_serve(request) for launcher in site)
                return
    assert nobody_of_nodepools_takes(site, request, components), "the request has no end"


@fuzzed(100)
@given(sites(), REQUESTS, st.data())
def test_nobody_takes_what_is_anothers(
    site: list[Launcher], request: NodeRequest, data: st.DataObject
) -> None:
    components = [launcher.component for launcher in site]
    ids = [component.id for component in components]
    declined_by = tuple(data.draw(st.lists(st.sampled_from(ids), max_size=2, unique=True)))
    request = dataclasses.replace(request, declined_by=declined_by)
    candidates = [
        launcher
        for launcher in site
        if launcher.id not in declined_by
        and launcher.component.supported_labels >= set(request.node_types)
    ]
    named = [each for each in candidates if each.pool.provider == request.provider]
    for launcher in site:
        if launcher.foreign:
            continue
        answer = ours(launcher, request, components)
        if launcher.id in declined_by:
            assert isinstance(answer, Decline if {*ids} <= {*declined_by} else Yield)
            continue
        better = [
            other
            for other in candidates
            if other.component.priority < launcher.pool.priority and not other.component.paused
        ]
        if named and launcher not in named:
            # Ours take what names them; one of Nodepool's leaves it to a better pool.
            taking = [
                other
                for other in named
                if not (other.foreign and launcher.pool.priority < other.component.priority)
            ]
            if taking:
                assert isinstance(answer, Yield)
                continue
        if launcher in named:
            better = [other for other in better if other in named and not leaves(other, candidates)]
        others = [other for other in candidates if other is not launcher]
        should_yield = bool(better) or (launcher not in candidates and bool(others))
        if should_yield:
            assert isinstance(answer, Yield)
        elif launcher.can_serve(request):
            assert answer == Take(sum((USAGE[name] for name in request.node_types), Resources()))
        else:
            assert isinstance(answer, Decline)
            assert answer.reason


@fuzzed(60)
@given(sites(), REQUESTS.filter(lambda request: request.provider is None))
def test_of_pools_that_both_take_neither_is_better(
    site: list[Launcher], request: NodeRequest
) -> None:
    components = [launcher.component for launcher in site]
    taking = [
        launcher for launcher in site if isinstance(asked(launcher, request, components), Take)
    ]
    unpaused = [launcher for launcher in taking if not launcher.component.paused]
    assert len({launcher.component.priority for launcher in unpaused}) <= 1


@fuzzed(60)
@given(
    REQUESTS,
    sites(),
    st.sampled_from([RequestState.PENDING, RequestState.FULFILLED, RequestState.FAILED]),
)
def test_what_does_not_wait_is_nobodys(
    request: NodeRequest, site: list[Launcher], state: RequestState
) -> None:
    components = [launcher.component for launcher in site]
    for launcher in site:
        taken = dataclasses.replace(request, state=state)
        assert ours(launcher, taken, components) == Ignore()


PLACES = st.builds(
    lambda priority, sequence, relative: NodeRequest(
        f"{priority}-{sequence:010}",
        RequestState.REQUESTED,
        ("a",),
        relative_priority=relative,
    ),
    st.sampled_from([100, 200, 300]),
    st.integers(0, 50),
    st.integers(-2, 5),
)


@fuzzed(60)
@given(st.lists(PLACES, max_size=8))
def test_order_is_priority_then_relative_priority_then_age(requests: list[NodeRequest]) -> None:
    ordered = sorted(requests, key=allocation.order)
    for one, two in itertools.pairwise(ordered):
        assert one.priority <= two.priority
        if one.priority == two.priority:
            assert one.relative_priority <= two.relative_priority
            if one.relative_priority == two.relative_priority:
                assert one.sequence <= two.sequence
