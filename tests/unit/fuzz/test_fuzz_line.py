"""A line of waiting requests against the simplest line that could be: a list that is sorted."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nodepool_k8s.model import Resources
from nodepool_k8s.policy.allocation import Order
from nodepool_k8s.policy.line import Group, Line
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
        self.line = Line()
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
        self.line.add(name, (priority, relative, name), group)
        self.places[name] = ((priority, relative, name), group)

    @rule(name=IDS)
    def discard(self, name: str) -> None:
        self.line.discard(name)
        self.leave(name)

    def leave(self, name: str) -> None:
        _, group = self.places.pop(name, (None, None))
        if group not in [group for _, group in self.places.values()]:
            self.aside.discard(group)

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def step_aside(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.places)))
        self.line.step_aside(name)
        group = self.places[name][1]
        if group is not None:
            self.aside.add(group)

    @rule(tenant=st.sampled_from(TENANTS))
    def recall(self, tenant: str) -> None:
        back = {group for group in self.aside if group is not None and group[0] == tenant}
        self.aside -= back
        assert self.line.recall(tenant) == bool(back)

    @rule()
    def serve(self) -> None:
        """The launcher's step: whoever is first is served."""
        name = self.line.first()
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
            name = self.line.first()
            assert name is not None
            group = self.places[name][1]
            if group is not None and group[0] in full:
                self.line.step_aside(name)
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
        assert self.line.in_order() == in_order
        assert self.line.first() == (served[0] if served else None)
        assert len(self.line) == len(in_order)
        assert all(name in self.line for name in in_order)
        assert {name for name in in_order if self.line.is_aside(name)} == {*in_order} - {*served}
        assert self.line.tenants_aside == {group[0] for group in self.aside if group is not None}


TestLines = Lines.TestCase
TestLines.settings = fuzzed(60, steps=25)
