"""The one error that this package raises; its message says what to do next."""


class ClusterError(Exception):
    """Something about the local cluster went wrong; the message is for the user."""
