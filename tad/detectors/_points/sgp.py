"""TriDet's scalable-granularity perception (SGP) block: depth-wise convolutions in place of attention."""

# B videos, T snippets, C channels

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.layers.causal import convolve_past, past_max, past_pair_mean, window_group_norm, window_mean
from tad.layers.kernels import convolve
from tad.layers.masked import (
    ChannelNorm,
    Mask,
    Plain,
    Pointwise,
    ScaledDropPath,
    group_norm,
    halve,
    max_pool,
    mean_pool,
    time_mean,
    zero_outside,
)

GROUPS = 16
LIVE_STD = 0.1  # initial standard deviation of the corrected block's kernels where the published ones start at zero


def odd_kernel(kernel: int, factor: float) -> int:
    """Return the width of the second window: round((kernel + 1) · factor), plus 1 if even."""
    width = round((kernel + 1) * factor)
    return width if width % 2 == 1 else width + 1


@dataclass(frozen=True)
class BlockSettings:
    """Settings that all SGP blocks of a network share.

    Attributes:
        channels: multiple of 16.
        mlp_dim: hidden width of the MLP.
        factor: sets the width of the second kernel of the window branch, see `odd_kernel`.
        init_std: initial standard deviation of the five branch kernels. With 0 the published block starts at a saddle
            point that it never leaves: both factors of both products are zero, and so are all gradients.
        droppath: probability of stochastic depth; used, with a scale per channel, only by halving blocks.
        pooling: how blocks halve: the maximum of three snippets, or the average of two and a convolution of kernel 1.
        living: if `init_std` is 0, initialise one factor of each product with random numbers, so that gradients flow.
        masked: padding does not influence the output.
        past_window: length of the window of the last positions whose mean replaces the mean over the sequence; all
            kernels then cover the last positions. 0: the output at a position depends on the whole sequence.
    """

    channels: int
    mlp_dim: int
    factor: float
    init_std: float
    droppath: float = 0.0
    pooling: str = "max"
    living: bool = False
    masked: bool = True
    past_window: int = 0


class GranularBlock(nn.Module):
    """Pooling (when halving), an instant and a window branch of depth-wise convolutions, a group-normed MLP.

    Args:
        settings: what all blocks of a network share.
        kernel: width of the window branch.
        halves: whether the block halves the sequence.
    """

    def __init__(self, settings: BlockSettings, *, kernel: int, halves: bool) -> None:
        super().__init__()
        channels, mlp_dim, init_std = settings.channels, settings.mlp_dim, settings.init_std
        if channels % GROUPS:
            raise TadError(f"settings.embed_dim: {channels}: must be a multiple of {GROUPS}, the groups of GroupNorm")
        self.halves, self.masked, self.past_window = halves, settings.masked, settings.past_window
        self.ln = ChannelNorm(channels)
        self.gn = nn.GroupNorm(GROUPS, channels)
        live = LIVE_STD if settings.living and init_std == 0 else init_std

        def depthwise(width: int, std: float) -> nn.Conv1d:
            conv = nn.Conv1d(channels, channels, width, padding=width // 2, groups=channels)
            nn.init.normal_(conv.weight, 0.0, std)
            return conv

        self.psi = depthwise(kernel, init_std)
        self.fc = depthwise(1, init_std)
        self.convw = depthwise(kernel, live)
        self.convkw = depthwise(odd_kernel(kernel, settings.factor), live)
        self.global_fc = depthwise(1, live)
        self.averages = halves and settings.pooling == "avg"
        if self.averages:
            self.downsample = nn.ModuleDict({"1": Pointwise(channels, channels)})  # published: the second of two layers
        self.mlp = nn.Sequential(Pointwise(channels, mlp_dim), nn.GELU(), Pointwise(mlp_dim, channels))
        self.drop_path_out, self.drop_path_mlp = (
            ScaledDropPath(channels, probability=settings.droppath) if halves else Plain() for _ in range(2)
        )

    def local(self, u_BCT: Tensor, mask_B1T: Mask, weight: Sequence[Tensor | float]) -> Tensor:
        """Compute weight₀ · F ⊙ g + weight₁ · (W + K) ⊙ P + weight₂ · u: instant branch, window branch, input.

        The result is linear in the parameters of `fc`, `psi` and the window's two kernels. Scaling and adding the
        parameters instead of the features takes three passes over the features instead of eight.
        """
        fc, psi, near, far = self.fc, self.psi, self.convw, self.convkw
        assert fc.bias is not None
        assert psi.bias is not None
        assert near.bias is not None
        assert far.bias is not None
        window, past = self.past_window, self.past_window > 0
        mean_BC1 = window_mean(u_BCT, window) if past else time_mean(u_BCT, mask_B1T, masked=self.masked)
        gate_BC1 = F.relu(self.global_fc(mean_BC1)) * weight[0]  # with a window, at every position
        shift_BC1, scale_BC1 = fc.bias[:, None] * gate_BC1, fc.weight[:, 0] * gate_BC1 + weight[2]
        mixed_BCT = torch.addcmul(shift_BC1.to(u_BCT.dtype), u_BCT, scale_BC1.to(u_BCT.dtype))
        side = (far.kernel_size[0] - near.kernel_size[0]) // 2
        both = far.weight + F.pad(near.weight, (2 * side, 0) if past else (side, side))
        over = convolve_past if past else convolve
        window_BCT = over(u_BCT, both, near.bias + far.bias, groups=far.groups)
        factor_BCT = over(u_BCT, psi.weight * weight[1], psi.bias * weight[1], groups=psi.groups)
        return torch.addcmul(mixed_BCT, window_BCT.to(u_BCT.dtype), factor_BCT.to(u_BCT.dtype))

    def halved(self, x_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """(B, C, T) → (B, C, T / 2)."""
        if not self.averages:
            return past_max(x_BCT) if self.past_window else max_pool(x_BCT, mask_B1T, masked=self.masked)
        pairs_BCT = past_pair_mean(x_BCT) if self.past_window else mean_pool(x_BCT, mask_B1T, masked=self.masked)
        x_BCT = self.downsample["1"](pairs_BCT)
        return zero_outside(x_BCT, halve(mask_B1T)) if self.masked else x_BCT

    def normed(self, x_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """Apply the channel norm; if `masked`, padding stays zero."""
        u_BCT: Tensor = self.ln(x_BCT)
        return zero_outside(u_BCT, mask_B1T) if self.masked else u_BCT

    def fuse(self, u_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """Compute the branches' sum, which is added to the residual, from normalised features."""
        return self.local(u_BCT, mask_B1T, (1.0, 1.0, 1.0))

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> tuple[Tensor, Mask]:
        """(B, C, T) and its mask → the same, of half the length if the block halves."""
        if self.halves:
            x_BCT = self.halved(x_BCT, mask_B1T)
            mask_B1T = halve(mask_B1T)
        fused_BCT = self.fuse(self.normed(x_BCT, mask_B1T), mask_B1T)
        x_BCT = self.drop_path_out.add(zero_outside(x_BCT, mask_B1T), fused_BCT)
        x_BCT = zero_outside(x_BCT, mask_B1T) if self.masked else x_BCT
        if self.past_window:
            normed_BCT = window_group_norm(x_BCT, self.gn, self.past_window)
        else:
            normed_BCT = group_norm(x_BCT, mask_B1T, self.gn, masked=self.masked)
        widen, _, narrow = self.mlp
        assert isinstance(narrow, Pointwise)
        x_BCT = self.drop_path_mlp.add(x_BCT, narrow.after_gelu(widen(normed_BCT)))
        return (zero_outside(x_BCT, mask_B1T) if self.masked else x_BCT), mask_B1T
