"""VideoMAE's vision transformer (fine-tuned or as pre-trained): 16-frame clips → 384 to 1280 numbers.

"VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training" (NeurIPS 2022),
through transformers' VideoMAEModel. Files in transformers' names fit, and files in those of the authors' own code
(`blocks.0.attn.qkv`; the distilled models of VideoMAE V2 too).
Shapes: B clips, T frames, C channels, H rows, W columns, N tokens.
"""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tad.backbones._encoder import ClipEncoder, fitted
from tad.errors import TadError
from tad.vision import transformers_model

SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}
NORMS = ("after_mean", "before_mean")
FRAMES = 16
OTHERS = ("classifier.", "head.", "decoder.", "encoder_to_decoder.", "mask_token")  # not of the encoder
# the authors' names within a block → transformers'
PARTS = {
    "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
    "attn.q_bias": "attention.attention.query.bias", "attn.v_bias": "attention.attention.value.bias",
    "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
}  # fmt: skip


def transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in the names of the authors' code → transformers' names; others stay as they are.

    Query, key and value lie in one matrix there, in this order of its rows.
    """
    names: dict[str, Tensor] = {}
    for key, tensor in state.items():
        bare = re.sub(r"^encoder\.(?=blocks|patch_embed|norm\.)", "", key)  # pre-training files
        block = re.fullmatch(r"blocks\.(\d+)\.(.+?)(\.weight|\.bias)?", bare)
        if block is None:
            bare = re.sub(r"^patch_embed\.proj\b", "embeddings.patch_embeddings.projection", bare)
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
    """Clips (B, 16, H, W, 3) uint8 RGB → (B, dim) float32: the mean of all tokens, normalised."""

    def __init__(
        self, *, size: str, norm: str, short: int, crop: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(
            "videomae", resize=[short], crop=crop, mean=mean, std=std, resampling="antialias", length=FRAMES
        )
        if size not in SIZES:
            raise TadError(f"videomae.size: {size!r}: one of {', '.join(SIZES)}")
        if norm not in NORMS:
            raise TadError(f"videomae.norm: {norm!r}: one of {', '.join(NORMS)}")
        if crop % 16:
            raise TadError(f"videomae.crop: {crop}: a multiple of 16, the side of a patch")
        library = transformers_model("videomae")
        self.dim, layers, heads = SIZES[size]
        config = library.VideoMAEConfig(
            image_size=crop, num_frames=FRAMES, hidden_size=self.dim, num_hidden_layers=layers,
            num_attention_heads=heads, intermediate_size=4 * self.dim, use_mean_pooling=norm == "after_mean",
        )  # fmt: skip
        self.net: nn.Module = library.VideoMAEModel(config)
        self.fc_norm = nn.LayerNorm(self.dim) if norm == "after_mean" else nn.Identity()

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's part of a file in either dialect; classifier and decoder are left out."""
        known = {key.removeprefix("videomae."): tensor for key, tensor in state.items()}
        names = transformers_names({key: tensor for key, tensor in known.items() if not key.startswith(OTHERS)})
        # as parameters of the attention, not of its projections: files of transformers before version 5
        new = {k.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias"): v for k, v in names.items()}
        norm = {key: new.pop(key) for key in list(new) if key.startswith("fc_norm.")}
        return fitted(new, self.state_dict(), inside="net", heads=()) | norm

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim) of a normalised input."""
        tokens_BNC: Tensor = self.net(x_BCTHW.transpose(1, 2)).last_hidden_state
        feats_BC: Tensor = self.fc_norm(tokens_BNC.mean(dim=1))
        return feats_BC

