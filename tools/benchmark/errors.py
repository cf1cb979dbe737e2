"""The error that ends a measurement."""


class BenchmarkError(Exception):
    """Something could not be measured; the message says what and why."""
