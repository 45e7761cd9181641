"""Generative attention: an attention over channels and time, supervised by a conditional VAE of the features.

GAF (Generative Model-Based Feature Attention Module, after DGAM: Shi et al., CVPR 2020). The attention is trained with
the detector, the VAE in a separate pass.
"""

# B videos, T positions, C channels; features are (B, C, T), or (B, C, T, H, W) with H = W cells

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.chance import PerVideo
from tad.layers.group_norms import group_norm_relu
from tad.layers.masked import Mask, zero_outside

GROUPS = 32
TINY = 1e-8


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


class GenerativeAttention(nn.Module):
    """Compute an attention in [0, 1] per channel and position from features, (B, C, T), 0 outside the mask.

    Args:
        channels: C.
        length: T, mixed by a linear layer; 0: any length, mixed by a depth-wise convolution.
        cells: H and W, together with `length`: the published form, which stretches time to C before mixing; 0: none.
        hidden: hidden width.
        masked: norm statistics are over the real positions.
    """

    def __init__(self, channels: int, *, length: int, cells: int = 0, hidden: int = 512, masked: bool = False) -> None:
        super().__init__()
        self.channels, self.length, self.cells, self.masked = channels, length, cells, masked
        kernel = (1, cells, cells)
        self.reduce = nn.Conv3d(channels, hidden, kernel) if cells else nn.Conv1d(channels, hidden, 1)
        self.widen = nn.Conv1d(hidden, channels, 3, padding=1)
        self.reduce_norm, self.widen_norm = _norm(hidden), _norm(channels)
        self.mix: nn.Module
        if length:
            self.mix = nn.Linear(channels if cells else length, length)
        else:
            self.mix = nn.Conv1d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, mask_B1T: Mask) -> Tensor:
        """(B, C, T)."""
        reduced_BCT = self.reduce(x).flatten(2) if self.cells else self.reduce(x)
        reduced_BCT = self._unit(reduced_BCT, mask_B1T, self.reduce_norm)
        inner = mask_B1T
        if self.cells:
            steps = self.channels // x.shape[2]
            reduced_BCT = reduced_BCT.repeat_interleave(steps, dim=2)
            inner = None if mask_B1T is None else mask_B1T.repeat_interleave(steps, dim=2)
        reduced_BCT = self._unit(self.widen(reduced_BCT), inner, self.widen_norm)
        attention_BCT: Tensor = torch.sigmoid(self.mix(reduced_BCT))
        return zero_outside(attention_BCT, mask_B1T)

    def _unit(self, x_BCT: Tensor, mask_B1T: Mask, norm: nn.GroupNorm) -> Tensor:
        return group_norm_relu(x_BCT, mask_B1T, norm, masked=self.masked)


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class FeatureCVAE(PerVideo):
    """Conditional VAE of each position's features given its attention; the prior of the latent is N(attention, 1)."""

    def __init__(self, channels: int, *, cells: int = 0) -> None:
        super().__init__()
        self.channels, self.cells = channels, cells
        if cells:
            kernel = (1, cells, cells)
            self.squeeze, self.squeeze_norm = nn.Conv3d(channels, channels, kernel), _norm(channels)
            self.spread, self.spread_norm = nn.ConvTranspose3d(channels, channels, kernel), _norm(channels)
        self.encoder = _mlp(2 * channels, channels, channels, 2 * channels)
        self.decoder = _mlp(2 * channels, channels, channels, channels)

    def encode(self, x: Tensor, attention_BCT: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latent, (B, C, T) each."""
        if self.cells:
            x = F.relu(self.squeeze_norm(self.squeeze(x))).flatten(2)
        both_BTC = self.encoder(torch.cat([x, attention_BCT], dim=1).transpose(1, 2))
        mean_BCT, log_BCT = both_BTC.transpose(1, 2).chunk(2, dim=1)
        return mean_BCT, log_BCT

    def decode(self, latent_BCT: Tensor, attention_BCT: Tensor) -> Tensor:
        """Decode features from a latent and the attention."""
        x_BCT: Tensor = self.decoder(torch.cat([latent_BCT, attention_BCT], dim=1).transpose(1, 2)).transpose(1, 2)
        if self.cells:
            return F.relu(self.spread_norm(self.spread(x_BCT[..., None, None])))
        return x_BCT

    def generate(self, attention_BCT: Tensor) -> Tensor:
        """Decode features from a latent that is drawn from the prior."""
        return self.decode(attention_BCT + self.normal(attention_BCT, *attention_BCT.shape[1:]), attention_BCT)

    def explain(self, x: Tensor, attention_BCT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode and decode features: the reconstruction, and the latent's mean and log-variance."""
        mean_BCT, log_BCT = self.encode(x, attention_BCT)
        noise_BCT = self.normal(attention_BCT, *attention_BCT.shape[1:])
        return self.decode(mean_BCT + noise_BCT * torch.exp(0.5 * log_BCT), attention_BCT), mean_BCT, log_BCT


def video_means(values: Tensor, mask_B1T: Mask) -> Tensor:
    """Return each video's mean over channels, real positions and cells, (B,)."""
    values_BCT = values.flatten(3).mean(dim=3) if values.ndim > 3 else values
    if mask_B1T is None:
        return values_BCT.mean(dim=(1, 2))
    # counted as floats: OpenVINO 2026.4.1 computes a wrong sum of integers for several videos
    count_B = mask_B1T.float().sum(dim=(1, 2)) * values.shape[1]
    return zero_outside(values_BCT, mask_B1T).sum(dim=(1, 2)) / count_B.to(values.dtype)


@dataclass(frozen=True, slots=True)
class Gated:
    """Features weighted by an attention (foreground) and by its complement (background)."""

    attention_BCT: Tensor
    foreground: Tensor
    background: Tensor


class Gate(nn.Module):
    """Attention and VAE of one feature map.

    Args:
        attention, vae: of the map.
        normalised: divide the weights by their mean over a video. The published code divides by their sum over the
            whole batch, which makes features so small that the ε of the next norm dominates.
        kl_weight: weight of the divergence from the prior.
    """

    def __init__(self, attention: GenerativeAttention, vae: FeatureCVAE, *, normalised: bool, kl_weight: float) -> None:
        super().__init__()
        self.attention, self.vae = attention, vae
        self.normalised, self.kl_weight = normalised, kl_weight

    def attend(self, x: Tensor, mask_B1T: Mask) -> Gated:
        """Weight features by the attention and by its complement."""
        attention_BCT = self.attention(x, mask_B1T)
        weights = []
        for weight_BCT in (attention_BCT, zero_outside(1 - attention_BCT, mask_B1T)):
            scale = video_means(weight_BCT, mask_B1T)[:, None, None] if self.normalised else weight_BCT.sum()
            weights.append(weight_BCT / scale.clamp(min=TINY))
        space = (1,) * (x.ndim - 3)
        foreground, background = (x * weight.reshape(*weight.shape, *space) for weight in weights)
        return Gated(attention_BCT, foreground, background)

    def vae_loss(self, x: Tensor, mask_B1T: Mask) -> Tensor:
        """Return the VAE's loss, (B,): squared error plus divergence, without a gradient to the attention."""
        return self.explained(x, mask_B1T)[0]

    def explained(self, x: Tensor, mask_B1T: Mask) -> tuple[Tensor, Tensor, Tensor]:
        """Return `vae_loss`, the attention, and the reconstruction."""
        with torch.no_grad():
            attention_BCT = self.attention(x, mask_B1T)
        again, mean_BCT, log_BCT = self.vae.explain(x, attention_BCT)
        divergence_BCT = -0.5 * (1 + log_BCT - (mean_BCT - attention_BCT).square() - log_BCT.exp())
        error_B = video_means((x - again).square(), mask_B1T)
        return error_B + self.kl_weight * video_means(divergence_BCT, mask_B1T), attention_BCT, again

    def reconstruction_loss(self, attention_BCT: Tensor, target: Tensor, mask_B1T: Mask) -> Tensor:
        """Return the squared error (B,) of features generated from the attention alone; it trains the attention."""
        return video_means((self.vae.generate(attention_BCT) - target).square(), mask_B1T)
