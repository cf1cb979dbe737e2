"""The line of waiting requests: order, and who steps aside."""

from nodepool_k8s.model import Resources
from nodepool_k8s.policy.line import Line

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
