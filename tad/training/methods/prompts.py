"""Weights of a prompted detector: the embeddings of its classes' texts."""

# K classes, C values of an embedding

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.backbones._texts import embed_texts
from tad.core import formats
from tad.core.errors import TadError
from tad.core.files import digest, sha256
from tad.settings.base import Plugin
from tad.settings.plugins import nearest
from tad.settings.stages.train import TextsSpec, TrainStageSpec
from tad.training.io import tensors as checkpoint
from tad.weights.published import tokenizer_beside, weights_identity
from tad.weights.store import expect_published

log = logging.getLogger(__name__)
WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|[_\s]+")


def spoken(label: str) -> str:
    """Return a class name as words: `GolfSwing`, `golf_swing` → `golf swing`."""
    return " ".join(word for word in WORDS.split(label) if word).lower()


def phrases_of(labels: Sequence[str], given: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the phrases of each class, in the order of `labels`.

    Raises:
        TadError: texts for a class that is not annotated, or an empty list of phrases.
    """
    for label, phrases in given.items():
        if label not in labels:
            raise TadError(f"classes.text: no class is called '{label}'; {nearest(label, list(labels))}")
        if not phrases or not all(phrase.strip() for phrase in phrases):
            raise TadError(f"classes.text: '{label}': has an empty phrase; write one, or remove the class")
    return [tuple(given.get(label) or (spoken(label),)) for label in labels]


def texts_content(start: Path, texts: TextsSpec) -> dict[str, Any]:
    """Return the content of the text encoder's files, which the weights of a prompted detector depend on.

    Raises:
        TadError: a file is missing, or does not have its published checksum.
    """
    backbone = Plugin.model_validate(texts.backbone.model_dump())
    file, tokenizer = tokenizer_beside(start, backbone)
    expect_published(start, backbone)
    return {"texts": digest([weights_identity(file), sha256(tokenizer)], 16)}


def class_embeddings(labels: Sequence[str], texts: TextsSpec, start: Path, templates: Sequence[str]) -> Tensor:
    """Return the embeddings (K, C) of the classes: the unit mean of all templates of all phrases of each.

    Raises:
        TadError: see `phrases_of` and `embed_texts`.
    """
    phrases = phrases_of(labels, texts.phrases)
    filled = [[template.replace("{}", phrase) for phrase in own for template in templates] for own in phrases]
    embeddings_NC = embed_texts([text for own in filled for text in own], start, texts.backbone)
    parts = torch.split(embeddings_NC, [len(own) for own in filled])
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=1)


def embed_classes(out: Path, labels: Sequence[str], spec: TrainStageSpec, start: Path) -> None:
    """Write the weights of a prompted detector, as a training would.

    Raises:
        TadError: see `class_embeddings`.
    """
    assert spec.texts is not None
    embedded_KC = class_embeddings(labels, spec.texts, start, spec.detector.settings["templates"])
    facts = {"dead_offsets": [], "epoch": 0, "epoch_rule": "not trained", "seed": spec.seed}
    checkpoint.write_tensors(out, {"texts_KC": embedded_KC}, {"facts": facts, **formats.mark("trained-weights")})
    log.info("texts of %d classes embedded; this detector is not trained", len(labels))
