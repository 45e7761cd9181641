"""Array types of suppression."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.integer[Any]]
Method = Literal["hard", "gaussian", "linear", "vanilla", "matrix_gaussian", "matrix_linear", "none"]
VotingWeight = Literal["score", "score*tiou"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What suppression keeps of V videos: rows `offsets[v]:offsets[v + 1]` are video v's, by descending score.

    Attributes:
        index: (M,) int64, rows of the input arrays.
        segments: (M, 2) float32, the input's unit, after voting.
        scores: (M,) float32, after decay.
        labels: (M,) as given.
        offsets: (V + 1,) int64.
    """

    index: Indices
    segments: Floats
    scores: Floats
    labels: Indices
    offsets: Indices
