"""The Kubernetes adapter: everything that the launcher asks of a cluster goes through it.

Importing ``kubernetes.aio.client`` also runs ``kubernetes`` and ``kubernetes.aio``, which
import the synchronous client with requests: 9 MiB and a tenth of a second that a program on
asyncio does not need. Both packages are therefore run only when one of their names is asked
for, which the adapter avoids by importing their modules.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    """A package that is run when a name is asked for that it does not have yet.

    ``importlib.util.LazyLoader`` would run it for ``__path__`` already, which the import of
    each of its modules reads.
    """

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        # First, as the package asks for names of its own while it is run.
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def _import_lazily(package: str) -> None:
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None:
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _LazyPackage
    sys.modules[package] = module
    parent, _, child = package.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


for package in ("kubernetes", "kubernetes.aio"):
    _import_lazily(package)
