"""``nodepool-k8s run LABEL -- COMMAND...``: run one command on a temporary node.

Imports as little as possible, and the modules for pods only while the node is created: many
commands take less time than Python's imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import stat
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from nodepool_k8s import errors
from nodepool_k8s.cli import common
from nodepool_k8s.client import (
    CommandTimedOut,
    NodeLost,
    NoNodes,
    NoPod,
    NoZooKeeper,
    RemoteNode,
    Result,
    TransferFailed,
    WaitedTooLong,
    Waiting,
    connect,
)
from nodepool_k8s.client.discovery import (
    CONFIG,
    TLS_CA,
    TLS_CERT,
    TLS_KEY,
    ZOOKEEPER,
    find_zookeeper,
)
from nodepool_k8s.zookeeper_settings import (
    DEFAULT_CONFIG_FILE,
    BadAddress,
    ZooKeeperSettings,
    tls_files,
)

# Exit statuses of sysexits.h if it has one, otherwise those of timeout, env and the shell.
USAGE = 64
NO_POD = 65
NO_NODE = 69
LOST = 70
TRANSFER = 74
TRY_LATER = 75
CONFIGURATION = 78
TIMED_OUT = 124
NOT_EXECUTABLE = 126
NOT_FOUND = 127
BY_SIGNAL = 128

_STATUSES: tuple[tuple[type[BaseException], int], ...] = (
    (CommandTimedOut, TIMED_OUT),
    (NoPod, NO_POD),
    (WaitedTooLong, TRY_LATER),
    (NoNodes, NO_NODE),
    (NodeLost, LOST),
    (errors.SessionLost, LOST),
    (errors.CommandError, LOST),
    (TransferFailed, TRANSFER),
    (BadAddress, USAGE),
    (NoZooKeeper, CONFIGURATION),
    (errors.ConfigError, CONFIGURATION),
    (errors.ZooKeeperError, TRY_LATER),
    (errors.KubernetesError, TRY_LATER),
    (BrokenPipeError, BY_SIGNAL + signal.SIGPIPE),
)

KEPT_SECONDS = 24 * 3600
CHUNK = 64 * 1024


class _BadUsage(click.UsageError):
    exit_code = USAGE


class _Command(click.Command):
    """A command whose usage errors exit with a status of their own."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise _BadUsage(error.format_message(), error.ctx) from error


@dataclass(frozen=True, slots=True)
class _Job:
    """The command to run, the node to run it on, and the options."""

    zookeeper: ZooKeeperSettings
    label: str
    command: tuple[str, ...]
    env: dict[str, str]
    timeout: int | None
    wait_timeout: int | None
    workdir: str | None
    upload: str | None
    download: tuple[str, ...]
    keep_on_failure: bool
    keep_for: int
    provider: str | None
    stdin: bool
    quiet: bool


def _variable(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> Any:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or name.startswith("-"):
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        if not equals and name not in os.environ:
            raise click.BadParameter(f"{name} has no value and is not in the environment")
        found[name] = value if equals else os.environ[name]
    return found


@click.command("run", cls=_Command)
@click.option(
    "-e",
    "--env",
    metavar="K[=V]",
    multiple=True,
    callback=_variable,
    help="Set an environment variable; without =V it is copied from the local environment.",
)
@click.option(
    "--timeout", metavar="DURATION", type=common.DURATION, help="Limit of the command's run time."
)
@click.option(
    "--wait-timeout",
    metavar="DURATION",
    type=common.DURATION,
    help="Limit of the wait for the node.",
)
@click.option(
    "--workdir",
    metavar="PATH",
    help="The working directory. [default: the image's, or the uploaded one]",
)
@click.option(
    "--upload",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="First copy the contents of DIR into the working directory.",
)
@click.option(
    "--download", metavar="PATH", multiple=True, help="Then copy PATH into the local directory."
)
@click.option("--keep-on-failure", is_flag=True, help="Keep the node if the command fails.")
@click.option(
    "--keep-for",
    metavar="DURATION",
    type=common.DURATION,
    default=KEPT_SECONDS,
    help="How long to keep it. [default: 1d]",
)
@click.option(
    "--provider",
    metavar="NAME",
    type=common.NAME,
    help="The preferred provider.",
)
@click.option("-n", "--no-stdin", is_flag=True, help="The command has no standard input.")
@click.option("-q", "--quiet", is_flag=True, help="Do not show progress.")
@click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(),
    help="A launcher's configuration file, for its ZooKeeper servers. "
    f"[${CONFIG}, or {DEFAULT_CONFIG_FILE}]",
)
@click.option(
    "-s",
    "--secure",
    "secure_path",
    metavar="FILE",
    type=click.Path(),
    help="The secure file, if any.",
)
@click.option(
    "--zookeeper",
    metavar="HOST:PORT[,...][/CHROOT]",
    help=f"The ZooKeeper servers, instead of a file. [${ZOOKEEPER}]",
)
@click.option(
    "--zookeeper-tls-cert",
    metavar="FILE",
    type=click.Path(),
    envvar=TLS_CERT,
    help=f"[${TLS_CERT}]",
)
@click.option(
    "--zookeeper-tls-key", metavar="FILE", type=click.Path(), envvar=TLS_KEY, help=f"[${TLS_KEY}]"
)
@click.option(
    "--zookeeper-tls-ca", metavar="FILE", type=click.Path(), envvar=TLS_CA, help=f"[${TLS_CA}]"
)
@click.argument("label", type=common.NAME)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def command(**options: Any) -> None:
    """Run COMMAND on a node of LABEL, and return the node afterwards.

    Standard input, output, error and the exit status are the command's. Other failures have
    exit statuses from 64 to 78 and from 124 on; see docs/run.md.
    """
    with _exit_status():
        sys.exit(_main(_job(**options)))


def _job(
    path: str | None,
    secure_path: str | None,
    zookeeper: str | None,
    zookeeper_tls_cert: str | None,
    zookeeper_tls_key: str | None,
    zookeeper_tls_ca: str | None,
    no_stdin: bool,
    **rest: Any,
) -> _Job:
    tls = tls_files(zookeeper_tls_cert, zookeeper_tls_key, zookeeper_tls_ca)
    servers = find_zookeeper(zookeeper, tls=tls, config=path, secure=secure_path)
    return _Job(zookeeper=servers, stdin=not no_stdin and _has_stdin(), **rest)


# --- exit status and signals ----------------------------------------------------------------


@contextlib.contextmanager
def _exit_status() -> Iterator[None]:
    """Print our own errors to standard error, and exit with the status of their class."""
    try:
        yield
    except (errors.NodepoolK8sError, BrokenPipeError) as error:
        if not isinstance(error, BrokenPipeError):
            _print_error(errors.describe(error))
        sys.exit(_status(error))


def _status(error: BaseException) -> int:
    if isinstance(error, errors.CommandNotStarted):
        phrases = ("not found", "no such file")
        is_missing = any(phrase in str(error).lower() for phrase in phrases)
        return NOT_FOUND if is_missing else NOT_EXECUTABLE
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), LOST)


def _print_error(text: str) -> None:
    click.echo(f"nodepool-k8s: {text}", err=True)


def _main(job: _Job) -> int:
    """Run the job; SIGINT, SIGTERM and SIGHUP end it and return the node."""
    common.configure_logging()
    signals: list[int] = []

    async def cancellable() -> int:
        task = asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            signals.append(number)
            if len(signals) > 1:
                # The session expires, and the launcher removes its nodes.
                _print_error("exiting immediately; the launcher removes the node")
                os._exit(BY_SIGNAL + number)
            task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, end, number)
        return await _run(job)

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        _print_error("interrupted")
        return BY_SIGNAL + signals[0]


# --- running a job ----------------------------------------------------------------------------


async def _run(job: _Job) -> int:
    importing = asyncio.create_task(asyncio.to_thread(_import_exec))
    progress = _Progress(job.quiet)
    try:
        async with connect(job.zookeeper) as session:
            progress.show(Waiting("", f"requesting {job.label}"))
            requesting = session.node(
                job.label,
                provider=job.provider,
                timeout=job.wait_timeout,
                waiting=progress.show,
            )
            async with requesting as node:
                progress.clear()
                node.require_pod()
                await importing
                return await _use(job, node)
    finally:
        progress.clear()
        await asyncio.gather(importing, return_exceptions=True)


def _import_exec() -> None:
    """Import what runs commands in pods, while the node is created."""
    import nodepool_k8s.kubernetes.exec  # noqa: F401


async def _use(job: _Job, node: RemoteNode) -> int:
    try:
        status = await _run_command(job, node)
    except (errors.NodepoolK8sError, ValueError):
        _keep(job, node)
        raise
    if status:
        _keep(job, node)
    return status


async def _run_command(job: _Job, node: RemoteNode) -> int:
    workdir = job.workdir
    if job.upload is not None:
        workdir = await node.upload(job.upload, workdir)
    result: Result = await node.run(
        job.command,
        env=job.env,
        cwd=workdir,
        stdin=_stdin() if job.stdin else None,
        stdout=_output(1),
        stderr=_output(2),
        timeout=job.timeout,
    )
    for path in job.download:
        try:
            await node.download(path, cwd=workdir)
        except TransferFailed as error:
            if not result.status:
                raise
            # The status of the failed command is more important.
            _print_error(errors.describe(error))
    return result.status


def _keep(job: _Job, node: RemoteNode) -> None:
    if job.keep_on_failure:
        node.keep(f"run {' '.join(job.command)}"[:200], job.keep_for)
        _print_error(
            f"node {node.id} is kept for {job.keep_for} s: pod {node.pod} in namespace "
            f"{node.namespace} of provider {node.provider}; to return it: nodepool-k8s delete "
            f"{node.id}"
        )


class _Progress:
    """Shows what is waited for: in place on a terminal, otherwise one line per change."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._in_place = sys.stderr.isatty()
        self._visible = False

    def show(self, waiting: Waiting) -> None:
        """Show how the request stands, unless the job is quiet."""
        if self._quiet:
            return
        text = f"request {waiting.request}: {waiting.text}" if waiting.request else waiting.text
        if not self._in_place:
            click.echo(f"nodepool-k8s: {text}", err=True)
            return
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        click.echo(f"\r\x1b[2K{text[: max(width - 1, 20)]}", err=True, nl=False)
        self._visible = True

    def clear(self) -> None:
        """Remove the text from the terminal."""
        if self._visible:
            click.echo("\r\x1b[2K", err=True, nl=False)
            self._visible = False


# --- standard input and output ----------------------------------------------------------------


class _Worker:
    """A daemon thread for blocking calls, so that they delay neither the loop nor the exit."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]]]
        self._calls = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, call: Callable[[], Any]) -> Awaitable[Any]:
        """Call a function in the thread; its result."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls.put((call, future))
        return future

    def _work(self) -> None:
        while True:
            call, future = self._calls.get()
            result, error = None, None
            try:
                result = call()
            except Exception as raised:
                error = raised
            # The loop may be closed already.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _has_stdin() -> bool:
    """Whether standard input is open and is not /dev/null."""
    try:
        ours = os.fstat(0)
    except OSError:
        return False
    return not (stat.S_ISCHR(ours.st_mode) and ours.st_rdev == os.stat(os.devnull).st_rdev)


async def _stdin() -> AsyncIterator[bytes]:
    worker = _Worker()
    while data := await worker.submit(lambda: os.read(0, CHUNK)):
        yield data


def _output(descriptor: int) -> Callable[[bytes], Awaitable[None]]:
    worker: _Worker | None = None

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    async def sink(data: bytes) -> None:
        nonlocal worker
        worker = worker or _Worker()
        await worker.submit(lambda: write(data))

    return sink
