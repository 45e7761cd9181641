"""torchvision's S3D with its Kinetics-400 weights: 1024-dimensional features.

"Rethinking Spatiotemporal Feature Learning: Speed-Accuracy Trade-offs in Video Classification" (ECCV 2018).
"""

from torch import nn

from tad.backbones._torchvision import VideoClassifier
from tad.backbones.s3d_settings import Settings

PIXELS, CELLS = 32, 7  # input pixels per cell of the last feature map; side of the published pooling window in cells


class Backbone(VideoClassifier):
    """S3D: clips (B, T, H, W, 3) uint8 RGB of any size → (B, 1024) float32; T ≥ 14, published results use 128."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("s3d", settings, head="classifier", dim=1024)
        cells = min(CELLS, -(-settings.crop // PIXELS))  # a crop below 224 has fewer cells; pool over all
        self.net.avgpool = nn.AvgPool3d((2, cells, cells), stride=1)
