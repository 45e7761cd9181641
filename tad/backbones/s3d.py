"""S3D of torchvision with its Kinetics-400 weights: clips → 1024 numbers.

"Rethinking Spatiotemporal Feature Learning: Speed-Accuracy Trade-offs in Video Classification" (ECCV 2018).
"""

from collections.abc import Sequence

from torch import nn

from tad.backbones._torchvision import VideoClassifier

PIXELS, CELLS = 32, 7  # of the input per cell of the last map; cells on a side that the published pooling averages


class Backbone(VideoClassifier):
    """Clips (B, T, H, W, 3) uint8 RGB of any size → (B, 1024) float32; T of at least 14, as published 128."""

    def __init__(self, *, resize: Sequence[int], crop: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__("s3d", head="classifier", dim=1024, resize=resize, crop=crop, mean=mean, std=std)
        cells = min(CELLS, -(-crop // PIXELS))  # a crop below 224 has fewer: all of them
        self.net.avgpool = nn.AvgPool3d((2, cells, cells), stride=1)
