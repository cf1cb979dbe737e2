"""The line of waiting requests: order, and who steps aside."""

from collections.abc import Mapping

from nodepool_k8s.model import Resources
from nodepool_k8s.policy.request_queue import FairShare, RequestQueue

ONE, TWO = Resources.of(instances=1), Resources.of(instances=2)


def place(number: int, priority: str = "200", relative: int = 0) -> tuple[str, int, str]:
    return priority, relative, f"{number:010}"


def a_line() -> RequestQueue:
    queue = RequestQueue()
    queue.add("a", place(1), ("one", ONE))
    queue.add("b", place(2), None)
    queue.add("c", place(3), ("one", TWO))
    queue.add("d", place(4), ("two", ONE))
    return queue


def test_the_lowest_place_goes_first() -> None:
    queue = a_line()
    queue.add("urgent", place(9, "100"), None)
    queue.add("late", place(0, relative=1), None)
    assert queue.in_order() == ["urgent", "a", "b", "c", "d", "late"]
    assert queue.first() == "urgent"


def test_who_is_added_again_is_moved() -> None:
    queue = a_line()
    queue.add("a", place(1, relative=5), ("one", ONE))
    assert queue.in_order() == ["b", "c", "d", "a"]
    assert len(queue) == 4


def test_who_steps_aside_takes_those_along_that_need_the_same() -> None:
    queue = a_line()
    queue.add("e", place(0), ("one", ONE))
    queue.park("a")
    assert queue.is_parked("e")
    assert not queue.is_parked("c")
    assert queue.first() == "b"
    queue.discard("b")
    assert queue.first() == "c"


def test_a_recalled_tenant_takes_its_places_again() -> None:
    queue = a_line()
    for request_id in ("a", "c", "d"):
        queue.park(request_id)
    assert queue.parked_tenants == {"one", "two"}
    assert queue.unpark("one")
    assert not queue.unpark("one")
    assert queue.first() == "a"
    assert queue.is_parked("d")


def test_requests_of_no_limited_tenant_do_not_step_aside() -> None:
    queue = a_line()
    queue.park("b")
    assert not queue.is_parked("b")


def test_a_group_that_emptied_stands_aside_no_more() -> None:
    queue = a_line()
    queue.park("a")
    queue.discard("a")
    queue.add("e", place(0), ("one", ONE))
    assert queue.first() == "e"


def test_an_empty_line_has_nobody_first() -> None:
    queue = RequestQueue()
    assert queue.first() is None
    queue.discard("nobody")
    assert "nobody" not in queue


# --- where tenants take turns -----------------------------------------------------------------


class Holding(dict[str, Resources]):
    """What tenants hold."""

    def __missing__(self, tenant: str) -> Resources:
        return Resources()


LIMITS = {"instances": 10_000, "cores": 40_000, "gpu": 0}


def take_turns(held: Holding, limits: Mapping[str, int] = LIMITS) -> RequestQueue:
    return RequestQueue(FairShare(limits, held.__getitem__))


def test_the_share_is_that_of_the_scarcest() -> None:
    held = Holding(one=Resources.of(instances=2, cores=20, gpu=3), two=Resources.of(disks=9))
    fair_share = FairShare(LIMITS, held.__getitem__)
    assert fair_share.share("one") == 0.5
    assert fair_share.share("one", Resources.of(instances=4)) == 0.6
    assert fair_share.share("two") == 0
    assert FairShare({}, held.__getitem__).share("one") == 2


def test_who_holds_less_goes_first_and_then_who_came_first() -> None:
    held = Holding(one=Resources.of(instances=2), two=Resources.of(instances=1))
    queue = take_turns(held)
    queue.add("a", place(1), None, "one", ONE)
    queue.add("b", place(2), None, "two", ONE)
    assert queue.first() == "b"
    held["two"] = Resources.of(cores=8)
    assert queue.first() == "a"
    held["two"] = Resources.of(cores=9)
    assert queue.first() == "a"
    held["one"] = Resources()
    assert queue.first() == "a"


def test_order_is_priority_share_relative_priority() -> None:
    queue = take_turns(Holding(one=Resources.of(instances=5), two=Resources.of(instances=1)))
    queue.add("a", place(1, relative=-5), None, "one", ONE)
    queue.add("b", place(2, relative=7), None, "two", ONE)
    queue.add("c", place(3, relative=3), None, "two", ONE)
    assert queue.first() == "c", "within a tenant it is Nodepool's order"
    queue.add("d", place(4, "100"), None, "one", ONE)
    assert queue.first() == "d"


def test_tenants_without_a_name_take_turns_as_one() -> None:
    held = Holding({"": Resources.of(instances=3), "one": Resources.of(instances=2)})
    queue = take_turns(held)
    queue.add("a", place(1), None, None, ONE)
    queue.add("b", place(2), None, "", ONE)
    queue.add("c", place(3), None, "one", ONE)
    assert queue.first() == "c"
    held["one"] = Resources.of(instances=4)
    assert queue.first() == "a"


def test_the_whole_line_is_in_the_order_of_its_turns() -> None:
    queue = take_turns(Holding(two=Resources.of(instances=1)))
    for number, name in enumerate("abcdef"):
        queue.add(name, place(number), None, "two" if name in "ef" else "one", ONE)
    queue.add("urgent", place(9, "100"), None, "two", TWO)
    # One of two's nodes is there already, and the urgent request will be two more.
    assert queue.in_order() == ["urgent", "a", "b", "c", "d", "e", "f"]
    queue.discard("urgent")
    assert queue.in_order() == ["a", "b", "e", "c", "f", "d"]


def test_who_is_waited_for_keeps_its_turn() -> None:
    held = Holding(one=Resources.of(instances=4), two=Resources.of(instances=4))
    queue = take_turns(held)
    queue.add("large", place(1), None, "one", TWO)
    assert queue.first() == "large"
    queue.pin("large")
    held["two"] = Resources.of(instances=3)
    queue.add("small", place(2), None, "two", ONE)
    assert queue.first() == "large", "or it would wait for as long as anybody wants less"
    queue.add("urgent", place(3, "100"), None, "two", ONE)
    assert queue.first() == "urgent"
    queue.discard("urgent")
    queue.add("sooner", place(0), None, "one", ONE)
    assert queue.first() == "small", "within a tenant it is Nodepool's order"
    queue.discard("sooner")
    queue.add("large", place(1, relative=1), None, "one", TWO)
    assert queue.first() == "large", "also when it was revised"
    queue.discard("large")
    assert queue.first() == "small"


def test_where_tenants_take_turns_they_step_aside_too() -> None:
    held = Holding(one=Resources.of(instances=1), two=Resources.of(instances=2))
    queue = take_turns(held)
    queue.add("a", place(1), ("one", ONE), "one", ONE)
    queue.add("b", place(2), ("one", TWO), "one", TWO)
    queue.add("c", place(3), None, "two", ONE)
    queue.park("a")
    assert queue.first() == "b"
    queue.park("b")
    assert queue.first() == "c"
    queue.unpark("one")
    assert queue.first() == "a"


def test_without_fair_share_a_waiting_request_may_be_overtaken() -> None:
    queue = RequestQueue()
    queue.add("a", place(1), None, "one", ONE)
    queue.pin("a")
    queue.add("b", place(0), None, "two", ONE)
    assert queue.first() == "b"
