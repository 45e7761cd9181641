"""Linear layers after a norm or a GELU that recompute their input in the backward pass.

The gradient of a linear layer's weights needs its input. After a norm or a GELU this input is a second copy of
activations that are stored anyway: a third of a transformer's training memory. Recomputing it costs a few milliseconds
and gives the same numbers. On other devices than a CPU, and in compiled graphs, the plain layers are used.
"""

# B videos, T snippets, C channels in, O channels out

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.layers.kernels import eager_cpu

EPSILON = 1e-5


def norm_linear(x_BTC: Tensor, scale_C: Tensor, shift_C: Tensor, weight_OC: Tensor, bias_O: Tensor) -> Tensor:
    """Apply layer norm over the channels (ε 1e-5), then a linear layer: (B, T, O)."""
    if eager_cpu(x_BTC) and torch.is_grad_enabled():
        y_BTO: Tensor = _NormLinear.apply(x_BTC, scale_C, shift_C, weight_OC, bias_O)  # type: ignore[no-untyped-call]
        return y_BTO
    return F.linear(F.layer_norm(x_BTC, scale_C.shape, scale_C, shift_C, EPSILON), weight_OC, bias_O)


def gelu_linear(x_BTC: Tensor, weight_OC: Tensor, bias_O: Tensor) -> Tensor:
    """Apply GELU, then a linear layer: (B, T, O)."""
    if eager_cpu(x_BTC) and torch.is_grad_enabled():
        y_BTO: Tensor = _GeluLinear.apply(x_BTC, weight_OC, bias_O)  # type: ignore[no-untyped-call]
        return y_BTO
    return F.linear(F.gelu(x_BTC), weight_OC, bias_O)


def _linear_gradients(grad_BTO: Tensor, x_BTC: Tensor, weight_OC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the layer's input, (B, T, C), weight and bias, the last two in the weight's dtype."""
    grad_NO, x_NC = grad_BTO.flatten(0, 1), x_BTC.flatten(0, 1).to(grad_BTO.dtype)
    grad_BTC = grad_BTO @ weight_OC.to(grad_BTO.dtype)
    return grad_BTC, (grad_NO.t() @ x_NC).to(weight_OC.dtype), grad_NO.sum(0).to(weight_OC.dtype)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_BTC: Tensor, scale_C: Tensor, shift_C: Tensor, weight_OC: Tensor, bias_O: Tensor
    ) -> Tensor:
        y_BTC, mean, rstd = torch.native_layer_norm(x_BTC, scale_C.shape, scale_C, shift_C, EPSILON)
        ctx.save_for_backward(x_BTC, mean, rstd, scale_C, shift_C, weight_OC)
        return F.linear(y_BTC, weight_OC, bias_O)

    @staticmethod
    def backward(ctx: Any, grad_BTO: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_BTC, mean, rstd, scale_C, shift_C, weight_OC = ctx.saved_tensors
        y_BTC = torch.native_layer_norm(x_BTC, scale_C.shape, scale_C, shift_C, EPSILON)[0]
        grad_BTC, grad_weight, grad_bias = _linear_gradients(grad_BTO, y_BTC, weight_OC)
        del y_BTC
        of_norm = torch.ops.aten.native_layer_norm_backward(
            grad_BTC.to(x_BTC.dtype), x_BTC, scale_C.shape, mean, rstd, scale_C, shift_C, list(ctx.needs_input_grad[:3])
        )
        return (*of_norm, grad_weight, grad_bias)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, weight_OC: Tensor, bias_O: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x_BTC, weight_OC)
        return F.linear(F.gelu(x_BTC), weight_OC, bias_O)

    @staticmethod
    def backward(ctx: Any, grad_BTO: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_BTC, weight_OC = ctx.saved_tensors
        grad_BTC, grad_weight, grad_bias = _linear_gradients(grad_BTO, F.gelu(x_BTC), weight_OC)
        return torch.ops.aten.gelu_backward(grad_BTC.to(x_BTC.dtype), x_BTC), grad_weight, grad_bias
