"""Boundary max pooling: the maxima of a feature sequence around the two borders of each segment.

Lin et al.: Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021, section 3.3.
"""

# B videos, T positions, C channels, H = C / 2, N segments, L levels of the table

import torch
from torch import Tensor


def _first_maxima(x_BTC: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Build a sparse table: maxima over windows of 2^l positions, and their first positions, each (L, B, T, C).

    A window starts at each position and ends early at the end of the sequence. L is the smallest with 2^L > longest.
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
        # windows that reach beyond the end stay as they are
        values[level, :, left:], places[level, :, left:] = value[:, left:], place[:, left:]
    return values, places


@torch.no_grad()
def _argmax(x_BTC: Tensor, left_BN: Tensor, right_BN: Tensor) -> Tensor:
    """Return the positions of the maxima over [left, right], (B, N, C); the first of equal ones."""
    span_BN = right_BN - left_BN + 1
    values, places = _first_maxima(x_BTC, int(span_BN.max()))
    level_BN = torch.zeros_like(span_BN)
    for level in range(1, len(values)):
        level_BN += span_BN >= 2**level
    row_B1 = torch.arange(len(x_BTC), device=x_BTC.device)[:, None]
    # two overlapping windows cover the region; all channels of a position are contiguous
    first, last = ((level_BN, row_B1, from_BN) for from_BN in (left_BN, right_BN - 2**level_BN + 1))
    return torch.where(values[last] > values[first], places[last], places[first]).long()


def _maxima(x_BTC: Tensor, left_BN: Tensor, right_BN: Tensor) -> Tensor:
    """Return the maxima over [left, right], (B, N, C), for a graph: no branch depends on values."""
    length, levels = x_BTC.shape[1], x_BTC.shape[1].bit_length()
    tables = [x_BTC]
    for level in range(1, levels):
        width = 2 ** (level - 1)
        value = tables[-1]
        both = torch.maximum(value[:, width:], value[:, : length - width])
        tables.append(torch.cat([both, value[:, length - width :]], dim=1))
    span_BN = right_BN - left_BN + 1
    level_BN = torch.zeros_like(span_BN)
    for level in range(1, levels):
        level_BN = level_BN + (span_BN >= 2**level).long()
    width_BN = torch.tensor([2**level for level in range(levels)], device=x_BTC.device)[level_BN]
    table_BRC = torch.cat(tables, dim=1)
    ends = (level_BN * length + at_BN for at_BN in (left_BN, right_BN - width_BN + 1))
    first, last = (table_BRC.gather(1, at_BN[:, :, None].expand(-1, -1, x_BTC.shape[2])) for at_BN in ends)
    return torch.maximum(first, last)


def boundary_max_pool(x_BCT: Tensor, regions_BN4: Tensor) -> Tensor:
    """Pool the start region (first half of the channels) and the end region (second half) of segments: (B, C, N).

    Args:
        x_BCT: features; C must be even.
        regions_BN4: left and right of the start region, then of the end region, in positions of x. They are truncated
            towards zero, then clamped to [0, T - 1]. The right position is included; if it lies before the left one,
            the value at the left one is returned. They receive no gradient.

    The gradient flows to the maximum, or to the first of equal maxima.
    """
    limit = x_BCT.shape[2] - 1
    regions_BN4 = regions_BN4.detach().trunc().clamp(0, limit).long()
    pooled = []
    for x_BTH, region_BN2 in zip(x_BCT.transpose(1, 2).chunk(2, dim=2), regions_BN4.chunk(2, dim=2), strict=True):
        left_BN = region_BN2[:, :, 0]
        right_BN = torch.maximum(region_BN2[:, :, 1], left_BN)
        if torch.compiler.is_exporting():
            pooled.append(_maxima(x_BTH, left_BN, right_BN))
            continue
        pooled.append(x_BTH.gather(1, _argmax(x_BTH.detach(), left_BN, right_BN)))
    return torch.cat(pooled, dim=2).transpose(1, 2)


def boundary_regions(start_BN: Tensor, end_BN: Tensor, width_BN: Tensor) -> Tensor:
    """Return regions (B, N, 4) around the borders of segments: width / 4 inwards, width / 10 outwards, at least 1.

    `width_BN` is the length of the segments by the published code's definition: on a level the sum of the distances,
    in frames the difference of the borders plus one.
    """
    inner_BN, outer_BN = (width_BN / 4).clamp(min=1), (width_BN / 10).clamp(min=1)
    edges = [start_BN - outer_BN, start_BN + inner_BN, end_BN - inner_BN, end_BN + outer_BN]
    return torch.stack(edges, dim=2).round()


def frame_regions(start_BN: Tensor, end_BN: Tensor) -> Tensor:
    """Return the `boundary_regions` of segments in frames."""
    return boundary_regions(start_BN, end_BN, end_BN - start_BN + 1)
