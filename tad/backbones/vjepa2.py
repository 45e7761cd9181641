"""V-JEPA 2's vision transformer: clips of an even number of frames → 1024 to 1408 numbers.

"V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning" (2025), through transformers'
VJEPA2Model without its predictor. No published detection result rests on it yet: experimental. Shapes: B clips, T
frames, C channels, H rows, W columns, N tokens.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tad.backbones._encoder import ClipEncoder, fitted
from tad.errors import TadError
from tad.vision import transformers_model

# width, layers, heads, width of the hidden layer
SIZES = {"large": (1024, 24, 16, 4.0), "huge": (1280, 32, 16, 4.0), "giant": (1408, 40, 22, 48 / 11)}


class Backbone(ClipEncoder):
    """Clips (B, T, H, W, 3) uint8 RGB → (B, dim) float32: the mean of all tokens. T is even; positions are relative, so
    that any T and any crop fit the weights."""

    def __init__(self, *, size: str, short: int, crop: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__("vjepa2", resize=[short], crop=crop, mean=mean, std=std, resampling="antialias")
        if size not in SIZES:
            raise TadError(f"vjepa2.size: {size!r}: one of {', '.join(SIZES)}")
        if crop % 16:
            raise TadError(f"vjepa2.crop: {crop}: a multiple of 16, the side of a patch")
        library = transformers_model("vjepa2")
        self.dim, layers, heads, ratio = SIZES[size]
        config = library.VJEPA2Config(
            crop_size=crop, hidden_size=self.dim, num_hidden_layers=layers, num_attention_heads=heads,
            mlp_ratio=ratio, pred_num_hidden_layers=0,
        )  # fmt: skip
        self.net: nn.Module = library.VJEPA2Model(config).encoder

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's part of a file in transformers' names; predictor, pooler and classifier are left out."""
        names = {key.removeprefix("vjepa2.").removeprefix("encoder."): tensor for key, tensor in state.items()}
        return fitted(names, self.state_dict(), inside="net", heads=("predictor.", "pooler.", "classifier."))

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim) of a normalised input."""
        if x_BCTHW.shape[2] % 2:
            raise TadError(f"vjepa2: clip.length {x_BCTHW.shape[2]}: frames go in pairs; set an even number")
        tokens_BNC: Tensor = self.net(x_BCTHW.transpose(1, 2)).last_hidden_state
        return tokens_BNC.mean(dim=1)
