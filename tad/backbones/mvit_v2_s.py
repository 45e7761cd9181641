"""MViTv2-S of torchvision with its Kinetics-400 weights: clips → 768 numbers.

"MViTv2: Improved Multiscale Vision Transformers for Classification and Detection" (CVPR 2022).
"""

from collections.abc import Sequence

from tad.backbones._torchvision import VideoClassifier


class Backbone(VideoClassifier):
    """Clips (B, 16, H, W, 3) uint8 RGB of any size → (B, 768) float32."""

    def __init__(self, *, resize: Sequence[int], crop: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__("mvit_v2_s", head="head", dim=768, resize=resize, crop=crop, mean=mean, std=std, length=16)
