"""Command lines of etcd, the API server, the controller manager and the scheduler."""

import yaml

from .ports import HOST
from .site import Site
from .state import Probe, Service

# What the API server needs to reach a kubelet, whose name is localhost.
_KUBELET_ACCESS = ("--kubelet-preferred-address-types=Hostname",)


def etcd(site: Site) -> Service:
    """The API server's store. Without fsync: a crash of the machine may cost the test's data."""
    claimed = site.claim_ports("etcd")
    url = f"http://{HOST}:{claimed['etcd']}"
    return Service(
        name="etcd",
        argv=[
            site.binaries["etcd"],
            f"--data-dir={site.layout.data / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls=http://{HOST}:0",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
        log=str(site.layout.log("etcd")),
        probe=Probe("http", f"{url}/health"),
        ports=claimed,
    )


def apiserver(site: Site) -> Service:
    """The API server, on a loopback port of its own."""
    claimed = site.claim_ports("kube-apiserver")
    pki = site.pki
    return Service(
        name="kube-apiserver",
        argv=[
            site.binaries["kube-apiserver"],
            f"--etcd-servers=http://{HOST}:{site.ports['etcd']}",
            f"--bind-address={HOST}",
            f"--advertise-address={HOST}",
            f"--secure-port={claimed['kube-apiserver']}",
            f"--tls-cert-file={pki.cert('apiserver')}",
            f"--tls-private-key-file={pki.key('apiserver')}",
            f"--client-ca-file={pki.ca}",
            f"--service-account-key-file={pki.service_accounts_public}",
            f"--service-account-signing-key-file={pki.service_accounts}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
            "--max-requests-inflight=3000",
            "--max-mutating-requests-inflight=2000",
            f"--kubelet-client-certificate={pki.cert('apiserver-kubelet')}",
            f"--kubelet-client-key={pki.key('apiserver-kubelet')}",
            f"--kubelet-certificate-authority={pki.ca}",
            *_KUBELET_ACCESS,
        ],
        log=str(site.layout.log("kube-apiserver")),
        probe=Probe(
            "http", f"{site.api_server_url}/readyz", pki.ca, pki.cert("admin"), pki.key("admin")
        ),
        ports=claimed,
    )


def controller_manager(site: Site) -> Service:
    """With its own default rate limits: the benchmark's figures are relative to those."""
    claimed = site.claim_ports("kube-controller-manager")
    kubeconfig = site.kubeconfig_of("controller-manager")
    port = claimed["kube-controller-manager"]
    return Service(
        name="kube-controller-manager",
        argv=[
            site.binaries["kube-controller-manager"],
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--service-account-private-key-file={site.pki.service_accounts}",
            f"--root-ca-file={site.pki.ca}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            f"--bind-address={HOST}",
            f"--secure-port={port}",
        ],
        log=str(site.layout.log("kube-controller-manager")),
        probe=Probe("http", f"https://{HOST}:{port}/healthz"),
        ports=claimed,
    )


def scheduler(site: Site) -> Service:
    """With its client unthrottled, so that a benchmark does not measure the scheduler's limit."""
    claimed = site.claim_ports("kube-scheduler")
    kubeconfig = site.kubeconfig_of("scheduler")
    config = site.layout.config / "scheduler.yaml"
    document = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": kubeconfig, "qps": 1000, "burst": 1000},
    }
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    port = claimed["kube-scheduler"]
    return Service(
        name="kube-scheduler",
        argv=[
            site.binaries["kube-scheduler"],
            f"--config={config}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={HOST}",
            f"--secure-port={port}",
        ],
        log=str(site.layout.log("kube-scheduler")),
        probe=Probe("http", f"https://{HOST}:{port}/healthz"),
        ports=claimed,
    )
