"""``-l``: log configuration files as for Nodepool, in both of their forms.

A file that begins with a section is for ``logging.config.fileConfig``; any other is the YAML
or JSON of ``logging.config.dictConfig``. So the file name does not matter.

Such files configure Nodepool's loggers. The configuration of each applies to the loggers of
this package that correspond to it, unless the file names them itself. Loggers of this
package are never disabled: those that the file does not mention propagate to its root.
"""

from __future__ import annotations

import configparser
import logging.config
from collections.abc import Mapping
from typing import Any, TypeVar

from nodepool_k8s import logs
from nodepool_k8s.config.files import read
from nodepool_k8s.errors import ConfigError, Problem, describe

T = TypeVar("T")

LOGGERS = {
    "nodepool": "nodepool_k8s",
    "nodepool.NodePool": "nodepool_k8s.launcher",
    "nodepool.PoolWorker": "nodepool_k8s.launcher.pool_queue",
    "nodepool.NodeLauncher": "nodepool_k8s.launcher.launch",
    "nodepool.NodeDeleter": "nodepool_k8s.launcher.delete",
    "nodepool.DeletedNodeWorker": "nodepool_k8s.launcher.delete",
    "nodepool.CleanupWorker": "nodepool_k8s.launcher.upkeep",
    "nodepool.driver.kubernetes": "nodepool_k8s.kubernetes",
    "nodepool.driver.kubernetes.KubernetesProvider": "nodepool_k8s.kubernetes",
    "nodepool.zk": "nodepool_k8s.zookeeper",
    "nodepool.zk.ZooKeeper": "nodepool_k8s.zookeeper",
    "nodepool.WebApp": "nodepool_k8s.web",
    "nodepool.stats": "nodepool_k8s.telemetry",
    "nodepool.stack_dump": "nodepool_k8s.launcher.dump",
}
"""Nodepool's loggers that sites configure, and the loggers here that correspond to them."""

CLASSES = {"nodepool.logconfig.MultiLineFormatter": "nodepool_k8s.logs.MultiLineFormatter"}
"""Classes of Nodepool that a file may name."""


def apply(path: str) -> None:
    """Configure logging as the file says. Raises ConfigError."""
    content = _content(path)
    try:
        if isinstance(content, configparser.RawConfigParser):
            logging.config.fileConfig(content, disable_existing_loggers=False)
        else:
            logging.config.dictConfig(content)
    # Classes that the file names may raise anything.
    except Exception as error:
        raise _problem(path, f"cannot be used: {_chain(error)}") from error
    _enable()


def _content(path: str) -> configparser.RawConfigParser | dict[str, Any]:
    """The file's configuration, with our loggers added to Nodepool's."""
    document = read(path, {})
    text = document.source.source
    if _is_ini(text):
        return _with_our_sections(_parsed(path, text))
    if document.problems:
        raise ConfigError(document.problems)
    if not isinstance(document.data, dict):
        raise _problem(path, "is neither an INI file with [loggers] nor a mapping of YAML or JSON")
    return _with_our_loggers(document.data)


def _is_ini(text: str) -> bool:
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and line[0] not in "#;"), "")
    return first.startswith("[")


# --- dictConfig ------------------------------------------------------------------------------


def _with_our_loggers(content: dict[str, Any]) -> dict[str, Any]:
    loggers = content.get("loggers")
    if isinstance(loggers, dict):
        loggers = {**_ours(loggers), **loggers}
        content = {**content, "loggers": loggers}
    formatters = content.get("formatters")
    if isinstance(formatters, dict):
        formatters = {name: _with_our_class(entry) for name, entry in formatters.items()}
        content = {**content, "formatters": formatters}
    return content


def _with_our_class(formatter: Any) -> Any:
    if not isinstance(formatter, dict):
        return formatter
    return {
        key: CLASSES.get(value, value) if key in ("class", "()") else value
        for key, value in formatter.items()
    }


def _ours(loggers: Mapping[str, T]) -> dict[str, T]:
    """The configuration of our loggers that the file does not name."""
    return {
        ours: loggers[theirs]
        for theirs, ours in LOGGERS.items()
        if theirs in loggers and ours not in loggers
    }


# --- fileConfig ------------------------------------------------------------------------------


def _parsed(path: str, text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    try:
        parser.read_string(text, path)
        # fileConfig would fail without these, with a less helpful message.
        for section in ("loggers", "handlers", "formatters"):
            if not parser.has_option(section, "keys"):
                raise _problem(path, f"lacks section [{section}] with an entry keys")
    except configparser.Error as error:
        line = getattr(error, "lineno", None)
        message = error.message.partition("\n")[0]
        raise _problem(path, f"is not an INI file: {message}", line) from error
    return parser


def _with_our_sections(parser: configparser.ConfigParser) -> configparser.ConfigParser:
    sections = {
        parser.get(f"logger_{key}", "qualname", raw=True, fallback=key): f"logger_{key}"
        for key in _keys(parser)
        if parser.has_section(f"logger_{key}")
    }
    for ours, section in _ours(sections).items():
        parser[f"logger_{ours}"] = {**dict(parser.items(section, raw=True)), "qualname": ours}
        parser["loggers"]["keys"] = ",".join([*_keys(parser), ours])
    for name in parser.sections():
        if name.startswith("formatter_") and "class" in parser[name]:
            parser[name]["class"] = CLASSES.get(parser[name]["class"], parser[name]["class"])
    return parser


def _keys(parser: configparser.ConfigParser) -> list[str]:
    return [key.strip() for key in parser["loggers"]["keys"].split(",") if key.strip()]


# --- enabling and errors ---------------------------------------------------------------------


def _enable() -> None:
    """Enable our loggers: dictConfig disables those that a file does not name."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == logs.PACKAGE:
            logger.disabled = False


def _chain(error: BaseException) -> str:
    """The error with its causes, which have the reason for "cannot configure handler"."""
    words = [_described(error)]
    while (cause := error.__cause__) is not None:
        if _described(cause) not in words[-1]:
            words.append(_described(cause))
        error = cause
    return ": ".join(words)


def _described(error: BaseException) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else describe(error)


def _problem(path: str, message: str, line: int | None = None) -> ConfigError:
    return ConfigError([Problem(path, line, "", message)])
