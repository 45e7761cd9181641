"""Temporal action detection from untrimmed videos; importing this package costs nothing (it holds the version)."""

__version__ = "0.1.0"
