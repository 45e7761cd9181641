"""Small image-text models with random weights, in the layout of the published ones."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tad.backbones import _texts, transformers_image
from tad.core import optional

TINY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
FULL = {"openai/clip-vit-base-patch16": ("CLIP", 12), "google/siglip2-base-patch16-224": ("Siglip", 24)}
WORDS = ["<pad>", "<unk>", "a", "video", "of", "photo", "person", "doing", "jump", "run", "high", "</s>"]


def make_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the image-text encoders be small networks."""
    for model, size in _texts.TEXTS.items():
        width = {"projection_size": 24} if size.padded else {"projection_dim": 12}
        small = size._replace(arguments=TINY | width | {"vocab_size": len(WORDS), "eos_token_id": len(WORDS) - 1})
        monkeypatch.setitem(_texts.TEXTS, model, small)
        image = transformers_image.SIZES[model]
        projection = {} if size.padded else {"projection_dim": 12}
        monkeypatch.setitem(
            transformers_image.SIZES, model, image._replace(arguments=image.arguments | TINY | projection)
        )


def published(folder: Path, model: str) -> tuple[Any, Path, Any]:
    """A whole image-text model of transformers with small random weights, its file, and the tokeniser beside it."""
    optional.torchvision()
    library, (family, width) = importlib.import_module("transformers"), FULL[model]
    sizes = {"text_config": _texts.TEXTS[model].arguments, "vision_config": transformers_image.SIZES[model].arguments}
    config = getattr(library, f"{family}Config")(**sizes, **({"projection_dim": width} if width == 12 else {}))
    theirs = getattr(library, f"{family}Model")(config).eval()
    torch.manual_seed(0)
    for value in theirs.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.normal_(value, std=0.3)
    save_file({key: value.contiguous() for key, value in theirs.state_dict().items()}, folder / "w.safetensors")
    tokenizers = importlib.import_module("tokenizers")
    vocabulary = {word: k for k, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    template = {"single": "$A </s>", "special_tokens": [("</s>", vocabulary["</s>"])]}
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(**template)
    tokenizer.save(str(folder / "w.tokenizer.json"))
    return theirs, folder / "w.safetensors", tokenizer
