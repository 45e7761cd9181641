"""Compile loops with numba at their first call, cached on disk beside the source (or in the user's cache folder)."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Loops = TypeVar("Loops", bound=Callable[..., Any])


def compiled(function: Loops) -> Loops:
    """Compile `function` without fast-math: float32 stays float32, and the order of operations does not change.

    It runs without Python's global lock, so several threads may call it at the same time.
    """
    try:
        loops: Loops = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no cache folder is writable: every process compiles for itself
        loops = njit(nogil=True)(function)
    return loops
