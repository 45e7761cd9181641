"""Layers on channel-first sequences of different lengths, padded on the right and accompanied by a mask."""

# B videos, T snippets, C channels, G groups; masks are bool (B, 1, T), true where there is data

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.chance import PerVideo


def zero_outside(x_BCT: Tensor, mask_B1T: Tensor) -> Tensor:
    """The sequence with its padding set to zero."""
    return x_BCT * mask_B1T.to(x_BCT.dtype)


def halve(mask_B1T: Tensor) -> Tensor:
    """The mask at half the resolution: output i is real where input 2i is."""
    return mask_B1T[:, :, ::2]


class MaskedConv1d(nn.Module):
    """1-D convolution of odd kernel with zero padding; the output (not the input) is zeroed outside the mask.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: odd width.
        stride: 1, or 2 with an even number of snippets.
        groups: `inputs` for a depth-wise convolution.
        bias: whether there is one; it starts at zero.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        assert kernel % 2 == 1, kernel
        self.stride = stride
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor) -> Tensor:
        """(B, inputs, T) → (B, outputs, T / stride)."""
        x_BCT = self.conv(x_BCT)
        return zero_outside(x_BCT, mask_B1T[:, :, :: self.stride])


class Pointwise(nn.Conv1d):
    """Convolution of kernel 1 as a matrix product: the convolution kernels of a CPU take half as long again for it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """(B, inputs, T) → (B, outputs, T), with the channels innermost in memory, as `ChannelNorm` leaves them."""
        return F.linear(x_BCT.transpose(1, 2), self.weight[:, :, 0], self.bias).transpose(1, 2)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each snippet; affine parameters of shape (1, C, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """(B, C, T) → (B, C, T). Goes through the fused channels-last kernel, which passes over the data once."""
        shape = (x_BCT.shape[1],)
        y_BTC = F.layer_norm(x_BCT.transpose(1, 2), shape, self.weight.flatten(), self.bias.flatten(), 1e-5)
        return y_BTC.transpose(1, 2)


class Scale(nn.Module):
    """One learnable factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class ScaledDropPath(PerVideo):
    """A learnable scale per channel (from 1e-4), and stochastic depth per video while training."""

    def __init__(self, channels: int, *, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.scale = nn.Parameter(torch.full((1, channels, 1), 1e-4))

    def forward(self, x_BCT: Tensor) -> Tensor:
        x_BCT = x_BCT * self.scale
        if not self.training or self.probability == 0:
            return x_BCT
        keep = 1 - self.probability
        kept_B11 = self.uniform(x_BCT, 1, 1) < keep
        return x_BCT * kept_B11.to(x_BCT.dtype) / keep


def max_pool(x_BCT: Tensor, mask_B1T: Tensor, *, masked: bool) -> Tensor:
    """Maximum over windows of 3 centred on every second snippet: (B, C, T) → (B, C, T / 2).

    With `masked`, padding never wins and the output is zero outside; otherwise padding takes part as it is.
    """
    if not masked:
        return F.max_pool1d(x_BCT, 3, stride=2, padding=1)
    x_BCT = F.max_pool1d(x_BCT.masked_fill(~mask_B1T, float("-inf")), 3, stride=2, padding=1)
    return x_BCT.masked_fill(~halve(mask_B1T), 0.0)


def time_mean(x_BCT: Tensor, mask_B1T: Tensor, *, masked: bool) -> Tensor:
    """Mean over the snippets, (B, C, 1): over all T, or with `masked` over the real ones."""
    if not masked:
        return x_BCT.mean(dim=2, keepdim=True)
    return zero_outside(x_BCT, mask_B1T).sum(dim=2, keepdim=True) / mask_B1T.sum(dim=2, keepdim=True)


def group_norm(x_BCT: Tensor, mask_B1T: Tensor, norm: nn.GroupNorm, *, masked: bool) -> Tensor:
    """GroupNorm whose statistics run over all T, or with `masked` over the real snippets only."""
    if not masked:
        y_BCT: Tensor = norm(x_BCT)
        return y_BCT
    batch, channels, length = x_BCT.shape
    x_BGCT = x_BCT.float().view(batch, norm.num_groups, channels // norm.num_groups, length)
    mask_B11T = mask_B1T[:, None].to(x_BGCT.dtype)
    count_B111 = mask_B11T.sum(dim=3, keepdim=True) * x_BGCT.shape[2]
    mean_BG11 = (x_BGCT * mask_B11T).sum(dim=(2, 3), keepdim=True) / count_B111
    centred_BGCT = (x_BGCT - mean_BG11) * mask_B11T
    variance_BG11 = centred_BGCT.square().sum(dim=(2, 3), keepdim=True) / count_B111
    y_BCT = (centred_BGCT * torch.rsqrt(variance_BG11 + norm.eps)).view(batch, channels, length)
    return y_BCT * norm.weight[:, None] + norm.bias[:, None]


def position_table(channels: int, length: int) -> Tensor:
    """Sinusoidal code (1, channels, length): sine on even channels, cosine on odd ones, divided by √channels."""
    position_T1 = torch.arange(length, dtype=torch.float64)[:, None]
    exponent_C = 2 * torch.div(torch.arange(channels), 2, rounding_mode="floor") / channels
    angle_TC = position_T1 / torch.pow(torch.tensor(10000.0, dtype=torch.float64), exponent_C)
    angle_TC[:, 0::2] = torch.sin(angle_TC[:, 0::2])
    angle_TC[:, 1::2] = torch.cos(angle_TC[:, 1::2])
    code_1CT: Tensor = angle_TC.T[None] / channels**0.5
    return code_1CT.float()


def position_code(table_1CT: Tensor, spans: list[int], length: int) -> Tensor:
    """The code of each video, (B, C, length) (or (1, C, length) where no span exceeds the table).

    A video whose span is longer than the table gets the table stretched linearly over its span, as the published
    detectors do, so that no position is met that training has not seen.
    """
    limit = table_1CT.shape[2]
    if length <= limit and max(spans) <= limit:
        return table_1CT[:, :, :length]
    codes = []
    for span in spans:
        code_1CT = table_1CT
        if span > limit:
            code_1CT = F.interpolate(table_1CT, span, mode="linear", align_corners=False)
        code_1CT = code_1CT[:, :, :length]
        codes.append(F.pad(code_1CT, (0, length - code_1CT.shape[2])))
    return torch.cat(codes)
