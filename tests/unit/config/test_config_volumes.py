"""What a label has mounted: both forms of volumes, claims, shared memory and tmpfs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nodepool_k8s.config.settings import Volume, VolumeClaim, VolumeKind, Volumes

if TYPE_CHECKING:
    from tests.unit.config.conftest import Site

LABEL = "providers[0].pools[0].labels[0]"
IMAGE = "image: i\n"


def volumes(site: Site, lines: str) -> Volumes:
    (label,) = site.label(IMAGE + lines).pools[0].labels.values()
    return label.volumes


def short(kind: str, spec: str = "", path: str = "/data", name: str = "v") -> str:
    return (
        f"{{volume_type: {kind}, name: {name}, mount_path: {path}"
        + (f", spec: {{{spec}}}" if spec else "")
        + "}"
    )


def in_memory(name: str, path: str, size: int) -> Volume:
    return Volume(name, VolumeKind.EMPTY_DIR, path, size_limit=f"{size}Mi", medium="Memory")


SHORT_FORMS = [
    ("empty_dir", "", Volume("v", VolumeKind.EMPTY_DIR, "/data")),
    (
        "empty_dir",
        "size_limit: 1Gi",
        Volume("v", VolumeKind.EMPTY_DIR, "/data", size_limit="1Gi"),
    ),
    (
        "empty_dir",
        "size_limit: 1.5Gi, medium: Memory",
        Volume("v", VolumeKind.EMPTY_DIR, "/data", size_limit="1.5Gi", medium="Memory"),
    ),
    (
        "ephemeral",
        "size: 500Mi",
        Volume("v", VolumeKind.EPHEMERAL, "/data", template=VolumeClaim("500Mi")),
    ),
    (
        "ephemeral",
        "size: 2G, access_modes: [ReadWriteMany], storage_class: fast",
        Volume(
            "v",
            VolumeKind.EPHEMERAL,
            "/data",
            template=VolumeClaim("2G", "", ("ReadWriteMany",), "fast"),
        ),
    ),
    (
        "persistent_volume_claim",
        "claim_name: on-k8s",
        Volume("v", VolumeKind.CLAIM, "/data", source="on-k8s"),
    ),
    (
        "config_map",
        "name: settings, namespace: ci",
        Volume("v", VolumeKind.CONFIG_MAP, "/data", source="settings"),
    ),
    (
        "secret",
        "secret_name: key, namespace: ci",
        Volume("v", VolumeKind.SECRET, "/data", source="key"),
    ),
]


@pytest.mark.parametrize(("kind", "spec", "expected"), SHORT_FORMS)
def test_a_short_form(site: Site, kind: str, spec: str, expected: Volume) -> None:
    assert volumes(site, f"volumes: [{short(kind, spec)}]").short == (expected,)


def test_the_short_form_is_kebab_case_as_well(site: Site) -> None:
    kebab = (
        "volumes: [{volume-type: persistent_volume_claim, name: v, mount-path: /data, "
        "spec: {claim-name: c, size: 1Gi, access-modes: [ReadWriteMany], storage-class: s}}]"
    )
    assert volumes(site, kebab) == volumes(site, kebab.replace("-t", "_t").replace("-p", "_p"))


def test_a_claim_with_a_size_has_its_own_or_the_volumes_name(site: Site) -> None:
    named = short("persistent_volume_claim", "claim_name: c, size: 1Gi", "/c", "with-name")
    plain = short("persistent_volume_claim", "size: 2Gi, storage_class: ''", "/p", "plain")
    found = volumes(site, f"volumes: [{named}, {plain}]")
    assert found.claims == (VolumeClaim("1Gi", "c"), VolumeClaim("2Gi", "plain", storage_class=""))
    assert [volume.source for volume in found.short] == ["c", "plain"]


def test_both_forms_stand_side_by_side(site: Site) -> None:
    lines = (
        f"volumes: [{{name: raw, emptyDir: {{}}}}, {short('empty_dir')}]\n"
        "volume-mounts: [{name: raw, mountPath: /raw}, {name: v, mountPath: /v/sub, subPath: s}]"
    )
    found = volumes(site, lines)
    assert found.raw == ({"name": "raw", "emptyDir": {}},)
    assert [volume.name for volume in found.short] == ["v"]
    assert [mount["mountPath"] for mount in found.mounts] == ["/raw", "/v/sub"]


def test_claims_by_path_and_with_a_size(site: Site) -> None:
    lines = "persistent-volume-claims: {data: /data, new: {path: /new, size: 5Gi}}"
    found = volumes(site, lines)
    assert found.short == (
        Volume("claim", VolumeKind.CLAIM, "/data", source="data"),
        Volume("claim-2", VolumeKind.CLAIM, "/new", source="new"),
    )
    assert found.claims == (VolumeClaim("5Gi", "new"),)


def test_a_claim_that_is_not_made_is_remarked_on(site: Site) -> None:
    (notice,) = site.label(IMAGE + "persistent-volume-claims: {data: /data}").notices
    assert "claims.data: the claim data is not made by the launcher" in notice


def test_shared_memory_and_tmpfs(site: Site) -> None:
    found = volumes(site, "memory: 512\nshared-memory: 64\ntmpfs: {tempdir: true}")
    assert found.short == (
        in_memory("shared-memory", "/dev/shm", 64),
        in_memory("tmpfs", "/metaflow_temp", 256),
    )
    assert (found.memory, found.tempdir) == (320, "/metaflow_temp")


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        ("tmpfs: true\nmemory: 512", 256),
        ("tmpfs: true\nmemory: 100\nmemory-limit: 900", 50),
        ("tmpfs: true\nmemory-limit: 900", 450),
        ("tmpfs: {}\nmemory: 1", 1),
        ("tmpfs: {size: 5}", 5),
    ],
)
def test_tmpfs_takes_half_the_memory(site: Site, lines: str, size: int) -> None:
    assert volumes(site, lines).short == (in_memory("tmpfs", "/metaflow_temp", size),)


def test_no_tmpfs(site: Site) -> None:
    assert volumes(site, "tmpfs: false") == Volumes()


def test_tmpfs_has_its_path(site: Site) -> None:
    found = volumes(site, "tmpfs: {size: 5, path: /scratch, tempdir: true}")
    assert found.short == (in_memory("tmpfs", "/scratch", 5),)
    assert found.tempdir == "/scratch"


def test_volumes_of_ours_take_no_name_that_is_given(site: Site) -> None:
    lines = f"volumes: [{short('empty_dir', name='tmpfs')}]\ntmpfs: {{size: 5}}\n"
    assert [volume.name for volume in volumes(site, lines).short] == ["tmpfs", "tmpfs-2"]


@pytest.mark.parametrize(
    ("lines", "memory", "unbounded"),
    [
        ("volumes: [{name: r, emptyDir: {medium: Memory, sizeLimit: 1Gi}}]", 1024, False),
        ("volumes: [{name: r, emptyDir: {medium: Memory, sizeLimit: 1G}}]", 954, False),
        ("volumes: [{name: r, emptyDir: {medium: Memory, sizeLimit: '1e9'}}]", 954, False),
        ("volumes: [{name: r, emptyDir: {medium: Memory}}]\nmemory: 9", 0, True),
        ("volumes: [{name: r, emptyDir: {sizeLimit: 1Gi}}]", 0, False),
        (f"volumes: [{short('empty_dir', 'size_limit: 100M, medium: Memory')}]", 96, False),
        (f"volumes: [{short('empty_dir', 'medium: Memory')}]\nmemory: 9", 0, True),
    ],
)
def test_what_is_in_memory_is_summed(site: Site, lines: str, memory: int, unbounded: bool) -> None:
    found = volumes(site, lines)
    assert (found.memory, found.unbounded_memory) == (memory, unbounded)


@pytest.mark.parametrize("volume", ["{name: r, emptyDir: {medium: Memory}}", "short"])
def test_memory_that_nothing_bounds_is_remarked_on(site: Site, volume: str) -> None:
    given = short("empty_dir", "medium: Memory") if volume == "short" else volume
    (notice,) = site.label(f"{IMAGE}volumes: [{given}]").notices
    assert "volumes[0]: may take any memory of the Kubernetes node" in notice
    assert site.label(f"{IMAGE}memory: 9\nvolumes: [{given}]").notices == ()


def test_a_namespace_label_has_the_claims_that_are_made(site: Site) -> None:
    settings = site.load(
        site.text(
            "persistent-volume-claims: {data: {size: 1Gi, access_modes: [ReadWriteMany]}}",
            kind="namespace",
        )
    )
    (label,) = settings.pools[0].labels.values()
    assert label.volumes == Volumes(claims=(VolumeClaim("1Gi", "data", ("ReadWriteMany",)),))
    assert settings.notices == ()


def test_a_pools_defaults(site: Site) -> None:
    text = site.text("image: i\ntmpfs: false").replace(
        "        labels:\n",
        "        default-label-shared-memory: 64\n        default-label-tmpfs: {size: 9}\n"
        "        default-label-persistent-volume-claims: {c: {path: /c, size: 1Gi}}\n"
        "        labels:\n",
        1,
    )
    (label,) = site.load(text).pools[0].labels.values()
    assert label.volumes.claims == (VolumeClaim("1Gi", "c"),)
    assert [volume.mount_path for volume in label.volumes.short] == ["/c", "/dev/shm"]


CLAIM = "persistent_volume_claim"

WRONG = [
    (f"volumes: [{short('nfs')}]", ".volumes[0].volume_type", "found 'nfs', expected persistent_"),
    (f"volumes: [{short('3')}]", ".volumes[0].volume_type", "found 3, expected persistent_volume"),
    (f"volumes: [{short('empty_dir', path='d')}]", ".volumes[0].mount_path", "an absolute path"),
    (f"volumes: [{short('empty_dir', path='/')}]", ".volumes[0].mount_path", "other than /"),
    ("volumes: [{volume_type: empty_dir, name: v}]", ".volumes[0].mount-path", "is missing"),
    ("volumes: [{volume_type: empty_dir, mount_path: /v}]", ".volumes[0].name", "is missing"),
    (
        f"volumes: [{short('empty_dir', 'size: 1Gi')}]",
        ".volumes[0].spec.size",
        "is not an option here; expected one of: size-limit, medium",
    ),
    (
        f"volumes: [{short('empty_dir', 'size_limit: 5')}]",
        ".volumes[0].spec.size_limit",
        "found 5, expected a size with its unit, like 10Gi or 500Mi; say the unit: 5Gi or 5Mi",
    ),
    (
        f"volumes: [{short('empty_dir', 'size_limit: much')}]",
        ".volumes[0].spec.size_limit",
        "found 'much', expected a size with its unit",
    ),
    (
        f"volumes: [{short('empty_dir', 'size_limit: 500m')}]",
        ".volumes[0].spec.size_limit",
        "found '500m', expected a size with its unit",
    ),
    (
        f"volumes: [{short('empty_dir', 'medium: memory')}]",
        ".volumes[0].spec.medium",
        "found 'memory', expected 'Memory', or ''",
    ),
    (f"volumes: [{short('ephemeral')}]", ".volumes[0].spec", "is missing, expected a mapping with"),
    (
        f"volumes: [{short('ephemeral', 'storage_class: fast')}]",
        ".volumes[0].spec.size",
        "is missing, expected a size with its unit",
    ),
    (f"volumes: [{short(CLAIM)}]", ".volumes[0]", "needs a spec with claim-name, or with size"),
    (
        f"volumes: [{short(CLAIM, 'claim_name: c, access_modes: [ReadWriteOnce]')}]",
        ".volumes[0].spec.access_modes",
        "needs size beside it",
    ),
    (
        f"volumes: [{short(CLAIM, 'size: 1Gi, access_modes: [ReadWriteOncePod, ReadOnlyMany]')}]",
        ".volumes[0].spec.access_modes",
        "ReadWriteOncePod cannot be given together with others",
    ),
    (
        f"replicas: 2\nvolumes: [{short(CLAIM, 'size: 1Gi, access_modes: [ReadWriteOncePod]')}]",
        ".volumes[0].spec.access_modes",
        "ReadWriteOncePod is for one pod, and the label has replicas",
    ),
    (
        f"volumes: [{short(CLAIM, 'size: 1Gi, access_modes: [rwx]')}]",
        ".volumes[0].spec.access_modes[0]",
        "found 'rwx', expected ReadWriteOnce, ReadOnlyMany",
    ),
    (
        f"persistent-volume-claims: {{v: {{path: /a, size: 2Gi}}}}\n"
        f"volumes: [{short(CLAIM, 'size: 1Gi')}]",
        ".persistent-volume-claims.v",
        "expected the claim v as providers[0].pools[0].labels[0].volumes[0]",
    ),
    (
        f"volumes: [{short('empty_dir')}, {short('empty_dir', path='/b')}]",
        ".volumes[1].name",
        "a name that no other volume has",
    ),
    (
        f"volumes: [{short('empty_dir')}, {short('empty_dir', path='/data/', name='w')}]",
        ".volumes[1].mount_path",
        "found '/data/', expected a path at which nothing else is mounted; the first is",
    ),
    (
        f"volumes: [{short('empty_dir')}]\nvolume-mounts: [{{name: v, mountPath: /data}}]",
        ".volumes[0].mount_path",
        "a path at which nothing else is mounted; the first is",
    ),
    ("persistent-volume-claims: {a: /v, b: /v}", ".persistent-volume-claims.b", "nothing else is"),
    ("persistent-volume-claims: {a: v}", ".persistent-volume-claims.a", "an absolute path"),
    ("persistent-volume-claims: {A: /v}", ".persistent-volume-claims.A", "found key 'A', expected"),
    (
        "persistent-volume-claims: {volumes: {size: 1Gi}}",
        ".persistent-volume-claims.volumes",
        "needs a path: where the claim is mounted",
    ),
    ("persistent-volume-claims: [a]", ".persistent-volume-claims", "write 'key: value' lines"),
    (
        "persistent-volume-claims: {a: {size: 1Gi}}",
        ".persistent-volume-claims.a",
        "needs a path: where the claim is mounted",
    ),
    ("memory: 9\nshared-memory: 10", ".shared-memory", "expected the memory limit (9 MiB) or less"),
    ("shared-memory: 1Gi", ".shared-memory", "the unit is MiB: write 1024"),
    ("shared-memory: 0", ".shared-memory", "found 0, expected a whole number of MiB, 1 or more"),
    (
        "persistent-volume-claims: {a: /dev/shm}\nshared-memory: 1",
        ".shared-memory",
        "is mounted at /dev/shm, where",
    ),
    ("memory: 9\ntmpfs: {size: 10}", ".tmpfs.size", "expected the memory limit (9 MiB) or less"),
    (
        f"memory: 9\nvolumes: [{short('empty_dir', 'size_limit: 10Mi, medium: Memory')}]",
        ".volumes[0].spec.size_limit",
        "found '10Mi', expected the memory limit (9 MiB) or less",
    ),
    ("tmpfs: true", ".tmpfs", "half the memory is the default, and the label has none"),
    ("tmpfs: 5", ".tmpfs", "found 5, expected true, or a mapping with size, path and tempdir"),
    ("tmpfs: {size: 5, path: tmp}", ".tmpfs.path", "found 'tmp', expected an absolute path"),
    ("tmpfs: {size: 5, tempdir: /t}", ".tmpfs.tempdir", "found '/t', expected true or false"),
    ("shared-memory: 1\ntmpfs: {size: 5, path: /dev/shm}", ".tmpfs.path", "nothing else is"),
    (
        "tmpfs: {size: 5, tempdir: true}\nenv: [{name: TMPDIR, value: x}]",
        ".env[0].name",
        "expected another variable: tmpfs sets TMPDIR",
    ),
]


@pytest.mark.parametrize(("lines", "path", "message"), WRONG)
def test_what_cannot_be_mounted_is_refused(site: Site, lines: str, path: str, message: str) -> None:
    found = site.problems(site.text(IMAGE + lines))
    assert [problem.path for problem in found] == [LABEL + path]
    assert message in found[0].message
    key = path.strip(".").split(".")[0].split("[")[0]
    wanted = next(n for n, line in enumerate((IMAGE + lines).splitlines(), 15) if key in line)
    assert found[0].line == wanted


def test_a_claim_of_a_namespace_label_is_made(site: Site) -> None:
    text = site.text("persistent-volume-claims: {a: /a}", kind="namespace")
    (problem,) = site.problems(text)
    assert problem.path == f"{LABEL}.persistent-volume-claims.a"
    assert "a mapping with size: a namespace label's claim is made" in problem.message
