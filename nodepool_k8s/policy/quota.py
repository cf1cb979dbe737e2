"""What the limits of a pool or a tenant allow. Amounts are thousandths, by Nodepool's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nodepool_k8s.model import CORES, INSTANCES, MILLI, RAM, Node, Resources

_OPTION = {INSTANCES: "max-servers", CORES: "max-cores", RAM: "max-ram"}

_UNIT = {RAM: " MiB"}


def over(limits: Mapping[str, int], used: Resources, wanted: Resources) -> tuple[str, ...]:
    """The names of the resources that would exceed their limits.

    Only what is wanted counts: a pool that exceeds a limit already, as it was lowered,
    still serves requests that need none of that resource.
    """
    return tuple(name for name in wanted if used.amount(name) + wanted[name] > _limit(limits, name))


def fits(limits: Mapping[str, int], used: Resources, wanted: Resources) -> bool:
    """Whether ``wanted`` may be claimed while ``used`` is in use."""
    return not over(limits, used, wanted)


def never_fits(limits: Mapping[str, int], wanted: Resources) -> str | None:
    """Why not even the empty pool has enough; None if it has."""
    names = over(limits, Resources(), wanted)
    if not names:
        return None
    return "the request needs " + ", ".join(
        f"{_number(wanted[name])}{_UNIT.get(name, '')} of {name} "
        f"where {_OPTION.get(name, f'max-resources {name}')} is {_number(limits[name])}"
        for name in names
    )


def spare_to_remove(
    limits: Mapping[str, int],
    used: Resources,
    leaving: Resources,
    wanted: Resources,
    unused: Sequence[Node],
) -> Node | None:
    """The unused ready node to delete for a request that does not fit; None if none helps.

    One at a time, and none while ``leaving``, what is being deleted already, makes enough
    room. The first of ``unused`` (the oldest) that alone makes enough room is chosen; if only
    several together do, the first of those that are needed. The next follows when it is gone.
    """
    coming = used - leaving
    if fits(limits, coming, wanted):
        return None
    counted = [(node, node.claimed) for node in unused if node.claimed is not None]
    for node, claimed in counted:
        if fits(limits, coming - claimed, wanted):
            return node
    together = sum((claimed for _, claimed in counted), Resources())
    if leaving or not fits(limits, coming - together, wanted):
        return None
    first = None
    for node, claimed in reversed(counted):
        # Keep a node if the others make enough room without it.
        if fits(limits, coming - (together - claimed), wanted):
            together -= claimed
        else:
            first = node
    return first


def waits_for(limits: Mapping[str, int], used: Resources, wanted: Resources) -> str:
    """What a request that does not fit now is waiting for, as text."""
    return "quota: " + ", ".join(
        f"{_number(used.amount(name))} of {_number(limits[name])}{_UNIT.get(name, '')} {name} "
        f"in use, {_number(wanted[name])} needed"
        for name in over(limits, used, wanted)
    )


def _limit(limits: Mapping[str, int], name: str) -> float:
    return limits.get(name, float("inf"))


def _number(milli: int) -> str:
    return f"{milli / MILLI:g}"
