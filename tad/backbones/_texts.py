"""Text parts of image-text encoders: phrases → unit embeddings (CLIP, SigLIP 2).

The tokeniser is the published `tokenizer.json`, read by the package tokenizers. CLIP's text is causal and pooled at the
end of the text, so it needs no padding; SigLIP's is padded to its full length, without a mask, and pooled there.
"""

# N phrases, L tokens, D values of an embedding

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.backbones._weights import read_weights
from tad.backbones.transformers_image import SIZES
from tad.core.errors import TadError, cause_of
from tad.core.optional import transformers_model
from tad.settings.base import Plugin
from tad.weights.published import tokenizer_beside

TOKENIZER_MB = 64  # SigLIP 2's has 34


class TextSize(NamedTuple):
    """The text part of a model: its classes and sizes in transformers, its tokens, and whether phrases are padded."""

    config: str
    network: str
    arguments: dict[str, Any]
    longest: int
    padded: bool


CLIP = TextSize(
    "CLIPTextConfig", "CLIPTextModelWithProjection",
    {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048,
     "vocab_size": 49408, "projection_dim": 512}, 77, False,
)  # fmt: skip
SIGLIP = TextSize(
    "SiglipTextConfig", "SiglipTextModel",
    {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
     "vocab_size": 256000, "projection_size": 768}, 64, True,
)  # fmt: skip
TEXTS = {
    "google/siglip2-base-patch16-224": SIGLIP,
    "openai/clip-vit-base-patch16": CLIP,
    "openai/clip-vit-base-patch32": CLIP,
}


class TextEncoder(nn.Module):
    """The text part of CLIP or SigLIP 2."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.size, family = TEXTS[model], SIZES[model].family
        library = transformers_model(family)
        self.net = getattr(library, self.size.network)(getattr(library, self.size.config)(**self.size.arguments))

    def load(self, state: Mapping[str, Tensor], source: Path) -> None:
        """Load the text part of a published file; the rest of the file is ignored.

        Raises:
            TadError: a tensor is missing or has another shape.
        """
        own = self.net.state_dict()
        found = {}
        for key, tensor in own.items():
            bare = key.removeprefix("text_model.")
            given = next((state[name] for name in (key, f"text_model.{bare}", bare) if name in state), None)
            if given is None and key.endswith("position_ids"):
                continue
            if given is None or given.shape != tensor.shape:
                what = "missing" if given is None else f"of shape {tuple(given.shape)}, not {tuple(tensor.shape)}"
                raise TadError(f"{source}: not the weights of this model's texts ({key} is {what}); check `model`")
            found[key] = given
        self.net.load_state_dict(found, strict=False)
        self.eval()

    @torch.inference_mode()
    def forward(self, tokens_L: list[int]) -> Tensor:
        """Return the unit embedding (D) of a tokenised phrase."""
        outputs = self.net(input_ids=torch.tensor([tokens_L]))
        pooled_1D = outputs.pooler_output if self.size.padded else outputs.text_embeds
        return F.normalize(pooled_1D.float(), dim=1)[0]


def _tokens(tokenizer: Any, phrase: str, size: TextSize, path: Path) -> list[int]:
    """Return the tokens of a phrase, padded with token 0 if the model wants it.

    Raises:
        TadError: the phrase has too many tokens, or the tokeniser's vocabulary is larger than the model's.
    """
    tokens = [int(token) for token in tokenizer.encode(phrase.lower()).ids]
    if not 0 < len(tokens) <= size.longest:
        raise TadError(f"phrase '{phrase:.60}': {len(tokens)} tokens, at most {size.longest} are possible; shorten it")
    if max(tokens) >= size.arguments["vocab_size"]:
        raise TadError(f"{path}: not the tokeniser of this model: token {max(tokens)} is beyond its vocabulary")
    return tokens + [0] * (size.longest - len(tokens)) if size.padded else tokens


def embed_texts(phrases: Sequence[str], weights: Path, backbone: Plugin) -> Tensor:
    """Return the unit embeddings (N, D) of phrases, each embedded alone.

    Args:
        phrases: any texts; they are lower-cased, as both models' tokenisers do.
        weights: the published file, or the folder with it; the tokeniser lies beside it.
        backbone: the backbone `image_text` with its settings.

    Raises:
        TadError: files are missing or do not fit the model, or a phrase is too long.
    """
    file, path = tokenizer_beside(weights, backbone)
    if path.stat().st_size > TOKENIZER_MB << 20:
        raise TadError(
            f"{path}: {path.stat().st_size >> 20} MiB: a tokeniser has at most {TOKENIZER_MB}; fetch it again"
        )
    encoder = TextEncoder(str(backbone.settings["model"]))
    encoder.load(read_weights(file), file)
    from tokenizers import Tokenizer  # a requirement of transformers

    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the package raises nothing narrower
        raise TadError(f"{path}: not a tokenizer.json ({cause_of(error)}); fetch it again") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return torch.stack([encoder(_tokens(tokenizer, phrase, encoder.size, path)) for phrase in phrases])
