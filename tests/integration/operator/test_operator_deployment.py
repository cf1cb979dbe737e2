"""What ships for running the launcher: its image, its manifests, its systemd unit."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Progress, building
from harness.api import ApiError

from nodepool_k8s import __version__, config
from nodepool_k8s.launcher import daemon
from tests.support.admin import Admin
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "etc" / "kubernetes"
SITE = ROOT / "etc" / "kubernetes-site"
UNIT = ROOT / "etc" / "systemd" / "nodepool-k8s.service"
CONTAINERFILE = ROOT / "Containerfile"
HOME = "/opt/nodepool-k8s"
APPLY = "application/apply-patch+yaml"
COLLECTIONS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}
Object = dict[str, Any]


# --- the manifests -------------------------------------------------------------------------------


def kustomize(folder: Path) -> list[Object]:
    """What the real program makes of a folder: kubectl's, or kustomize itself, built once."""
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    else:
        found = building.Binaries(os.environ, Progress()).obtain(["kustomize"])
        command = [found["kustomize"], "build"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module")
def rendered() -> list[Object]:
    return kustomize(SITE)


@pytest.fixture
def namespace() -> str:
    return f"launchers-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def moved(namespace: str, tmp_path: Path) -> list[Object]:
    """The same in a namespace of the test's own, as a site's overlay would have it."""
    shutil.copytree(BASE, tmp_path / "kubernetes")
    shutil.copytree(SITE, tmp_path / "kubernetes-site")
    (tmp_path / "moved").mkdir()
    overlay = {"namespace": namespace, "resources": ["../kubernetes-site"]}
    (tmp_path / "moved" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return kustomize(tmp_path / "moved")


@pytest.fixture
async def home(admin: Admin, namespace: str, moved: list[Object]) -> AsyncIterator[str]:
    """The namespace of the manifests, with what they enforce in it."""
    (document,) = of_kind(moved, "Namespace")
    await admin.call("POST", "/api/v1/namespaces", document)
    yield namespace
    await admin.delete_namespace(namespace)


def of_kind(documents: list[Object], kind: str) -> list[Object]:
    return [document for document in documents if document["kind"] == kind]


def only(documents: list[Object], kind: str) -> Object:
    (found,) = of_kind(documents, kind)
    return found


async def apply(admin: Admin, document: Object, *, dry_run: bool) -> Object:
    """Server-side apply, where a field that the API server does not know is an error."""
    metadata = document["metadata"]
    path = COLLECTIONS[document["kind"]].format(metadata.get("namespace"))
    query = "fieldManager=test&fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
    return await admin.call("PATCH", f"{path}/{metadata['name']}?{query}", document, APPLY)


async def test_the_kustomize_output_passes_a_server_side_dry_run(
    admin: Admin, home: str, moved: list[Object]
) -> None:
    for document in moved:
        answer = await apply(admin, document, dry_run=True)
        assert answer["metadata"]["name"] == document["metadata"]["name"]
    assert await admin.get(f"/apis/apps/v1/namespaces/{home}/deployments/nodepool-k8s") is None


async def test_the_dry_run_would_find_a_field_that_does_not_exist(
    admin: Admin, home: str, moved: list[Object]
) -> None:
    deployment = only(moved, "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(ApiError, match="terminationGracePeriod"):
        await apply(admin, deployment, dry_run=True)


async def test_the_launchers_pods_pass_pod_security_restricted(
    admin: Admin, home: str, moved: list[Object]
) -> None:
    await apply(admin, only(moved, "ServiceAccount"), dry_run=False)
    template = only(moved, "Deployment")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}
    pod["metadata"] = {"name": "launcher", "namespace": home}
    created = f"{COLLECTIONS['Pod'].format(home)}?dryRun=All"
    await admin.call("POST", created, pod)
    # And it is enforced: the same with one right more is refused.
    context = pod["spec"]["containers"][0]["securityContext"]
    pod["spec"]["containers"][0]["securityContext"] = {**context, "capabilities": {}}
    with pytest.raises(ApiError, match="violates PodSecurity"):
        await admin.call("POST", created, pod)


async def test_two_replicas_come_up_where_restricted_is_enforced(
    admin: Admin, home: str, moved: list[Object]
) -> None:
    cluster_wide = ("Namespace", "ClusterRole", "ClusterRoleBinding")
    for document in moved:
        if document["kind"] not in cluster_wide:
            await apply(admin, document, dry_run=False)
    path = f"{COLLECTIONS['Deployment'].format(home)}/nodepool-k8s"

    async def ready() -> bool:
        status = (await admin.call("GET", path))["status"]
        assert status.get("readyReplicas") == 2, status
        return True

    await eventually(ready, "two launchers")
    budget = f"{COLLECTIONS['PodDisruptionBudget'].format(home)}/nodepool-k8s"

    async def guarded() -> bool:
        status = (await admin.call("GET", budget))["status"]
        return bool(status.get("expectedPods") == 2 and status["disruptionsAllowed"] == 1)

    await eventually(guarded, "the disruption budget counts both, and lets one go")
    for kind in ("Deployment", "Service"):  # The namespace takes the rest along.
        collection = COLLECTIONS[kind].format(home)
        await admin.call("DELETE", f"{collection}/nodepool-k8s?propagationPolicy=Background")


def test_the_account_is_the_one_that_the_rights_are_bound_to(rendered: list[Object]) -> None:
    account = only(rendered, "ServiceAccount")["metadata"]
    deployment = only(rendered, "Deployment")
    binding = only(rendered, "ClusterRoleBinding")
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == account["name"]
    assert deployment["metadata"]["namespace"] == account["namespace"]
    (subject,) = binding["subjects"]
    assert subject == {"kind": "ServiceAccount", **account}
    roles = [role["metadata"]["name"] for role in of_kind(rendered, "ClusterRole")]
    assert binding["roleRef"]["name"] in roles


def test_the_rights_are_those_of_rbac_yaml_and_no_others(rendered: list[Object]) -> None:
    kinds = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    shipped = [d for d in yaml.safe_load_all((BASE / "rbac.yaml").read_text()) if d]
    for kind in kinds:
        assert sorted(of_kind(rendered, kind), key=json.dumps) == sorted(
            of_kind(shipped, kind), key=json.dumps
        )


def test_the_services_and_budgets_selectors_meet_the_pods(rendered: list[Object]) -> None:
    deployment = only(rendered, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    service = only(rendered, "Service")
    assert service["spec"]["selector"].items() <= labels
    budget = only(rendered, "PodDisruptionBudget")
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels
    port = service["metadata"]["annotations"]["prometheus.io/port"]
    (declared,) = deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert declared["containerPort"] == int(port) == service["spec"]["ports"][0]["port"]


def test_there_is_time_to_drain(rendered: list[Object]) -> None:
    pod = only(rendered, "Deployment")["spec"]["template"]["spec"]
    (drain,) = [a for a in pod["containers"][0]["args"] if a.startswith("--drain-timeout=")]
    seconds = float(drain.partition("=")[2])
    assert seconds == daemon.DRAIN_SECONDS
    assert pod["terminationGracePeriodSeconds"] >= seconds + 15
    unit = UNIT.read_text()
    assert f"--drain-timeout {seconds:g}" in unit
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert float(stop) >= seconds + 15


def test_the_launcher_takes_the_overlays_files(rendered: list[Object], tmp_path: Path) -> None:
    """The arguments of the Deployment, with its volumes' files where it would see them."""
    pod = only(rendered, "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    folders = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for volume in pod["volumes"]:
        here = tmp_path / folders[volume["name"]].lstrip("/")
        here.mkdir(parents=True)
        for name, text in contents(rendered, volume).items():
            (here / name).write_text(text.replace("/run/", f"{tmp_path}/run/"))
    given = dict(a[2:].split("=", 1) for a in container["args"] if a.startswith("--"))
    settings = config.load(
        f"{tmp_path}{given['config']}", f"{tmp_path}{given['secure']}", contexts=lambda: None
    )
    assert not settings.notices
    assert settings.zookeeper.tls is not None
    assert [pool.key for pool in settings.pools] == ["builders/main"]


def contents(rendered: list[Object], volume: Object) -> dict[str, str]:
    if "configMap" in volume:
        found: dict[str, str] = only(rendered, "ConfigMap")["data"]
        assert only(rendered, "ConfigMap")["metadata"]["name"] == volume["configMap"]["name"]
        return found
    if volume.get("secret", {}).get("optional"):
        return dict.fromkeys(("tls.crt", "tls.key", "ca.crt"), "made by the site\n")
    if "secret" in volume:
        secret = only(rendered, "Secret")
        assert secret["metadata"]["name"] == volume["secret"]["secretName"]
        return {name: (SITE / name).read_text() for name in secret["data"]}
    return {}


# --- the image -----------------------------------------------------------------------------------


def instructions(text: str) -> list[tuple[str, str]]:
    """The Containerfile's instructions, in order: (FROM, ...), (RUN, ...)."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    split = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in split]


def stages(text: str) -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions(text):
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The first stage, step by step in a folder: no container engine is needed for that."""
    folder = tmp_path_factory.mktemp("image")
    environment = {
        **os.environ,
        "EXTRAS": "[nodepool]",
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
    }
    environment.pop("PYTHONPATH", None)
    environment.pop("VIRTUAL_ENV", None)
    # Only `python3` of the environment that the tests run in, and not what is installed there.
    (folder / "bin").mkdir()
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    (folder / "bin" / "python3").symlink_to(base)
    build, _ = stages(CONTAINERFILE.read_text())
    for word, rest in build:
        if word == "COPY":
            *sources, target = rest.split()
            copy(sources, Path(f"{folder}{target}"))
        if word == "RUN":
            there = rest.replace("/src", f"{folder}/src").replace(HOME, f"{folder}{HOME}")
            done = subprocess.run(
                ["sh", "-ec", there], env=environment, cwd=folder, capture_output=True, text=True
            )
            assert done.returncode == 0, f"RUN {rest}:\n{done.stdout}{done.stderr}"
    shutil.rmtree(folder / "src")
    yield folder
    shutil.rmtree(folder)


def copy(sources: list[str], target: Path) -> None:
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(
                ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, target)


def run(*command: str | Path) -> tuple[int, str]:
    """A command's status and all that it printed; it sees nothing of the tests' environment."""
    done = subprocess.run(
        list(map(str, command)),
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def test_the_containerfiles_steps_make_a_program_that_runs(built: Path) -> None:
    program = f"{built}{HOME}/bin/nodepool-k8s"
    assert run(program, "--version") == (0, f"nodepool-k8s, version {__version__}\n")
    assert run(f"{built}{HOME}/bin/nodepool", "--version")[0] == 0
    # Every module is there, and all that any of them imports.
    modules = "import pkgutil, nodepool_k8s; print(len([__import__(m.name) for m in "
    modules += "pkgutil.walk_packages(nodepool_k8s.__path__, 'nodepool_k8s.') "
    modules += "if m.name != 'nodepool_k8s.__main__']))"
    status, out = run(f"{built}{HOME}/bin/python", "-c", modules)
    assert status == 0, out
    assert int(out) > 40
    site = ROOT / "etc" / "kubernetes-site"
    both = ("-c", site / "nodepool.yaml", "-s", site / "secure.yaml")
    status, out = run(program, "config-validate", *both)
    # The certificates are not here, and nothing else is missing.
    assert status == 1
    assert out.count("zookeeper-tls") == 3
    assert "3 problems" in out


def test_the_image_has_no_installer_and_no_tests(built: Path) -> None:
    for name in ("pip", "setuptools", "pytest", "mypy", "tests"):
        status, out = run(f"{built}{HOME}/bin/python", "-c", f"import {name}")
        assert (status, f"No module named '{name}'" in out) == (1, True), name


def test_what_is_copied_is_not_ignored() -> None:
    """A file that .containerignore keeps away would be missing with an engine only."""
    allowed = re.findall(r"^!(.+)$", (ROOT / ".containerignore").read_text(), re.MULTILINE)
    for stage in stages(CONTAINERFILE.read_text()):
        for word, rest in stage:
            if word == "COPY" and not rest.startswith("--from"):
                assert set(rest.split()[:-1]) <= set(allowed)


def test_the_image_says_what_it_is_and_is_nobody() -> None:
    _, final = stages(CONTAINERFILE.read_text())
    words: dict[str, list[str]] = {}
    for word, rest in final:
        words.setdefault(word, []).append(rest)
    assert f"VERSION={__version__}" in words["ARG"]
    labels = [pair.partition("=")[0] for pair in shlex.split(words["LABEL"][0])]
    wanted = ("title", "description", "licenses", "version", "revision")
    assert labels == [f"org.opencontainers.image.{name}" for name in wanted]
    assert words["ENTRYPOINT"] == ['["nodepool-k8s"]']
    (user,) = words["USER"]
    pod = yaml.safe_load((BASE / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    context = pod["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"


# --- the unit ------------------------------------------------------------------------------------


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with the program where it is here: systemd looks whether it is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not run: systemd-analyze is not installed (on Debian: the package systemd)")
    path = tmp_path / UNIT.name
    program = Path(sys.executable).with_name("nodepool-k8s")
    assert program.is_file()
    path.write_text(UNIT.read_text().replace(f"{HOME}/bin/nodepool-k8s", str(program)))
    return path


def test_the_systemd_unit_is_right(unit: Path) -> None:
    assert run("systemd-analyze", "verify", "--man=no", unit) == (0, "")


def test_the_systemd_unit_is_hardened(unit: Path) -> None:
    status, out = run(
        "systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20", unit
    )
    assert status == 0, out


def test_a_wrong_unit_would_be_found(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("Type=notify", "Type=notifying"))
    _, out = run("systemd-analyze", "verify", "--man=no", unit)
    assert "notifying" in out


def test_the_unit_starts_reloads_and_stops_the_launcher() -> None:
    text = UNIT.read_text()
    for line in (
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "KillSignal=SIGTERM",
        "Restart=on-failure",
    ):
        assert f"\n{line}\n" in text
    assert re.search(r"^WatchdogSec=\d+$", text, re.MULTILINE)
