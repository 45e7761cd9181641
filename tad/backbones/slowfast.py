"""SlowFast 8x8 (R50, R101): 32-frame clips → 2304 numbers, 2048 of the slow pathway and 256 of the fast one.

"SlowFast Networks for Video Recognition" (ICCV 2019), built by PyTorchVideo's own factory; its checkpoints fit as they
are. Shapes: B clips, T frames, H rows, W columns, C channels, N frames.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tad.backbones._encoder import ClipEncoder
from tad.errors import TadError
from tad.vision import pytorchvideo_models

POOLS = ("sliding7_mean", "global")
FRAMES = 32  # its pooling is made for them
ALPHA = 4  # fast frames per slow frame
DEPTHS = {50: 7, 101: 5}  # lateral temporal kernel of the published networks


class Backbone(ClipEncoder):
    """Clips (B, 32, H, W, 3) uint8 RGB → (B, 2304) float32."""

    def __init__(
        self, *, depth: int, short: int, crop: int, pool: str, classes: int, mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(
            "slowfast", resize=[short], crop=crop, mean=mean, std=std, resampling="float", length=FRAMES
        )
        if depth not in DEPTHS:
            raise TadError(f"slowfast.depth: {depth}: one of {', '.join(map(str, DEPTHS))}")
        if pool not in POOLS:
            raise TadError(f"slowfast.pool: {pool!r}: one of {', '.join(POOLS)}")
        self.dim, self.pool = 2304, pool
        kernel = (DEPTHS[depth], 1, 1)
        net = pytorchvideo_models("slowfast").create_slowfast(
            model_depth=depth, model_num_class=classes, slowfast_fusion_conv_kernel_size=kernel
        )
        self.blocks: nn.ModuleList = net.blocks

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published names are used as they are."""
        return dict(state)

    def pathways(self, x_BCTHW: Tensor) -> list[Tensor]:
        """Slow and fast input: every frame, and frames 0, 4, 8, 13, 17, ... (truncated even spacing, as published)."""
        t = x_BCTHW.shape[2]
        slow = torch.linspace(0, t - 1, t // ALPHA).long().to(x_BCTHW.device)
        return [x_BCTHW.index_select(2, slow), x_BCTHW]

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """(B, 2304) of a normalised input of 32 frames."""
        paths = self.pathways(x_BCTHW)
        for block in self.blocks[:5]:
            paths = block(paths)
        if self.pool == "global":
            return torch.cat([path.mean(dim=(2, 3, 4)) for path in paths], dim=1)
        # a pool of 7 x 7 slides over the 8 x 8 cells of 256 pixels; the classifier averages its positions, so do we
        pooled: Tensor = self.blocks[5](paths)
        return pooled.mean(dim=(2, 3, 4))

    def classify(self, feats_BC: Tensor) -> Tensor:
        """(B, K) class scores of features pooled by `sliding7_mean`, before the softmax."""
        projection = self.blocks[6].get_submodule("proj")
        scores: Tensor = projection(feats_BC)
        return scores
