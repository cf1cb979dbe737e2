"""Errors of requesting nodes and running commands on them."""

from __future__ import annotations

from nodepool_k8s.errors import NodepoolK8sError


class NoZooKeeper(NodepoolK8sError):
    """The ZooKeeper servers are unknown, or their chroot does not exist."""


class NoNodes(NodepoolK8sError):
    """The request cannot be fulfilled; the text says why."""


class RequestFailed(NoNodes):
    """All launchers declined the request, or failed; the text has their reasons."""


class WaitedTooLong(NoNodes, TimeoutError):
    """The request was not fulfilled within the caller's timeout."""


class NodeLost(NodepoolK8sError):
    """The ZooKeeper session ended and released the node's lock, so the node is lost."""


class NoPod(NodepoolK8sError):
    """The label provides a namespace without a pod, so no command can run."""


class CommandTimedOut(NodepoolK8sError, TimeoutError):
    """A command exceeded its timeout; it may run on until its node is returned."""


class CommandFailed(NodepoolK8sError):
    """A command with ``check=True`` ended with a ``status`` other than 0."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class TransferFailed(NodepoolK8sError):
    """Files could not be copied to the node, or from it."""
