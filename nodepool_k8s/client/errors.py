"""What can go wrong for who asks for nodes and runs commands on them."""

from __future__ import annotations

from nodepool_k8s.errors import NodepoolK8sError


class NoZooKeeper(NodepoolK8sError):
    """Nothing says where ZooKeeper is, or it has no launcher's records."""


class NoNodes(NodepoolK8sError):
    """The nodes that were asked for are not to be had; the text says why."""


class RequestFailed(NoNodes):
    """No launcher can serve the request; the text says why, where one said so."""


class WaitedTooLong(NoNodes, TimeoutError):
    """No node within the time that the caller gave."""


class NodeLost(NodepoolK8sError):
    """The session with ZooKeeper is over, and with it the lock: the node is not ours any more."""


class NoPod(NodepoolK8sError):
    """The label gives a namespace without a pod: there is nothing to run a command in."""


class CommandTimedOut(NodepoolK8sError, TimeoutError):
    """A command took longer than it was given; it may go on until its node is given back."""


class CommandFailed(NodepoolK8sError):
    """A command whose exit status was to be 0 ended with another; ``status`` is that."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class TransferFailed(NodepoolK8sError):
    """Files did not come to the node, or from it."""
