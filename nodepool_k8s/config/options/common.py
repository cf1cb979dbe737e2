"""Options of every label: name and type, labels and annotations, settings for Ansible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import MapOf
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic, fields, raw_texts
from nodepool_k8s.config.options.placement import LABEL_MAP
from nodepool_k8s.config.problems import Path
from nodepool_k8s.model import LabelType

ANNOTATION_MAP = MapOf(
    "a mapping of names to texts", values.label_key(), values.scalar("text, a number or a boolean")
)
TEMPLATE_MAP = MapOf("a mapping of names to format strings", values.label_key(), values.template())


def _type(document: Document, place: Path) -> LabelType:
    return LabelType(document.get(place))


OPTIONS = (
    Option(
        "name",
        values.text("the name of an entry of the top-level labels"),
        field="name",
        in_namespace=True,
        beside_spec=True,
    ),
    Option(
        "type",
        values.one_of("namespace", "pod"),
        field="type",
        read=_type,
        in_namespace=True,
        beside_spec=True,
        in_profile=False,
    ),
    Option("image", values.token("the name of a container image"), field="image"),
    Option("image-pull", values.one_of("Always", "IfNotPresent", "Never"), field="image_pull"),
    Option(
        "labels",
        LABEL_MAP,
        field="labels",
        read=raw_texts,
        in_namespace=True,
        beside_spec=True,
    ),
    Option(
        "dynamic-labels",
        TEMPLATE_MAP,
        field="dynamic_labels",
        read=raw_texts,
        in_namespace=True,
        beside_spec=True,
    ),
    Option(
        "annotations",
        ANNOTATION_MAP,
        field="annotations",
        read=raw_texts,
        beside_spec=True,
    ),
    Option("python-path", values.text("a path, or auto"), field="python_path", in_namespace=True),
    Option(
        "shell-type",
        values.token("a shell type of Ansible, like sh, csh or powershell"),
        field="shell_type",
        in_namespace=True,
    ),
)


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Read the fields of the label itself."""
    return fields(OPTIONS, document, path, label)


TOPIC = Topic(OPTIONS, resolve)
