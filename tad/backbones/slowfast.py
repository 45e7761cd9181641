"""SlowFast 8x8 (R50, R101): 32-frame clips → 2304 numbers, 2048 of the slow pathway and 256 of the fast one.

"SlowFast Networks for Video Recognition" (ICCV 2019), built by PyTorchVideo's own factory; its checkpoints fit as they
are, those of PySlowFast (EPIC-Kitchens') after renaming. Shapes: B clips, T frames, H rows, W columns, C channels.
"""

import re
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
# PySlowFast's names within its stage s<k> → PyTorchVideo's within blocks.<k - 1>, in this order
RENAMED = (
    (r"^_fuse\.conv_f2s\.", "multipathway_fusion.conv_fast_to_slow."),
    (r"^_fuse\.bn\.", "multipathway_fusion.norm."),
    (r"^\.pathway(\d)_stem\.conv\.", r"multipathway_blocks.\1.conv."),
    (r"^\.pathway(\d)_stem\.bn\.", r"multipathway_blocks.\1.norm."),
    (r"^\.pathway(\d)_res(\d+)\.", r"multipathway_blocks.\1.res_blocks.\2."),
    (r"\.branch1\.", ".branch1_conv."),
    (r"\.branch1_bn\.", ".branch1_norm."),
    (r"\.branch2\.([abc])\.", r".branch2.conv_\1."),
    (r"\.branch2\.([abc])_bn\.", r".branch2.norm_\1."),
)


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict in PySlowFast's names → PyTorchVideo's, which stay as they are."""
    renamed = {}
    for key, tensor in state.items():
        name, stage = key, re.match(r"s(\d)(?=[._])", key)
        if stage:
            name = key[stage.end() :]
            for pattern, ours in RENAMED:
                name = re.sub(pattern, ours, name)
            name = f"blocks.{int(stage[1]) - 1}.{name}"
        renamed[name.replace("head.projection.", "blocks.6.proj.")] = tensor
    return renamed


class Backbone(ClipEncoder):
    """Clips (B, 32, H, W, 3) uint8 RGB → (B, 2304) float32. With `classes` 0 the file's classifiers are dropped."""

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
        head = {"model_num_class": classes} if classes else {"head": None}
        net = pytorchvideo_models("slowfast").create_slowfast(
            model_depth=depth, slowfast_fusion_conv_kernel_size=kernel, **head
        )
        self.blocks: nn.ModuleList = net.blocks

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """PyTorchVideo's names for a file in either dialect, with the classifier that `classes` asks for."""
        names = published_names(state)
        heads = () if len(self.blocks) == 7 else ("blocks.6.", "head.")
        return {name: tensor for name, tensor in names.items() if not name.startswith(heads)}

    def pathways(self, x_BCTHW: Tensor) -> list[Tensor]:
        """Slow and fast input: every frame, and frames 0, 4, 8, 13, 17, ... (truncated even spacing, as published)."""
        t = int(x_BCTHW.shape[2])
        count = t // ALPHA
        # in integers: rounding must not decide a frame, and other engines round otherwise
        slow = torch.tensor([k * (t - 1) // max(count - 1, 1) for k in range(count)], device=x_BCTHW.device)
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
