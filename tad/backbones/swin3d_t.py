"""Video Swin-T of torchvision with its Kinetics-400 weights: clips → 768 numbers.

"Video Swin Transformer" (CVPR 2022).
"""

from collections.abc import Sequence

from tad.backbones._torchvision import VideoClassifier


class Backbone(VideoClassifier):
    """Clips (B, T, H, W, 3) uint8 RGB of any size → (B, 768) float32; any T."""

    def __init__(self, *, resize: Sequence[int], crop: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__("swin3d_t", head="head", dim=768, resize=resize, crop=crop, mean=mean, std=std)
