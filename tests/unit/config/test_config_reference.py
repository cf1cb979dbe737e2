"""The reference pages' examples as labels: taken as they are meant, or refused with the reason."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import yaml

from nodepool_k8s.manifests import NodeObjects
from tests.support import reference
from tests.support.reference import ACCEPTED, PROFILES, REFUSED, Example, Refusal, part
from tests.support.site import IMAGE, Options

if TYPE_CHECKING:
    from tests.unit.config.conftest import Site

LABEL = "providers[0].pools[0].labels[0]"
PAGES = {reference.HUB_A, reference.HUB_B, reference.HUB_C, reference.METAFLOW, reference.NODEPOOL}
LEFT_TO_THE_CLUSTER = {"status", "metadata"}
"""Of what is stored: not in the manifest, or not in this label's alone."""


def text_of(name: str, options: Options) -> str:
    """A configuration whose only label has an example's options."""
    image = {} if "spec" in options else {"image": IMAGE}
    label = {"name": name, "type": "pod", **image, **options}
    provider = {
        "name": "kube",
        "driver": "kubernetes",
        "context": "here",
        "compute-pool-key": "kubernetes.io/os",
        "source-namespace": "build",
        "pools": [{"name": "main", "labels": [label]}],
    }
    document = {
        "zookeeper-servers": [{"host": "zk"}],
        "labels": [{"name": name}],
        "profiles": PROFILES,
        "providers": [provider],
    }
    return yaml.safe_dump(document, sort_keys=False)


@pytest.mark.parametrize(("name", "example"), ACCEPTED.items(), ids=list(ACCEPTED))
def test_what_a_page_asks_for_is_in_the_pod_that_is_made(
    site: Site, name: str, example: Example
) -> None:
    settings = site.load(text_of(name, example.options))
    (pool,) = settings.pools
    (label,) = pool.labels.values()
    objects = NodeObjects(
        deployment="d", provider=settings.providers[0], pool=pool, label=label, node_id="0"
    )
    wanted = {key: value for key, value in example.seen.items() if key not in LEFT_TO_THE_CLUSTER}
    assert part(objects.pod(), wanted) == wanted


@pytest.mark.parametrize("refusal", REFUSED, ids=lambda refusal: refusal.id)
def test_what_cannot_be_is_refused_with_the_reason(site: Site, refusal: Refusal) -> None:
    text = text_of("pod", refusal.options)
    (problem,) = site.problems(text)
    assert problem.path == f"{LABEL}.{refusal.where}"
    assert problem.file == "nodepool.yaml"
    assert re.search(refusal.told, problem.message), problem.message
    # The line is the option's own, or, where it is missing, that of what lacks it.
    last = re.split(r"[.\[]", refusal.where)[-1]
    line = text.splitlines()[(problem.line or 0) - 1]
    assert f"{last}:" in line or "is missing" in problem.message


def test_every_page_is_heard() -> None:
    assert {example.page for example in ACCEPTED.values()} == PAGES
    assert {refusal.page for refusal in REFUSED} == PAGES
