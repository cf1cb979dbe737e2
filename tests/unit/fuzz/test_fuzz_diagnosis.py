"""Pods whose status goes any way, and refusals of any text: what is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from nodepool_k8s.config.settings import LaunchSettings
from nodepool_k8s.drivers.outcomes import Failure
from nodepool_k8s.errors import ApiError, MalformedAnswer
from nodepool_k8s.kubernetes import diagnosis, pod_failures
from nodepool_k8s.kubernetes.diagnosis import (
    Observation,
    PodFailed,
    PodPending,
    PodReady,
    PodRejected,
)
from nodepool_k8s.kubernetes.parsing import pod_record
from nodepool_k8s.kubernetes.refusals import Meaning, judge
from nodepool_k8s.model import Pod
from tests.support.fuzzing import fuzzed, texts
from tests.support.objects import broken, pods

LAUNCHES = st.builds(
    lambda launch, image, scheduling, ready_when: replace(
        LaunchSettings(),
        launch_timeout=launch,
        image_pull_timeout=image,
        unschedulable_timeout=scheduling,
        ready_when=ready_when,
    ),
    st.sampled_from([1.0, 30.0, 600.0]),
    st.sampled_from([1.0, 60.0]),
    st.sampled_from([None, 1.0, 90.0]),
    st.sampled_from(["ready", "running"]),
)
HISTORIES = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 9.0, 11.0, 70.0]),
        st.one_of(pods(), pods(), pods(), broken(pods()), st.none()),
    ),
    min_size=1,
    max_size=6,
)


def seen(raw: Any) -> tuple[Pod, ...]:
    """What a mirror shows of it."""
    if raw is None:
        return ()
    try:
        return (pod_record(raw),)
    except MalformedAnswer:
        return ()


@fuzzed(70)
@given(LAUNCHES, HISTORIES)
def test_whatever_a_pod_comes_to_its_launch_ends(
    launch: LaunchSettings, history: list[tuple[float, Any]]
) -> None:
    """Follow the pod through its history; after that nothing changes any more."""
    now, observed = 0.0, Observation(0.0)
    found: tuple[Pod, ...] = ()
    for seconds, raw in history:
        now += seconds
        found = seen(raw)
        verdict, observed = diagnosis.diagnose(found, observed, now, launch)
        check(verdict, found, launch, now)
    longest = max(
        launch.launch_timeout,
        launch.image_pull_timeout,
        launch.unschedulable_timeout or 0.0,
        diagnosis.NOT_ABOUT_IMAGES_SECONDS,
    )
    end = now + longest
    looks = 0
    while isinstance(verdict, PodPending):
        looks += 1
        assert looks < 10, "it waits for ever"
        now = verdict.until
        assert now <= end
        verdict, observed = diagnosis.diagnose(found, observed, now, launch)
        check(verdict, found, launch, now)
    event(type(verdict).__name__)


def check(
    verdict: diagnosis.Verdict, found: tuple[Pod, ...], launch: LaunchSettings, now: float
) -> None:
    timed_out = isinstance(verdict, PodFailed) and verdict.timed_out
    assert pod_failures.of_pods(found, timed_out=timed_out) in Failure
    usable = diagnosis.why_unusable(found, launch) is None
    assert usable == isinstance(verdict, PodReady)
    if isinstance(verdict, PodReady):
        assert verdict.pod.phase not in ("Failed", "Succeeded")
        assert not verdict.pod.deleting
        return
    assert verdict.reason
    if isinstance(verdict, PodPending):
        assert verdict.until > now
    if isinstance(verdict, PodRejected):
        reasons = {container.reason for container in found[0].containers}
        assert reasons & diagnosis.PERMANENT_REASONS


QUANTITIES = st.sampled_from(["1", "500m", "2Gi", "x", "", "9" * 60, "1e999", "-1", "²"])
PAIRS = st.lists(
    st.tuples(st.sampled_from(["pods", "requests.cpu", "a=b", ""]), QUANTITIES).map("=".join),
    max_size=3,
).map(",".join)
MESSAGES = st.one_of(
    texts,
    st.builds(
        "pods is forbidden: exceeded quota: {}, requested: {}, used: {}, limited: {}".format,
        st.sampled_from(["small", ""]),
        PAIRS,
        PAIRS,
        PAIRS,
    ),
    st.sampled_from(
        [
            "failed quota: small: must specify cpu",
            "namespace n is being terminated",
            "serviceaccount default not found",
            "status unknown for quota: small",
        ]
    ),
)


@fuzzed(70)
@given(
    st.sampled_from([400, 401, 403, 404, 408, 409, 410, 418, 422, 429, 500, 503, 599]),
    st.sampled_from(["AlreadyExists", "Forbidden", "Expired", ""]),
    MESSAGES,
    st.none() | st.floats(0, 60),
)
def test_every_refusal_means_something(
    status: int, reason: str, message: str, retry_after: float | None
) -> None:
    error = ApiError(status, reason, message, retry_after)
    refusal = judge(error)
    event(refusal.meaning.name)
    assert refusal.reason
    if refusal.meaning is Meaning.CAPACITY:
        assert status == 403
        assert "exceeded quota" in message
    if status >= 500 or status == 429:
        assert refusal.meaning is Meaning.TRANSIENT
        assert refusal.retry_after == retry_after
    assert refusal.failure is not Failure.UNKNOWN
    assert (refusal.failure is Failure.API) == (refusal.meaning is Meaning.TRANSIENT)
