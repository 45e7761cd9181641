"""torchvision's R3D-18 (plain 3-D ResNet) with its Kinetics-400 weights: 512-dimensional features.

"A Closer Look at Spatiotemporal Convolutions for Action Recognition" (CVPR 2018).
"""

from tad.backbones._torchvision import VideoClassifier
from tad.backbones.r3d_18_settings import Settings


class Backbone(VideoClassifier):
    """R3D-18: clips (B, T, H, W, 3) uint8 RGB of any size → (B, 512) float32; any T."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("r3d_18", settings, head="fc", dim=512)
