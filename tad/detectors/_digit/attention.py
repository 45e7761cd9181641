"""Attention of DiGIT's decoder: among queries, and of queries at learnt places of a pyramid of memories."""

# B videos, Q queries, S positions of all levels, L levels, H heads, P points of a head in a level, C = H·D channels

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.attention import additive
from tad.layers.kernels import at_least_float32


@dataclass(frozen=True, slots=True)
class Memory:
    """Features of all levels, one after the other.

    Attributes:
        x_BSC: the features.
        firsts: the first position of each level.
        lengths_BL: int64, real positions of each level.
    """

    x_BSC: Tensor
    firsts: tuple[int, ...]
    lengths_BL: Tensor


class QueryAttention(nn.Module):
    """Multi-head attention of all queries to the real ones; queries and keys have a code of their segments."""

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x_BQC: Tensor, code_BQC: Tensor, real_BQ: Tensor) -> Tensor:
        """(B, Q, C) → (B, Q, C)."""
        channels = x_BQC.shape[2]
        weight, bias, split = self.inputs.weight, self.inputs.bias, 2 * channels
        pair_BQC = F.linear(x_BQC + code_BQC, weight[:split], bias[:split])
        v_BQC = F.linear(x_BQC, weight[split:], bias[split:])
        q, k, v = (
            y_BQC.view(*y_BQC.shape[:2], self.heads, -1).transpose(1, 2) for y_BQC in (*pair_BQC.chunk(2, dim=2), v_BQC)
        )
        bias_B11Q = additive(real_BQ[:, None, None], q.dtype)
        attended_BHQD = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_B11Q)
        y_BQC: Tensor = self.output(attended_BHQD.transpose(1, 2).flatten(2))
        return y_BQC


def sample(values_BSHD: Tensor, memory: Memory, places_BQHLP: Tensor, weights_BQHLP: Tensor) -> Tensor:
    """Return weighted sums of values that are interpolated linearly at places of all levels, (B, Q, H, D).

    Args:
        values_BSHD: values of all levels.
        memory: the levels' sizes; values outside them are 0.
        places_BQHLP: fractions of the video; position i of a level of n is at (i + 1/2) / n.
        weights_BQHLP: weights of the places.
    """
    batch, length, heads, dim = values_BSHD.shape
    count_BL = memory.lengths_BL[:, None, None, :, None]
    at = places_BQHLP * count_BL.to(places_BQHLP.dtype) - 0.5
    at = torch.minimum(at.clamp(min=-1), count_BL.to(at.dtype))  # beyond, a place sees nothing
    low = at.floor()
    index = torch.stack([low.long(), low.long() + 1], dim=5)
    weight = torch.stack([1 - (at - low), at - low], dim=5) * weights_BQHLP[..., None]
    weight = weight * ((index >= 0) & (index < count_BL[..., None]))
    index = torch.minimum(index.clamp(min=0), count_BL[..., None] - 1)
    first_L = torch.tensor(memory.firsts, device=index.device)[:, None, None]
    video_B = torch.arange(batch, device=index.device)[:, None, None, None, None, None]
    head_H = torch.arange(heads, device=index.device)[:, None, None, None]
    row_NJ = (((video_B * length + first_L + index) * heads) + head_H).flatten(3).flatten(0, 2)
    rows_RD, weight_NJ = values_BSHD.reshape(-1, dim), weight.flatten(3).flatten(0, 2)
    if torch.compiler.is_exporting():  # no bags in ONNX
        y_ND = (rows_RD[row_NJ] * weight_NJ[:, :, None]).sum(dim=1)
    else:  # the values of all places are never in memory at once
        y_ND = F.embedding_bag(row_NJ, rows_RD, mode="sum", per_sample_weights=weight_NJ)
    return y_ND.view(batch, -1, heads, dim)


class DeformableAttention(nn.Module):
    """Attention of queries to a few places of each level, whose distance from the query's segment is learnt.

    A place is the centre of the segment plus an offset in half lengths, divided by the number of points: initially the
    places of central attention cover the segment and as much on both sides, and those of adjacent attention the
    surroundings of its start (first half of the heads) and of its end (second half). As published, the sum over the
    places is not projected.

    Args:
        channels: C.
        heads: H.
        points: P; H·P is a multiple of 4.
        levels: L.
        adjacent: whether the places are at the borders.
    """

    def __init__(self, channels: int, *, heads: int, points: int, levels: int, adjacent: bool) -> None:
        super().__init__()
        self.heads, self.points, self.levels = heads, points, levels
        self.offsets = nn.Linear(channels, heads * levels * points)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.values = nn.Linear(channels, channels)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.weights, self.values):
            nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.values.weight)
        initial_H1P = first_offsets(heads, points, adjacent=adjacent).view(heads, 1, points)
        with torch.no_grad():
            self.offsets.bias.copy_(initial_H1P.expand(-1, levels, -1).flatten())

    def forward(self, query_BQC: Tensor, segments_BQ2: Tensor, memory: Memory) -> Tensor:
        """Attend to the places of each query's segment, given as centre and length in fractions of the video."""
        batch, queries, _ = query_BQC.shape
        shape = (batch, queries, self.heads, self.levels, self.points)
        offset = at_least_float32(self.offsets(query_BQC)).view(shape)
        weight = at_least_float32(self.weights(query_BQC)).view(batch, queries, self.heads, -1).softmax(dim=3)
        centre, length = (segments_BQ2[:, :, k, None, None, None] for k in (0, 1))
        place = centre + offset / self.points * length * 0.5
        values_BSC = at_least_float32(self.values(memory.x_BSC))
        values_BSHD = values_BSC.view(*values_BSC.shape[:2], self.heads, -1)
        return sample(values_BSHD, memory, place, weight.view(shape)).flatten(2)


def first_offsets(heads: int, points: int, *, adjacent: bool) -> Tensor:
    """Return the initial offsets (H·P,): evenly spaced without the middle one, in one group or around both borders."""
    count = heads * points

    def spread(middle: float, reach: float, number: int) -> Tensor:
        line = torch.linspace(middle - reach, middle + reach, number + 1)
        return torch.cat([line[: number // 2], line[number // 2 + 1 :]])

    if not adjacent:
        return spread(0.0, points, count)
    return torch.cat([spread(middle, points // 2, count // 2) for middle in (-points, points)])
