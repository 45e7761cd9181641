"""Heads shared by all levels: class scores, and offsets from a point to the two borders."""

# B videos, T snippets of a level, C channels, K classes, N chosen (video, point, class) triples, J bins

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.kernels import Span, at_least_float32
from tad.layers.masked import ChannelNorm, Mask, MaskedConv1d, Scale, padding_of, zero_outside

NOWHERE = -1.0e4  # logit of a boundary where there is no data: its softmax is 0 and, being finite, never NaN


@dataclass(frozen=True, slots=True)
class Joined:
    """All levels as one sequence, so that a head is one call; zeros between them stand for its padding.

    Attributes:
        x_BCT: the levels, one after the other.
        mask_B1T: where there is data; None: everywhere but in the gaps.
        gaps: spans of snippets [first, last) between the levels.
        levels: spans of the levels.
    """

    x_BCT: Tensor
    mask_B1T: Mask
    gaps: list[Span]
    levels: list[Span]

    def split(self, x_BCT: Tensor) -> list[Tensor]:
        """A sequence as long as the joined one, by level."""
        return [x_BCT[:, :, first:last] for first, last in self.levels]


def join(features: list[Tensor], masks: list[Tensor], *, gap: int) -> Joined:
    """The levels (B, C, T) joined, `gap` zeros between two of them."""
    between_BCT = features[0].new_zeros(len(features[0]), gap, features[0].shape[1]).transpose(1, 2)
    hidden_B1T = masks[0].new_zeros(len(masks[0]), 1, gap)
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
    """`layers` - 1 times convolution, norm, ReLU; subclasses add the last convolution."""

    def __init__(self, inputs: int, channels: int, *, kernel: int, layers: int, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        widths = [inputs, *[channels] * (layers - 1)]
        self.head = nn.ModuleList(
            MaskedConv1d(widths[i], widths[i + 1], kernel=kernel, bias=False) for i in range(layers - 1)
        )
        self.norm = nn.ModuleList(ChannelNorm(channels) for _ in range(layers - 1))

    def tower(self, joined: Joined, last: MaskedConv1d) -> Tensor:
        """All convolutions, of which `last` is the subclass's own."""
        x_BCT, mask_B1T = joined.x_BCT, joined.mask_B1T
        if self.masked or not len(self.head):
            for conv, norm in zip(self.head, self.norm, strict=True):
                x_BCT = zero_outside(norm(conv(x_BCT, None), relu=True, zeros=joined.gaps), mask_B1T)
            y_BCT: Tensor = last(x_BCT, mask_B1T)
            return y_BCT
        x_BCT = self.head[0](x_BCT, mask_B1T)
        for conv, norm in zip([*self.head[1:], last], self.norm, strict=True):
            assert isinstance(conv, MaskedConv1d)
            assert isinstance(norm, ChannelNorm)
            # published: zeroed before the norm, whose bias then stands in the padding
            x_BCT = conv.after(x_BCT, mask_B1T, norm, joined.gaps)
        return x_BCT


class ClassHead(_Tower):
    """A logit per class and point, zero outside the mask.

    Args:
        inputs: channels of the levels.
        channels: width of the hidden layers.
        classes: K.
        kernel: of every convolution.
        layers: convolutions in all.
        prior: probability of every class at the start (focal loss is unstable from 0.5: RetinaNet, section 3.3).
        masked: zero the padding between the convolutions.
    """

    def __init__(
        self, inputs: int, channels: int, *, classes: int, kernel: int, layers: int, prior: float, masked: bool
    ) -> None:
        super().__init__(inputs, channels, kernel=kernel, layers=layers, masked=masked)
        self.cls_head = MaskedConv1d(channels, classes, kernel=kernel)
        assert self.cls_head.conv.bias is not None
        nn.init.constant_(self.cls_head.conv.bias, -math.log((1 - prior) / prior))

    def forward(self, joined: Joined) -> list[Tensor]:
        """(B, K, T) per level."""
        return joined.split(self.tower(joined, self.cls_head))


class OffsetHead(_Tower):
    """Non-negative outputs per point: two distances, or the centre logits of the trident head."""

    def __init__(
        self, inputs: int, channels: int, *, outputs: int, kernel: int, layers: int, levels: int, masked: bool
    ) -> None:
        super().__init__(inputs, channels, kernel=kernel, layers=layers, masked=masked)
        self.scale = nn.ModuleList(Scale() for _ in range(levels))
        self.offset_head = MaskedConv1d(channels, outputs, kernel=kernel)

    def forward(self, joined: Joined) -> list[Tensor]:
        """(B, outputs, T) per level."""
        parts = joined.split(self.tower(joined, self.offset_head))
        return [F.relu(scale(x_BJT)) for scale, x_BJT in zip(self.scale, parts, strict=True)]


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
    """Distances (N, 2) from the chosen points to their borders, in strides of the level (TriDet, section 3.3).

    A distance is the expectation over the bins 0…`bins` of a softmax over the boundary logits beside the point plus
    the point's own centre logits. Only what is chosen is decoded: all classes and points would cost 15 times as much.

    Args:
        start_BKT: start logits.
        end_BKT: end logits.
        centre_BJT: 2·(`bins` + 1) centre logits per point, left ones first.
        mask_B1T: where there is data.
        chosen: videos, points and classes, each (N,).
        bins: farthest distance.
        masked: boundaries have the logit 0 at the first point outside the data and probability 0 beyond it; otherwise
            the logit 0 at all points outside, as published.
    """
    video_N, point_N, class_N = chosen
    length, classes = start_BKT.shape[2], start_BKT.shape[1]
    # both in one row, what lies outside at its ends, so that one number (of 32 bits: less memory) says where a value
    # is; an index for each axis takes several times as long. Bins outermost: a softmax over many points at once
    outside_BJK = start_BKT.new_zeros(len(start_BKT), bins, classes)
    row_BPK = torch.cat([outside_BJK, start_BKT.transpose(1, 2), end_BKT.transpose(1, 2), outside_BJK], dim=1)
    if masked:
        # the border itself stays within reach: the last action of a video may end after the level's last point, and an
        # expectation over points reaches one that lies at the end of its range in the limit only
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
    # the published guard looks at the right side for both
    left_N = left_N.masked_fill(torch.isnan(left_N if masked else right_N), 0.0)
    right_N = right_N.masked_fill(torch.isnan(right_N), 0.0)
    return torch.stack([left_N, right_N], dim=1)
