"""Positions of training windows: random truncation of a video, or sliding windows over it."""

# N instances of a video, M instances of a window

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

TRIES = 200
ROUNDING = 1e-9  # tolerance for shares that equal the threshold up to rounding of times


@dataclass(frozen=True)
class WindowPosition:
    """A training window: index of the video and first snippet; None: a new random window in every epoch."""

    video: int
    first: int | None = None


def window_starts(length: int, width: int, stride: int) -> list[int]:
    """Return the first positions of sliding windows over `length` positions; the last window is right-aligned."""
    last = max(length - width, 0)
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]


def cut_to(
    segments_N2: np.ndarray, first: int, width: int, *, threshold: float, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Clip segments to a window; return them (M, 2) in the window's snippets, and the indices of their instances.

    An instance counts if at least `threshold` of it lies in the window, which is extended by `margin` snippets on both
    sides (negative: shortened); a moment counts if it lies in it.
    """
    cut_N2 = np.clip(segments_N2, first - margin, first + width + margin)
    length_N = segments_N2[:, 1] - segments_N2[:, 0]
    inside_N = (cut_N2 == segments_N2).all(axis=1)
    share_N = np.where(length_N > 0, (cut_N2[:, 1] - cut_N2[:, 0]) / np.where(length_N > 0, length_N, 1), inside_N)
    indices_M = np.flatnonzero(share_N >= threshold - ROUNDING)
    return cut_N2[indices_M] - first, indices_M


def sliding(
    segments_N2: np.ndarray,
    *,
    length: int,
    width: int,
    stride: int,
    threshold: float,
    margin: float,
    rule: Literal["part", "whole", "any"],
) -> Iterator[tuple[int, np.ndarray, np.ndarray, bool]]:
    """Iterate over the sliding windows of a video, and whether each is used for training.

    `rule="any"` uses all windows; `whole` those that contain at least one whole instance; `part` those that contain at
    least the share `threshold` of one.

    Yields: first snippet, segments in the window, indices of their instances, and whether the window is used.
    """
    for first in window_starts(length, width, stride):
        inside_M2, indices_M = cut_to(segments_N2, first, width, threshold=threshold, margin=margin)
        whole = cut_to(segments_N2, first, width, threshold=1.0, margin=margin)[1]
        yield first, inside_M2, indices_M, rule == "any" or len(whole if rule == "whole" else indices_M) > 0


def truncate(
    segments_N2: np.ndarray,
    *,
    length: int,
    max_length: int,
    crop_ratio: tuple[float, float],
    threshold: float,
    margin: float,
    rng: np.random.Generator,
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Draw a random window of a video.

    Videos longer than `max_length` are truncated to that length; shorter ones are cropped by up to 1 − crop_ratio[0].
    An instance counts if at least `threshold` of it lies in the window, extended by `margin` snippets on both sides.
    Windows are drawn until one contains an instance, at most 200 times; the last one is then used as background.

    Returns: first and last snippet, segments (M, 2) in the window's snippets, and the indices of their instances.
    """
    everything = np.arange(len(segments_N2))
    if length > max_length:
        width = max_length
    else:
        low, high = max(round(crop_ratio[0] * length), 1), min(round(crop_ratio[1] * length), length)
        width = int(rng.integers(min(low, high), max(low, high) + 1))
        if width >= length:
            return 0, length, segments_N2, everything
    first, indices_M, cut_M2 = 0, everything[:0], segments_N2[:0]
    for _ in range(TRIES if len(segments_N2) else 1):
        first = int(rng.integers(0, length - width + 1))
        cut_M2, indices_M = cut_to(segments_N2, first, width, threshold=threshold, margin=margin)
        if len(indices_M):
            break
    return first, first + width, cut_M2, indices_M
