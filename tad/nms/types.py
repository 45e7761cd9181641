"""Array types of suppression."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.integer[Any]]
Method = Literal["hard", "gaussian", "linear", "vanilla", "matrix_gaussian", "matrix_linear", "none", "soft"]
Kind = Literal["segments", "moments"]
VotingWeight = Literal["score", "score*tiou"]


@dataclass(frozen=True, slots=True)
class Kept:
    """The result of suppression of V videos; video v has rows `offsets[v]:offsets[v + 1]`, by descending score.

    Attributes:
        index: (M,) int64, indices into the input arrays.
        segments: (M, 2) float32, after voting, in the unit of the input.
        scores: (M,) float32, after decay.
        labels: (M,) as given.
        offsets: (V + 1,) int64.
    """

    index: Indices
    segments: Floats
    scores: Floats
    labels: Indices
    offsets: Indices
