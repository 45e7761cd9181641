"""R(2+1)D-18 of torchvision with its Kinetics-400 weights: clips → 512 numbers.

"A Closer Look at Spatiotemporal Convolutions for Action Recognition" (CVPR 2018).
"""

from collections.abc import Sequence

from torch import Tensor

from tad.backbones._sharing import run_features
from tad.backbones._torchvision import VideoClassifier


class Backbone(VideoClassifier):
    """Clips (B, T, H, W, 3) uint8 RGB of any size → (B, 512) float32; any T."""

    def __init__(self, *, resize: Sequence[int], crop: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__("r2plus1d_18", head="fc", dim=512, resize=resize, crop=crop, mean=mean, std=std)

    def overlapping(self, frames_NHWC: Tensor, *, length: int, stride: int) -> Tensor:
        """(G, 512) of the clips that begin every `stride` of these consecutive frames, each as it would be alone."""
        return run_features(
            self.prepare(frames_NHWC[None]), length=length, stride=stride, stem=self.net.get_submodule("stem"),
            stage=self.net.get_submodule("layer1"), rest=self._rest,  # type: ignore[arg-type]
        )  # fmt: skip

    def _rest(self, x_BCTHW: Tensor) -> Tensor:
        for name in ("layer2", "layer3", "layer4", "avgpool"):
            x_BCTHW = self.net.get_submodule(name)(x_BCTHW)
        return x_BCTHW.flatten(1)
