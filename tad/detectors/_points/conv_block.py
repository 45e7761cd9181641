"""Temporal convolutions in place of attention: a residual block and depth-wise separable convolutions."""

# B videos, T snippets, C channels

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.kernels import convolve
from tad.layers.masked import Mask, MaskedConv1d, Pointwise, halve, zero_outside


class _Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, bias: bool) -> None:
        super().__init__()
        pad = kernel // 2
        self.depth_conv = nn.Conv1d(inputs, inputs, kernel, stride=stride, padding=pad, groups=inputs, bias=bias)
        self.point_conv = Pointwise(inputs, outputs)
        for bias_ in (self.depth_conv.bias, self.point_conv.bias):
            if bias_ is not None:
                nn.init.zeros_(bias_)


class SeparableConv1d(nn.Module):
    """Depth-wise separable `MaskedConv1d`; the point-wise convolution always has a bias."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        assert kernel % 2 == 1, kernel
        self.stride = stride
        self.conv = _Separable(inputs, outputs, kernel=kernel, stride=stride, bias=bias)

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """(B, inputs, T) → (B, outputs, T / stride), zero outside the mask."""
        depth = self.conv.depth_conv
        x_BCT = convolve(x_BCT, depth.weight, depth.bias, stride=self.stride, groups=depth.groups)
        return zero_outside(self.conv.point_conv(x_BCT), mask_B1T if self.stride == 1 else halve(mask_B1T))


class ConvBlock(nn.Module):
    """Residual block of two convolutions of kernel 3, with twice as many channels between them.

    The shortcut is the identity, or a strided convolution if the block halves the sequence.

    Args:
        channels: input and output channels.
        conv: class of the convolutions: `MaskedConv1d` or `SeparableConv1d`.
        halves: whether the output has half the length.
    """

    def __init__(self, channels: int, *, conv: Callable[..., nn.Module], halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.conv1 = conv(channels, 2 * channels, kernel=3, stride=2 if halves else 1)
        self.conv2 = conv(2 * channels, channels, kernel=3)
        self.downsample = conv(channels, channels, kernel=1, stride=2) if halves else None

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> tuple[Tensor, Mask]:
        """(B, C, T) and its mask → the same, of half the length if the block halves."""
        shortcut_BCT = x_BCT if self.downsample is None else self.downsample(x_BCT, mask_B1T)
        x_BCT = F.relu(self.conv1(x_BCT, mask_B1T))
        mask_B1T = halve(mask_B1T) if self.halves else mask_B1T
        return F.relu(self.conv2(x_BCT, mask_B1T) + shortcut_BCT), mask_B1T


CONVOLUTIONS: dict[str, Callable[..., nn.Module]] = {"conv": MaskedConv1d, "conv_dw": SeparableConv1d}
