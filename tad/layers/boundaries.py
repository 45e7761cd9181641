"""Boundary max pooling: the strongest response of a sequence around the two borders of each segment.

Lin et al.: Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021, section 3.3.
"""

# B videos, T positions, C channels, N segments, L levels of the table

import torch
from torch import Tensor


def _first_maxima(x_BCT: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Maxima of the 2^l positions from each one on and where they are first, (L, B, C, T) each, until 2^L > longest.

    Where fewer positions are left, of those.
    """
    length = x_BCT.shape[2]
    where_BCT = torch.arange(length, device=x_BCT.device).expand_as(x_BCT)
    values, places, width = [x_BCT], [where_BCT], 1
    while 2 * width <= longest:
        # past the end nothing is left to compare with, so the later half is the same one again
        shift_T = (torch.arange(length, device=x_BCT.device) + width).clamp(max=length - 1)
        later_BCT, place_BCT = values[-1][:, :, shift_T], places[-1][:, :, shift_T]
        wins_BCT = later_BCT > values[-1]
        values.append(torch.where(wins_BCT, later_BCT, values[-1]))
        places.append(torch.where(wins_BCT, place_BCT, places[-1]))
        width *= 2
    return torch.stack(values), torch.stack(places)


@torch.no_grad()
def _argmax(x_BCT: Tensor, left_BN: Tensor, right_BN: Tensor) -> Tensor:
    """Where the maxima over [left, right] are, (B, C, N); the first of equal ones."""
    batch, channels, length = x_BCT.shape
    span_BN = right_BN - left_BN + 1
    values, places = _first_maxima(x_BCT, int(span_BN.max()))
    flat = (values.permute(1, 2, 0, 3).flatten(2), places.permute(1, 2, 0, 3).flatten(2))
    level_BN = torch.zeros_like(span_BN)
    for level in range(1, len(values)):
        level_BN += span_BN >= 2**level
    halves = []
    for first_BN in (left_BN, right_BN - 2**level_BN + 1):  # two overlapping stretches that cover the region
        index_BCN = (level_BN * length + first_BN)[:, None].expand(batch, channels, -1)
        halves.append((flat[0].gather(2, index_BCN), flat[1].gather(2, index_BCN)))
    (first, first_at), (last, last_at) = halves
    return torch.where(last > first, last_at, first_at)


def boundary_max_pool(x_BCT: Tensor, regions_BN4: Tensor) -> Tensor:
    """Maxima over the region of the start (first half of the channels) and of the end (second half): (B, C, N).

    Args:
        x_BCT: C even.
        regions_BN4: left and right of the start's region, then of the end's, in positions of x. Truncated towards
            zero, then moved into [0, T - 1]; the right one is included, and where it lies before the left one, the
            value at the left one is taken. No gradient goes to them.

    The gradient goes to the maximum, of equal ones to the first.
    """
    limit = x_BCT.shape[2] - 1
    regions_BN4 = regions_BN4.detach().trunc().clamp(0, limit).long()
    pooled = []
    for x_BHT, region_BN2 in zip(x_BCT.chunk(2, dim=1), regions_BN4.chunk(2, dim=2), strict=True):
        left_BN = region_BN2[:, :, 0]
        right_BN = torch.maximum(region_BN2[:, :, 1], left_BN)
        pooled.append(x_BHT.gather(2, _argmax(x_BHT.detach(), left_BN, right_BN)))
    return torch.cat(pooled, dim=1)


def boundary_regions(start_BN: Tensor, end_BN: Tensor, width_BN: Tensor) -> Tensor:
    """Regions (B, N, 4) around the borders of segments: a quarter of the width inwards, a tenth outwards, at least 1.

    `width_BN` is the length of the segments as the published code takes it: on a level the sum of the distances, in
    frames one more than the difference of the borders.
    """
    inner_BN, outer_BN = (width_BN / 4).clamp(min=1), (width_BN / 10).clamp(min=1)
    edges = [start_BN - outer_BN, start_BN + inner_BN, end_BN - inner_BN, end_BN + outer_BN]
    return torch.stack(edges, dim=2).round()


def frame_regions(start_BN: Tensor, end_BN: Tensor) -> Tensor:
    """`boundary_regions` of segments in frames."""
    return boundary_regions(start_BN, end_BN, end_BN - start_BN + 1)
