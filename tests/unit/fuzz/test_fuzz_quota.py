"""Limits, amounts and what nodes count, with whatever numbers there are."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nodepool_k8s.config.settings import Label
from nodepool_k8s.model import LabelType, Node, NodeState, Resources
from nodepool_k8s.policy import quota
from nodepool_k8s.policy.usage import pod_requests, usage
from tests.support.fuzzing import fuzzed, values

NAMES = st.sampled_from(["instances", "cores", "ram", "licences"])
SMALL = st.dictionaries(NAMES, st.integers(0, 6), max_size=4).map(Resources)
LIMITS = st.dictionaries(NAMES, st.integers(0, 10), max_size=4)


@fuzzed(200)
@given(LIMITS, SMALL, SMALL)
def test_what_fits_leaves_nothing_above_its_limit_that_was_not(
    limits: Mapping[str, int], used: Resources, wanted: Resources
) -> None:
    after = used + wanted
    above = {name for name, limit in limits.items() if after.amount(name) > limit}
    assert quota.fits(limits, used, wanted) == (not above & set(wanted))
    assert set(quota.over(limits, used, wanted)) == above & set(wanted)


@fuzzed(200)
@given(LIMITS, SMALL, SMALL)
def test_what_never_fits_fits_into_no_pool_however_empty(
    limits: Mapping[str, int], used: Resources, wanted: Resources
) -> None:
    reason = quota.never_fits(limits, wanted)
    assert (reason is None) == quota.fits(limits, Resources(), wanted)
    if reason is not None:
        assert not quota.fits(limits, used, wanted)
    if not quota.fits(limits, used, wanted):
        assert quota.waits_for(limits, used, wanted).startswith("quota: ")


def node(number: int, claimed: Resources | None) -> Node:
    return Node(f"{number:010}", NodeState.READY, state_time=number, claimed=claimed)


@fuzzed(400)
@given(
    LIMITS,
    SMALL,
    SMALL,
    SMALL,
    st.lists(st.none() | SMALL, max_size=5),
    st.booleans(),
)
def test_only_as_many_spare_nodes_are_removed_as_help(
    limits: Mapping[str, int],
    others: Resources,
    leaving: Resources,
    wanted: Resources,
    spare: list[Resources | None],
    at_once: bool,
) -> None:
    """Remove what is said until it fits or nothing is: all of it must have been of use."""
    unused = [node(number, claimed) for number, claimed in enumerate(spare)]
    used = others + leaving + total(unused)
    room_comes = quota.fits(limits, used - leaving, wanted)
    removed: list[Node] = []
    for _ in range(len(spare) + 2):
        chosen = quota.spare_to_remove(limits, used, leaving, wanted, unused)
        if chosen is None:
            if not leaving or quota.fits(limits, used - leaving, wanted):
                break
            used, leaving = used - leaving, Resources()
            continue
        assert chosen.claimed is not None
        unused.remove(chosen)
        removed.append(chosen)
        if at_once:
            used -= chosen.claimed
        else:
            leaving += chosen.claimed
    used, leaving = used - leaving, Resources()
    counted = [entry for entry in [*unused, *removed] if entry.claimed is not None]
    possible = quota.fits(limits, used + total(removed) - total(counted), wanted)
    assert quota.fits(limits, used, wanted) == possible
    if not possible or room_comes:
        assert not removed
    for left_out in removed:
        assert not quota.fits(limits, used + total([left_out]), wanted)


def total(nodes: list[Node]) -> Resources:
    return sum((entry.claimed or Resources() for entry in nodes), Resources())


@fuzzed(150)
@given(LIMITS, SMALL, SMALL, st.lists(SMALL, max_size=4))
def test_one_spare_node_is_removed_where_one_will_do(
    limits: Mapping[str, int], others: Resources, wanted: Resources, spare: list[Resources]
) -> None:
    unused = [node(number, claimed) for number, claimed in enumerate(spare)]
    used = others + total(unused)
    chosen = quota.spare_to_remove(limits, used, Resources(), wanted, unused)
    alone = [entry for entry in unused if quota.fits(limits, used - total([entry]), wanted)]
    if quota.fits(limits, used, wanted):
        assert chosen is None
    elif alone:
        assert chosen == alone[0]
    else:
        several = any(
            quota.fits(limits, used - total(list(some)), wanted)
            for count in range(len(unused) + 1)
            for some in combinations(unused, count)
        )
        assert (chosen is not None) == several


# --- amounts -------------------------------------------------------------------------------

AMOUNTS = st.dictionaries(NAMES, st.floats(0, 1e9) | st.integers(0, 10**9), max_size=4)


@fuzzed(150)
@given(AMOUNTS)
def test_amounts_are_rounded_up_by_less_than_a_thousandth(amounts: Mapping[str, float]) -> None:
    resources = Resources.from_numbers(amounts)
    for name, amount in amounts.items():
        over = Fraction(resources.amount(name)) - Fraction(amount) * 1000
        assert -Fraction(1, 1000) < over < 1
    assert Resources.from_numbers(resources.numbers()) == resources


@fuzzed(100)
@given(SMALL, SMALL)
def test_equal_amounts_are_the_same_key(one: Resources, two: Resources) -> None:
    assert (one == two) == ((one - two) == Resources())
    if one == two:
        assert hash(one) == hash(two)
    assert list(one) == sorted(one)
    assert dict(one) == {name: one.amount(name) for name in one}


# --- what a node counts ------------------------------------------------------------------------

QUANTITIES = (
    st.sampled_from(["500m", "1", "1.5Gi", "2e3", "1n", "0", "-1", "x", "1Ki", 2, 0.5]) | values
)
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "restartPolicy": st.sampled_from(["Always", "Never", 1]),
            "resources": st.dictionaries(
                st.sampled_from(["requests", "limits"]),
                st.dictionaries(
                    st.sampled_from(["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"]),
                    QUANTITIES,
                    max_size=3,
                )
                | values,
            ),
        },
    )
    | values,
    max_size=3,
)
SPECS = st.dictionaries(
    st.sampled_from(["containers", "initContainers", "overhead", "resources"]),
    CONTAINERS | values,
    max_size=4,
)


@fuzzed(200)
@given(SPECS)
def test_every_pod_counts_something_whole_and_one_instance(spec: dict[str, Any]) -> None:
    counted = usage(Label("fedora", LabelType.POD, spec=spec))
    assert counted.amount("instances") == 1000
    assert all(isinstance(amount, int) for amount in counted.values())


@fuzzed(150)
@given(
    st.lists(st.integers(0, 5), max_size=4),
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=4),
)
def test_a_pod_counts_what_it_needs_at_its_worst_moment(
    main: list[int], init: list[tuple[int, bool]]
) -> None:
    """Start the containers one after the other, as a kubelet does, and look at the meter."""
    spec = {
        "containers": [{"resources": {"requests": {"cpu": amount}}} for amount in main],
        "initContainers": [
            {
                "resources": {"requests": {"cpu": amount}},
                "restartPolicy": "Always" if stays else "Never",
            }
            for amount, stays in init
        ],
    }
    running = worst = 0
    for amount, stays in init:
        worst = max(worst, running + amount)
        running += amount if stays else 0
    worst = max(worst, running + sum(main))
    assert pod_requests(spec).get("cpu", 0) == worst
