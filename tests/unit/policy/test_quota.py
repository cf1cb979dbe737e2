"""What limits allow: by table."""

import pytest

from nodepool_k8s.model import Node, NodeState, Resources
from nodepool_k8s.policy import quota

Numbers = dict[str, float]


def milli(numbers: Numbers) -> dict[str, int]:
    return {name: round(amount * 1000) for name, amount in numbers.items()}


@pytest.mark.parametrize(
    ("limits", "used", "wanted", "over"),
    [
        ({}, {"instances": 10**6}, {"instances": 10**6}, ()),
        ({"instances": 1}, {}, {"instances": 1}, ()),
        ({"instances": 1}, {"instances": 1}, {"instances": 1}, ("instances",)),
        ({"cores": 1}, {"cores": 0.5}, {"cores": 0.5}, ()),
        ({"cores": 1}, {"cores": 0.501}, {"cores": 0.5}, ("cores",)),
        ({"ram": 100}, {"cores": 9}, {"ram": 101, "cores": 1}, ("ram",)),
        ({"ram": 1, "cores": 1}, {}, {"ram": 2, "cores": 2}, ("cores", "ram")),
        ({"licences": 0}, {}, {"licences": 1}, ("licences",)),
        ({"licences": 0}, {}, {"instances": 1}, ()),
        # Lowered while it was full: who wants none of it is served.
        ({"cores": 1}, {"cores": 5}, {"instances": 1}, ()),
    ],
)
def test_only_what_is_wanted_can_be_too_much(
    limits: Numbers, used: Numbers, wanted: Numbers, over: tuple[str, ...]
) -> None:
    arguments = milli(limits), Resources.from_numbers(used), Resources.from_numbers(wanted)
    assert quota.over(*arguments) == over
    assert quota.fits(*arguments) == (not over)


@pytest.mark.parametrize(
    ("limits", "wanted", "reason"),
    [
        ({"instances": 2}, {"instances": 2}, None),
        (
            {"instances": 1},
            {"instances": 2},
            "the request needs 2 of instances where max-servers is 1",
        ),
        ({"ram": 10}, {"ram": 11}, "the request needs 11 MiB of ram where max-ram is 10"),
        (
            {"a/b": 1, "cores": 0.5},
            {"a/b": 3, "cores": 1},
            "the request needs 3 of a/b where max-resources a/b is 1, "
            "1 of cores where max-cores is 0.5",
        ),
    ],
)
def test_what_never_fits_is_told_in_the_files_words(
    limits: Numbers, wanted: Numbers, reason: str | None
) -> None:
    assert quota.never_fits(milli(limits), Resources.from_numbers(wanted)) == reason


def test_what_a_request_waits_for_is_told_with_numbers() -> None:
    told = quota.waits_for(
        {"instances": 2000}, Resources.of(instances=2), Resources.of(instances=1)
    )
    assert told == "quota: 2 of 2 instances in use, 1 needed"


def test_no_spare_node_is_removed_whose_room_nobody_needs() -> None:
    limits = milli({"cores": 8})
    spare = [
        Node("1", NodeState.READY, claimed=Resources.of(instances=1)),
        Node("2", NodeState.READY, claimed=Resources.of(instances=1, cores=4)),
        Node("3", NodeState.READY, claimed=Resources.of(instances=1, cores=4)),
    ]
    used, wanted = Resources.of(instances=3, cores=8), Resources.of(instances=1, cores=8)
    assert quota.spare_to_remove(limits, used, Resources(), wanted, spare) == spare[1]
