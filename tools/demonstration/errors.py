"""The one error that this package raises."""


class DemoError(Exception):
    """Something that the demo wanted to show did not happen."""
