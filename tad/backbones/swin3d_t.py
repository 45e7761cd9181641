"""torchvision's Video Swin-T with its Kinetics-400 weights: 768-dimensional features.

"Video Swin Transformer" (CVPR 2022).
"""

from tad.backbones._torchvision import VideoClassifier
from tad.backbones.swin3d_t_settings import Settings


class Backbone(VideoClassifier):
    """Video Swin-T: clips (B, T, H, W, 3) uint8 RGB of any size → (B, 768) float32; any T."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("swin3d_t", settings, head="head", dim=768)
