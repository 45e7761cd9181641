"""torchvision's R(2+1)D-18 with its Kinetics-400 weights: 512-dimensional features.

"A Closer Look at Spatiotemporal Convolutions for Action Recognition" (CVPR 2018).
"""

from typing import ClassVar

from torch import Tensor

from tad.backbones._sharing import run_features
from tad.backbones._torchvision import VideoClassifier
from tad.backbones.r2plus1d_18_settings import Settings


class Backbone(VideoClassifier):
    """R(2+1)D-18: clips (B, T, H, W, 3) uint8 RGB of any size → (B, 512) float32; any T."""

    shares: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        super().__init__("r2plus1d_18", settings, head="fc", dim=512)

    def overlapping(self, frames_NHWC: Tensor, *, length: int, stride: int) -> Tensor:
        """Return features (G, 512) of clips that start every `stride` consecutive frames, equal to separate clips'."""
        return run_features(
            self.prepare(frames_NHWC[None]), length=length, stride=stride, stem=self.net.get_submodule("stem"),
            stage=self.net.get_submodule("layer1"), rest=self._rest,  # type: ignore[arg-type]
        )  # fmt: skip

    def _rest(self, x_BCTHW: Tensor) -> Tensor:
        for name in ("layer2", "layer3", "layer4", "avgpool"):
            x_BCTHW = self.net.get_submodule(name)(x_BCTHW)
        return x_BCTHW.flatten(1)
