"""A node that runs pods: containerd and kubelet, in namespaces of their own."""

import contextlib
import json
import shutil
import time
from pathlib import Path

import yaml

from . import fetching, images, machine, namespace, network, processes
from .layout import Layout
from .ports import HOST
from .site import Site
from .state import Probe, Service, State

IMAGE = images.BUSYBOX
HOSTNAME = "localhost"
HOLDER = "node"
CGROUPS = Path("/sys/fs/cgroup")
# Overlaid: stored below the cluster's folder; its sockets need the short path.
KUBELET_FOLDER = "/var/lib/kubelet"
# containerd's namespace for Kubernetes, after which it names the containers' groups too.
CGROUP_PARENT = "k8s.io"
NAMESPACE_FLAG = f"--namespace={CGROUP_PARENT}"
CGROUP_PATIENCE_S = 5.0
POLL_S = 0.05
# kubelet and containerd have nothing to save: all that they manage ends with them.
STOP_PATIENCE_S = 2.0


def prepare(site: Site, state: State) -> None:
    """Choose what is outside of the folder, and note it in `state` before it is used."""
    site.socket_folder = state.socket_folder = str(site.layout.make_socket_folder())
    site.subnet = state.subnet = network.free_subnet(str(site.layout.folder))
    state.ip_forward = network.FORWARDING.read_text(encoding="ascii").strip()
    _folder(site).mkdir(exist_ok=True)
    images.build(Path(_which("busybox")), _folder(site) / "images")


def holder(site: Site) -> Service:
    """The process that the namespaces belong to; when it is killed, all in them is gone."""
    ready = _folder(site) / "holder-ready"
    return Service(
        name=HOLDER,
        argv=namespace.holder(_folder(site), ready),
        log=str(site.layout.log(HOLDER)),
        probe=Probe("file", str(ready)),
    )


def containerd(site: Site, holder_pid: int) -> Service:
    config = site.layout.config / "containerd.toml"
    config.write_text(_containerd_config(site), encoding="utf-8")
    _write_cni_config(site)
    return Service(
        name="containerd",
        argv=namespace.inside(holder_pid, [_which("containerd"), "--config", str(config)]),
        log=str(site.layout.log("containerd")),
        probe=Probe("unix", _socket(site)),
    )


def import_images(site: Site) -> None:
    """Give containerd the images that need no registry."""
    ctr = [_which("ctr"), f"--address={_socket(site)}", NAMESPACE_FLAG, "images", "import"]
    for archive in sorted((_folder(site) / "images").glob("*.tar")):
        fetching.run([*ctr, str(archive)], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


def kubelet(site: Site, holder_pid: int) -> Service:
    claimed = site.claim_ports("kubelet", "kubelet-healthz")
    config = site.layout.config / "kubelet.yaml"
    config.write_text(yaml.safe_dump(_kubelet_config(site), sort_keys=False), encoding="utf-8")
    argv = [
        site.binaries["kubelet"],
        f"--config={config}",
        f"--kubeconfig={site.kubeconfig_of('kubelet')}",
        f"--root-dir={KUBELET_FOLDER}",
        f"--hostname-override={HOSTNAME}",
    ]
    return Service(
        name="kubelet",
        argv=namespace.inside(holder_pid, argv),
        log=str(site.layout.log("kubelet")),
        probe=Probe("http", f"http://{HOST}:{claimed['kubelet-healthz']}/healthz"),
        ports=claimed,
    )


def stop(state: State) -> None:
    """End the node with all of its containers, in whatever state it is."""
    here = [each for each in state.services if each.name in ("kubelet", "containerd")]
    processes.stop(here, STOP_PATIENCE_S)
    # It is process 1 of a process namespace and ignores SIGTERM.
    processes.stop([each for each in state.services if each.name == HOLDER], 0)


def clean(state: State, layout: Layout) -> None:
    """Remove what the node left outside of the folder; the rest ended with its namespaces."""
    _remove_cgroups(_container_names(_node_folder(layout)))
    if state.ip_forward == "0":
        network.FORWARDING.write_text("0\n", encoding="ascii")
    if state.socket_folder:
        shutil.rmtree(state.socket_folder, ignore_errors=True)


def _remove_cgroups(names: set[str]) -> None:
    deadline = time.monotonic() + CGROUP_PATIENCE_S
    while left := _cgroups(names):
        for path in left:
            # Refused while its processes are still ending, and then retried.
            with contextlib.suppress(OSError):
                path.rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_S)
    for parent in [CGROUPS / CGROUP_PARENT, *CGROUPS.glob(f"*/{CGROUP_PARENT}")]:
        # Refused if another node has containers there.
        with contextlib.suppress(OSError):
            parent.rmdir()


def _cgroups(names: set[str]) -> list[Path]:
    """The containers' groups, in every hierarchy; what one made within itself comes first."""
    parents = [CGROUPS / CGROUP_PARENT, *CGROUPS.glob(f"*/{CGROUP_PARENT}")]
    tops = [parent / name for parent in parents for name in names if (parent / name).is_dir()]
    return [path for top in tops for path in sorted(top.glob("**/"), reverse=True)]


def _container_names(node: Path) -> set[str]:
    cri = node / "containerd" / "io.containerd.grpc.v1.cri"
    return {path.name for kind in ("containers", "sandboxes") for path in cri.glob(f"{kind}/*")}


def _folder(site: Site) -> Path:
    return _node_folder(site.layout)


def _node_folder(layout: Layout) -> Path:
    return layout.data / "node"


def _socket(site: Site) -> str:
    return f"{site.socket_folder}/containerd.sock"


def _which(tool: str) -> str:
    found = shutil.which(tool)
    assert found, f"{tool} was there when this machine was looked at"
    return found


def _containerd_config(site: Site) -> str:
    folder = _folder(site)
    return f"""\
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-run"
[grpc]
  address = "{_socket(site)}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  # Raising a process's claim to memory again takes a capability that root in a container lacks.
  restrict_oom_score_adj = true
  stream_server_address = "{HOST}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{machine.cni_folder()}"
    conf_dir = "{folder}/cni"
"""


def _write_cni_config(site: Site) -> None:
    # ptp makes no bridge: each pod's link ends with the pod's network namespace.
    folder = _folder(site)
    document = {
        "cniVersion": "0.4.0",
        "name": site.layout.short_name,
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folder / "ipam"),
                    "ranges": [[{"subnet": site.subnet}]],
                },
            }
        ],
    }
    (folder / "cni").mkdir(exist_ok=True)
    path = folder / "cni" / "10-local.conflist"
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _kubelet_config(site: Site) -> dict[str, object]:
    folder, pki = _folder(site), site.pki
    resolv = folder / "resolv.conf"
    # A copy: the machine's own may be a link into a folder that is overlaid.
    resolv.write_text(_resolv_conf(), encoding="utf-8")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": HOST,
        "port": site.ports["kubelet"],
        "healthzBindAddress": HOST,
        "healthzPort": site.ports["kubelet-healthz"],
        "containerRuntimeEndpoint": f"unix://{_socket(site)}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": pki.ca},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": pki.cert("kubelet"),
        "tlsPrivateKeyFile": pki.key("kubelet"),
        "clusterDomain": "local",
        "resolvConf": str(resolv),
        "podLogsDir": str(folder / "pod-logs"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        # Settings of machines that were not set up as nodes.
        "failSwapOn": False,
        "failCgroupV1": False,
        "oomScoreAdj": 0,
        "localStorageCapacityIsolation": False,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "imagefs.available": "0%",
            "nodefs.available": "0%",
            "memory.available": "50Mi",
        },
        "registryPullQPS": 0,
    }


def _resolv_conf() -> str:
    try:
        return Path("/etc/resolv.conf").read_text(encoding="utf-8")
    except OSError:
        return ""
