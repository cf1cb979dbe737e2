"""The JSON document of ``/api/status``, made from a snapshot. Its keys are read by scripts."""

from __future__ import annotations

from typing import Any

from nodepool_k8s.model import whole_units
from nodepool_k8s.presentation import age
from nodepool_k8s.snapshot import (
    LauncherSnapshot,
    LaunchingNode,
    PoolSnapshot,
    ProviderSnapshot,
    RecentFailure,
    ServedRequest,
    StuckDeletion,
    WaitingRequest,
)


def status_document(snapshot: LauncherSnapshot) -> dict[str, Any]:
    """The snapshot as JSON values: ages in words, amounts in whole units."""
    now = snapshot.taken_at
    return {
        "version": snapshot.version,
        "uptime": age(snapshot.started_at, now),
        "obstacles": list(snapshot.obstacles),
        "pools": [_pool(pool) for pool in snapshot.pools],
        "providers": [_provider(provider) for provider in snapshot.providers],
        "nodes": {state.value: count for state, count in snapshot.records.nodes_by_state().items()},
        "requests": {
            state.value: count for state, count in snapshot.records.requests_by_state().items()
        },
        "waiting_count": snapshot.waiting_count,
        "waiting": [_waiting(request, now) for request in snapshot.waiting],
        "in_flight_count": snapshot.in_flight_count,
        "in_flight": [_served(request, now) for request in snapshot.in_flight],
        "failures": [_failure(failure, now) for failure in snapshot.failures],
        "stuck": [_stuck(deletion, now) for deletion in snapshot.stuck],
    }


def _pool(pool: PoolSnapshot) -> dict[str, Any]:
    return {
        "pool": pool.key,
        "priority": pool.priority,
        "labels": list(pool.labels),
        "paused": pool.paused,
        "waiting": pool.waiting,
        "waits_for": pool.waits_for,
        "resources": {
            each.name: {
                "used": whole_units(each.used),
                "limit": None if each.limit is None else whole_units(each.limit),
            }
            for each in pool.resources
        },
    }


def _provider(provider: ProviderSnapshot) -> dict[str, Any]:
    return {
        "provider": provider.name,
        "context": provider.context,
        "in_touch": provider.in_touch,
        "trouble": provider.trouble,
        "launches": provider.launches,
        "max_concurrency": provider.max_concurrency,
    }


def _waiting(request: WaitingRequest, now: float) -> dict[str, Any]:
    return {
        "request": request.id,
        "pool": request.pool,
        "requestor": request.requestor,
        "labels": list(request.labels),
        "age": age(request.created_at, now),
        "waits_for": request.waits_for,
    }


def _served(request: ServedRequest, now: float) -> dict[str, Any]:
    return {
        "request": request.id,
        "pool": request.pool,
        "requestor": request.requestor,
        "age": age(request.created_at, now),
        "nodes": [_launching(node) for node in request.nodes],
    }


def _launching(node: LaunchingNode) -> dict[str, Any]:
    return {
        "node": node.id,
        "label": node.label,
        "namespace": node.external_id,
        "state": node.state.value,
        "waits_for": node.waits_for,
        "failure": node.failure,
    }


def _failure(failure: RecentFailure, now: float) -> dict[str, Any]:
    return {
        "at": failure.at,
        "request": failure.request_id,
        "node": failure.node_id,
        "labels": list(failure.labels),
        "reason": failure.reason,
        "age": age(failure.at, now),
    }


def _stuck(deletion: StuckDeletion, now: float) -> dict[str, Any]:
    return {
        "namespace": deletion.external_id,
        "provider": deletion.provider,
        "node": deletion.node_id,
        "age": age(deletion.since, now),
        "reason": deletion.held_by,
    }
