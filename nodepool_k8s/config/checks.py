"""What the schema cannot see: options that concern one another, files and contexts."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from nodepool_k8s.config import labels, options, schema
from nodepool_k8s.config.options import profiles, resources
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.review import DRIVER, Review
from nodepool_k8s.errors import ConfigError
from nodepool_k8s.model import CORES, INSTANCES, RAM

Contexts = Callable[[], set[str] | None]

_OWN_OPTIONS = {CORES: "max-cores", RAM: "max-ram", INSTANCES: "max-servers"}


def check(review: Review, contexts: Contexts) -> None:
    """Check everything but ZooKeeper's part, adding to the review."""
    _note_ignored(review, schema.IGNORED_SECTIONS)
    _unset_variables(review)
    review.check_unique(("labels",), "name", "label")
    review.check_unique(("tenant-resource-limits",), "tenant-name", "tenant")
    review.check_unique(("providers",), "name", "provider")
    _other_providers(review)
    _contexts(review, contexts)
    profiles.check_profiles(review)
    for path, profile in review.mappings(("profiles",)):
        resources.check_apart(review, path, profile)
    known = labels.listed(review)
    for path, _ in review.providers():
        _limits(review, path)
        _provider(review, path, known)


def check_secure(review: Review) -> None:
    """Note the sections that are not read from a secure file."""
    others = [key for key in schema.TOP_KEYS if key not in schema.SECURE_KEYS]
    why = dict.fromkeys(others, "it is not read from the secure file")
    _note_ignored(review, {**schema.IGNORED_SECTIONS, **why})
    _unset_variables(review)


def check_zookeeper(servers: Review, tls: Review) -> None:
    """Check ZooKeeper's sections, each in the file that it is taken from."""
    path = ("zookeeper-servers",)
    if not servers.document.get(path) and servers.is_valid(path):
        servers.report(path, f"is missing, expected {schema.SERVERS.expected}")
    _chroots(servers, path)
    if tls.is_valid(("zookeeper-tls",)):
        _readable(tls)


def _note_ignored(review: Review, sections: Any) -> None:
    data = review.document.data
    for key in data if isinstance(data, dict) else ():
        if key in sections:
            review.notice((key,), f"passed over: {sections[key]}")


def _unset_variables(review: Review) -> None:
    for name, line in review.document.unset.items():
        review.notices.append(
            f"{review.document.file}:{line}: the environment variable {name} is not set: "
            f"'%({name})' stays as it is"
        )


def _other_providers(review: Review) -> None:
    if not any(review.providers()) and review.is_valid(("providers",)):
        review.notice((), "no provider has the kubernetes driver: there is nothing to launch")
    for path, provider in review.mappings(("providers",)):
        driver = provider.get("driver", "")
        if "driver" not in provider:
            review.notice(
                path,
                f"provider {_name(review, path)} passed over: it names no driver, which means "
                "openstack; this launcher's is 'driver: kubernetes'",
            )
        elif driver != DRIVER and review.is_valid(path, "driver"):
            review.notice(
                path,
                f"provider {_name(review, path)} passed over: "
                f"driver {review.document.describe((*path, 'driver'))} is not this launcher's",
            )


def _name(review: Review, path: Path) -> str:
    return review.document.describe((*path, "name"))


def _contexts(review: Review, contexts: Contexts) -> None:
    named = [
        (*path, "context")
        for path, provider in review.providers()
        if "context" in provider and review.is_valid(path, "context")
    ]
    if not named:
        return
    try:
        known = contexts()
    except ConfigError as error:
        review.problems.extend(error.problems)
        return
    for path in named:
        _context(review, path, known)


def _context(review: Review, path: Path, known: set[str] | None) -> None:
    name = review.document.get(path)
    if known is None:
        review.reject(
            path,
            "a context of kube/config, but there is no kube/config "
            "(KUBECONFIG or ~/.kube/config; inside a cluster, leave the context out)",
        )
    elif name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else ""
        some = ", ".join(f"'{entry}'" for entry in sorted(known)[:5]) or "none at all"
        more = f" and {len(known) - 5} more" if len(known) > 5 else ""
        review.reject(path, f"a context of kube/config, which has {some}{more}", hint)


def _provider(review: Review, path: Path, known: labels.Listed) -> None:
    pools = (*path, "pools")
    if not review.document.get(pools) and review.is_valid(pools):
        review.notice(path, f"provider {_name(review, path)} has no pools")
    review.check_unique(pools, "name", "pool of this provider")
    for pool_path, pool in review.mappings(pools):
        _limits(review, pool_path)
        _pool(review, pool_path, pool, known)


def _pool(review: Review, path: Path, pool: dict[str, Any], known: labels.Listed) -> None:
    resources.check_apart(review, path, pool, options.DEFAULT)
    listed = (*path, "labels")
    if not pool.get("labels") and review.is_valid(listed):
        review.notice(path, f"pool {_name(review, path)} has no labels")
    review.check_unique(listed, "name", "label of this pool")
    for label_path, label in review.mappings(listed):
        labels.check(review, label_path, label, pool, known)


def _limits(review: Review, path: Path) -> None:
    """Report entries of ``max-resources`` that have an option of their own."""
    place = (*path, "max-resources")
    limits = review.document.get(place)
    for name in limits if isinstance(limits, dict) else ():
        if name in _OWN_OPTIONS:
            review.report((*place, name), f"has an option of its own: write {_OWN_OPTIONS[name]}")


def _chroots(review: Review, path: Path) -> None:
    first: Path | None = None
    for item_path, server in review.mappings(path):
        here = (*item_path, "chroot")
        if not isinstance(server.get("chroot"), str) or not review.is_valid(here):
            continue
        if first is None:
            first = here
        elif server["chroot"].strip("/") != review.document.get(first).strip("/"):
            hint = f"the first is {review.location(first)}"
            review.reject(here, "the same chroot for every server of the ensemble", hint)


def _readable(review: Review) -> None:
    section = review.document.get(("zookeeper-tls",))
    for key, path in section.items() if isinstance(section, dict) else ():
        try:
            with open(path, "rb") as file:
                file.read(1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a path"
            review.reject(("zookeeper-tls", key), f"a PEM file that can be read ({reason})")
