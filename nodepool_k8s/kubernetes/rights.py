"""Checks what the launcher's account may do in a cluster, before the first node needs it.

Asks the API server itself (SelfSubjectAccessReview, a dry run), creates the two
ClusterRoles where they lack and may be made, and changes no existing one.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from nodepool_k8s.config.settings import Label, Pool, Provider
from nodepool_k8s.errors import ApiError, MissingRights, NotFound
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.parsing import parsing
from nodepool_k8s.manifests import (
    ACCESS_RULES,
    RBAC,
    SOURCE_RESOURCES,
    WORKER,
    NodeObjects,
    cluster_role,
)
from nodepool_k8s.model import SourceContent

log = logging.getLogger(__name__)

MANIFEST = "etc/kubernetes/rbac.yaml"
COPIES = "etc/kubernetes/copies.yaml"
LABEL_OPTIONS = "nodepool-k8s-label-options"
CLUSTER_ROLES = f"/apis/{RBAC}/v1/clusterroles"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@dataclass(frozen=True, slots=True)
class Right:
    """A verb on a resource: in every namespace, or on one object."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        text = f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")
        return f"{text} {self.namespace}/{self.name}" if self.name else text


def _rights(resource: str, *verbs: str, group: str = "") -> tuple[Right, ...]:
    return tuple(Right(verb, resource, group) for verb in verbs)


NEEDED = (
    *_rights("namespaces", "create", "delete", "get", "list", "patch", "watch"),
    *_rights("pods", "create", "delete", "deletecollection", "get", "list", "patch", "watch"),
    *_rights("serviceaccounts", "create"),
    *_rights("configmaps", "create"),
    *_rights("rolebindings", "create", group=RBAC),
)
"""Needed to create and delete any node."""

TOKEN_REQUEST = Right("create", "serviceaccounts/token")
FOR_TOKEN_SECRETS = _rights("secrets", "create", "get")
FOR_OWN_ROLES = _rights("roles", "create", group=RBAC)


async def missing_by_label(client: ApiClient, provider: Provider) -> list[str]:
    """One message a label that needs rights that the account lacks."""
    needs = {
        (pool.name, label.name): _of_label(provider, pool, label)
        for pool in provider.pools
        for label in pool.labels.values()
    }
    wanted = tuple(dict.fromkeys(right for rights in needs.values() for right in rights))
    lacking = set(await missing(client, wanted))
    told = []
    for (pool, name), rights in needs.items():
        lacks = [right for right in rights if right in lacking]
        if lacks:
            told.append(
                f"provider {provider.name}: for label {name} of pool {pool} the launcher's account "
                f"may not {', '.join(map(str, lacks))}: {_remedy(lacks)}; until then its launches "
                "fail"
            )
    return told


def _of_label(provider: Provider, pool: Pool, label: Label) -> tuple[Right, ...]:
    """What nodes of one label need beyond ``NEEDED``."""
    objects = NodeObjects("", provider, pool, label, node_id="")
    nothing = dict.fromkeys(objects.sources, SourceContent())
    made = [
        Right("create", resource, manifest["apiVersion"].rpartition("/")[0])
        for resource, manifest in objects.before_pod(nothing)
    ]
    read = [
        Right(verb, SOURCE_RESOURCES[source.kind], "", source.namespace, source.name)
        for source in objects.sources
        for verb in ("get", "list", "watch")
    ]
    return tuple(dict.fromkeys(right for right in (*made, *read) if right not in NEEDED))


def _remedy(lacking: list[Right]) -> str:
    ways = []
    if any(not right.name for right in lacking):
        ways.append(f"bind the ClusterRole {LABEL_OPTIONS} of {MANIFEST} to it")
    if any(right.name for right in lacking):
        ways.append(f"give it what {COPIES} has for an example")
    return ", and ".join(ways)


async def missing(client: ApiClient, rights: tuple[Right, ...]) -> list[Right]:
    """Those of the rights that the account lacks."""
    answers = await asyncio.gather(*(_allowed(client, right) for right in rights))
    return [right for right, allowed in zip(rights, answers, strict=True) if not allowed]


async def require(client: ApiClient, rights: tuple[Right, ...], who: str) -> None:
    """Raise ``MissingRights`` with all that is missing, and what to do about it."""
    lacking = await missing(client, rights)
    if lacking:
        raise MissingRights(
            f"{who}: the launcher's account may not "
            f"{', '.join(map(str, lacking))}; apply {MANIFEST} and use its service account"
        )


async def ensure_cluster_roles(client: ApiClient) -> bool:
    """Create the two ClusterRoles if missing; return whether they can be bound."""
    present = await asyncio.gather(*(_ensure_cluster_role(client, name) for name in ACCESS_RULES))
    return all(present) and await _may_bind(client)


async def _allowed(client: ApiClient, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "namespace": right.namespace,
        "name": right.name,
    }
    review = await client.post(
        REVIEWS,
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        },
    )
    with parsing(f"the answer whether we may {right}"):
        return review["status"]["allowed"] is True


async def _ensure_cluster_role(client: ApiClient, name: str) -> bool:
    try:
        await client.get(f"{CLUSTER_ROLES}/{name}")
        return True
    except NotFound:
        pass
    except ApiError as error:
        if error.status != 403:
            raise
    try:
        await client.post(CLUSTER_ROLES, cluster_role(name))
    except ApiError as error:
        if error.status not in (403, 409):
            raise
        # 409: it was created meanwhile, or the account may not read it.
        return error.status == 409
    log.info("Created the ClusterRole %s", name)
    return True


async def _may_bind(client: ApiClient) -> bool:
    """Try a binding as a dry run: only the API server knows all that allows it."""
    for name in ACCESS_RULES:
        binding = {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": {"generateName": "nodepool-k8s-check-"},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": WORKER, "namespace": "default"}],
        }
        path = f"/apis/{RBAC}/v1/namespaces/default/rolebindings"
        try:
            await client.post(path, binding, {"dryRun": "All"})
        except ApiError as error:
            if error.status != 403:
                raise
            return False
    return True
