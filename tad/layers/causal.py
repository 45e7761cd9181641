"""Layers that look at the past only: position t of an output depends on positions up to t of the input.

Before the first position there are zeros (minus infinity for maxima). Positions at half the resolution keep their
times: output i of a halving layer depends on inputs up to 2i. So padding on the right never influences the data.
"""

# B videos, T snippets, C channels, G groups

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.kernels import at_least_float32, convolve


def _later(x_BCT: Tensor, count: int, value: float = 0.0) -> Tensor:
    """Put `count` positions with this value before the first one; the channels stay innermost in memory."""
    return F.pad(x_BCT.transpose(1, 2), (0, 0, count, 0), value=value).transpose(1, 2)


def convolve_past(x_BCT: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1, groups: int = 1) -> Tensor:
    """Convolve with the last K positions, K odd: (B, O, T / stride); arguments as for `kernels.convolve`."""
    length, half = x_BCT.shape[2], weight.shape[2] // 2
    if not half:
        return convolve(x_BCT, weight, bias, stride=stride, groups=groups)
    # the centred convolution of the delayed sequence; it writes a few positions beyond the end
    y_BOT = convolve(_later(x_BCT, half), weight, bias, stride=stride, groups=groups)
    return y_BOT[:, :, : length // stride]


def past_max(x_BCT: Tensor) -> Tensor:
    """Return the maximum of positions 2i - 2, 2i - 1 and 2i: (B, C, T / 2)."""
    x_BC1T = _later(x_BCT, 2, float("-inf")).unsqueeze(2)
    return F.max_pool2d(x_BC1T, (1, 3), stride=(1, 2)).squeeze(2)


def past_pair_mean(x_BCT: Tensor) -> Tensor:
    """Return the mean of positions 2i - 1 and 2i: (B, C, T / 2)."""
    return (_later(x_BCT, 1)[:, :, :-1:2] + x_BCT[:, :, ::2]) / 2


def window_mean(x_BCT: Tensor, window: int) -> Tensor:
    """Return the mean of the last `window` positions, at the beginning of those that exist: (B, C, T)."""
    length = x_BCT.shape[2]
    sums_BCT = x_BCT.double().cumsum(dim=2)  # differences of sums in single precision would lose digits
    if window < length:
        sums_BCT = sums_BCT - F.pad(sums_BCT[:, :, :-window], (window, 0))
    count_T = torch.arange(1, length + 1, device=x_BCT.device).clamp(max=window)
    return (sums_BCT / count_T).to(at_least_float32(x_BCT).dtype)


def window_group_norm(x_BCT: Tensor, norm: nn.GroupNorm, window: int) -> Tensor:
    """Apply GroupNorm with the statistics of each group's channels over the last `window` positions: (B, C, T)."""
    batch, channels, length = x_BCT.shape
    x_BGET = at_least_float32(x_BCT).reshape(batch, norm.num_groups, channels // norm.num_groups, length)
    moments = torch.cat([x_BGET.mean(dim=2), x_BGET.square().mean(dim=2)], dim=1)
    mean_BGT, square_BGT = window_mean(moments, window).chunk(2, dim=1)
    variance_BGT = (square_BGT - mean_BGT.square()).clamp(min=0)
    y_BGET = (x_BGET - mean_BGT[:, :, None]) * torch.rsqrt(variance_BGT + norm.eps)[:, :, None]
    return torch.addcmul(norm.bias[:, None], y_BGET.flatten(1, 2), norm.weight[:, None])
