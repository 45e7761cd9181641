"""Spotting of moments on frames, end to end: RegNet-Y with gate-shift modules, then T-DEED's temporal network.

Xarles et al.: T-DEED, CVPR Workshops 2024; Hong et al.: E2E-Spot, ECCV 2022. Frames take the place of features: a row
has height · width · 3 values from 0 to 255.
"""

# B videos, T frames, C channels, H rows, W columns

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from tad.core.errors import TadError
from tad.detectors._moments.detector import MomentDetector
from tad.detectors._moments.regnet import RegNetY
from tad.detectors.spot_moments_frames_settings import Settings
from tad.layers.masked import Pointwise
from tad.layers.types import MAIN, Raw

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
CHANGE = 0.3  # brightness and contrast change by up to this share


class Detector(MomentDetector):
    """See spot_moments_frames_settings.py."""

    settings: Settings
    reads_frames = True

    def __init__(self, settings: Settings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        height, width = settings.frame_size
        if feature_dim != height * width * 3:
            raise TadError(
                f"features: {feature_dim} values a row: RGB frames of {height} x {width} have {height * width * 3}; set"
                " settings.height and width to the size of the feature set's frames"
            )
        super().__init__(settings, feature_dim=feature_dim, num_classes=num_classes, max_length=max_length)
        self.trunk = RegNetY(settings.encoder, shift=settings.shift)
        same = self.trunk.dim == settings.embed_dim
        self.project = None if same else Pointwise(self.trunk.dim, settings.embed_dim)
        self.flipped = False  # set while the second half of `mirrored` is computed

    def embed(self, feats_BTC: Tensor, lengths_B: Tensor, mixed: tuple[Tensor, Tensor] | None) -> Tensor:
        """Encode every frame of whole windows; frames of padding are grey."""
        x_BTHWC = feats_BTC.reshape(*feats_BTC.shape[:2], *self.settings.frame_size, 3) / 255
        if self.training:
            x_BTHWC = self._augmented(x_BTHWC)
        if self.flipped:
            x_BTHWC = x_BTHWC.flip(3)
        if mixed is not None:
            share_B = mixed[0][:, None, None, None, None]
            rows_B1 = torch.arange(len(x_BTHWC), device=x_BTHWC.device)[:, None]
            x_BTHWC = share_B * x_BTHWC + (1 - share_B) * x_BTHWC[rows_B1, mixed[1]]
        x_BTHWC = (x_BTHWC - x_BTHWC.new_tensor(MEAN)) / x_BTHWC.new_tensor(STD)
        time_T = torch.arange(x_BTHWC.shape[1], device=x_BTHWC.device)
        real_BT = time_T < lengths_B.to(x_BTHWC.device)[:, None]
        x_BTHWC = x_BTHWC * real_BT[:, :, None, None, None]
        x_BCT: Tensor = self.trunk(x_BTHWC.permute(0, 1, 4, 2, 3), real_BT).transpose(1, 2)
        if self.project is not None:
            x_BCT = self.project(x_BCT)
        return x_BCT

    def _augmented(self, x_BTHWC: Tensor) -> Tensor:
        """Flip windows, and change their brightness and contrast, at random."""
        chance_B4 = self.uniform(x_BTHWC, 4)
        rows = []
        for x_THWC, (flip, change, light, contrast) in zip(x_BTHWC, chance_B4.tolist(), strict=True):
            if flip < self.settings.flip:
                x_THWC = x_THWC.flip(2)
            if change < self.settings.jitter:
                mean = x_THWC.mean()
                x_THWC = (x_THWC - mean) * (1 + CHANGE * (2 * contrast - 1)) + mean * (1 + CHANGE * (2 * light - 1))
            rows.append(x_THWC.clamp(0, 1))
        return torch.stack(rows)

    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Class logits and displacements, with `mirrored` the means of those of the frames and of flipped frames."""
        (own,) = super().raw(feats_BTC, lengths_B)
        if not self.settings.mirrored:
            return [own]
        self.flipped = True
        try:
            (other,) = super().raw(feats_BTC, lengths_B)
        finally:
            self.flipped = False
        return [Raw(own.rows, lengths_B, [(a + b) / 2 for a, b in zip(own.outputs, other.outputs, strict=True)])]

    def dense(self, feats_BTC: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of one padded sequence for all positions; see `MomentDetector.dense`."""
        own = self.outputs(feats_BTC, lengths_B)
        if not self.settings.mirrored:
            return self.decoded(*own, lengths_B)
        self.flipped = True
        try:
            other = self.outputs(feats_BTC, lengths_B)
        finally:
            self.flipped = False
        return self.decoded((own[0] + other[0]) / 2, (own[1] + other[1]) / 2, lengths_B)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; the encoder's batch norms stay in evaluation mode."""
        super().train(mode)
        self.trunk.train(mode)
        return self

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """Return two groups: the temporal network, and the encoder with a `rate` of its own."""
        trunk = {id(parameter) for parameter in self.trunk.parameters()}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in trunk]
        return [
            {"params": rest, "weight_decay": weight_decay},
            {"params": list(self.trunk.parameters()), "weight_decay": weight_decay, "rate": self.settings.encoder_rate},
        ]

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights of the encoder under timm's names."""
        self.trunk.load(weights)
