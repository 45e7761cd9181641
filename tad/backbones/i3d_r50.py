"""PyTorchVideo's I3D 8x8 on ResNet-50 with its Kinetics-400 weights: 2048-dimensional features of 8-frame clips.

"Quo Vadis, Action Recognition?" (CVPR 2017) on the trunk of "SlowFast Networks for Video Recognition" (ICCV 2019). The
two-stream Inception I3D of the THUMOS14 results is `i3d`.
Shapes: B clips, T frames, H rows, W columns, C channels, K classes.
"""

from torch import Tensor, nn

from tad.backbones._encoder import ClipEncoder
from tad.backbones.i3d_r50_settings import Settings
from tad.core.optional import pytorchvideo_models


class Backbone(ClipEncoder):
    """I3D on ResNet-50: clips (B, 8, H, W, 3) uint8 RGB → (B, 2048) float32."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("i3d_r50", settings, resampling="float", length=8)
        self.dim, self.pool = 2048, settings.pool
        net = pytorchvideo_models("hub.resnet").i3d_r50(pretrained=False, model_num_class=settings.classes)
        self.blocks: nn.ModuleList = net.blocks

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """Return the features (B, 2048) of a normalised input of 8 frames."""
        for block in self.blocks[:-1]:
            x_BCTHW = block(x_BCTHW)
        if self.pool == "sliding7_mean":  # 7 x 7 windows over the 8 x 8 cells of 256 pixels, as for the classifier
            x_BCTHW = self.blocks[-1].get_submodule("pool")(x_BCTHW)
        return x_BCTHW.mean(dim=(2, 3, 4))

    def classify(self, feats_BC: Tensor) -> Tensor:
        """Return the class logits (B, K) of features pooled by `sliding7_mean`."""
        scores: Tensor = self.blocks[-1].get_submodule("proj")(feats_BC)
        return scores
