"""torchvision's MViTv2-S with its Kinetics-400 weights: 768-dimensional features of 16-frame clips.

"MViTv2: Improved Multiscale Vision Transformers for Classification and Detection" (CVPR 2022).
"""

from tad.backbones._torchvision import VideoClassifier
from tad.backbones.mvit_v2_s_settings import Settings


class Backbone(VideoClassifier):
    """MViTv2-S: clips (B, 16, H, W, 3) uint8 RGB of any size → (B, 768) float32."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("mvit_v2_s", settings, head="head", dim=768, length=16)
