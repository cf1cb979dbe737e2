"""Arithmetic of resources: exact, whatever the order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodepool_k8s.model import Resources

names = st.sampled_from(["instances", "cores", "ram", "licences"])
resources = st.dictionaries(names, st.integers(-(10**12), 10**12)).map(Resources)


@given(resources, resources, resources)
def test_sums_do_not_depend_on_the_order(one: Resources, two: Resources, three: Resources) -> None:
    assert (one + two) + three == one + (two + three)
    assert one + two == two + one


@given(resources, resources)
def test_what_was_added_can_be_taken_away(one: Resources, two: Resources) -> None:
    assert (one + two) - two == one
    assert hash((one + two) - two) == hash(one)


@given(resources)
def test_nothing_is_left_of_what_is_taken_from_itself(one: Resources) -> None:
    assert one - one == Resources()
    assert not len(one - one)


@pytest.mark.parametrize(
    ("amount", "milli"),
    [(0.1, 100), (0.3, 300), (1, 1000), (2.5, 2500), (0.0001, 1), (1.0001, 1001), (0, 0)],
)
def test_fractions_are_rounded_up_to_the_thousandth(amount: float, milli: int) -> None:
    assert Resources.of(cores=amount).amount("cores") == milli


def test_a_thousand_small_parts_make_a_whole() -> None:
    total = sum((Resources.of(cores=0.1) for _ in range(1000)), Resources())
    assert total.numbers() == {"cores": 100}


def test_numbers_are_whole_where_they_can_be() -> None:
    numbers = Resources.of(cores=2, ram=0.5).numbers()
    assert numbers == {"cores": 2, "ram": 0.5}
    assert isinstance(numbers["cores"], int)


def test_zeros_are_left_out_and_read_as_zero() -> None:
    assert dict(Resources({"cores": 0, "ram": 5})) == {"ram": 5}
    assert Resources().amount("cores") == 0
