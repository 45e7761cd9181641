"""Which window of a video is seen: a random one, or one of those that slide over it."""

# N instances of a video, M of a window

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

TRIES = 200


@dataclass(frozen=True)
class Place:
    """A window to train on: number of the video, and its first snippet; None: random, anew every epoch."""

    video: int
    first: int | None = None


def window_starts(length: int, width: int, stride: int) -> list[int]:
    """First positions of windows that slide over `length` positions, the last one right-aligned; at least [0]."""
    last = max(length - width, 0)
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]


def cut_to(
    segments_N2: np.ndarray, first: int, width: int, *, threshold: float, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Segments (M, 2) in the window's snippets and which instances they are.

    An instance counts if at least `threshold` of it lies in the window, widened by `margin` snippets on both sides.
    """
    cut_N2 = np.clip(segments_N2, first - margin, first + width + margin)
    share_N = (cut_N2[:, 1] - cut_N2[:, 0]) / (segments_N2[:, 1] - segments_N2[:, 0])
    kept = np.flatnonzero(share_N >= threshold)
    return cut_N2[kept] - first, kept


def sliding(
    segments_N2: np.ndarray,
    *,
    length: int,
    width: int,
    stride: int,
    threshold: float,
    margin: float,
    rule: Literal["part", "whole", "any"],
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Windows, `any` or those that hold an instance, `whole` or the part of it that `threshold` asks for.

    Yields: first snippet, segments in it, and which instances they are.
    """
    for first in window_starts(length, width, stride):
        inside, kept = cut_to(segments_N2, first, width, threshold=threshold, margin=margin)
        whole = cut_to(segments_N2, first, width, threshold=1.0, margin=margin)[1]
        if rule == "any" or len(whole if rule == "whole" else kept):
            yield first, inside, kept


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
    """A random window of a video: (first, last, segments (M, 2) in the window's snippets, which instances they are).

    Videos longer than `max_length` give windows of that length; shorter ones lose up to 1 − crop_ratio[0] of theirs.
    An instance counts if at least `threshold` of it lies in the window, widened by `margin` snippets on both sides.
    Windows are drawn until one has an instance, 200 times at most; the last is then used as background.
    """
    everything = np.arange(len(segments_N2))
    if length > max_length:
        width = max_length
    else:
        low, high = max(round(crop_ratio[0] * length), 1), min(round(crop_ratio[1] * length), length)
        width = int(rng.integers(min(low, high), max(low, high) + 1))
        if width >= length:
            return 0, length, segments_N2, everything
    first, kept, cut_M2 = 0, everything[:0], segments_N2[:0]
    for _ in range(TRIES if len(segments_N2) else 1):
        first = int(rng.integers(0, length - width + 1))
        cut_M2, kept = cut_to(segments_N2, first, width, threshold=threshold, margin=margin)
        if len(kept):
            break
    return first, first + width, cut_M2, kept
