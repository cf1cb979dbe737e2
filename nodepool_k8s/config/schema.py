"""The shape of nodepool.yaml: every option there is, and what its value must look like.

The options of labels are in ``options``; what concerns several options at once is in ``checks``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodepool_k8s.config import options, values
from nodepool_k8s.config.freeform import MapOf, Validator, anything, json_value
from nodepool_k8s.config.options import copies, launch, placement, resources, workload
from nodepool_k8s.config.problems import InvalidValue, nearest
from nodepool_k8s.config.review import DRIVER
from nodepool_k8s.config.sections import Choice, ListOf, Section

OTHER_DRIVERS = (
    *("aws", "azure", "fake", "gce", "ibmvpc", "metastatic", "openshift", "openshiftpods"),
    *("openstack", "static", "test"),
)


def _or_nothing(check: Validator) -> Validator:
    """Accept a section's key with nothing behind it, as Nodepool does at the top level."""
    expected = getattr(check, "expected", "a value")
    return Choice(expected, lambda value: anything if value is None else check)


LIMIT_MAP = MapOf(
    "a mapping of resource names to numbers", values.text("a resource's name"), values.amount()
)

LABEL = Section(
    "a label: a mapping with name and type",
    options.KEYS,
    required=("name", "type"),
    snake_case=True,
    aliases={"envs": "env", "profiles": "profile"},
)

PROFILE = Section(
    "a profile: a mapping with a name and options of labels",
    options.IN_PROFILE,
    required=("name",),
    snake_case=True,
    aliases={"envs": "env", "profiles": "profile"},
)

LIMIT_KEYS: Mapping[str, Validator] = {
    "max-servers": values.whole_number(else_="0 or less: the pool takes no requests"),
    "max-cores": values.cores(zero=True),
    "max-ram": values.mebibytes(0),
    "max-resources": LIMIT_MAP,
}

POOL = Section(
    "a pool: a mapping with name and labels",
    {
        "name": values.pool_name(),
        "priority": values.whole_number(),
        "fair-share": values.boolean(),
        "node-attributes": MapOf("a mapping", anything, json_value),
        **LIMIT_KEYS,
        **{f"{options.DEFAULT}{key}": options.KEYS[key] for key in sorted(options.DEFAULTS)},
        "labels": ListOf("a list of labels", LABEL),
        **options.LAUNCH,
    },
    required=("name",),
)

PROVIDER = Section(
    "a provider: a mapping with name and driver",
    {
        "name": values.text("a name"),
        "driver": values.one_of(DRIVER),
        "context": values.text("the name of a context of kube/config"),
        "api-server-url": values.url(),
        "access-role": values.one_of("cluster", "namespace"),
        copies.SOURCE_NAMESPACE: values.dns_label("the name of a namespace"),
        placement.COMPUTE_POOL_KEY: values.label_key(),
        "launch-retries": values.whole_number(0),
        "priority": values.whole_number(),
        "fair-share": values.boolean(),
        "max-concurrency": values.whole_number(-1, else_="0 and -1 mean no limit"),
        **LIMIT_KEYS,
        "pools": ListOf("a list of pools", POOL),
        **options.LAUNCH,
    },
    required=("name",),
)


def _by_driver(value: Any) -> Validator:
    """A provider of ours is checked; those of other drivers are not ours to check."""
    if not isinstance(value, dict):
        raise InvalidValue(PROVIDER.expected)
    driver = value.get("driver", "openstack")
    if driver == DRIVER:
        return PROVIDER
    slip = isinstance(driver, str) and driver not in OTHER_DRIVERS
    if not isinstance(driver, str) or (slip and nearest(driver, [DRIVER])):
        raise InvalidValue("the name of a driver", hint=f"did you mean {DRIVER}?", path=["driver"])
    return anything


provider = Choice(PROVIDER.expected, _by_driver)

TOP_LABEL = Section(
    "a label: a mapping with a name",
    {
        "name": values.text("a name"),
        "min-ready": values.whole_number(),
        "max-ready-age": values.duration(minimum=0),
    },
    required=("name",),
)

SERVER = Section(
    "a server: a mapping with a host",
    {"host": values.host(), "port": values.port(), "chroot": values.token("a path like /ci")},
    required=("host",),
)
SERVERS = ListOf("a list of servers, each with a host", SERVER)

TLS = Section(
    "a mapping with cert, key and ca",
    {key: values.text("the path of a PEM file") for key in ("cert", "key", "ca")},
    required=("cert", "key", "ca"),
)

WEBAPP = Section(
    "a mapping with port and listen_address",
    {"port": values.port(minimum=0), "listen_address": values.host()},
)

TENANT_KEYS: Mapping[str, Validator] = {
    "tenant-name": values.text("the name of a tenant"),
    "max-servers": values.whole_number(0),
    "max-cores": values.cores(zero=True),
    "max-ram": values.mebibytes(0),
}
# OpenStack's, harmless here: no node of ours uses any.
TENANT_EXTRAS = ("max-volumes", "max-volume-gb")


def tenant(value: Any) -> Any:
    """Check a tenant's limits: any key that is not a ``max-*`` is the name of a resource."""
    if not isinstance(value, dict):
        raise InvalidValue("a mapping with tenant-name and limits")
    resources = {
        key: values.amount()
        for key in value
        if key not in TENANT_KEYS and (not key.startswith("max-") or key in TENANT_EXTRAS)
    }
    expected = "a mapping with tenant-name and limits"
    return Section(expected, {**TENANT_KEYS, **resources}, required=("tenant-name",))(value)


IGNORED_SECTIONS: Mapping[str, str] = {
    "diskimages": "this launcher builds no images",
    "elements-dir": "this launcher builds no images",
    "images-dir": "this launcher builds no images",
    "build-log-dir": "this launcher builds no images",
    "build-log-retention": "this launcher builds no images",
}
"""Nodepool's sections that are accepted whatever they hold, and why they have no effect."""

TOP_KEYS: Mapping[str, Validator] = {
    "zookeeper-servers": SERVERS,
    "zookeeper-tls": TLS,
    "zookeeper-timeout": values.duration(),
    "labels": ListOf("a list of labels, each with a name", TOP_LABEL),
    "profiles": ListOf("a list of profiles, each with a name", PROFILE),
    "providers": ListOf("a list of providers", provider),
    "max-hold-age": values.any_duration(),
    "fair-share": values.boolean(),
    "tenant-resource-limits": ListOf("a list of mappings with tenant-name and limits", tenant),
    "webapp": WEBAPP,
}

MAIN = Section(
    "a mapping with zookeeper-servers, labels and providers",
    {
        **{key: _or_nothing(check) for key, check in TOP_KEYS.items()},
        **dict.fromkeys(IGNORED_SECTIONS, anything),
    },
)

SECURE_KEYS = ("zookeeper-servers", "zookeeper-tls")

SECURE = Section(
    "a mapping with zookeeper-servers and zookeeper-tls",
    {
        **{key: _or_nothing(TOP_KEYS[key]) for key in SECURE_KEYS},
        **{key: anything for key in MAIN.keys if key not in SECURE_KEYS},
    },
)

SECTIONS: Mapping[str, Mapping[str, Validator]] = {
    "top level": MAIN.keys,
    "zookeeper-servers": SERVER.keys,
    "zookeeper-tls": TLS.keys,
    "webapp": WEBAPP.keys,
    "tenant-resource-limits": TENANT_KEYS,
    "labels": TOP_LABEL.keys,
    "provider": PROVIDER.keys,
    "pool": POOL.keys,
    "label": LABEL.keys,
    "env": workload.ENV.keys,
    "resources": resources.RESOURCES.keys,
    "access-token": launch.ACCESS_TOKEN.keys,
}
"""Every option by the section that has it; the test of the documentation compares them."""
