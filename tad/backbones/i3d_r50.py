"""I3D on ResNet-50, 8x8, of PyTorchVideo with its Kinetics-400 weights: 8-frame clips → 2048 numbers.

"Quo Vadis, Action Recognition?" (CVPR 2017) on the trunk of "SlowFast Networks for Video Recognition" (ICCV 2019). It
is not the two-stream Inception I3D of the THUMOS14 results: that is `i3d`.
Shapes: B clips, T frames, H rows, W columns, C channels, K classes.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tad.backbones._encoder import ClipEncoder
from tad.errors import TadError
from tad.vision import pytorchvideo_models

POOLS = ("sliding7_mean", "global")


class Backbone(ClipEncoder):
    """Clips (B, 8, H, W, 3) uint8 RGB → (B, 2048) float32."""

    def __init__(
        self, *, short: int, crop: int, pool: str, classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__("i3d_r50", resize=[short], crop=crop, mean=mean, std=std, resampling="float", length=8)
        if pool not in POOLS:
            raise TadError(f"i3d_r50.pool: {pool!r}: one of {', '.join(POOLS)}")
        self.dim, self.pool = 2048, pool
        net = pytorchvideo_models("hub.resnet").i3d_r50(pretrained=False, model_num_class=classes)
        self.blocks: nn.ModuleList = net.blocks

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published names are used as they are."""
        return dict(state)

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """(B, 2048) of a normalised input of 8 frames."""
        for block in self.blocks[:-1]:
            x_BCTHW = block(x_BCTHW)
        if self.pool == "sliding7_mean":  # 7 x 7 slides over the 8 x 8 cells of 256 pixels, as the classifier sees them
            x_BCTHW = self.blocks[-1].get_submodule("pool")(x_BCTHW)
        return x_BCTHW.mean(dim=(2, 3, 4))

    def classify(self, feats_BC: Tensor) -> Tensor:
        """(B, K) class scores of features pooled by `sliding7_mean`, before the softmax."""
        scores: Tensor = self.blocks[-1].get_submodule("proj")(feats_BC)
        return scores
