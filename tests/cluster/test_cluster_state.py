"""The state file, and the identification of processes by more than their pids."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster import processes, state
from cluster.errors import ClusterError
from cluster.state import Endpoints, Probe, Service, State

ENDPOINTS = Endpoints(
    kubeconfig="/x/kubeconfig",
    context="local",
    api_server_url="https://127.0.0.1:1",
    zookeeper="127.0.0.1:2",
    nodes="fake",
    image="busybox",
)
SLEEPER = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]


def a_service(folder: Path, argv: list[str]) -> Service:
    return Service(
        name="sleeper",
        argv=argv,
        log=str(folder / "sleeper.log"),
        probe=Probe("file", str(folder)),
        ports={"sleeper": 1},
    )


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Service]:
    service = a_service(tmp_path, SLEEPER)
    processes.start(service)
    yield service
    processes.stop([service])


def test_a_state_survives_being_written_and_read(tmp_path: Path) -> None:
    written = State(
        source="processes",
        nodes="real",
        ready=True,
        endpoints=ENDPOINTS,
        services=[a_service(tmp_path, ["x"])],
    )
    state.save(tmp_path / "state.json", written)

    assert state.load(tmp_path / "state.json") == written
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_no_state_is_no_cluster(tmp_path: Path) -> None:
    assert state.load(tmp_path / "state.json") is None


@pytest.mark.parametrize("content", ["{", json.dumps({"version": 999})])
def test_a_state_that_cannot_be_read_says_which_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)

    with pytest.raises(ClusterError, match=str(path)):
        state.load(path)


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    current = State("processes", "fake", services=[a_service(tmp_path, ["x"])])

    with pytest.raises(ClusterError, match="sleeper"):
        current.service("etcd")


def test_the_folder_is_locked_while_it_is_worked_on(tmp_path: Path) -> None:
    with state.locked(tmp_path), pytest.raises(ClusterError, match="another command"):  # noqa: SIM117
        with state.locked(tmp_path):
            pass
    with state.locked(tmp_path):
        pass


def test_a_started_process_is_alive_until_it_is_stopped(sleeper: Service) -> None:
    assert processes.alive(sleeper)

    processes.stop([sleeper])

    assert not processes.alive(sleeper)


def test_a_paused_process_is_stopped_too(sleeper: Service) -> None:
    processes.send(sleeper, signal.SIGSTOP)

    processes.stop([sleeper])

    assert not processes.alive(sleeper)


def test_one_that_ignores_a_polite_signal_is_killed(tmp_path: Path) -> None:
    ignoring = "import signal, time; signal.signal(15, signal.SIG_IGN)"
    marker = tmp_path / "ignoring"
    code = f"{ignoring}; open({str(marker)!r}, 'w'); time.sleep(600)"
    service = a_service(tmp_path, [sys.executable, "-c", code])
    processes.start(service)
    deadline = time.monotonic() + 10
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.01)

    processes.stop([service], patience=0.1)

    assert marker.exists()
    assert not processes.alive(service)


def test_its_whole_process_group_goes(tmp_path: Path) -> None:
    service = a_service(tmp_path, ["sh", "-c", "sleep 600 & echo $!; wait"])
    processes.start(service)
    child = _first_line(Path(service.log))

    processes.stop([service])

    assert _gone(int(child))


def test_another_process_with_the_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL, start_new_session=True) as other:
        try:
            recorded = a_service(tmp_path, ["etcd"])
            recorded.pid = other.pid
            recorded.started = psutil.Process(other.pid).create_time() - 1000

            assert not processes.alive(recorded)
            processes.stop([recorded])
            processes.send(recorded, signal.SIGKILL)

            assert other.poll() is None
        finally:
            other.kill()


def test_one_that_was_never_started_is_not_alive(tmp_path: Path) -> None:
    service = a_service(tmp_path, ["x"])

    assert not processes.alive(service)
    processes.stop([service])


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert processes.tail(str(log)) == "(no log)"

    log.write_text("".join(f"{number}\n" for number in range(100)))

    assert processes.tail(str(log), 2) == "98\n99"


def _first_line(log: Path) -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lines = log.read_text().splitlines() if log.exists() else []
        if lines:
            return lines[0]
        time.sleep(0.01)
    raise AssertionError(f"nothing in {log}")


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
            os.kill(pid, 0)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False
