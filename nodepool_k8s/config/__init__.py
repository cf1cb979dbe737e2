"""Reads, checks and resolves nodepool.yaml; knows no client library.

``load`` is the way in. The chapters: ``files`` and ``document`` (text to data, with lines),
``schema`` and ``options`` (shapes), ``inheritance`` (profiles, pools' defaults), ``checks``
and ``labels`` (what options mean to one another),
``resolve`` (values), ``settings`` (what comes out).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from nodepool_k8s.config import checks, kubeconfig, schema
from nodepool_k8s.config.checks import Contexts
from nodepool_k8s.config.files import read
from nodepool_k8s.config.inheritance import inherit
from nodepool_k8s.config.resolve import resolve
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.settings import DEFAULT_CONFIG_FILE, Settings
from nodepool_k8s.errors import ConfigError, Problem

__all__ = ["DEFAULT_CONFIG_FILE", "Contexts", "Settings", "load"]


def load(
    path: str,
    secure_path: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    contexts: Contexts | None = None,
) -> Settings:
    """Read a configuration, with ZooKeeper's sections from the secure file where it has them.

    ``contexts`` returns the names of kube/config's contexts, None where there is no
    kube/config; by default KUBECONFIG or ~/.kube/config is read, if a provider names a context.

    Raises ConfigError with everything that is wrong, sorted by file and line.
    """
    main = _review(path, environ, secure=False)
    secure = _review(secure_path, environ, secure=True) if secure_path is not None else None
    servers = _source(main, secure, "zookeeper-servers")
    tls = _source(main, secure, "zookeeper-tls")
    if _readable(main):
        inherit(main)
        checks.check(main, contexts or partial(kubeconfig.contexts, environ))
    if secure is not None and _readable(secure):
        checks.check_secure(secure)
    if all(_readable(review) for review in (main, secure) if review):
        checks.check_zookeeper(servers, tls)
    reviews = [review for review in (main, secure) if review]
    problems = [problem for review in reviews for problem in review.problems]
    if problems:
        raise ConfigError(sorted(set(problems), key=_order))
    notices = [notice for review in reviews for notice in review.notices]
    return resolve(main, servers.document, tls.document, notices)


def _review(path: str, environ: Mapping[str, str], *, secure: bool) -> Review:
    document = read(path, environ, secret=secure)
    if secure and document.data is None and not document.problems:
        document.root.value = {}
    if not secure and document.data is None and not document.problems:
        expected = schema.MAIN.expected
        document.problems.append(Problem(path, None, "", f"is empty, expected {expected}"))
    return Review.of(document, schema.SECURE if secure else schema.MAIN)


def _readable(review: Review) -> bool:
    return isinstance(review.document.data, dict)


def _source(main: Review, secure: Review | None, key: str) -> Review:
    if secure is not None and _readable(secure) and secure.document.data.get(key):
        return secure
    return main


def _order(problem: Problem) -> tuple[str, int, str]:
    return problem.file, problem.line or 0, problem.path
