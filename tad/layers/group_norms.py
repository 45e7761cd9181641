"""GroupNorm and ReLU of padded sequences with statistics over the real positions, in few passes over memory on a CPU.

`tad.layers.masked.group_norm` is the definition. As tensor operations, it and its gradient read and write a sequence
about twenty times, which took most of a training step of AFSD on a CPU. Here it is six times in each direction.
"""

# B videos, T positions, C channels, G groups

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.kernels import eager_cpu
from tad.layers.masked import Mask, group_norm, zero_outside


def group_norm_relu(x_BCT: Tensor, mask_B1T: Mask, norm: nn.GroupNorm, *, masked: bool) -> Tensor:
    """Apply norm and ReLU, and zero outside the mask, (B, C, T); `masked`: statistics over the real positions only."""
    autocast = torch.is_autocast_enabled(x_BCT.device.type)  # would sum in 16 bits
    written_out = eager_cpu(x_BCT) and not autocast and x_BCT.dtype in (torch.float32, torch.float64)
    if mask_B1T is None or not masked or not written_out:
        return zero_outside(F.relu(group_norm(x_BCT, mask_B1T, norm, masked=masked)), mask_B1T)
    y_BCT: Tensor = _MaskedNormRelu.apply(  # type: ignore[no-untyped-call]
        x_BCT, mask_B1T, norm.weight, norm.bias, norm.num_groups, norm.eps
    )
    return y_BCT


class _MaskedNormRelu(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_BCT: Tensor, mask_B1T: Tensor, weight_C: Tensor, bias_C: Tensor, groups: int, eps: float
    ) -> Tensor:
        x_BTC = x_BCT.transpose(1, 2).contiguous()
        mask = mask_B1T.to(x_BTC.dtype)
        of_group = _Groups(groups, mask)
        mean_B1C = of_group.mean(mask @ x_BTC)
        y_BTC = x_BTC - mean_B1C
        rstd_B1C = torch.rsqrt(of_group.mean(mask @ y_BTC.square()) + eps)
        y_BTC.mul_(rstd_B1C * weight_C).add_(bias_C).relu_().mul_(mask.transpose(1, 2))
        ctx.save_for_backward(x_BTC, y_BTC, mask, mean_B1C, rstd_B1C, weight_C)
        ctx.of_group = of_group
        return y_BTC.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad_BCT: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_BTC, y_BTC, mask, mean_B1C, rstd_B1C, weight_C = ctx.saved_tensors
        grad_BTC = torch.ops.aten.threshold_backward(grad_BCT.transpose(1, 2).contiguous(), y_BTC, 0)
        centred_BTC = x_BTC - mean_B1C
        sum_B1C = grad_BTC.sum(dim=1, keepdim=True)
        dot_B1C = (grad_BTC * centred_BTC).sum(dim=1, keepdim=True)
        along_B1C = rstd_B1C.pow(3) * ctx.of_group.mean(dot_B1C * weight_C)
        level_B1C = rstd_B1C * ctx.of_group.mean(sum_B1C * weight_C)
        grad_x_BTC = centred_BTC.mul_(-along_B1C).addcmul_(grad_BTC, rstd_B1C * weight_C).sub_(level_B1C)
        grad_x_BTC.mul_(mask.transpose(1, 2))
        grad_weight_C, grad_bias_C = (dot_B1C * rstd_B1C).sum(dim=(0, 1)), sum_B1C.sum(dim=(0, 1))
        return grad_x_BTC.transpose(1, 2), None, grad_weight_C, grad_bias_C, None, None


class _Groups:
    """Turn sums over positions (B, 1, C) into means over a group's real entries, repeated per channel (B, 1, C)."""

    def __init__(self, groups: int, mask_B1T: Tensor) -> None:
        self.groups, self.real_B11 = groups, mask_B1T.sum(dim=2, keepdim=True)

    def mean(self, sums_B1C: Tensor) -> Tensor:
        """Return the means from sums over the real positions."""
        batch, _, channels = sums_B1C.shape
        width = channels // self.groups
        means_BG = sums_B1C.view(batch, self.groups, width).sum(dim=2) / (self.real_B11[:, 0] * width)
        return means_BG.repeat_interleave(width, dim=1)[:, None]
