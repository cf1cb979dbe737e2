"""``tools/structure``: figures of how the package is built."""
