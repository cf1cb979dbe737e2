"""The line of waiting requests: order, and who steps aside."""

from collections.abc import Mapping

from nodepool_k8s.model import Resources
from nodepool_k8s.policy.line import Line, Turns

ONE, TWO = Resources.of(instances=1), Resources.of(instances=2)


def place(number: int, priority: str = "200", relative: int = 0) -> tuple[str, int, str]:
    return priority, relative, f"{number:010}"


def a_line() -> Line:
    line = Line()
    line.add("a", place(1), ("one", ONE))
    line.add("b", place(2), None)
    line.add("c", place(3), ("one", TWO))
    line.add("d", place(4), ("two", ONE))
    return line


def test_the_lowest_place_goes_first() -> None:
    line = a_line()
    line.add("urgent", place(9, "100"), None)
    line.add("late", place(0, relative=1), None)
    assert line.in_order() == ["urgent", "a", "b", "c", "d", "late"]
    assert line.first() == "urgent"


def test_who_is_added_again_is_moved() -> None:
    line = a_line()
    line.add("a", place(1, relative=5), ("one", ONE))
    assert line.in_order() == ["b", "c", "d", "a"]
    assert len(line) == 4


def test_who_steps_aside_takes_those_along_that_need_the_same() -> None:
    line = a_line()
    line.add("e", place(0), ("one", ONE))
    line.step_aside("a")
    assert line.is_aside("e")
    assert not line.is_aside("c")
    assert line.first() == "b"
    line.discard("b")
    assert line.first() == "c"


def test_a_recalled_tenant_takes_its_places_again() -> None:
    line = a_line()
    for request_id in ("a", "c", "d"):
        line.step_aside(request_id)
    assert line.tenants_aside == {"one", "two"}
    assert line.recall("one")
    assert not line.recall("one")
    assert line.first() == "a"
    assert line.is_aside("d")


def test_requests_of_no_limited_tenant_do_not_step_aside() -> None:
    line = a_line()
    line.step_aside("b")
    assert not line.is_aside("b")


def test_a_group_that_emptied_stands_aside_no_more() -> None:
    line = a_line()
    line.step_aside("a")
    line.discard("a")
    line.add("e", place(0), ("one", ONE))
    assert line.first() == "e"


def test_an_empty_line_has_nobody_first() -> None:
    line = Line()
    assert line.first() is None
    line.discard("nobody")
    assert "nobody" not in line


# --- where tenants take turns -----------------------------------------------------------------


class Holding(dict[str, Resources]):
    """What tenants hold."""

    def __missing__(self, tenant: str) -> Resources:
        return Resources()


LIMITS = {"instances": 10_000, "cores": 40_000, "gpu": 0}


def take_turns(held: Holding, limits: Mapping[str, int] = LIMITS) -> Line:
    return Line(Turns(limits, held.__getitem__))


def test_the_share_is_that_of_the_scarcest() -> None:
    held = Holding(one=Resources.of(instances=2, cores=20, gpu=3), two=Resources.of(disks=9))
    turns = Turns(LIMITS, held.__getitem__)
    assert turns.share("one") == 0.5
    assert turns.share("one", Resources.of(instances=4)) == 0.6
    assert turns.share("two") == 0
    assert Turns({}, held.__getitem__).share("one") == 2


def test_who_holds_less_goes_first_and_then_who_came_first() -> None:
    held = Holding(one=Resources.of(instances=2), two=Resources.of(instances=1))
    line = take_turns(held)
    line.add("a", place(1), None, "one", ONE)
    line.add("b", place(2), None, "two", ONE)
    assert line.first() == "b"
    held["two"] = Resources.of(cores=8)
    assert line.first() == "a"
    held["two"] = Resources.of(cores=9)
    assert line.first() == "a"
    held["one"] = Resources()
    assert line.first() == "a"


def test_priority_comes_before_the_share_and_the_share_before_relative_priority() -> None:
    line = take_turns(Holding(one=Resources.of(instances=5), two=Resources.of(instances=1)))
    line.add("a", place(1, relative=-5), None, "one", ONE)
    line.add("b", place(2, relative=7), None, "two", ONE)
    line.add("c", place(3, relative=3), None, "two", ONE)
    assert line.first() == "c", "within a tenant it is Nodepool's order"
    line.add("d", place(4, "100"), None, "one", ONE)
    assert line.first() == "d"


def test_tenants_without_a_name_take_turns_as_one() -> None:
    held = Holding({"": Resources.of(instances=3), "one": Resources.of(instances=2)})
    line = take_turns(held)
    line.add("a", place(1), None, None, ONE)
    line.add("b", place(2), None, "", ONE)
    line.add("c", place(3), None, "one", ONE)
    assert line.first() == "c"
    held["one"] = Resources.of(instances=4)
    assert line.first() == "a"


def test_the_whole_line_is_in_the_order_of_its_turns() -> None:
    line = take_turns(Holding(two=Resources.of(instances=1)))
    for number, name in enumerate("abcdef"):
        line.add(name, place(number), None, "two" if name in "ef" else "one", ONE)
    line.add("urgent", place(9, "100"), None, "two", TWO)
    # One of two's nodes is there already, and the urgent request will be two more.
    assert line.in_order() == ["urgent", "a", "b", "c", "d", "e", "f"]
    line.discard("urgent")
    assert line.in_order() == ["a", "b", "e", "c", "f", "d"]


def test_who_is_waited_for_keeps_its_turn() -> None:
    held = Holding(one=Resources.of(instances=4), two=Resources.of(instances=4))
    line = take_turns(held)
    line.add("large", place(1), None, "one", TWO)
    assert line.first() == "large"
    line.keep("large")
    held["two"] = Resources.of(instances=3)
    line.add("small", place(2), None, "two", ONE)
    assert line.first() == "large", "or it would wait for as long as anybody wants less"
    line.add("urgent", place(3, "100"), None, "two", ONE)
    assert line.first() == "urgent"
    line.discard("urgent")
    line.add("sooner", place(0), None, "one", ONE)
    assert line.first() == "small", "within a tenant it is Nodepool's order"
    line.discard("sooner")
    line.add("large", place(1, relative=1), None, "one", TWO)
    assert line.first() == "large", "also when it was revised"
    line.discard("large")
    assert line.first() == "small"


def test_where_tenants_take_turns_they_step_aside_too() -> None:
    held = Holding(one=Resources.of(instances=1), two=Resources.of(instances=2))
    line = take_turns(held)
    line.add("a", place(1), ("one", ONE), "one", ONE)
    line.add("b", place(2), ("one", TWO), "one", TWO)
    line.add("c", place(3), None, "two", ONE)
    line.step_aside("a")
    assert line.first() == "b"
    line.step_aside("b")
    assert line.first() == "c"
    line.recall("one")
    assert line.first() == "a"


def test_where_nobody_takes_turns_who_is_waited_for_may_be_overtaken() -> None:
    line = Line()
    line.add("a", place(1), None, "one", ONE)
    line.keep("a")
    line.add("b", place(0), None, "two", ONE)
    assert line.first() == "b"
