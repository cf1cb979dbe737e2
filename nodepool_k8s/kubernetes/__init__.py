"""The Kubernetes adapter: all that is known of clusters comes through here.

The client library's own top package imports its synchronous client, with requests and
oauthlib, before it comes to ``kubernetes.aio``: 9 MiB and half of the start-up time that a
program on asyncio has no use for. So that package is put into place without being run;
whoever imports a part of it gets that part.
"""

import importlib.util
import sys


def _enter_without_running(package: str) -> None:
    if package in sys.modules:  # Somebody has run it already.
        return
    spec = importlib.util.find_spec(package)
    if spec is not None:
        sys.modules[package] = importlib.util.module_from_spec(spec)


for package in ("kubernetes", "kubernetes.aio"):
    _enter_without_running(package)
