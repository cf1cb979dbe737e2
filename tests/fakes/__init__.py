"""Implementations in memory, held to the same contract tests as the real ones."""
