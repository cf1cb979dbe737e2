"""What the API server's refusals mean: one table for calls, launches and metrics."""

from __future__ import annotations

import pytest

from nodepool_k8s.drivers.outcomes import Failure
from nodepool_k8s.errors import (
    ApiError,
    ClusterUnreachable,
    KubernetesError,
    NotFound,
    SourceUnusable,
)
from nodepool_k8s.kubernetes.refusals import Meaning, judge

POD_SECURITY = 'pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged'
RANGE = 'pods "x" is forbidden: maximum cpu usage per Container is 1, but limit is 2'
HOOK = 'admission webhook "policy.example.com" denied the request: no'
RBAC = 'namespaces is forbidden: User "u" cannot create resource "namespaces"'
FAILED_QUOTA = 'pods "x" is forbidden: failed quota: q: must specify limits.cpu for: x'
INSUFFICIENT = "insufficient quota to match these scopes: [{PriorityClass In [high]}]"
EXCEEDED = (
    'pods "x" is forbidden: exceeded quota: team, requested: cpu=2,requests.memory=1Gi, '
    "used: cpu=7500m,requests.memory=3Gi, limited: cpu={cpu},requests.memory=4Gi"
)


@pytest.mark.parametrize(
    "error",
    [
        ApiError(400, "BadRequest", "cannot parse"),
        ApiError(422, "Invalid", "spec.containers: Required value"),
        ApiError(413, "RequestEntityTooLarge", ""),
        *(ApiError(403, "Forbidden", text) for text in (POD_SECURITY, RANGE, HOOK, RBAC)),
        *(ApiError(403, "Forbidden", text) for text in (FAILED_QUOTA, INSUFFICIENT)),
        ApiError(403, "Forbidden", EXCEEDED.format(cpu="1900m")),
    ],
)
def test_permanent_refusals(error: ApiError) -> None:
    assert judge(error).meaning is Meaning.PERMANENT
    assert judge(error).reason == str(error)


@pytest.mark.parametrize(
    "error",
    [
        ApiError(403, "Forbidden", "unable to create new content in x: it is being terminated"),
        ApiError(403, "Forbidden", "namespace x: Being Terminated"),
        ApiError(403, "Forbidden", 'error looking up: serviceaccount "default" not found'),
        ApiError(403, "Forbidden", "status unknown for quota: team, resources: cpu"),
        ApiError(409, "AlreadyExists", "namespaces x already exists"),
        ApiError(409, "Conflict", "the object has been modified"),
        ApiError(401, "Unauthorized", ""),
        ApiError(408, "Timeout", ""),
        ApiError(500, "InternalError", "failed calling webhook"),
        ApiError(503, "ServiceUnavailable", ""),
        ClusterUnreachable("no answer"),
    ],
)
def test_transient_refusals(error: KubernetesError) -> None:
    assert judge(error).meaning is Meaning.TRANSIENT
    assert judge(error).failure is Failure.API


def test_what_the_server_asked_for_is_kept() -> None:
    refusal = judge(ApiError(429, "TooManyRequests", "", 7.0))
    assert (refusal.meaning, refusal.retry_after) == (Meaning.TRANSIENT, 7.0)


def test_a_full_quota_is_waited_for_if_the_node_can_ever_fit() -> None:
    fits = ApiError(403, "Forbidden", EXCEEDED.format(cpu="8"))
    assert judge(fits).meaning is Meaning.CAPACITY
    never = ApiError(403, "Forbidden", EXCEEDED.format(cpu="1"))
    assert judge(never).meaning is Meaning.PERMANENT


@pytest.mark.parametrize(
    "text",
    [
        "exceeded quota: team",
        "exceeded quota: team, requested: cpu, used: cpu, limited: cpu",
        "exceeded quota: team, requested: cpu=many, used: cpu=1, limited: cpu=2",
    ],
)
def test_a_quota_message_that_cannot_be_read_costs_an_attempt(text: str) -> None:
    refusal = judge(ApiError(403, "Forbidden", text))
    assert (refusal.meaning, refusal.failure) == (Meaning.RETRYABLE, Failure.QUOTA)


def test_a_namespace_that_is_gone_fails_the_attempt() -> None:
    gone = NotFound(404, "NotFound", 'namespaces "x" not found')
    assert judge(gone).meaning is Meaning.RETRYABLE


def refused(status: int, message: str = "no") -> ApiError:
    return ApiError(status, "Reason", message)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (refused(400), Failure.REFUSED),
        (refused(422, "spec.containers: Required value"), Failure.REFUSED),
        (refused(403, 'violates PodSecurity "restricted:latest"'), Failure.REFUSED),
        (refused(403, "User u cannot create resource pods"), Failure.REFUSED),
        (NotFound(404, "NotFound", "no such namespace"), Failure.REFUSED),
        (
            refused(403, "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"),
            Failure.QUOTA,
        ),
        (refused(403, "failed quota: q: must specify cpu"), Failure.QUOTA),
        (refused(403, "insufficient quota to match these scopes"), Failure.QUOTA),
        (refused(403, "unable to create: namespace x is being terminated"), Failure.API),
        (refused(403, "namespace x: Being Terminated"), Failure.API),
        (refused(403, "status unknown for quota: q"), Failure.API),
        (refused(401), Failure.API),
        (refused(409, "already exists"), Failure.API),
        (refused(429), Failure.API),
        (refused(500), Failure.API),
        (refused(503), Failure.API),
        (ClusterUnreachable("no answer"), Failure.API),
        (KubernetesError("no token appeared"), Failure.API),
        (SourceUnusable("Secret a/b does not exist"), Failure.SOURCE),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_refusal_counts_as(error: KubernetesError, failure: Failure) -> None:
    assert judge(error).failure is failure
