"""A local Kubernetes and ZooKeeper, brought up for development and tests.

It knows nothing of nodepool_k8s: what it offers is a kubeconfig file and ZooKeeper's addresses.
"""

from .errors import ClusterError
from .local import LocalCluster
from .progress import Progress, Quiet

__all__ = ["ClusterError", "LocalCluster", "Progress", "Quiet"]
