"""What goes into a detector's loss and what comes out of its decoding."""

# N segments

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """The instances of one window.

    Attributes:
        segments_N2: float32 (start, end) on the window's snippet grid.
        labels_N: int64 class ids.
        shortest: snippets of the video's shortest instance as its windows cut it; infinite without any, 0 unknown.
    """

    segments_N2: Tensor
    labels_N: Tensor
    shortest: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """Which videos of a training batch are given, where it is computed in parts or by several processes.

    Attributes:
        videos: of the whole batch.
        first: row of the first given one.
        longest: snippets of the whole batch's longest video.
    """

    videos: int
    first: int
    longest: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """Scored segments of one video before suppression.

    Attributes:
        segments_N2: float32 (start, end) in snippets; not clamped to the sequence.
        scores_N: float32 in (0, 1).
        labels_N: int64 class ids.
    """

    segments_N2: Tensor
    scores_N: Tensor
    labels_N: Tensor
