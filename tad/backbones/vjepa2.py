"""V-JEPA 2's vision transformer: 1024- to 1408-dimensional features of clips with an even number of frames.

"V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning" (2025), by transformers'
VJEPA2Model without its predictor. Experimental: no published detection result uses it yet. Shapes: B clips, T frames,
C channels, H rows, W columns, N tokens.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tad.backbones._encoder import ClipEncoder, fitted
from tad.backbones.vjepa2_settings import Settings
from tad.core.errors import TadError
from tad.core.optional import transformers_model
from tad.layers.adapters.trunk import Trunk

# width, layers, heads, width of the hidden layer
SIZES = {"large": (1024, 24, 16, 4.0), "huge": (1280, 32, 16, 4.0), "giant": (1408, 40, 22, 48 / 11)}


TUBELET = 2


class VJepaTrunk(Trunk):
    """The parts of V-JEPA 2's encoder; its last norm is part of it."""

    net: Any

    def __init__(self, net: Any, *, clip: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.net = net
        self.width, self.clip, self.tubelet, self.mean, self.std = self.net.config.hidden_size, clip, TUBELET, mean, std
        self.blocks = self.net.layer

    def embed(self, x_MCFHW: Tensor) -> Tensor:
        """Return the patches' tokens (M, N, D); attention adds their positions."""
        tokens_MND: Tensor = self.net.embeddings(x_MCFHW.transpose(1, 2))
        return tokens_MND

    def attend(self, block: Any, x_MND: Tensor) -> Tensor:
        """Return what the attention branch of a block adds."""
        added_MND: Tensor = block.attention(block.norm1(x_MND))[0]
        return added_MND

    def widen(self, block: Any, x_MND: Tensor) -> Tensor:
        """Return what the MLP branch of a block adds."""
        added_MND: Tensor = block.mlp(block.norm2(x_MND))
        return added_MND

    def finish(self, x_MND: Tensor) -> Tensor:
        """Apply the last norm."""
        normed_MND: Tensor = self.net.layernorm(x_MND)
        return normed_MND


class Backbone(ClipEncoder):
    """V-JEPA 2: clips (B, T, H, W, 3) uint8 RGB → (B, dim) float32, the mean or attention pooling of all tokens.

    T must be even. Positions are relative, so the weights fit any T and any crop.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("vjepa2", settings, resampling="antialias")
        library = transformers_model("vjepa2")
        self.dim, layers, heads, ratio = SIZES[settings.size]
        config = library.VJEPA2Config(
            crop_size=settings.crop, hidden_size=self.dim, num_hidden_layers=layers, num_attention_heads=heads,
            mlp_ratio=ratio, pred_num_hidden_layers=0,
        )  # fmt: skip
        self.net: nn.Module = library.VJEPA2Model(config).encoder
        self.pooler: nn.Module | None = None
        if settings.pooling == "attentive":
            self.pooler = library.VJEPA2AttentivePooler(config)

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the encoder, and with `attentive` the pooler, of a file with transformers' names."""
        names = {key.removeprefix("vjepa2.").removeprefix("encoder."): tensor for key, tensor in state.items()}
        pooler = {key: tensor for key, tensor in names.items() if self.pooler is not None and key.startswith("pooler.")}
        rest = {key: tensor for key, tensor in names.items() if key not in pooler}
        return fitted(rest, self.state_dict(), inside="net", heads=("predictor.", "pooler.", "classifier.")) | pooler

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """Return the features (B, dim) of a normalised input."""
        if x_BCTHW.shape[2] % 2:
            raise TadError(f"vjepa2: clip.length {x_BCTHW.shape[2]}: must be even; set an even number")
        tokens_BNC: Tensor = self.net(x_BCTHW.transpose(1, 2)).last_hidden_state
        if self.pooler is None:
            return tokens_BNC.mean(dim=1)
        pooled_BC: Tensor = self.pooler(tokens_BNC)
        return pooled_BC

    def trunk(self, clip: int) -> Trunk:
        """Return the transformer with its last norm; clips may have any even number of frames."""
        if clip % TUBELET:
            raise TadError(f"vjepa2: clip.length {clip}: must be even; set an even number")
        return VJepaTrunk(self.net, clip=clip, mean=self.mean, std=self.std)
