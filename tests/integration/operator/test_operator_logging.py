"""Logging: configuration files of sites, JSON, single modules, and no secrets."""

import asyncio
import base64
import json
import re
import signal
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.launcher import LauncherProcess, command
from kazoo.loggingsupport import BLATHER

from tests.support.launchers import Launchers
from tests.support.site import Site, SiteMaker, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration


def ini(log: Path) -> str:
    """An INI file as sites have it for Nodepool."""
    return f"""
[loggers]
keys=root,nodepool,kazoo

[handlers]
keys=console,normal

[formatters]
keys=simple

[logger_root]
level=WARNING
handlers=console

[logger_nodepool]
level=INFO
handlers=normal
qualname=nodepool
propagate=0

[logger_kazoo]
level=ERROR
handlers=normal
qualname=kazoo
propagate=0

[handler_console]
level=WARNING
class=StreamHandler
formatter=simple
args=(sys.stdout,)

[handler_normal]
level=DEBUG
class=logging.handlers.TimedRotatingFileHandler
formatter=simple
args=('{log}', 'midnight', 1, 30,)

[formatter_simple]
format=%(asctime)s %(levelname)s %(name)s: %(message)s
"""


def dictionary(log: Path, **formatter: Any) -> dict[str, Any]:
    """The same in the other form, with Nodepool's own formatter."""
    nodepool = {
        "class": "nodepool.logconfig.MultiLineFormatter",
        "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
    }
    handler = {"class": "logging.handlers.WatchedFileHandler", "filename": str(log)}
    return {
        "version": 1,
        "formatters": {"simple": formatter or nodepool},
        "handlers": {"normal": {**handler, "formatter": "simple", "level": "DEBUG"}},
        "loggers": {
            "nodepool": {"handlers": ["normal"], "level": "INFO", "propagate": False},
            "kazoo": {"handlers": ["normal"], "level": "ERROR"},
        },
        "root": {"handlers": [], "level": "WARNING"},
    }


def written(name: str, log: Path) -> str:
    """The file's content, in the form of its ending."""
    if name.endswith(".conf"):
        return ini(log)
    return yaml.safe_dump(dictionary(log)) if "yaml" in name else json.dumps(dictionary(log))


async def start(
    launchers: Launchers, site: Site, config: Path, log: Path, *options: str
) -> LauncherProcess:
    """Start a launcher with a log configuration file."""
    launcher = launchers.spawn_unready(site, "-l", str(config), *options)

    def serves() -> bool:
        assert launcher.status is None, launcher.text()
        return log.exists() and "Serving pools" in log.read_text()

    await eventually(serves, "the launcher serves")
    return launcher


@pytest.mark.parametrize("name", ["logging.conf", "logging.yaml", "logging.json"])
async def test_nodepools_log_configuration_files_work(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, tmp_path: Path, name: str
) -> None:
    config, log = tmp_path / name, tmp_path / "nodepool.log"
    config.write_text(written(name, log))
    launcher = await start(launchers, make_site(pod_label()), config, log)
    request_id = await zuul.submit("pod", event_id="0123456789abcdef")
    (node_id,) = (await zuul.answered(request_id))["nodes"]
    request = f"[e: 0123456789abcdef] [node_request: {request_id}]"
    fulfilled = f"{request} Fulfilled request {request_id} with {node_id}\n"
    await eventually(lambda: fulfilled in log.read_text(), "the last line")
    lines = log.read_text().splitlines()
    head = r"^\d{4}-\d\d-\d\d [\d:,]+ (DEBUG|INFO|WARNING|ERROR) nodepool_k8s\.[\w.]+: "
    assert all(re.match(head, line) for line in lines), lines
    of_node = f"{request} [node: {node_id}] [label: pod] Node {node_id} is ready"
    assert any(of_node in line for line in lines)
    # The file overrides -d, which the launcher was started with.
    assert " DEBUG " not in log.read_text()
    assert not launcher.text()
    await zuul.use_and_return(request_id)


async def test_a_bad_log_configuration_is_reported_at_the_start(
    make_site: SiteMaker, tmp_path: Path
) -> None:
    site, log = make_site(pod_label()), tmp_path / "none" / "nodepool.log"
    for name, text, message in (
        ("missing", None, "there is no such file"),
        ("yaml", "version: [", "is not YAML"),
        ("list", "- version", "neither an INI file"),
        ("ini", ini(log).replace("[handler_normal]", "[handler_other]"), "handler_normal"),
        ("folder", json.dumps(dictionary(log)), "No such file or directory"),
        ("level", json.dumps(dictionary(tmp_path / "log")).replace("INFO", "LOUD"), "LOUD"),
    ):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        done = await asyncio.to_thread(launcher_with, site, "-l", str(path))
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert str(path) in done.stderr
        assert message in done.stderr
    both = await asyncio.to_thread(launcher_with, site, "-l", "any", "--log-format", "json")
    assert both.returncode == 2
    assert "--log-format has no effect with -l" in both.stderr
    module = await asyncio.to_thread(launcher_with, site, "--debug-module", "nodepool_k8s.nonesuch")
    assert module.returncode == 2
    assert "there is no module nodepool_k8s.nonesuch" in module.stderr


def launcher_with(site: Site, *options: str) -> subprocess.CompletedProcess[str]:
    argv = command(site.path, *options)
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


async def test_startup_errors_are_in_the_configured_log(
    make_site: SiteMaker, tmp_path: Path
) -> None:
    site = make_site(pod_label(memory="much"))
    config, log = tmp_path / "logging.yaml", tmp_path / "nodepool.log"
    config.write_text(yaml.safe_dump(dictionary(log)))
    done = await asyncio.to_thread(launcher_with, site, "-l", str(config))
    assert done.returncode == 1
    assert "labels[0].memory" in log.read_text()
    assert "labels[0].memory" in done.stderr


def about(lines: list[str], request_id: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in lines]
    return [entry for entry in entries if entry.get("request") == request_id]


async def test_json_lines_have_the_context_of_a_request(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    launcher = await launchers.spawn(make_site(pod_label()), "--log-format", "json")
    request_id = await zuul.submit("pod", event_id="0123456789abcdef")
    (node_id,) = (await zuul.answered(request_id))["nodes"]
    await eventually(lambda: "Fulfilled" in launcher.text(), "the last line")
    story = about(launcher.text().splitlines(), request_id)
    assert {entry["event_id"] for entry in story} == {"0123456789abcdef"}
    assert all(datetime.fromisoformat(entry["time"]).utcoffset() is not None for entry in story)
    (ready,) = [entry for entry in story if f"Node {node_id} is ready" in entry["message"]]
    assert ready["node"] == node_id
    assert ready["label"] == "pod"
    assert ready["level"] == "INFO"
    assert ready["logger"] == "nodepool_k8s.launcher.launch"
    assert story[-1]["message"] == f"Fulfilled request {request_id} with {node_id}"
    await zuul.use_and_return(request_id)


async def test_a_sites_file_may_have_the_json_formatter(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, tmp_path: Path
) -> None:
    config, log = tmp_path / "logging.yaml", tmp_path / "nodepool.log"
    formatter = {"class": "nodepool_k8s.logs.JsonFormatter"}
    config.write_text(yaml.safe_dump(dictionary(log, **formatter)))
    await start(launchers, make_site(pod_label()), config, log)
    request_id = await zuul.submit("pod")
    await zuul.answered(request_id)
    await eventually(lambda: "Fulfilled" in log.read_text(), "the last line")
    assert about(log.read_text().splitlines(), request_id)
    await zuul.use_and_return(request_id)


async def test_debug_of_a_single_module(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, tmp_path: Path
) -> None:
    config, log = tmp_path / "logging.yaml", tmp_path / "nodepool.log"
    config.write_text(yaml.safe_dump(dictionary(log)))
    modules = ["--debug-module", "nodepool_k8s.launcher.pool_queue", "--debug-module", "kazoo"]
    site = make_site(pod_label(), pool={"max-servers": 1})
    await start(launchers, site, config, log, *modules)
    first = await zuul.submit("pod")
    await zuul.answered(first)
    waiting = await zuul.submit("pod")
    await eventually(lambda: f"{waiting} waits for quota" in log.read_text(), "it waits")
    loggers = re.findall(r" DEBUG ([\w.]+): ", log.read_text())
    assert {name for name in loggers if not name.startswith("kazoo")} == {
        "nodepool_k8s.launcher.pool_queue"
    }
    assert "kazoo.client" in loggers
    await zuul.use_and_return(first)
    await zuul.use_and_return(waiting)


# --- secrets ---------------------------------------------------------------------------------

EVERYTHING = 1
"""Below DEBUG, where kazoo logs more."""


def secrets_of(record: dict[str, Any]) -> set[str]:
    """A node's token, complete and in parts, plain and in base64: no log may contain them."""
    token = record["connection_port"]["token"]
    signature = token.rpartition(".")[2]
    return {token, *token.split("."), *pieces(signature), base64.b64encode(token.encode()).decode()}


def pieces(secret: str, length: int = 24) -> set[str]:
    return {secret[at : at + length] for at in range(0, len(secret) - length, length)}


def keys_of(site: Site) -> set[str]:
    """The lines of the private keys that the launcher uses."""
    _, _, key = site.cluster.zookeeper_tls_files
    texts = [key.read_text()]
    for user in yaml.safe_load(site.cluster.kubeconfig.read_text())["users"]:
        data, path = user["user"].get("client-key-data"), user["user"].get("client-key")
        texts.append(base64.b64decode(data).decode() if data else Path(path).read_text())
        texts.append(data or "")
    lines = {line for text in texts for line in text.splitlines() if "-----" not in line}
    return {line[:60] for line in lines if len(line) > 30}


async def test_no_secret_is_logged_at_debug_level(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ca, cert, key = make_site.cluster.zookeeper_tls_files
    host, port = make_site.cluster.zookeeper_tls.rsplit(":", 1)
    top = {
        "zookeeper-servers": [{"host": host, "port": int(port), "chroot": make_site.chroot}],
        "zookeeper-tls": {"ca": str(ca), "cert": str(cert), "key": str(key)},
    }
    site = make_site(
        pod_label(env=[{"name": "PASSWORD", "value": "the-password-of-the-pod"}]),
        pod_label("lasting", access_token={"type": "secret"}),
        namespace_label(),
        pod_label("hopeless", node_selector={"no": "where"}, unschedulable_timeout=1),
        provider={"launch-retries": 1},
        top=top,
    )
    config, log = tmp_path / "logging.yaml", tmp_path / "nodepool.log"
    content = dictionary(log)
    content["handlers"]["normal"]["level"] = EVERYTHING
    content["loggers"] = {
        name: {"level": EVERYTHING}
        for name in ("nodepool", "kazoo", "aiohttp", "asyncio", "kubernetes", "urllib3")
    }
    content["root"] = {"level": EVERYTHING, "handlers": ["normal"]}
    config.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    launcher = await start(launchers, site, config, log)
    monkeypatch.delenv("PYTHONASYNCIODEBUG")

    request_id = await zuul.submit("pod", "lasting", "namespace")
    request = await zuul.answered(request_id)
    await zuul.answered(hopeless := await zuul.submit("hopeless"), "failed")
    records = [await zuul.node(node_id) for node_id in request["nodes"]]
    launcher.send_signal(signal.SIGUSR2)
    await eventually(lambda: "MainThread" in log.read_text(), "the dump")
    await zuul.use_and_return(request_id)
    await zuul.cancel(hopeless)
    await zuul.gone(*request["nodes"])

    text = log.read_text() + launcher.text()
    # Writes, reads and lists of records were logged, without their contents.
    for line in ("Sending request", "Received response", "SetData(path=", f"Level {BLATHER}"):
        assert line in text, line
    found = {secret for record in records if record for secret in secrets_of(record)}
    found |= keys_of(site) | {"the-password-of-the-pod"}
    assert len(found) > 20
    assert not {secret for secret in found if secret in text}
