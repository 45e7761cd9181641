"""Boundary consistency: insert background into an action and train both sides of the cut to have similar features.

Lin et al., CVPR 2021, section 3.4. It works on any sequence with segments: frames or features.
"""

# T positions, N instances, M maps, B videos

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.detectors._afsd.boundaries import boundary_max_pool, frame_regions
from tad.layers.types import Cut, Targets


def _gaps(segments_N2: list[list[float]], length: int, width: int, *, background: bool) -> list[tuple[int, int]]:
    """Return the intervals between neighbouring borders that are not an instance and longer than `width` positions."""
    borders = sorted([0.0, float(length - 1), *(edge for segment in segments_N2 for edge in segment)])
    gaps = []
    for start, end in pairwise(borders):
        if [start, end] in segments_N2 or math.floor(end) - math.ceil(start) <= width:
            continue
        # published: intervals inside overlapping instances count as background
        if background and any(max(s, start) < min(e, end) for s, e in segments_N2):
            continue
        gaps.append((math.ceil(start), math.floor(end)))
    return gaps


def cut(segments_N2: Tensor, chance_4: Tensor, *, length: int, width: int, background: bool) -> Cut | None:
    """Cut a random instance and insert random background; None if no instance or background is long enough.

    Args:
        segments_N2: instances, in positions of the sequence.
        chance_4: uniform numbers in [0, 1) that choose the instance, its cut, the gap, and the position in the gap.
        length: T.
        width: number of background positions to insert, at least 1. The instance must be longer than twice that.
        background: take background only from gaps that overlap no instance; published: from all.
    """
    segments = [[min(max(s, 0.0), length - 1.0), min(max(e, 0.0), length - 1.0)] for s, e in segments_N2.tolist()]
    which, where, gap, place = chance_4.tolist()
    long = [segment for segment in segments if segment[1] - segment[0] > 2 * width]
    gaps = _gaps(segments, length, width, background=background)
    if not long or not gaps:
        return None
    start, end = long[int(which * len(long))]
    first, last = math.ceil(start) + width, math.ceil(end) - width
    at = first + int(where * max(last - first, 1))
    low, high = gaps[int(gap * len(gaps))]
    taken = low + int(place * (high - low - width))
    source_T = torch.arange(length)
    if taken >= at:
        source_T[at : at + width] = torch.arange(taken, taken + width)
        source_T[at + width : taken + width] = torch.arange(at, taken)
        parts = [[start, at], [at + width, end + width], [at + 1, at + width - 1]]
    elif taken + width <= at:
        source_T[taken : at - width] = torch.arange(taken + width, at)
        source_T[at - width : at] = torch.arange(taken, taken + width)
        parts = [[start - width, at - width], [at, end], [at - width + 1, at - 1]]
    else:  # instances overlap and the background contains the cut
        return None
    return Cut(source_T.to(segments_N2.device), torch.tensor(parts, dtype=torch.float32, device=segments_N2.device))


def width_of(shortest: float, share: float) -> int:
    """Return the number of background positions to insert, at least 1, from the length of the shortest instance.

    That length is rounded up if `share` is 1; otherwise it is rounded down, multiplied by `share` and rounded down
    again (AFSD on ActivityNet: 0.25).
    """
    # the tolerance keeps integers that have been converted to seconds and back
    width = math.ceil(shortest - 1e-6) if share == 1 else int(share * math.floor(shortest))
    return max(width, 1)


def triplet(maps: list[Tensor], weights: list[float]) -> Tensor:
    """Compute the triplet loss (margin 1, Euclidean) of one window, as a weighted sum over maps.

    The anchor is the end of the left part, the positive the start of the right part, the negative the start of the
    inserted background.

    `maps`: (C, 3) border-pooled features of the three parts, starts in the first half of the channels.
    """
    loss = maps[0].new_zeros(())
    for pooled_C3, weight in zip(maps, weights, strict=True):
        starts_C3, ends_C3 = pooled_C3.chunk(2)
        anchor_C, positive_C, negative_C = ends_C3[:, 0], starts_C3[:, 1], starts_C3[:, 2]
        loss = loss + weight * F.triplet_margin_loss(anchor_C[None], positive_C[None], negative_C[None])
    return loss


def cuts(
    targets: Sequence[Targets], chance_B4: Tensor, *, lengths: Sequence[int], share: float, background: bool
) -> dict[int, Cut]:
    """Choose the `Cut` of each window, by row; windows that cannot be cut are left out. See `cut` and `width_of`."""
    chosen = {}
    for row, target in enumerate(targets):
        if not len(target.segments_N2):  # background only: the length of the shortest instance may be infinite
            continue
        shortest = target.shortest or min(end - start for start, end in target.segments_N2.tolist())
        width = width_of(shortest, share)
        one = cut(target.segments_N2, chance_B4[row], length=lengths[row], width=width, background=background)
        if one is not None:
            chosen[row] = one
    return chosen


def triplets(maps: list[Tensor], frames: list[Tensor], *, scales: list[int], weights: list[float]) -> Tensor:
    """Compute the sum of `triplet` over windows.

    Args:
        maps: border features (B, C, T) of the windows.
        frames: the three parts (3, 2) of each window, in frames.
        scales: frames per position of each map.
        weights: weight of each map.
    """
    loss = maps[0].new_zeros(())
    for row, parts_32 in enumerate(frames):
        start_13, end_13 = parts_32.T[:, None]
        regions_134 = frame_regions(start_13, end_13)
        pooled = [boundary_max_pool(m[row][None], regions_134 / s)[0] for m, s in zip(maps, scales, strict=True)]
        loss = loss + triplet(pooled, weights)
    return loss
