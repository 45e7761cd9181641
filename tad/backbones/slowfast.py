"""SlowFast 8x8 (R50, R101): 2304-dimensional features of 32-frame clips, 2048 from the slow and 256 from the fast path.

"SlowFast Networks for Video Recognition" (ICCV 2019), built by PyTorchVideo. PyTorchVideo's checkpoints load directly,
those of PySlowFast (EPIC-Kitchens) after renaming. Shapes: B clips, T frames, H rows, W columns, C channels.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tad.backbones._encoder import ClipEncoder
from tad.backbones.slowfast_settings import Settings
from tad.core.optional import pytorchvideo_models

FRAMES = 32  # required by its pooling
ALPHA = 4  # fast frames per slow frame
DEPTHS = {50: 7, 101: 5}  # depth → temporal kernel of the lateral connections in the published networks
# PySlowFast's names in stage s<k> → PyTorchVideo's names in blocks.<k - 1>, applied in this order
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
    """Rename a state dict from PySlowFast's to PyTorchVideo's names; the latter are unchanged."""
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
    """SlowFast: clips (B, 32, H, W, 3) uint8 RGB → (B, 2304) float32; `classes` 0 drops the file's classifiers."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("slowfast", settings, resampling="float", length=FRAMES)
        self.dim, self.pool = 2304, settings.pool
        kernel = (DEPTHS[settings.depth], 1, 1)
        head = {"model_num_class": settings.classes} if settings.classes else {"head": None}
        net = pytorchvideo_models("slowfast").create_slowfast(
            model_depth=settings.depth, slowfast_fusion_conv_kernel_size=kernel, **head
        )
        self.blocks: nn.ModuleList = net.blocks

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a file in either naming to PyTorchVideo's; drop the classifier if `classes` is 0."""
        names = published_names(state)
        heads = () if len(self.blocks) == 7 else ("blocks.6.", "head.")
        return {name: tensor for name, tensor in names.items() if not name.startswith(heads)}

    def pathways(self, x_BCTHW: Tensor) -> list[Tensor]:
        """Return the slow input (frames 0, 4, 8, 13, 17, ...: truncated even spacing, as published) and the fast."""
        t = int(x_BCTHW.shape[2])
        count = t // ALPHA
        # integer arithmetic: floating-point rounding differs between engines
        slow = torch.tensor([k * (t - 1) // max(count - 1, 1) for k in range(count)], device=x_BCTHW.device)
        return [x_BCTHW.index_select(2, slow), x_BCTHW]

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """Return the features (B, 2304) of a normalised input of 32 frames."""
        paths = self.pathways(x_BCTHW)
        for block in self.blocks[:5]:
            paths = block(paths)
        if self.pool == "global":
            return torch.cat([path.mean(dim=(2, 3, 4)) for path in paths], dim=1)
        # a 7 x 7 window slides over the 8 x 8 cells of 256 pixels; average its positions, as the classifier does
        pooled: Tensor = self.blocks[5](paths)
        return pooled.mean(dim=(2, 3, 4))

    def classify(self, feats_BC: Tensor) -> Tensor:
        """Return the class logits (B, K) of features pooled by `sliding7_mean`."""
        projection = self.blocks[6].get_submodule("proj")
        scores: Tensor = projection(feats_BC)
        return scores
