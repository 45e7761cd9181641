"""TriDet: a pyramid of depth-wise convolutions over snippet features; borders are predicted as distributions.

Shi, Zhong, Cao, Ma, Li, Tao: TriDet: Temporal Action Detection with Relative Boundary Modeling, CVPR 2023.
"""

from typing import Any

from tad.detectors._points.conv_block import ConvBlock
from tad.detectors._points.sgp import BlockSettings
from tad.detectors._points.trident import TridentDetector
from tad.detectors.tridet_settings import Settings
from tad.layers.masked import MaskedConv1d


def plain_block(settings: BlockSettings, *, halves: bool, **_: Any) -> ConvBlock:
    """Create a residual block for an encoder of plain convolutions; all but the width is ignored."""
    return ConvBlock(settings.channels, conv=MaskedConv1d, halves=halves)


class Detector(TridentDetector):
    """TriDet as published (`face` parity) or with its defects corrected. For the settings see tridet_settings.py."""

    def __init__(self, settings: Settings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        if settings.encoder == "conv":
            self.block = plain_block
        super().__init__(settings, feature_dim=feature_dim, num_classes=num_classes, max_length=max_length)
