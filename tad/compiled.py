"""Loops compiled by numba at their first call and kept on disk beside the source (or in the user's cache folder)."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Loops = TypeVar("Loops", bound=Callable[..., Any])


def compiled(function: Loops) -> Loops:
    """`function` compiled without fast-math: float32 stays float32 and the order of operations is kept.

    It runs without the interpreter's lock, so that threads may call it at the same time.
    """
    try:
        loops: Loops = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither place can be written: compiled anew in every process
        loops = njit(nogil=True)(function)
    return loops
