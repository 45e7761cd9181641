"""Runs of snippets above thresholds and their contrasts, with sizes that depend on lengths only, as graphs need them.

The definitions are `runs_above` and `contrast` in `prompt.py`. There, the number of runs depends on values; here every
snippet is a possible start, and a mask says which are. Time and memory grow linearly with the length. Sums are
taken over blocks of powers of two, because differences of running sums would be too inexact in single precision.
"""

# R curves, T snippets, N sums, L entries: the surroundings of all runs of a curve, one after the other

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 20  # lengths below 2 ** LEVELS snippets


@dataclass(frozen=True)
class Runs:
    """Runs of curves: for each snippet, whether a run starts there, where it ends (exclusive), and its contrast."""

    starts_RT: Tensor
    ends_RT: Tensor
    contrast_RT: Tensor


def rounded(share: float, count: Tensor) -> Tensor:
    """Return a share of counts, rounded half to even as `round` does, and at least 1."""
    # the share is a tensor because the exporter of graphs rounds Python's numbers to single precision
    exact = count.double() * torch.tensor(share, dtype=torch.float64, device=count.device)
    return torch.round(exact).long().clamp(min=1)


def _ends(above_RT: Tensor) -> Tensor:
    """Return the first snippet from each on that is not above, or T."""
    length = above_RT.shape[1]
    time = torch.arange(length + 1, device=above_RT.device)
    ends = torch.where(F.pad(above_RT, (0, 1)), length, time)
    for level in range(LEVELS):
        ends = torch.minimum(ends, ends.index_select(1, (time + (1 << level)).clamp(max=length)))
    return ends[:, :-1]


def _sums(x_RT: Tensor, first_RN: Tensor, count_RN: Tensor) -> Tensor:
    """Return sums of `count` values from `first` on."""
    length = x_RT.shape[1]
    time = torch.arange(length + 1, device=x_RT.device)
    total_RN, at_RN, block = torch.zeros_like(first_RN, dtype=x_RT.dtype), first_RN, F.pad(x_RT, (0, 1))
    for level in range(LEVELS):  # block: sums of 2 ** level values
        bit_RN = torch.div(count_RN, 1 << level, rounding_mode="floor") % 2
        total_RN = total_RN + bit_RN * torch.gather(block, 1, at_RN)
        at_RN = (at_RN + bit_RN * (1 << level)).clamp(max=length)
        block = block + block.index_select(1, (time + (1 << level)).clamp(max=length))
    return total_RN


def _owners(ends_RT: Tensor, index_L: Tensor) -> Tensor:
    """Return the snippet to which each entry belongs, (R, L), by the cumulative counts of the snippets."""
    last = ends_RT.shape[1] - 1
    below_RL = torch.zeros_like(ends_RT[:, :1]) + torch.zeros_like(index_L)
    for level in reversed(range(LEVELS)):  # binary search
        tried_RL = below_RL + ((1 << level) - 1)
        fits_RL = (tried_RL <= last) & (torch.gather(ends_RT, 1, tried_RL.clamp(max=last)) <= index_L)
        below_RL = torch.where(fits_RL, tried_RL + 1, below_RL)
    return below_RL.clamp(max=last)


def _outside(curves_RT: Tensor, border_RT: Tensor, step_R1: Tensor, count_RT: Tensor, entries: Tensor) -> Tensor:
    """Return weighted sums over `count` snippets beside a border, from the nearest on.

    Args:
        curves_RT: the values.
        border_RT: the nearest snippet of a run.
        step_R1: 1 to go on, -1 to go back.
        count_RT: snippets to sum over; their sum is at most the number of entries.
        entries: numbers from 0, (L,).
    """
    ends_RT = count_RT.cumsum(dim=1)
    firsts_RT, owner_RL = ends_RT - count_RT, _owners(ends_RT, entries)
    away_RL = entries - torch.gather(firsts_RT, 1, owner_RL)
    at_RL = (torch.gather(border_RT, 1, owner_RL) + step_R1 * away_RL).clamp(min=0, max=curves_RT.shape[1] - 1)
    weight_RL = 1 / torch.log2(away_RL.clamp(min=0).to(curves_RT.dtype) + 2)
    return _sums(torch.gather(curves_RT, 1, at_RL) * weight_RL, firsts_RT, count_RT)


def dense_runs(curves_RT: Tensor, thresholds_R: Tensor, *, margin: float) -> Runs:
    """Return the maximal runs of curves above thresholds.

    Args:
        curves_RT: the curves.
        thresholds_R: the threshold of each.
        margin: surroundings of a run on each side, as a share of its length.
    """
    length, device = curves_RT.shape[1], curves_RT.device
    above_RT = curves_RT > thresholds_R[:, None]
    starts_RT = above_RT & ~F.pad(above_RT, (1, 0))[:, :-1]
    ends_RT, time_T = _ends(above_RT), torch.arange(length, device=device)
    time_RT = time_T.expand_as(ends_RT)
    count_RT = torch.where(starts_RT, ends_RT - time_T, 0)
    reach_RT = rounded(margin, count_RT)
    after_RT = torch.where(starts_RT, torch.minimum(reach_RT, length - ends_RT), 0)
    before_RT = torch.where(starts_RT, torch.minimum(reach_RT, time_T), 0)
    steps = torch.ones_like(ends_RT[:, :1])
    sides = _outside(
        torch.cat([curves_RT, curves_RT]),
        torch.cat([ends_RT, time_RT - 1]),
        torch.cat([steps, -steps]),
        torch.cat([after_RT, before_RT]),
        # there is a gap beside each run, so that all reaches, each at most margin times a run + 1, find place
        torch.arange(length * math.ceil(margin + 1), device=device),
    )
    weights = F.pad((1 / torch.log2(time_T.to(curves_RT.dtype) + 2)).cumsum(dim=0), (1, 0))
    total_RT = weights[after_RT] + weights[before_RT]
    outside_RT = sides.view(2, -1, length).sum(dim=0) / total_RT.clamp(min=1e-3)  # 0 without surroundings
    inside_RT = _sums(curves_RT, time_RT, count_RT) / count_RT.clamp(min=1)
    return Runs(starts_RT, ends_RT, inside_RT - outside_RT)
