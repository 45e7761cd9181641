"""Heads shared by all levels: class scores, and offsets from a point to the two borders."""

# B videos, T snippets of a level, C channels, K classes, N chosen (video, point, class) triples, J bins

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.kernels import Span, at_least_float32
from tad.layers.masked import ChannelNorm, Mask, MaskedConv1d, Scale, padding_of, zero_outside

NOWHERE = -1.0e4  # boundary logit outside the data: softmax 0, and finite, so that no NaN arises


@dataclass(frozen=True, slots=True)
class Joined:
    """All levels concatenated along time, so that a head runs once; gaps of zeros act as its zero padding.

    Attributes:
        x_BCT: the levels, separated by gaps.
        mask_B1T: where there is data; None: everywhere except in the gaps.
        gaps: positions [first, last) of the gaps.
        levels: positions [first, last) of the levels.
    """

    x_BCT: Tensor
    mask_B1T: Mask
    gaps: list[Span]
    levels: list[Span]

    def live(self) -> Mask:
        """Mask of the data, including the gaps between levels; None: data everywhere."""
        if self.mask_B1T is not None or not self.gaps:
            return self.mask_B1T
        live_11T = torch.ones(1, 1, self.x_BCT.shape[2], dtype=torch.bool, device=self.x_BCT.device)
        for first, last in self.gaps:
            live_11T[:, :, first:last] = False
        return live_11T

    def split(self, x_BCT: Tensor) -> list[Tensor]:
        """Split a sequence of the joined length into its levels."""
        return [x_BCT[:, :, first:last] for first, last in self.levels]


def gap_of(kernel: int, *, causal: bool) -> int:
    """Return the length of the gap between the levels that separates them for convolutions of this width."""
    return kernel - 1 if causal else kernel // 2


def join(features: list[Tensor], masks: list[Tensor], *, gap: int) -> Joined:
    """Concatenate the levels (B, C, T) with `gap` zeros between neighbours."""
    between_BCT = features[0].new_zeros(features[0].shape[0], gap, features[0].shape[1]).transpose(1, 2)
    hidden_B1T = masks[0].new_zeros(masks[0].shape[0], 1, gap)
    padded = padding_of(masks[0]) is not None
    parts, real, gaps, levels, first = [features[0]], [masks[0]], [], [(0, features[0].shape[2])], features[0].shape[2]
    for x_BCT, mask_B1T in zip(features[1:], masks[1:], strict=True):
        parts += [between_BCT, x_BCT]
        real += [hidden_B1T, mask_B1T]
        gaps.append((first, first + gap))
        levels.append((first + gap, first + gap + x_BCT.shape[2]))
        first = levels[-1][1]
    joined_BTC = torch.cat([part.transpose(1, 2) for part in parts], dim=1)
    return Joined(joined_BTC.transpose(1, 2), torch.cat(real, dim=2) if padded else None, gaps, levels)


class _Tower(nn.Module):
    """`layers` - 1 blocks of convolution, norm (if `normed`) and ReLU; subclasses add the last convolution."""

    def __init__(
        self, inputs: int, channels: int, *, kernel: int, layers: int, masked: bool, normed: bool = True,
        causal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        assert masked or not causal
        self.masked, self.normed, self.causal = masked, normed, causal
        widths = [inputs, *[channels] * (layers - 1)]
        self.head = nn.ModuleList(
            MaskedConv1d(widths[i], widths[i + 1], kernel=kernel, bias=not normed, causal=causal)
            for i in range(layers - 1)
        )
        self.norm = nn.ModuleList(ChannelNorm(channels) for _ in range(layers - 1 if normed else 0))

    def tower(self, joined: Joined, last: MaskedConv1d) -> Tensor:
        """Apply all convolutions; the subclass defines the last one, `last`."""
        x_BCT, mask_B1T = joined.x_BCT, joined.mask_B1T
        if not self.normed:
            live_B1T = joined.live()
            for conv in self.head:
                x_BCT = F.relu(conv(x_BCT, live_B1T))
            plain_BCT: Tensor = last(x_BCT, mask_B1T)
            return plain_BCT
        if self.masked or not len(self.head):
            for conv, norm in zip(self.head, self.norm, strict=True):
                x_BCT = zero_outside(norm(conv(x_BCT, None), relu=True, zeros=joined.gaps), mask_B1T)
            y_BCT: Tensor = last(x_BCT, mask_B1T)
            return y_BCT
        x_BCT = self.head[0](x_BCT, mask_B1T)
        for conv, norm in zip([*self.head[1:], last], self.norm, strict=True):
            assert isinstance(conv, MaskedConv1d)
            assert isinstance(norm, ChannelNorm)
            # published: padding is zeroed before the norm, whose bias then leaks into it
            x_BCT = conv.after(x_BCT, mask_B1T, norm, joined.gaps)
        return x_BCT


class ClassHead(_Tower):
    """Classification head: a logit per class and point, zero outside the mask.

    Args:
        inputs: channels of the levels.
        channels: width of the hidden layers.
        classes: K.
        kernel: width of every convolution.
        prior: initial probability of every class (starting at 0.5 makes the focal loss unstable: RetinaNet, section
            3.3).
        tower: further arguments of `_Tower`: `layers`, the number of convolutions; `masked`, zero the padding between
            them; `normed`, a norm after each but the last; `causal`, see `MaskedConv1d`.
    """

    def __init__(self, inputs: int, channels: int, *, classes: int, kernel: int, prior: float, **tower: Any) -> None:
        super().__init__(inputs, channels, kernel=kernel, **tower)
        self.cls_head = MaskedConv1d(channels, classes, kernel=kernel, causal=self.causal)
        assert self.cls_head.conv.bias is not None
        nn.init.constant_(self.cls_head.conv.bias, -math.log((1 - prior) / prior))

    def forward(self, joined: Joined) -> list[Tensor]:
        """(B, K, T) per level."""
        return joined.split(self.tower(joined, self.cls_head))


def relu_keeping_alive(levels: list[Tensor]) -> list[Tensor]:
    """ReLU of all levels (B, J, T), with the gradient of the identity for each dead output of a video.

    An output is dead if it is 0 at every point of every level; ReLU would pass no gradient to it, so it could stay 0
    for ever. Values are those of ReLU, and so are all other gradients, to the bit.
    """
    alive_BJ = torch.stack([x_BJT.detach().amax(dim=2) for x_BJT in levels]).amax(dim=0) > 0
    dead_BJ1 = (~alive_BJ)[:, :, None].to(levels[0].dtype)
    return [F.relu(x_BJT) + (x_BJT - x_BJT.detach()) * dead_BJ1 for x_BJT in levels]


class OffsetHead(_Tower):
    """Regression head with non-negative outputs per point: two distances, or the centre logits of the trident head."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        *,
        outputs: int,
        kernel: int,
        levels: int,
        living: bool = False,
        bounded: bool = False,
        **tower: Any,
    ) -> None:
        """`tower`: as for `ClassHead`.

        `living`: dead outputs receive a gradient, see `relu_keeping_alive`. `bounded`: the last output lies between 0
        and 1 (by a sigmoid).
        """
        super().__init__(inputs, channels, kernel=kernel, **tower)
        self.living, self.bounded = living, bounded
        self.scale = nn.ModuleList(Scale() for _ in range(levels))
        self.offset_head = MaskedConv1d(channels, outputs, kernel=kernel, causal=self.causal)

    def forward(self, joined: Joined) -> list[Tensor]:
        """(B, outputs, T) per level."""
        parts = joined.split(self.tower(joined, self.offset_head))
        parts = [scale(x_BJT) for scale, x_BJT in zip(self.scale, parts, strict=True)]
        if self.bounded:
            distances = self._rectified([x_BJT[:, :-1] for x_BJT in parts])
            return [torch.cat([d, torch.sigmoid(x[:, -1:])], dim=1) for d, x in zip(distances, parts, strict=True)]
        return self._rectified(parts)

    def _rectified(self, levels: list[Tensor]) -> list[Tensor]:
        if self.living and self.training:
            return relu_keeping_alive(levels)
        return [F.relu(x_BJT) for x_BJT in levels]


def plain_offsets(offsets_B2T: Tensor, chosen: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Distances (N, 2) of the chosen (video, point, class) triples, which all classes of a point share."""
    video_N, point_N, _ = chosen
    return at_least_float32(offsets_B2T[video_N, :, point_N])


def past_offsets(offsets_B2T: Tensor, chosen: tuple[Tensor, Tensor, Tensor], *, delay: float) -> Tensor:
    """Distances (N, 2) of a causal detector's chosen points: to the start, and minus that to the end, both in the past.

    The head's outputs are the length of the segment, and the distance back to its end as a share of `delay`. With the
    distance to the start in place of the length, segments would have to be kept from ending before they start, and
    with a rectified distance to the end; heads died of both.
    """
    length_N, share_N = plain_offsets(offsets_B2T, chosen).unbind(1)
    since_N = delay * share_N
    return torch.stack([since_N + length_N, -since_N], dim=1)


def past_trident_offsets(
    start_BKT: Tensor, end_BKT: Tensor, centre_BJT: Tensor, chosen: tuple[Tensor, Tensor, Tensor], *, bins: int
) -> Tensor:
    """Distances (N, 2) of a causal trident head: both borders are expectations over bins before the point.

    Args:
        start_BKT: start logits.
        end_BKT: end logits.
        centre_BJT: centre logits per point: `bins` + 1 of the start, the farthest first, then likewise of the end.
        chosen: videos, points and classes, each (N,).
        bins: largest distance to a start. The other bins are those of the end.
    """
    video_N, point_N, class_N = chosen
    centre_NJ = at_least_float32(centre_BJT[video_N, :, point_N])
    distances = []
    for logits_BKT, own_NJ in ((start_BKT, centre_NJ[:, : bins + 1]), (end_BKT, centre_NJ[:, bins + 1 :])):
        most = own_NJ.shape[1] - 1
        rows_BKT = F.pad(logits_BKT, (most, 0))  # before the first point the logit is 0
        at_NJ = point_N[:, None] + torch.arange(most + 1, device=point_N.device)
        boundary_NJ = at_least_float32(rows_BKT[video_N[:, None], class_N[:, None], at_NJ]) + own_NJ
        steps_J = torch.arange(most, -1, -1, device=point_N.device).to(boundary_NJ.dtype)
        distances.append(torch.softmax(boundary_NJ, dim=1) @ steps_J)
    return torch.stack([torch.maximum(distances[0], distances[1]), -distances[1]], dim=1)


def trident_offsets(
    start_BKT: Tensor,
    end_BKT: Tensor,
    centre_BJT: Tensor,
    mask_B1T: Tensor,
    chosen: tuple[Tensor, Tensor, Tensor],
    *,
    bins: int,
    masked: bool,
) -> Tensor:
    """Decode the distances (N, 2) from the chosen points to their borders, in strides (TriDet, section 3.3).

    A distance is the expectation over the bins 0…`bins`, whose probabilities are a softmax over the boundary logits
    next to the point plus the point's centre logits. Decoding all classes and points would cost 15 times as much.

    Args:
        start_BKT: start logits.
        end_BKT: end logits.
        centre_BJT: 2·(`bins` + 1) centre logits per point, left ones first.
        mask_B1T: where there is data.
        chosen: videos, points and classes, each (N,).
        bins: largest distance.
        masked: the first point outside the data has the boundary logit 0, points beyond it have probability 0.
            Otherwise, as published, all points outside the data have the logit 0.
    """
    video_N, point_N, class_N = chosen
    length, classes = start_BKT.shape[2], start_BKT.shape[1]
    # starts and ends lie in one row with padding at both ends, so that a single 32-bit index addresses a value; one
    # index per axis takes several times as long. Bins come first, so that one softmax covers many points
    outside_BJK = start_BKT.new_zeros(start_BKT.shape[0], bins, classes)
    row_BPK = torch.cat([outside_BJK, start_BKT.transpose(1, 2), end_BKT.transpose(1, 2), outside_BJK], dim=1)
    if masked:
        # keep the first point outside the data: the last action of a video may end after the level's last point, and
        # an expectation reaches the end of its range only in the limit
        p_P, count_B1 = torch.arange(row_BPK.shape[1], device=point_N.device), mask_B1T.sum(dim=2)
        starts, ends = bins, bins + length
        beyond_BP = (p_P < starts - 1) | ((p_P >= starts + count_B1) & (p_P < ends)) | (p_P > ends + count_B1)
        row_BPK = row_BPK.masked_fill(beyond_BP[:, :, None], NOWHERE)
        row_BPK = row_BPK.masked_fill((p_P == ends + count_B1)[:, :, None], 0.0)
    first_N = ((video_N * row_BPK.shape[1] + point_N) * classes + class_N).int()
    steps_J = torch.arange(bins + 1, device=point_N.device, dtype=torch.int32)
    at_2JN = first_N + torch.stack([steps_J, steps_J + bins + length])[:, :, None] * classes
    boundary_2JN = at_least_float32(row_BPK.flatten().index_select(0, at_2JN.flatten()).view_as(at_2JN))
    centre_NZ = centre_BJT.transpose(1, 2).flatten(0, 1).index_select(0, video_N * length + point_N)
    boundary_2JN += at_least_float32(centre_NZ).t().view_as(at_2JN)
    left_JN, right_JN = torch.softmax(boundary_2JN, dim=1)
    left_N = (bins - steps_J).to(left_JN.dtype) @ left_JN
    right_N = steps_J.to(right_JN.dtype) @ right_JN
    # published: the NaN check of the left side tests the right side
    left_N = left_N.masked_fill(torch.isnan(left_N if masked else right_N), 0.0)
    right_N = right_N.masked_fill(torch.isnan(right_N), 0.0)
    return torch.stack([left_N, right_N], dim=1)
