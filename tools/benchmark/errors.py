"""What stops a measurement."""


class BenchmarkError(Exception):
    """Something could not be measured; the message says what and why."""


class LauncherEnded(BenchmarkError):
    """The launcher has ended while it was measured; the message has the end of its log."""
