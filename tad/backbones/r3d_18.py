"""R3D-18 (plain 3-D ResNet) of torchvision with its Kinetics-400 weights: clips → 512 numbers.

"A Closer Look at Spatiotemporal Convolutions for Action Recognition" (CVPR 2018).
"""

from collections.abc import Sequence

from tad.backbones._torchvision import VideoClassifier


class Backbone(VideoClassifier):
    """Clips (B, T, H, W, 3) uint8 RGB of any size → (B, 512) float32; any T."""

    def __init__(self, *, resize: Sequence[int], crop: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__("r3d_18", head="fc", dim=512, resize=resize, crop=crop, mean=mean, std=std)
