"""Boundary consistency: an action is cut in two, background put between, and the two cuts are to look alike.

Lin et al., CVPR 2021, section 3.4. It needs a sequence and its segments only, frames and features alike.
"""

# T positions, N instances, M maps, B videos

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.layers.boundaries import boundary_max_pool, frame_regions
from tad.layers.types import Cut, Targets


def _gaps(segments_N2: list[list[float]], length: int, width: int, *, background: bool) -> list[tuple[int, int]]:
    """Stretches between neighbouring borders that are no instance and hold more than `width` positions."""
    borders = sorted([0.0, float(length - 1), *(edge for segment in segments_N2 for edge in segment)])
    found = []
    for start, end in pairwise(borders):
        if [start, end] in segments_N2 or math.floor(end) - math.ceil(start) <= width:
            continue
        # published: what lies within overlapping instances counts as background
        if background and any(max(s, start) < min(e, end) for s, e in segments_N2):
            continue
        found.append((math.ceil(start), math.floor(end)))
    return found


def cut(segments_N2: Tensor, chance_4: Tensor, *, length: int, width: int, background: bool) -> Cut | None:
    """Cut a random instance and put random background into it; None where there is no such instance or background.

    Args:
        segments_N2: instances, in positions of the sequence.
        chance_4: uniform in [0, 1): which instance, where it is cut, which gap, where in the gap.
        length: T.
        width: positions of background that are put in, at least 1. An instance must be longer than twice as much.
        background: gaps hold no part of any instance.
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
    else:  # of overlapping instances: background from under the knife
        return None
    return Cut(source_T.to(segments_N2.device), torch.tensor(parts, dtype=torch.float32, device=segments_N2.device))


def width_of(shortest: float, share: float) -> int:
    """Positions of background that are put in, by the video's shortest instance.

    All of it, rounded up, or with a `share` below 1 that part of it rounded down first (AFSD on ActivityNet: 0.25).
    """
    width = math.ceil(shortest) if share == 1 else int(share * math.floor(shortest))
    return max(width, 1)


def triplet(maps: list[Tensor], weights: list[float]) -> Tensor:
    """Hinge loss (margin 1, Euclidean): the end of the left part is nearer to the start of the right part than to that
    of the background; summed over maps with these weights.

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
    """How windows of so many positions are cut, by row; those that cannot be are left out. See `cut`, `width_of`."""
    found = {}
    for row, target in enumerate(targets):
        if not len(target.segments_N2):  # all background: the video's shortest instance may be infinite
            continue
        shortest = target.shortest or min(end - start for start, end in target.segments_N2.tolist())
        width = width_of(shortest, share)
        made = cut(target.segments_N2, chance_B4[row], length=lengths[row], width=width, background=background)
        if made is not None:
            found[row] = made
    return found


def triplets(maps: list[Tensor], frames: list[Tensor], *, scales: list[int], weights: list[float]) -> Tensor:
    """Sum of `triplet` over windows.

    Args:
        maps: border features (B, C, T) of these windows.
        frames: the three parts (3, 2) of each, in frames.
        scales: frames per position of each map.
        weights: of each map.
    """
    loss = maps[0].new_zeros(())
    for row, parts_32 in enumerate(frames):
        start_13, end_13 = parts_32.T[:, None]
        regions_134 = frame_regions(start_13, end_13)
        pooled = [boundary_max_pool(m[row][None], regions_134 / s)[0] for m, s in zip(maps, scales, strict=True)]
        loss = loss + triplet(pooled, weights)
    return loss
