"""Volumes, mounts and claims."""

import pytest

from nodepool_k8s.config.settings import Volume, VolumeClaim, VolumeKind, Volumes
from nodepool_k8s.manifests import volumes
from nodepool_k8s.manifests.object_labels import Manifest


@pytest.mark.parametrize(
    ("volume", "source"),
    [
        (
            Volume("v", VolumeKind.CLAIM, "/v", source="data"),
            {"persistentVolumeClaim": {"claimName": "data"}},
        ),
        (Volume("v", VolumeKind.EMPTY_DIR, "/v"), {"emptyDir": {}}),
        (
            Volume("v", VolumeKind.EMPTY_DIR, "/v", size_limit="1Gi", medium="Memory"),
            {"emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}},
        ),
        (Volume("v", VolumeKind.CONFIG_MAP, "/v", source="c"), {"configMap": {"name": "c"}}),
        (Volume("v", VolumeKind.SECRET, "/v", source="s"), {"secret": {"secretName": "s"}}),
        (
            Volume(
                "v", VolumeKind.EPHEMERAL, "/v", template=VolumeClaim("2Gi", storage_class="fast")
            ),
            {
                "ephemeral": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "accessModes": ["ReadWriteOnce"],
                            "resources": {"requests": {"storage": "2Gi"}},
                            "storageClassName": "fast",
                        }
                    }
                }
            },
        ),
    ],
)
def test_a_short_form_becomes_a_volume_and_its_mount(volume: Volume, source: Manifest) -> None:
    given = Volumes(short=(volume,))
    assert volumes.volumes(given) == [{"name": "v", **source}]
    assert volumes.mounts(given) == [{"name": "v", "mountPath": "/v"}]


def test_kubernetes_own_definitions_come_first_and_as_they_are() -> None:
    given = Volumes(
        raw=({"name": "a", "hostPath": {"path": "/a"}},),
        mounts=({"name": "a", "mountPath": "/a", "readOnly": True},),
        short=(Volume("b", VolumeKind.EMPTY_DIR, "/b"),),
    )
    assert [volume["name"] for volume in volumes.volumes(given)] == ["a", "b"]
    assert volumes.mounts(given)[0] == {"name": "a", "mountPath": "/a", "readOnly": True}


@pytest.mark.parametrize(
    ("storage_class", "expected"),
    [(None, {}), ("", {"storageClassName": ""}), ("fast", {"storageClassName": "fast"})],
)
def test_a_claim(storage_class: str | None, expected: Manifest) -> None:
    made = volumes.claim(
        VolumeClaim("1Gi", "data", ("ReadWriteMany",), storage_class),
        {"name": "data", "labels": {}},
    )
    assert made == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "labels": {}},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
            **expected,
        },
    }


def test_a_temporary_folder_is_told_by_the_environment() -> None:
    assert volumes.environment(Volumes()) == []
    assert volumes.environment(Volumes(tempdir="/t")) == [{"name": "TMPDIR", "value": "/t"}]
