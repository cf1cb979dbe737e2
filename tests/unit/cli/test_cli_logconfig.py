"""Log configuration files: all of their forms, the mapping of loggers, and invalid files."""

import contextvars
import importlib.util
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodepool_k8s import logs
from nodepool_k8s.cli import logconfig
from nodepool_k8s.errors import ConfigError

INI = """\
# As devstack's plugin writes it.
[loggers]
keys=root,nodepool,kazoo

[handlers]
keys=console

[formatters]
keys=simple

[logger_root]
level=WARNING
handlers=console

[logger_nodepool]
level=DEBUG
handlers=console
qualname=nodepool
propagate=0

[logger_kazoo]
level=ERROR
handlers=console
qualname=kazoo
propagate=0

[handler_console]
level=DEBUG
class=StreamHandler
formatter=simple
args=(sys.stdout,)

[formatter_simple]
format=%(asctime)s %(levelname)s %(name)s: %(message)s
datefmt=
"""

DICT: dict[str, Any] = {
    "version": 1,
    "formatters": {
        "simple": {
            "class": "nodepool.logconfig.MultiLineFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
        }
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "level": "DEBUG",
            "formatter": "simple",
        }
    },
    "loggers": {
        "nodepool": {"handlers": ["console"], "level": "DEBUG", "propagate": False},
        "kazoo": {"handlers": ["console"], "level": "ERROR", "propagate": False},
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
}

FORMS = {
    "logging.conf": INI,
    "logging.ini": "\ufeff" + INI.replace("\n", "\r\n"),
    "logging.yaml": yaml.safe_dump(DICT),
    "no-ending": yaml.safe_dump(DICT),
    "logging.json": json.dumps(DICT),
    "indented.json": json.dumps(DICT, indent="\t"),
}

NAMES = ["", "nodepool", "nodepool.zk", "kazoo", "kazoo.client", "test_said"]
NAMES += ["nodepool_k8s", "nodepool_k8s.zookeeper", "nodepool_k8s.zookeeper.client"]
NAMES += ["nodepool_k8s.launcher", "nodepool_k8s.launcher.delete"]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Restores the process's loggers at the end."""
    factory = logging.getLogRecordFactory()
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [
        (each, list(each.handlers), each.level, each.propagate, each.disabled) for each in loggers
    ]
    yield
    logging.setLogRecordFactory(factory)
    for each, handlers, level, propagate, disabled in before:
        each.handlers[:] = handlers
        each.setLevel(level)
        each.propagate, each.disabled = propagate, disabled


Stdout = pytest.CaptureFixture[str]


Apply = Callable[[str], None]


@pytest.fixture
def apply(tmp_path: Path) -> Apply:
    def apply(text: str) -> None:
        path = tmp_path / "logging"
        path.write_text(text)
        logs.install_record_factory()
        logconfig.apply(str(path))

    return apply


def say(name: str, level: int = logging.DEBUG) -> None:
    logging.getLogger(name).log(level, "said by %s", name)


def say_about_a_request() -> None:
    logs.bind_log_context(request="200-0000000001", event_id="abc")
    say("nodepool_k8s.launcher.delete")
    say("nodepool_k8s.zookeeper.client")
    say("kazoo.client", logging.WARNING)
    say("kazoo.client", logging.ERROR)


@pytest.mark.parametrize("name", FORMS)
def test_each_form_of_file_configures_our_loggers(name: str, apply: Apply, capsys: Stdout) -> None:
    say("nodepool_k8s.launcher.delete")  # The logger exists before the file is read.
    apply(FORMS[name])
    contextvars.copy_context().run(say_about_a_request)
    lines = [line.split(" ", 2)[2] for line in capsys.readouterr().out.splitlines()]
    prefix = "[e: abc] [node_request: 200-0000000001] said by"
    assert lines == [
        f"DEBUG nodepool_k8s.launcher.delete: {prefix} nodepool_k8s.launcher.delete",
        f"DEBUG nodepool_k8s.zookeeper.client: {prefix} nodepool_k8s.zookeeper.client",
        f"ERROR kazoo.client: {prefix} kazoo.client",
    ]


def test_nodepools_loggers_map_to_ours(apply: Apply, capsys: Stdout) -> None:
    zk = {"nodepool.zk": {"level": "ERROR"}}
    apply(yaml.safe_dump({**DICT, "loggers": {**DICT["loggers"], **zk}}))
    say("nodepool_k8s.zookeeper.client", logging.WARNING)
    say("nodepool_k8s.launcher.delete")
    said = capsys.readouterr().out
    assert "zookeeper" not in said
    assert "launcher.delete" in said


def test_a_file_may_name_our_loggers(apply: Apply, capsys: Stdout) -> None:
    ours = {"nodepool_k8s": {"level": "ERROR"}}
    apply(yaml.safe_dump({**DICT, "loggers": {**DICT["loggers"], **ours}}))
    say("nodepool_k8s.launcher", logging.WARNING)
    assert not capsys.readouterr().out
    text = INI.replace("keys=root,", "keys=root,ours,")
    apply(text + "\n[logger_ours]\nlevel=ERROR\nhandlers=\nqualname=nodepool_k8s\n")
    say("nodepool_k8s.launcher", logging.WARNING)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("disable", [True, False, None])
def test_unnamed_loggers_propagate_to_the_root(
    disable: bool | None, apply: Apply, capsys: Stdout
) -> None:
    say("nodepool_k8s.launcher")
    content = {key: DICT[key] for key in ("version", "formatters", "handlers", "root")}
    if disable is not None:
        content["disable_existing_loggers"] = disable
    apply(yaml.safe_dump(content))
    say("nodepool_k8s.launcher", logging.WARNING)
    assert "nodepool_k8s.launcher" in capsys.readouterr().out


@pytest.mark.parametrize(
    "formatter",
    [{"class": "nodepool_k8s.logs.JsonFormatter"}, {"()": "nodepool_k8s.logs.JsonFormatter"}],
)
def test_a_file_may_have_the_json_formatter(
    formatter: dict[str, str], apply: Apply, capsys: Stdout
) -> None:
    apply(yaml.safe_dump({**DICT, "formatters": {"simple": formatter}}))
    contextvars.copy_context().run(say_about_a_request)
    shown = json.loads(capsys.readouterr().out.splitlines()[0])
    said = "said by nodepool_k8s.launcher.delete"
    assert (shown["request"], shown["message"]) == ("200-0000000001", said)


@pytest.mark.parametrize(
    "name", ["nodepool.logconfig.MultiLineFormatter", "nodepool_k8s.logs.JsonFormatter"]
)
def test_an_ini_file_may_name_a_formatter_class(name: str, apply: Apply, capsys: Stdout) -> None:
    apply(INI.replace("datefmt=", f"class={name}"))
    say("nodepool_k8s.launcher")
    assert "said by nodepool_k8s.launcher" in capsys.readouterr().out


def test_the_documented_example_works(apply: Apply, tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "operate.md"
    (example,) = re.findall(r"^```ini\n(\[loggers\].*?)^```", page.read_text(), re.DOTALL | re.M)
    log = tmp_path / "launcher.log"
    apply(example.replace("/var/log/nodepool/launcher.log", str(log)))
    say("nodepool_k8s.launcher", logging.INFO)
    (handler,) = logging.getLogger().handlers
    handler.close()
    assert json.loads(log.read_text())["message"] == "said by nodepool_k8s.launcher"


def test_the_documented_table_of_loggers_is_complete() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operate.md").read_text()
    rows = re.findall(r"^\| (`nodepool.*?) \| `(nodepool_k8s[\w.]*)`", page, re.M)
    documented = {name: ours for names, ours in rows for name in re.findall(r"`([^`]+)`", names)}
    assert documented == {
        name: ours for name, ours in logconfig.LOGGERS.items() if "Provider" not in name
    }


def test_the_mapped_loggers_exist() -> None:
    for ours in logconfig.LOGGERS.values():
        assert importlib.util.find_spec(ours) is not None, ours


WRONG = {
    "": "is neither an INI file with [loggers] nor a mapping",
    "- a list": "is neither an INI file with [loggers] nor a mapping",
    "version: [1": "is not YAML",
    '{"version": 1,': "is not YAML",
    "handlers: {}": "dictionary doesn't specify a version",
    "version: 7": "Unsupported version: 7",
    yaml.safe_dump({**DICT, "formatters": {}}): "'console'",
    yaml.safe_dump(DICT).replace("logging.StreamHandler", "logging.Nonesuch"): "Nonesuch",
    yaml.safe_dump(DICT).replace("level: ERROR", "level: LOUD"): "LOUD",
    "[loggers]\nkeys=root\n": "lacks section [handlers] with an entry keys",
    "[loggers\n": "is not an INI file",
    INI.replace("[handler_console]", "[handler_other]"): "handler_console",
    INI.replace("args=(sys.stdout,)", "args=(sys.nonesuch,)"): "nonesuch",
    INI.replace("class=StreamHandler", "class=Nonesuch"): "Nonesuch",
    INI + "\n[loggers]\nkeys=root\n": "already exists",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_reported_with_its_problem(text: str, apply: Apply) -> None:
    with pytest.raises(ConfigError) as caught:
        apply(text)
    (problem,) = caught.value.problems
    assert problem.file.endswith("/logging")
    assert WRONG[text] in problem.message


def test_an_unwritable_log_file_is_reported_with_the_reason(apply: Apply, tmp_path: Path) -> None:
    target = str(tmp_path / "none" / "nodepool.log")
    handler = {"class": "logging.handlers.WatchedFileHandler", "filename": target}
    with pytest.raises(ConfigError, match="No such file or directory") as caught:
        apply(yaml.safe_dump({**DICT, "handlers": {"console": handler}}))
    assert target in str(caught.value)


def test_a_missing_or_binary_file_is_reported(apply: Apply, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        logconfig.apply(str(tmp_path / "nonesuch"))
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        logconfig.apply(str(path))
