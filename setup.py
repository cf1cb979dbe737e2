"""What ``setup.cfg`` cannot say: where the extra ``nodepool`` comes from.

An extra brings packages, never programs, so Nodepool's program names are a package of their
own, in ``aliases``. In a checkout, or an unpacked source archive, it is that folder; without the
folder, or where ``NODEPOOL_K8S_RELEASE`` is set (a wheel to be published may name no local
path), it is the published package of the same version.
"""

import os
from pathlib import Path

from setuptools import setup
from setuptools.config.setupcfg import read_configuration

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "aliases"
NAME = "nodepool-k8s-aliases"


def aliases(version: str) -> str:
    """The requirement."""
    if FOLDER.is_dir() and not os.environ.get("NODEPOOL_K8S_RELEASE"):
        return f"{NAME} @ {FOLDER.as_uri()}"
    return f"{NAME} == {version}"


configured = read_configuration(HERE / "setup.cfg")
extras = configured["options"]["extras_require"]
# What is said here replaces what setup.cfg says, so it says all.
setup(extras_require={**extras, "nodepool": [aliases(configured["metadata"]["version"])]})
