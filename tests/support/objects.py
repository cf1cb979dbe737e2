"""Namespaces and pods as an API server shows them, valid and broken, for hypothesis."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
from hypothesis import strategies as st

from tests.support.fuzzing import texts, values
from tests.support.scripted import Answer, failure

REASONS = st.sampled_from(
    [
        *("", "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
        *("CrashLoopBackOff", "RunContainerError", "CreateContainerError", "StartError"),
        *("ContainerCreating", "PodInitializing", "OOMKilled", "Error", "Completed"),
    ]
)
TIMESTAMPS = st.sampled_from(["2026-01-01T00:00:00Z", "0001-01-01T00:00:00", "now", ""])


def some(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=optional)


DETAILS = some(reason=REASONS, message=texts, exitCode=st.integers(0, 255))
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["fedora", "sidecar"])},
        optional={
            "state": st.sampled_from(["waiting", "running", "terminated"]).flatmap(
                lambda kind: st.fixed_dictionaries({kind: DETAILS})
            ),
            "lastState": st.just({}) | st.fixed_dictionaries({"terminated": DETAILS}),
            "restartCount": st.integers(0, 9),
        },
    ),
    max_size=2,
)
CONDITIONS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["Ready", "PodScheduled", "DisruptionTarget", "Initialized"]),
            "status": st.sampled_from(["True", "False", "Unknown"]),
        },
        optional={"reason": st.sampled_from(["Unschedulable", "EvictionByAPI"]), "message": texts},
    ),
    max_size=3,
)
STATUSES = some(
    phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    conditions=CONDITIONS,
    containerStatuses=CONTAINERS,
    initContainerStatuses=CONTAINERS,
    reason=st.sampled_from(["Evicted", "Preempting", "NodeLost"]),
    message=texts,
)
SPECS = some(
    nodeName=st.sampled_from(["", "worker-1"]),
    terminationGracePeriodSeconds=st.integers(0, 90),
    schedulerName=st.just("default-scheduler"),
)
DELETING = some(deletionTimestamp=TIMESTAMPS)


def metadata(name: str, namespace: str | None, uid: str) -> dict[str, Any]:
    place = {} if namespace is None else {"namespace": namespace}
    return {"name": name, **place, "uid": uid, "resourceVersion": "1", "labels": {"a": "b"}}


@st.composite
def pods(draw: st.DrawFn, namespace: str = "n", uid: str = "uid-pod") -> dict[str, Any]:
    about = metadata("fedora", namespace, uid)
    if draw(st.integers(0, 5)) == 0:
        about |= draw(DELETING)
    return {"metadata": about, "spec": draw(SPECS), "status": draw(STATUSES)}


@st.composite
def namespaces(draw: st.DrawFn, name: str = "n", uid: str = "uid") -> dict[str, Any]:
    about = metadata(name, None, uid)
    if draw(st.integers(0, 3)) == 0:
        about |= draw(DELETING)
    return {"metadata": about}


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All places in a value, as container and key."""
    inside: list[Any] = []
    if isinstance(value, dict):
        inside = list(value)
    elif isinstance(value, list):
        inside = list(range(len(value)))
    for key in inside:
        yield value, key
        yield from _places(value[key])


@st.composite
def broken(draw: st.DrawFn, whole: st.SearchStrategy[Any], breaks: int = 2) -> Any:
    """Values of ``whole`` in which some places hold junk or are missing."""
    value = copy.deepcopy(draw(whole))
    for _ in range(draw(st.integers(1, breaks))):
        places = list(_places(value))
        if not places:
            return draw(values)
        container, key = places[draw(st.integers(0, len(places) - 1))]
        if draw(st.integers(0, 3)) == 0 and isinstance(container, dict):
            del container[key]
        else:
            container[key] = draw(values)
    return value


# --- answers --------------------------------------------------------------------------------

RETRY_AFTER = st.sampled_from(["", "0", "2", "3600", "-1", "1.5", "²", "9" * 400, "Fri, 31 Dec"])
BODIES = st.one_of(
    st.binary(max_size=12),
    st.just(b"<html>Bad Gateway"),
    values.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {}, optional={"reason": values, "message": values, "code": values, "items": values}
    ).map(lambda value: json.dumps(value).encode()),
    st.just(b'{"a": ' * 3000),
)
ODD_ANSWERS: st.SearchStrategy[Answer | Exception] = st.one_of(
    st.builds(
        lambda status, body, after: Answer(status, body, {"Retry-After": after}),
        st.sampled_from([200, 204, 400, 401, 403, 404, 409, 410, 429, 500, 503]),
        BODIES,
        RETRY_AFTER,
    ),
    st.builds(failure, st.sampled_from([403, 410, 429, 500]), st.just("Expired")),
    st.sampled_from([aiohttp.ClientPayloadError("cut"), ConnectionResetError("reset")]),
)
"""Answers of an API server, or of a proxy in front of it, to any call."""
