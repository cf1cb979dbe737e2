"""A node launcher for Kubernetes that speaks Nodepool's ZooKeeper protocol.

The files follow a request on its way: ``zookeeper`` sees it, ``policy`` decides
about it, ``launcher`` carries it through, ``kubernetes`` makes its objects.
"""

__version__ = "0.1.0"
