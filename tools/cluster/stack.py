"""Brings up a cluster of processes, and takes it down without a trace."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence

from . import (
    building,
    controlplane,
    fakenode,
    java,
    pki,
    ports,
    probing,
    processes,
    realnode,
    sources,
    state,
)
from .api import Api
from .errors import ClusterError
from .layout import Layout
from .progress import Progress
from .site import CONTEXT, Site
from .state import Endpoints, Service, State
from .zookeeper import zookeeper

READY_PATIENCE_S = 120.0
POLL_S = 0.05
# By SIGTERM, the API server and etcd would wait for their clients; an outage is sudden.
STOP_PATIENCE_S = 1.0

Describe = Callable[[Site], Service]


class Stack:
    """The processes of one folder, as its state file lists them."""

    def __init__(self, layout: Layout, current: State, environ: Mapping[str, str]) -> None:
        self._layout = layout
        self._state = current
        self._environ = environ

    def up(self, progress: Progress) -> None:
        """Start everything and wait until a pod can run."""
        site = self._prepare(progress)
        with progress.step("starting etcd, ZooKeeper and the API server"):
            self._start_all(site, [controlplane.etcd, zookeeper])
            self._start_all(site, [controlplane.apiserver])
        with progress.step(f"starting the controllers and a {site.nodes} node"):
            self._start_all(site, [controlplane.controller_manager, controlplane.scheduler])
            api = Api(site.api_server_url, site.pki)
            self._add_node(site, api)
            self._wait_until_usable(api)
        self._finish(site)

    def down(self, _: Progress) -> None:
        """Stop every process and remove every file, however far `up` got."""
        if self._state.nodes == sources.REAL:
            realnode.stop(self._state)
        processes.stop(self._state.services)
        if self._state.nodes == sources.REAL:
            realnode.clean(self._state, self._layout)
        self._layout.remove()

    def stop(self, name: str) -> None:
        processes.stop([self._state.service(name)], STOP_PATIENCE_S)

    def start(self, name: str) -> None:
        """Start one that was stopped: on the ports it had, with the data it had."""
        service = self._state.service(name)
        if not processes.alive(service):
            self._spawn(service)
        self._wait_until_well([service])

    def pause(self, name: str) -> None:
        processes.send(self._state.service(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        processes.send(self._state.service(name), signal.SIGCONT)

    def _prepare(self, progress: Progress) -> Site:
        names = [*building.CONTROL_PLANE]
        names.append("kubelet" if self._state.nodes == sources.REAL else "kwok")
        binaries = building.Binaries(self._environ, progress)
        paths = binaries.obtain(names)
        runtime = java.runtime(self._environ, progress)
        jars = java.zookeeper_jars(self._environ, progress)
        stages = binaries.stages() if self._state.nodes == sources.FAKE else None
        self._layout.make()
        return Site(
            layout=self._layout,
            pki=pki.make(self._layout.pki),
            nodes=self._state.nodes,
            binaries=paths,
            java=runtime,
            jars=jars,
            stages=stages,
        )

    def _add_node(self, site: Site, api: Api) -> None:
        if site.nodes == sources.FAKE:
            fakenode.register(api)
            self._start_all(site, [fakenode.kwok])
            return
        realnode.prepare(site, self._state)
        self._save()
        self._start_all(site, [realnode.holder])
        holder = self._state.service(realnode.HOLDER).pid
        self._start_all(site, [lambda site: realnode.containerd(site, holder)])
        realnode.import_images(site)
        self._start_all(site, [lambda site: realnode.kubelet(site, holder)])

    def _start_all(self, site: Site, describes: Sequence[Describe]) -> None:
        started = [(describe, self._launch(describe(site))) for describe in describes]
        for describe, service in started:
            try:
                self._wait_until_well([service])
            except ClusterError:
                if not ports.was_taken(processes.tail(service.log)):
                    raise
                # Another process took the port between asking and binding: try again.
                processes.stop([service])
                self._state.services.remove(service)
                self._wait_until_well([self._launch(describe(site))])

    def _launch(self, service: Service) -> Service:
        self._state.services.append(service)
        self._spawn(service)
        return service

    def _spawn(self, service: Service) -> None:
        processes.start(service)
        self._save()

    def _save(self) -> None:
        state.save(self._layout.state, self._state)

    def _wait_until_well(self, services: Sequence[Service]) -> None:
        deadline = time.monotonic() + READY_PATIENCE_S
        left = list(services)
        while left:
            for service in left:
                _check_alive(service)
            left = [service for service in left if not probing.healthy(service.probe)]
            if left and time.monotonic() > deadline:
                raise ClusterError(_report(left[0], f"not ready after {READY_PATIENCE_S:.0f} s"))
            if left:
                time.sleep(POLL_S)

    def _wait_until_usable(self, api: Api) -> None:
        deadline = time.monotonic() + READY_PATIENCE_S
        while not (_node_is_ready(api) and _accepts_pods(api)):
            for service in self._state.services:
                _check_alive(service)
            if time.monotonic() > deadline:
                raise ClusterError(f"no node is ready after {READY_PATIENCE_S:.0f} s")
            time.sleep(POLL_S)

    def _finish(self, site: Site) -> None:
        kubeconfig = site.write_kubeconfig(self._layout.kubeconfig, "admin")
        real = site.nodes == sources.REAL
        self._state.endpoints = Endpoints(
            kubeconfig=kubeconfig,
            context=CONTEXT,
            api_server_url=site.api_server_url,
            zookeeper=f"{ports.HOST}:{site.ports['zookeeper']}",
            zookeeper_tls=f"{ports.HOST}:{site.ports['zookeeper-tls']}",
            tls_ca=site.pki.ca,
            tls_cert=site.pki.cert("zookeeper-client"),
            tls_key=site.pki.key("zookeeper-client"),
            nodes=site.nodes,
            image=realnode.IMAGE if real else fakenode.IMAGE,
        )
        self._state.ready = True
        self._save()


def _check_alive(service: Service) -> None:
    if not processes.alive(service):
        raise ClusterError(_report(service, "ended unexpectedly"))


def _report(service: Service, what: str) -> str:
    return f"{service.name} {what}; the end of its log:\n{processes.tail(service.log)}"


def _node_is_ready(api: Api) -> bool:
    nodes = (api.get("/api/v1/nodes") or {}).get("items", [])
    conditions = [entry for node in nodes for entry in node["status"].get("conditions", [])]
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def _accepts_pods(api: Api) -> bool:
    # A namespace refuses pods until its default service account exists.
    return api.get("/api/v1/namespaces/default/serviceaccounts/default") is not None
