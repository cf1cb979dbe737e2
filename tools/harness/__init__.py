"""What the tools and the tests share: a requestor like Zuul, launcher processes, proxies, clients.

Speaks to launchers only as their environment does: through ZooKeeper, the API server, files,
signals and logs. Nothing in here imports nodepool_k8s.
"""
