"""``python -m nodepool_k8s``: the same as ``nodepool-k8s``."""

from nodepool_k8s.cli import main

main()
