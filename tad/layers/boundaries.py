"""Boundary max pooling: the strongest response of a sequence around the two borders of each segment.

Lin et al.: Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021, section 3.3.
"""

# B videos, T positions, C channels, H half of them, N segments, L levels of the table

import torch
from torch import Tensor


def _first_maxima(x_BTC: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Maxima of the 2^l positions from each one on and where they are first, (L, B, T, C) each, until 2^L > longest.

    Where fewer positions are left, of those.
    """
    length = x_BTC.shape[1]
    levels = max(longest, 1).bit_length()
    values = x_BTC.new_empty(levels, *x_BTC.shape)
    places = torch.empty(values.shape, dtype=torch.int32, device=x_BTC.device)
    values[0] = x_BTC
    places[0] = torch.arange(length, dtype=torch.int32, device=x_BTC.device)[:, None]
    for level in range(1, levels):
        width = 2 ** (level - 1)
        value, place, left = values[level - 1], places[level - 1], length - width
        wins_BTC = value[:, width:] > value[:, :left]
        torch.where(wins_BTC, value[:, width:], value[:, :left], out=values[level, :, :left])
        torch.where(wins_BTC, place[:, width:], place[:, :left], out=places[level, :, :left])
        # past the end nothing is left to compare with
        values[level, :, left:], places[level, :, left:] = value[:, left:], place[:, left:]
    return values, places


@torch.no_grad()
def _argmax(x_BTC: Tensor, left_BN: Tensor, right_BN: Tensor) -> Tensor:
    """Where the maxima over [left, right] are, (B, N, C); the first of equal ones."""
    span_BN = right_BN - left_BN + 1
    values, places = _first_maxima(x_BTC, int(span_BN.max()))
    level_BN = torch.zeros_like(span_BN)
    for level in range(1, len(values)):
        level_BN += span_BN >= 2**level
    row_B1 = torch.arange(len(x_BTC), device=x_BTC.device)[:, None]
    # two overlapping stretches that cover the region; all channels of a position lie together
    first, last = ((level_BN, row_B1, from_BN) for from_BN in (left_BN, right_BN - 2**level_BN + 1))
    return torch.where(values[last] > values[first], places[last], places[first]).long()


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
    for x_BTH, region_BN2 in zip(x_BCT.transpose(1, 2).chunk(2, dim=2), regions_BN4.chunk(2, dim=2), strict=True):
        left_BN = region_BN2[:, :, 0]
        right_BN = torch.maximum(region_BN2[:, :, 1], left_BN)
        pooled.append(x_BTH.gather(1, _argmax(x_BTH.detach(), left_BN, right_BN)))
    return torch.cat(pooled, dim=2).transpose(1, 2)


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
