"""Temporal action detection from untrimmed videos; importing this package costs nothing (the version is all it holds)."""

__version__ = "0.1.0"
