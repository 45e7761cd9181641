"""Layers on padded sequences (B, C, T) with a mask of the real positions.

Sequences are padded on the right. Their channels lie innermost in memory, and all layers here keep it that way.
"""

# B videos, T snippets, C channels, G groups; masks are bool (B, 1, T), true where there is data

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.causal import convolve_past
from tad.layers.chance import PerVideo
from tad.layers.kernels import Span, at_least_float32, convolve, norm_relu, norm_relu_convolve
from tad.layers.recomputed import gelu_linear, norm_linear

Mask = Tensor | None  # None: nothing is padded


def padding_of(mask_B1T: Tensor) -> Mask:
    """Return the mask, or None if nothing is padded, so that layers can skip zeroing.

    Only on a CPU: on other devices the check would force a synchronisation, and in a compiled graph zeroing is free.
    """
    if mask_B1T.device.type != "cpu" or torch.compiler.is_compiling():
        return mask_B1T
    return None if bool(mask_B1T.all()) else mask_B1T


def zero_outside(x_BCT: Tensor, mask_B1T: Mask) -> Tensor:
    """Set the padding of a sequence to zero."""
    return x_BCT if mask_B1T is None else x_BCT * mask_B1T.to(x_BCT.dtype)


def halve(mask_B1T: Mask) -> Mask:
    """Return the mask at half the resolution: output i is real if input 2i is."""
    return None if mask_B1T is None else mask_B1T[:, :, ::2]


class MaskedConv1d(nn.Module):
    """1-D convolution of odd kernel with zero padding; the output (not the input) is zeroed outside the mask.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: odd width.
        stride: 1, or 2 with an even number of snippets.
        groups: `inputs` for a depth-wise convolution.
        bias: whether the layer has a bias, which is initialised with zeros.
        causal: whether the kernel covers the last positions instead of those around each.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True,
        causal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        assert kernel % 2 == 1, kernel
        self.stride, self.causal = stride, causal
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """(B, inputs, T) → (B, outputs, T / stride)."""
        conv, over = self.conv, convolve_past if self.causal else convolve
        x_BCT = over(x_BCT, conv.weight, conv.bias, stride=self.stride, groups=conv.groups)
        return zero_outside(x_BCT, mask_B1T if self.stride == 1 else halve(mask_B1T))

    def after(self, x_BCT: Tensor, mask_B1T: Mask, norm: "ChannelNorm", zeros: Sequence[Span]) -> Tensor:
        """Apply `norm`, ReLU and zeros, then this layer (dense, stride 1)."""
        assert (self.stride, self.conv.groups, self.causal) == (1, 1, False)
        scale_C, shift_C, bias_O = norm.weight.flatten(), norm.bias.flatten(), self.conv.bias
        return zero_outside(norm_relu_convolve(x_BCT, scale_C, shift_C, zeros, self.conv.weight, bias_O), mask_B1T)


class Pointwise(nn.Conv1d):
    """Convolution of kernel 1 as a matrix product, which takes a third less time than a convolution on a CPU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """(B, inputs, T) → (B, outputs, T), with the channels innermost in memory, as `ChannelNorm` leaves them."""
        return F.linear(x_BCT.transpose(1, 2), self.weight[:, :, 0], self.bias).transpose(1, 2)

    def after_norm(self, x_BCT: Tensor, norm: "ChannelNorm") -> Tensor:
        """Apply `norm`, then this layer."""
        assert self.bias is not None
        scale_C, shift_C = norm.weight.flatten(), norm.bias.flatten()
        return norm_linear(x_BCT.transpose(1, 2), scale_C, shift_C, self.weight[:, :, 0], self.bias).transpose(1, 2)

    def after_gelu(self, x_BCT: Tensor) -> Tensor:
        """Apply GELU, then this layer."""
        assert self.bias is not None
        return gelu_linear(x_BCT.transpose(1, 2), self.weight[:, :, 0], self.bias).transpose(1, 2)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each snippet; affine parameters of shape (1, C, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x_BCT: Tensor, *, relu: bool = False, zeros: Sequence[Span] = ()) -> Tensor:
        """(B, C, T) → (B, C, T). With `relu`, apply ReLU and zero the spans [first, last) of snippets."""
        if relu:
            return norm_relu(x_BCT, self.weight.flatten(), self.bias.flatten(), zeros)
        shape = (x_BCT.shape[1],)
        y_BTC = F.layer_norm(x_BCT.transpose(1, 2), shape, self.weight.flatten(), self.bias.flatten(), 1e-5)
        return y_BTC.transpose(1, 2)


class Scale(nn.Module):
    """A learnable scalar factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class ScaledDropPath(PerVideo):
    """A learnable scale per channel (initially 1e-4), and stochastic depth per video during training."""

    def __init__(self, channels: int, *, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.scale = nn.Parameter(torch.full((1, channels, 1), 1e-4))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """(B, C, T) → (B, C, T)."""
        return x_BCT * self._factor(x_BCT).to(x_BCT.dtype)

    def add(self, residual_BCT: Tensor, x_BCT: Tensor) -> Tensor:
        """Return the residual plus this layer's output for x."""
        return torch.addcmul(residual_BCT, x_BCT.to(residual_BCT.dtype), self._factor(x_BCT).to(residual_BCT.dtype))

    def _factor(self, x_BCT: Tensor) -> Tensor:
        """Return the factor of each channel of each video."""
        if not self.training or self.probability == 0:
            return self.scale
        keep = 1 - self.probability
        kept_B11 = self.uniform(x_BCT, 1, 1) < keep
        return self.scale * (kept_B11.to(self.scale.dtype) / keep)


class Plain(nn.Module):
    """A residual connection with neither scale nor stochastic depth."""

    def add(self, residual_BCT: Tensor, x_BCT: Tensor) -> Tensor:
        """Return the sum."""
        return residual_BCT + x_BCT


def max_pool(x_BCT: Tensor, mask_B1T: Mask, *, masked: bool) -> Tensor:
    """Max-pool over windows of 3 centred on every second snippet: (B, C, T) → (B, C, T / 2).

    With `masked`, padding is ignored and the output is zero outside the mask; otherwise padding counts as data.
    """
    if masked and mask_B1T is not None:
        x_BCT = x_BCT.masked_fill(~mask_B1T, float("-inf"))
    # as an image of height 1: its kernel keeps the channels innermost
    x_BCT = F.max_pool2d(x_BCT.unsqueeze(2), (1, 3), stride=(1, 2), padding=(0, 1)).squeeze(2)
    if masked and mask_B1T is not None:
        x_BCT = x_BCT.masked_fill(~mask_B1T[:, :, ::2], 0.0)
    return x_BCT


def mean_pool(x_BCT: Tensor, mask_B1T: Mask, *, masked: bool) -> Tensor:
    """Average pairs of snippets: (B, C, T) → (B, C, T / 2).

    With `masked`, padding is ignored and the output is zero outside the mask; otherwise padding counts as data.
    """
    if not masked or mask_B1T is None:
        return (x_BCT[:, :, ::2] + x_BCT[:, :, 1::2]) / 2
    x_BCT = zero_outside(x_BCT, mask_B1T)
    count_B1T = (mask_B1T[:, :, ::2].int() + mask_B1T[:, :, 1::2]).clamp(min=1)
    return (x_BCT[:, :, ::2] + x_BCT[:, :, 1::2]) / count_B1T


def time_mean(x_BCT: Tensor, mask_B1T: Mask, *, masked: bool) -> Tensor:
    """Return the mean over all T snippets, or with `masked` over the real ones, (B, C, 1)."""
    if mask_B1T is None or not masked:
        return x_BCT.mean(dim=2, keepdim=True)
    return zero_outside(x_BCT, mask_B1T).sum(dim=2, keepdim=True) / mask_B1T.sum(dim=2, keepdim=True)


def group_norm(x_BCT: Tensor, mask_B1T: Mask, norm: nn.GroupNorm, *, masked: bool) -> Tensor:
    """Apply GroupNorm with statistics over all T, or with `masked` over the real snippets only."""
    if mask_B1T is None or not masked:
        y_BC1T: Tensor = norm(x_BCT.unsqueeze(2))
        return y_BC1T.squeeze(2)
    batch, channels, length = x_BCT.shape
    x_BGCT = at_least_float32(x_BCT).reshape(batch, norm.num_groups, channels // norm.num_groups, length)
    mask_B11T = mask_B1T[:, None].to(x_BGCT.dtype)
    count_B111 = mask_B11T.sum(dim=3, keepdim=True) * x_BGCT.shape[2]
    mean_BG11 = (x_BGCT * mask_B11T).sum(dim=(2, 3), keepdim=True) / count_B111
    centred_BGCT = (x_BGCT - mean_BG11) * mask_B11T
    variance_BG11 = centred_BGCT.square().sum(dim=(2, 3), keepdim=True) / count_B111
    y_BCT = (centred_BGCT * torch.rsqrt(variance_BG11 + norm.eps)).flatten(1, 2)
    return torch.addcmul(norm.bias[:, None], y_BCT, norm.weight[:, None])


def position_table(channels: int, length: int) -> Tensor:
    """Return the sinusoidal position code (1, channels, length), divided by √channels: sine on even channels, cosine on
    odd ones."""
    position_T1 = torch.arange(length, dtype=torch.float64)[:, None]
    exponent_C = 2 * torch.div(torch.arange(channels), 2, rounding_mode="floor").double() / channels
    angle_TC = position_T1 / torch.pow(10000.0, exponent_C)  # in float64: positions multiply its rounding
    angle_TC[:, 0::2] = torch.sin(angle_TC[:, 0::2])
    angle_TC[:, 1::2] = torch.cos(angle_TC[:, 1::2])
    code_1CT: Tensor = angle_TC.float().T[None] / channels**0.5
    return code_1CT


def position_code(table_1CT: Tensor, spans: list[Any], length: int) -> Tensor:
    """Return the position code of each video, (B, C, length), or (1, C, length) if no span exceeds the table.

    For a span longer than the table, the table is interpolated linearly over the span, as the published detectors do:
    no position occurs that training has not seen. `spans` are numbers, or in an exported graph a tensor for one video.
    """
    limit = table_1CT.shape[2]
    if torch.compiler.is_exporting():
        return _position_code_of(table_1CT, spans[0], length)
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


def _position_code_of(table_1CT: Tensor, span: Tensor, length: int) -> Tensor:
    """Return the `position_code` of one video for a graph, without branches on lengths: (1, C, length)."""
    limit = table_1CT.shape[2]
    span_1 = span.reshape(1).clamp(min=limit).float()
    at_T = ((torch.arange(length, device=table_1CT.device) + 0.5) * (limit / span_1) - 0.5).clamp(0, limit - 1)
    low_T = at_T.floor()
    share_T = at_T - low_T
    first_1CT = table_1CT.index_select(2, low_T.long())
    second_1CT = table_1CT.index_select(2, (low_T.long() + 1).clamp(max=limit - 1))
    return first_1CT + (second_1CT - first_1CT) * share_T
