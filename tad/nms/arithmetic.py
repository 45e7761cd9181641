"""Overlap and exponential of `tad.nms.reference` for compiled loops, and the numeric codes of the methods."""

import math
from typing import Any

import numpy as np

from tad.core.compiled import compiled
from tad.nms.reference import LENGTH_EPSILON, LN2_HIGH, LN2_LOW, LOG2_E, SMALLEST_EXPONENT, TAYLOR

HARD, GAUSSIAN, LINEAR, VANILLA, NONE, MATRIX_GAUSSIAN, MATRIX_LINEAR = range(7)
METHODS = {
    "hard": HARD, "gaussian": GAUSSIAN, "linear": LINEAR, "vanilla": VANILLA, "none": NONE,
    "matrix_gaussian": MATRIX_GAUSSIAN, "matrix_linear": MATRIX_LINEAR,
}  # fmt: skip
ZERO, ONE = np.float32(0), np.float32(1)
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11 = TAYLOR
_LOWEST_POWER = 160
_POWERS = 2.0 ** np.arange(-_LOWEST_POWER, 1)


@compiled
def exponential(x: Any) -> Any:
    """Compute exp(x), x ≤ 0, in float64 by the operations of `tad.nms.reference.exponential` in the same order."""
    if x == 0.0:
        return 1.0
    x = max(x, SMALLEST_EXPONENT)
    k = math.floor(x * LOG2_E + 0.5)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    r2 = r * r
    r4 = r2 * r2
    low = ((_C0 + _C1 * r) + (_C2 + _C3 * r) * r2) + ((_C4 + _C5 * r) + (_C6 + _C7 * r) * r2) * r4
    high = (_C8 + _C9 * r) + (_C10 + _C11 * r) * r2
    return (low + high * (r4 * r4)) * _POWERS[k + _LOWEST_POWER]


@compiled
def overlap_of(start: Any, end: Any, other_start: Any, other_end: Any) -> Any:
    """Compute the overlap of two intersecting segments in float32."""
    inter = min(end, other_end) - max(start, other_start)
    return inter / (((end - start) + LENGTH_EPSILON) + ((other_end - other_start) + LENGTH_EPSILON) - inter)
