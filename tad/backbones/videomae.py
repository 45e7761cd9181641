"""VideoMAE's vision transformer (fine-tuned or pre-trained): 384- to 1280-dimensional features of 16-frame clips.

"VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training" (NeurIPS 2022),
by transformers' VideoMAEModel. It loads files with transformers' names or with those of the authors' code
(`blocks.0.attn.qkv`; also the distilled models of VideoMAE V2).
Shapes: B clips, T frames, C channels, H rows, W columns, N tokens.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from tad.backbones._encoder import ClipEncoder, fitted
from tad.backbones._videomae import FRAMES, PUBLISHED_SIDE, VideoMaeTrunk, build_network
from tad.backbones.videomae_settings import Settings
from tad.core.errors import TadError
from tad.layers.adapters.trunk import Trunk

SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}
PATCH = 16  # pixels
# keys outside the encoder, and the position code, which is computed
OTHERS = ("classifier.", "head.", "decoder.", "encoder_to_decoder.", "mask_token", "pos_embed")
# the authors' names in a block → transformers' names
PARTS = {
    "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
    "attn.q_bias": "attention.attention.query.bias", "attn.v_bias": "attention.attention.value.bias",
    "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    "mlp.layers.0.0": "intermediate.dense", "mlp.layers.1": "output.dense",  # files of mmaction2
}  # fmt: skip


def transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict from the authors' names to transformers'; other names are unchanged.

    The authors' code stores query, key and value in one matrix, in this order of its rows.
    """
    names: dict[str, Tensor] = {}
    for key, tensor in state.items():
        bare = re.sub(r"^encoder\.(?=blocks|patch_embed|norm\.)", "", key)  # pre-training files
        block = re.fullmatch(r"blocks\.(\d+)\.(.+?)(\.weight|\.bias)?", bare)
        if block is None:
            bare = re.sub(r"^patch_embed\.proj(ection)?\b", "embeddings.patch_embeddings.projection", bare)
            names[re.sub(r"^norm\.", "layernorm.", bare)] = tensor
            continue
        layer, part, suffix = f"encoder.layer.{block[1]}.", block[2], block[3] or ""
        if part == "attn.qkv":
            for kind, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                names[f"{layer}attention.attention.{kind}{suffix}"] = rows
        else:
            names[layer + PARTS[part] + suffix if part in PARTS else key] = tensor
    return names


class Backbone(ClipEncoder):
    """VideoMAE: clips (B, 16, H, W, 3) uint8 RGB → (B, dim) float32, the normalised mean of all tokens."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("videomae", settings, resampling="antialias", length=FRAMES)
        self.dim, layers, heads = SIZES[settings.size]
        self.net = build_network(
            width=self.dim, layers=layers, heads=heads, hidden=4 * self.dim, image=(settings.crop, settings.crop),
            patch=PATCH, side=PUBLISHED_SIDE, use_mean_pooling=settings.norm == "after_mean",
        )  # fmt: skip
        self.fc_norm = nn.LayerNorm(self.dim) if settings.norm == "after_mean" else nn.Identity()

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a file in either naming and drop classifier and decoder."""
        known = {key.removeprefix("videomae."): tensor for key, tensor in state.items()}
        names = transformers_names({key: tensor for key, tensor in known.items() if not key.startswith(OTHERS)})
        # files of transformers before version 5 store the biases in the attention, not in its projections
        new = {k.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias"): v for k, v in names.items()}
        norm = {key: new.pop(key) for key in list(new) if key.startswith("fc_norm.")}
        return fitted(new, self.state_dict(), inside="net", heads=()) | norm

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """Return the features (B, dim) of a normalised input."""
        tokens_BNC: Tensor = self.net(x_BCTHW.transpose(1, 2)).last_hidden_state
        feats_BC: Tensor = self.fc_norm(tokens_BNC.mean(dim=1))
        return feats_BC

    def trunk(self, clip: int) -> Trunk:
        """Return the transformer without its pooling and its last norm, as AdaTAD uses it."""
        if clip != FRAMES:
            raise TadError(f"videomae: clip.length {clip}: the network needs {FRAMES} frames; set {FRAMES}")
        return VideoMaeTrunk(self.net, mean=self.mean, std=self.std)
