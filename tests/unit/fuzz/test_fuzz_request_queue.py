"""A line of waiting requests against the simplest line that could be: a list that is sorted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nodepool_k8s.model import Resources
from nodepool_k8s.policy.allocation import Order
from nodepool_k8s.policy.request_queue import FairShare, Group, RequestQueue
from tests.support.fuzzing import fuzzed

IDS = st.sampled_from([f"{number}" for number in range(12)])
TENANTS = ("one", "two", "three")
GROUPS: st.SearchStrategy[Group] = st.none() | st.tuples(
    st.sampled_from(TENANTS), st.sampled_from([Resources.of(instances=n) for n in (1, 2)])
)


class Lines(RuleBasedStateMachine):
    """Requests come, move and go; tenants are at their limits, or no longer."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = RequestQueue()
        self.places: dict[str, tuple[Order, Group]] = {}
        self.aside: set[Group] = set()
        self.late = 0

    @rule(
        name=IDS,
        priority=st.sampled_from(["100", "200", "300"]),
        relative=st.integers(-2, 2),
        group=GROUPS,
    )
    def add(self, name: str, priority: str, relative: int, group: Group) -> None:
        self.leave(name)
        self.queue.add(name, (priority, relative, name), group)
        self.places[name] = ((priority, relative, name), group)

    @rule(name=IDS)
    def discard(self, name: str) -> None:
        self.queue.discard(name)
        self.leave(name)

    def leave(self, name: str) -> None:
        _, group = self.places.pop(name, (None, None))
        if group not in [group for _, group in self.places.values()]:
            self.aside.discard(group)

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.places)))
        self.queue.park(name)
        group = self.places[name][1]
        if group is not None:
            self.aside.add(group)

    @rule(tenant=st.sampled_from(TENANTS))
    def unpark(self, tenant: str) -> None:
        back = {group for group in self.aside if group is not None and group[0] == tenant}
        self.aside -= back
        assert self.queue.unpark(tenant) == bool(back)

    @rule()
    def serve(self) -> None:
        """The launcher's step: whoever is first is served."""
        name = self.queue.first()
        if name is not None:
            self.discard(name)

    @rule(full=st.sets(st.sampled_from(TENANTS)), data=st.data())
    def nobody_starves(self, full: set[str], data: st.DataObject) -> None:
        """One that fits is served in as many steps as there are before it, whoever comes behind."""
        fitting = [
            name
            for name, (_, group) in self.places.items()
            if group not in self.aside and (group is None or group[0] not in full)
        ]
        if not fitting:
            return
        chosen = data.draw(st.sampled_from(sorted(fitting)))
        before = [name for name in self.places if self.places[name][0] < self.places[chosen][0]]
        for _ in range(len(before) + 1):
            name = self.queue.first()
            assert name is not None
            group = self.places[name][1]
            if group is not None and group[0] in full:
                self.queue.park(name)
                self.aside.add(group)
            else:
                self.discard(name)
            if name == chosen:
                return
            self.late += 1
            self.add(f"late-{self.late}", "900", 9, data.draw(GROUPS))
        raise AssertionError(f"{chosen} was not served")

    @invariant()
    def is_the_simplest_line(self) -> None:
        in_order = sorted(self.places, key=lambda name: self.places[name][0])
        served = [name for name in in_order if self.places[name][1] not in self.aside]
        assert self.queue.in_order() == in_order
        assert self.queue.first() == (served[0] if served else None)
        assert len(self.queue) == len(in_order)
        assert all(name in self.queue for name in in_order)
        assert {name for name in in_order if self.queue.is_parked(name)} == {*in_order} - {*served}
        assert self.queue.parked_tenants == {group[0] for group in self.aside if group is not None}


TestLines = Lines.TestCase
TestLines.settings = fuzzed(60, steps=25)


# --- where tenants take turns -----------------------------------------------------------------

LIMITS = {"instances": 8_000, "cores": 16_000}
SIZES = st.builds(
    lambda instances, cores: Resources.of(instances=instances, cores=cores),
    st.integers(1, 4),
    st.sampled_from([0, 1, 4, 8]),
)
PRIORITIES = st.sampled_from(["100", "200"])
ALL = ("", *TENANTS)


@dataclass
class Asked:
    """A request as whoever looks on knows it."""

    order: Order
    tenant: str
    needs: Resources
    limited: bool

    @property
    def group(self) -> Group:
        return (self.tenant, self.needs) if self.limited else None


class FairLines(RuleBasedStateMachine):
    """A pool whose tenants take turns: requests come, are waited for, served and given back."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: deque[tuple[str, Resources]] = deque()
        self.queue = RequestQueue(FairShare(LIMITS, self.held))
        self.asked: dict[str, Asked] = {}
        self.aside: set[Group] = set()
        self.kept: dict[str, str] = {}
        self.number = 0

    def held(self, tenant: str) -> Resources:
        return sum((needs for whose, needs in self.nodes if whose == tenant), Resources())

    def share(self, tenant: str) -> float:
        held = self.held(tenant)
        return max(held.amount(name) / limit for name, limit in LIMITS.items())

    def fits(self, needs: Resources) -> bool:
        used = sum((each for _, each in self.nodes), needs)
        return all(used.amount(name) <= limit for name, limit in LIMITS.items())

    @rule(
        tenant=st.sampled_from(ALL),
        priority=PRIORITIES,
        relative=st.integers(-2, 2),
        needs=SIZES,
        limited=st.booleans(),
    )
    def come(
        self, tenant: str, priority: str, relative: int, needs: Resources, limited: bool
    ) -> None:
        self.number += 1
        name = f"{priority}-{self.number:04}"
        order = (priority, relative, f"{self.number:04}")
        asked = self.asked[name] = Asked(order, tenant, needs, limited and tenant != "")
        self.queue.add(name, order, asked.group, tenant or None, needs)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), relative=st.integers(-2, 2))
    def be_revised(self, data: st.DataObject, relative: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.asked)))
        asked = self.asked[name]
        self.leave(name)
        asked.order = (asked.order[0], relative, asked.order[2])
        self.asked[name] = asked
        self.queue.add(name, asked.order, asked.group, asked.tenant, asked.needs)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.asked)))
        self.queue.discard(name)
        self.leave(name)

    def leave(self, name: str) -> None:
        group = self.asked.pop(name).group
        if group not in [each.group for each in self.asked.values()]:
            self.aside.discard(group)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        del self.nodes[data.draw(st.integers(0, len(self.nodes) - 1))]

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.asked)))
        self.queue.park(name)
        group = self.asked[name].group
        if group is not None:
            self.aside.add(group)

    @rule(tenant=st.sampled_from(TENANTS))
    def unpark(self, tenant: str) -> None:
        self.queue.unpark(tenant)
        self.aside = {group for group in self.aside if group is not None and group[0] != tenant}

    @rule()
    def step(self) -> None:
        self.serve()

    def serve(self) -> str | None:
        """What the launcher does: serve whoever is first, or wait for room; who was served."""
        name = self.queue.first()
        if name is None:
            return None
        asked = self.asked[name]
        if not self.fits(asked.needs):
            self.queue.pin(name)
            self.kept[asked.order[0]] = name
            return None
        self.nodes.append((asked.tenant, asked.needs))
        self.queue.discard(name)
        self.leave(name)
        return name

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def nobody_starves(self, data: st.DataObject) -> None:
        """Whoever is in line is served, however many others come, if nodes are given back."""
        for tenant in TENANTS:
            self.unpark(tenant)
        chosen = data.draw(st.sampled_from(sorted(self.asked)))
        late = data.draw(st.lists(st.tuples(st.sampled_from(ALL), SIZES), min_size=1, max_size=4))
        for turn in range(40 * len(self.asked) + 80):
            served = self.serve()
            if served == chosen:
                return
            if served is None:
                self.nodes.popleft()
            else:
                tenant, needs = late[turn % len(late)]
                self.come(tenant, self.asked[chosen].order[0], 9, needs, limited=False)
        raise AssertionError(f"{chosen} was not served")

    @invariant()
    def the_first_is_who_holds_least(self) -> None:
        heads: dict[str, str] = {}
        for name, asked in self.asked.items():
            if asked.group is not None and asked.group in self.aside:
                continue
            head = heads.get(asked.tenant)
            if head is None or asked.order < self.asked[head].order:
                heads[asked.tenant] = name
        urgent = min((self.asked[name].order[0] for name in heads.values()), default="")
        heads = {
            tenant: name for tenant, name in heads.items() if self.asked[name].order[0] == urgent
        }
        first = self.queue.first()
        if not heads:
            assert first is None
        elif self.kept.get(urgent) in heads.values():
            assert first == self.kept[urgent]
        else:
            assert first is not None
            mine = self.share(self.asked[first].tenant)
            assert heads[self.asked[first].tenant] == first
            assert all(mine <= self.share(tenant) for tenant in heads)
            same = [name for tenant, name in heads.items() if self.share(tenant) == mine]
            assert first == min(same, key=lambda name: self.asked[name].order)

    @invariant()
    def the_whole_line_begins_with_the_first(self) -> None:
        in_order = self.queue.in_order()
        assert sorted(in_order) == sorted(self.asked)
        if in_order and not self.aside:
            assert in_order[0] == self.queue.first()


TestFairLines = FairLines.TestCase
TestFairLines.settings = fuzzed(60, steps=25)


@fuzzed(100)
@given(st.dictionaries(st.sampled_from(ALL), SIZES, min_size=2), st.integers(1, 60))
def test_shares_differ_by_one_request_at_most(sizes: dict[str, Resources], served: int) -> None:
    """While everybody wants more, nobody is ahead by more than what was given to him last."""
    held = dict.fromkeys(sizes, Resources())
    fair_share = FairShare(LIMITS, held.__getitem__)
    queue = RequestQueue(fair_share)
    whose: dict[str, str] = {}
    for number in range(served):
        for tenant, needs in sizes.items():
            whose[f"{number}-{tenant}"] = tenant
            order = ("200", 0, f"{number:04}-{tenant}")
            queue.add(f"{number}-{tenant}", order, None, tenant, needs)
    for _ in range(served):
        name = queue.first()
        assert name is not None
        queue.discard(name)
        held[whose[name]] += sizes[whose[name]]
        for tenant, needs in sizes.items():
            step = max(needs.amount(each) / limit for each, limit in LIMITS.items())
            ahead = fair_share.share(tenant) - min(fair_share.share(other) for other in sizes)
            assert ahead <= step + 1e-9
