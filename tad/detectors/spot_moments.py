"""Spotting of moments on features: per position a class or background, and the distance to the moment.

The temporal network is that of T-DEED (Xarles et al., CVPR Workshops 2024), on features in place of frames.
"""

# B videos, T positions, C channels

import torch
from torch import Tensor

from tad.detectors._moments.detector import MomentDetector
from tad.detectors.spot_moments_settings import Settings
from tad.layers.masked import ChannelNorm, MaskedConv1d, padding_of, zero_outside


class Detector(MomentDetector):
    """See spot_moments_settings.py."""

    def __init__(self, settings: Settings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        super().__init__(settings, feature_dim=feature_dim, num_classes=num_classes, max_length=max_length)
        self.project = MaskedConv1d(feature_dim, settings.embed_dim, kernel=settings.input_kernel)
        self.norm = ChannelNorm(settings.embed_dim)

    def embed(self, feats_BTC: Tensor, lengths_B: Tensor, mixed: tuple[Tensor, Tensor] | None) -> Tensor:
        """Project the features to the width of the network."""
        if mixed is not None:
            share_B11 = mixed[0][:, None, None]
            other_BTC = feats_BTC.gather(1, mixed[1][:, :, None].expand_as(feats_BTC))
            feats_BTC = share_B11 * feats_BTC + (1 - share_B11) * other_BTC
        time_T = torch.arange(feats_BTC.shape[1], device=feats_BTC.device)
        mask_B1T = padding_of((time_T < lengths_B.to(feats_BTC.device)[:, None])[:, None])
        x_BCT = zero_outside(feats_BTC.transpose(1, 2), mask_B1T)
        return self.norm(self.project(x_BCT, mask_B1T), relu=True)  # type: ignore[no-any-return]
