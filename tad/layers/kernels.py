"""Fast CPU forms of convolution and norm for sequences whose channels lie innermost in memory.

A tensor (B, C, T) with this memory layout is an image of height 1 in channels-last format, which the convolutions of
every device support; a 1-D convolution would copy it to another layout and back. Two gradients are written by hand
because PyTorch's CPU kernels are several times slower in this layout. Compiled graphs and other devices use PyTorch's.
"""

# B videos, T snippets, C channels in, O channels out, K taps of a kernel

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 128  # snippets whose products stay in a core's cache
Span = tuple[int, int]


def eager_cpu(x: Tensor) -> bool:
    """Return whether the hand-written forms apply."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def convolve(x_BCT: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1, groups: int = 1) -> Tensor:
    """Convolve in 1-D with zero padding of half the odd kernel, channels innermost in memory: (B, O, T / stride).

    Args:
        x_BCT: the sequences.
        weight: (O, C, K), or (C, 1, K) with `groups` = C.
        bias: (O,).
        stride: 1 or 2.
        groups: 1, or C: depth-wise.
    """
    kernel = weight.shape[2]
    if torch.is_autocast_enabled(x_BCT.device.type):
        dtype = torch.get_autocast_dtype(x_BCT.device.type)
        x_BCT, weight, bias = x_BCT.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if groups > 1 and kernel == 1 and stride == 1:
        scale_C1 = weight[:, :, 0]
        return x_BCT * scale_C1 if bias is None else torch.addcmul(bias[:, None], x_BCT, scale_C1)
    wide = groups > 1 and kernel > 3
    dense = groups == 1 and x_BCT.dtype in (torch.float32, torch.float64)
    if eager_cpu(x_BCT) and stride == 1 and (wide or dense) and weight.requires_grad and torch.is_grad_enabled():
        y_BOT: Tensor = _Convolution.apply(x_BCT, weight, groups)  # type: ignore[no-untyped-call]
        return y_BOT if bias is None else y_BOT + bias[:, None]
    return _convolution(x_BCT, weight, bias, stride, groups)


def _convolution(x_BCT: Tensor, weight: Tensor, bias: Tensor | None, stride: int, groups: int) -> Tensor:
    padding = (0, weight.shape[2] // 2)
    y_BO1T = F.conv2d(x_BCT.unsqueeze(2), weight.unsqueeze(2), bias, (1, stride), padding, groups=groups)
    return y_BO1T.squeeze(2)


class _Convolution(torch.autograd.Function):
    """`_convolution` of stride 1 without bias, whose weight gradient uses matrix products or cache-sized blocks."""

    @staticmethod
    def forward(ctx: Any, x_BCT: Tensor, weight: Tensor, groups: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x_BCT, weight)
        ctx.groups = groups
        return _convolution(x_BCT, weight, None, 1, groups)

    @staticmethod
    def backward(ctx: Any, grad_BOT: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        x_BCT, weight = ctx.saved_tensors
        return (*_gradients(grad_BOT, x_BCT, weight, ctx.groups, ctx.needs_input_grad[:2]), None)


def _gradients(
    grad_BOT: Tensor, x_BCT: Tensor, weight: Tensor, groups: int, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the input and the weight of a convolution of stride 1."""
    grad_x = grad_weight = None
    grad_BTO = grad_BOT.transpose(1, 2).contiguous()
    if needed[0]:
        (grad_x, *_) = torch.ops.aten.convolution_backward(
            grad_BTO.transpose(1, 2).unsqueeze(2), x_BCT.unsqueeze(2), weight.unsqueeze(2), None,
            [1, 1], [0, weight.shape[2] // 2], [1, 1], False, [0, 0], groups, [True, False, False],
        )  # fmt: skip
        grad_x = grad_x.squeeze(2)
    if needed[1]:
        of = dense_gradient if groups == 1 else depthwise_gradient
        grad_weight = of(grad_BTO, x_BCT.transpose(1, 2).contiguous(), weight.shape[2])
    return grad_x, grad_weight


def dense_gradient(grad_BTO: Tensor, x_BTC: Tensor, kernel: int) -> Tensor:
    """Return the weight gradient (O, C, K) of a dense convolution: one matrix product per tap over the flattened batch.

    In the flattened batch a shifted tap also pairs the ends of neighbouring videos; these few pairs are subtracted.
    """
    length = x_BTC.shape[1]
    grad_KOC = x_BTC.new_zeros(kernel, grad_BTO.shape[2], x_BTC.shape[2])
    grad_NO, x_NC = grad_BTO.flatten(0, 1), x_BTC.flatten(0, 1)
    for tap in range(kernel):
        shift = min(abs(tap - kernel // 2), length)
        # the tap reads `shift` snippets before (or after) the one that it writes
        late, early = (grad_BTO, x_BTC) if tap <= kernel // 2 else (x_BTC, grad_BTO)
        late_N, early_N = (grad_NO, x_NC) if tap <= kernel // 2 else (x_NC, grad_NO)
        pairs = late_N[shift:], early_N[: len(early_N) - shift]
        wrong = late[1:, :shift].flatten(0, 1), early[:-1, length - shift :].flatten(0, 1)
        if tap > kernel // 2:
            pairs, wrong = pairs[::-1], wrong[::-1]
        torch.mm(pairs[0].t(), pairs[1], out=grad_KOC[tap])
        if len(wrong[0]):
            grad_KOC[tap].addmm_(wrong[0].t(), wrong[1], alpha=-1)
    return grad_KOC.permute(1, 2, 0)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert 16-bit floats to float32, and leave wider ones as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def depthwise_gradient(grad_BTC: Tensor, x_BTC: Tensor, kernel: int) -> Tensor:
    """Return the weight gradient (C, 1, K) of a depth-wise convolution, in blocks of snippets, summed in float32."""
    batch, length, channels = x_BTC.shape
    wide = at_least_float32(x_BTC.new_empty(0)).dtype
    grad_KC = torch.zeros(kernel, channels, dtype=wide)
    padded_BTC = F.pad(x_BTC, (0, 0, kernel // 2, kernel // 2))
    product_TC = x_BTC.new_empty(ROWS, channels)
    for video in range(batch):
        for first in range(0, length, ROWS):
            grad_TC = grad_BTC[video, first : first + ROWS]
            rows = len(grad_TC)
            for tap in range(kernel):
                torch.mul(grad_TC, padded_BTC[video, first + tap : first + tap + rows], out=product_TC[:rows])
                grad_KC[tap] += product_TC[:rows].sum(0, dtype=wide)
    return grad_KC.t()[:, None].to(x_BTC.dtype)


def norm_relu(x_BCT: Tensor, weight_C: Tensor, bias_C: Tensor, zeros: Sequence[Span]) -> Tensor:
    """Apply layer norm over the channels (ε 1e-5) and ReLU, and zero the spans [first, last) of snippets."""
    if eager_cpu(x_BCT):
        y_BTC: Tensor = _NormRelu.apply(x_BCT.transpose(1, 2), weight_C, bias_C, zeros)  # type: ignore[no-untyped-call]
        return y_BTC.transpose(1, 2)
    y_BTC = F.relu(F.layer_norm(x_BCT.transpose(1, 2), weight_C.shape, weight_C, bias_C, 1e-5))
    if zeros:
        live_T1 = torch.ones(y_BTC.shape[1], 1, dtype=y_BTC.dtype, device=y_BTC.device)
        for first, last in zeros:
            live_T1[first:last] = 0
        y_BTC = y_BTC * live_T1
    return y_BTC.transpose(1, 2)


def norm_relu_convolve(
    x_BCT: Tensor, scale_C: Tensor, shift_C: Tensor, zeros: Sequence[Span], weight_OCK: Tensor, bias_O: Tensor | None
) -> Tensor:
    """Apply `norm_relu`, then `convolve`: (B, O, T). Where possible the backward pass recomputes the norm's output
    instead of storing it."""
    dense = x_BCT.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x_BCT.device.type)
    if eager_cpu(x_BCT) and dense and torch.is_grad_enabled():
        y_BOT: Tensor = _NormReluConvolution.apply(x_BCT, scale_C, shift_C, zeros, weight_OCK)  # type: ignore[no-untyped-call]
        return y_BOT if bias_O is None else y_BOT + bias_O[:, None]
    return convolve(norm_relu(x_BCT, scale_C, shift_C, zeros), weight_OCK, bias_O)


def _norm_relu(x_BTC: Tensor, scale_C: Tensor, shift_C: Tensor, zeros: Sequence[Span]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute norm, ReLU and zeros in one buffer; also return the norm's mean and reciprocal standard deviation."""
    y_BTC, mean, rstd = torch.native_layer_norm(x_BTC, scale_C.shape, scale_C, shift_C, 1e-5)
    y_BTC.relu_()
    for first, last in zeros:
        y_BTC[:, first:last] = 0
    return y_BTC, mean, rstd


class _NormReluConvolution(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_BCT: Tensor, scale_C: Tensor, shift_C: Tensor, zeros: Sequence[Span], weight_OCK: Tensor
    ) -> Tensor:
        y_BTC, mean, rstd = _norm_relu(x_BCT.transpose(1, 2), scale_C, shift_C, zeros)
        ctx.save_for_backward(x_BCT, mean, rstd, scale_C, shift_C, weight_OCK)
        ctx.zeros = zeros
        return _convolution(y_BTC.transpose(1, 2), weight_OCK, None, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad_BOT: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_BCT, mean, rstd, scale_C, shift_C, weight_OCK = ctx.saved_tensors
        x_BTC = x_BCT.transpose(1, 2)
        y_BTC, _, _ = _norm_relu(x_BTC, scale_C, shift_C, ctx.zeros)
        needed = (any(ctx.needs_input_grad[:3]), ctx.needs_input_grad[4])
        grad_BCT, grad_weight = _gradients(grad_BOT, y_BTC.transpose(1, 2), weight_OCK, 1, needed)
        if grad_BCT is None:
            return None, None, None, None, grad_weight
        passed_BTC = torch.ops.aten.threshold_backward(grad_BCT.transpose(1, 2), y_BTC, 0)
        del y_BTC, grad_BCT
        grad_x, grad_scale, grad_shift = torch.ops.aten.native_layer_norm_backward(
            passed_BTC, x_BTC, scale_C.shape, mean, rstd, scale_C, shift_C, list(ctx.needs_input_grad[:3])
        )
        return None if grad_x is None else grad_x.transpose(1, 2), grad_scale, grad_shift, None, grad_weight


class _NormRelu(torch.autograd.Function):
    """`_norm_relu` with one pass over the data less in each direction, and one stored copy less."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_BTC: Tensor, weight_C: Tensor, bias_C: Tensor, zeros: Sequence[Span]
    ) -> Tensor:
        y_BTC, mean, rstd = _norm_relu(x_BTC, weight_C, bias_C, zeros)
        ctx.save_for_backward(x_BTC, y_BTC, mean, rstd, weight_C, bias_C)
        return y_BTC

    @staticmethod
    def backward(ctx: Any, grad_BTC: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_BTC, y_BTC, mean, rstd, weight_C, bias_C = ctx.saved_tensors
        passed_BTC = torch.ops.aten.threshold_backward(grad_BTC, y_BTC, 0)
        grads = torch.ops.aten.native_layer_norm_backward(
            passed_BTC, x_BTC, weight_C.shape, mean, rstd, weight_C, bias_C, list(ctx.needs_input_grad[:3])
        )
        return (*grads, None)
