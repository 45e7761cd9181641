"""Detectors with adapters: built from their settings, with the frozen weights of their encoder."""

import logging
from pathlib import Path
from typing import Any

from tad.backbones._contract import BackboneBase
from tad.backbones._weights import load_weights
from tad.core.errors import TadError
from tad.detectors._adapted.detector import AdaptedDetector
from tad.layers.adapters.encoder import AdaptedEncoder, places_of
from tad.settings import plugins
from tad.settings.adapters import AdaptersSpec
from tad.settings.base import Plugin
from tad.weights.published import weights_identity
from tad.weights.store import expect_published

log = logging.getLogger(__name__)


def build_adapted(
    detector: Plugin, spec: AdaptersSpec, weights: Path | None, *, lr: float, feature_dim: int, num_classes: int,
    max_length: int,
) -> AdaptedDetector:  # fmt: skip
    """Return a newly initialised detector behind an encoder with new adapters.

    Args:
        detector: the detector on features.
        spec: settings of the adapters.
        weights: file or folder with the encoder's weights; None: random weights (on the device `meta`, for sizes only).
        lr: learning rate of the recipe.
        feature_dim: values of a frame. num_classes: K. max_length: frames of a training window.

    Raises:
        TadError: the backbone has no transformer, its weights do not fit, or the frames have another size.
    """
    if feature_dim != spec.height * spec.width * 3:
        raise TadError(
            f"features: {feature_dim} values a row: RGB frames of {spec.height} x {spec.width} have"
            f" {spec.height * spec.width * 3}; use the run's feature set of frames"
        )
    backbone: BackboneBase = plugins.build("backbones", spec.backbone.name, spec.backbone.settings)
    if weights is not None:
        load_weights(weights, backbone, spec.backbone)
    trunk = backbone.trunk(spec.clip)
    encoder = AdaptedEncoder(
        trunk, places=places_of(spec.blocks, len(trunk.blocks)), side=spec.side, hidden=spec.hidden,
        drop_path=spec.drop_path, checkpointing=spec.checkpointing,
    )  # fmt: skip
    inner = plugins.build(
        "detectors", detector.name, detector.settings, feature_dim=encoder.width, num_classes=num_classes,
        max_length=max_length // spec.frames_per_position,
    )  # fmt: skip
    count = sum(parameter.numel() for parameter in encoder.parameters())
    frozen = sum(parameter.numel() for parameter in trunk.parameters())
    log.info("%s: %d frozen weights, %d of the adapters", spec.backbone.name, frozen, count)
    return AdaptedDetector(inner, encoder, spec, rate=spec.lr / lr)


def encoder_identity(spec: AdaptersSpec, weights: Path | None, *, run: str) -> str:
    """Return the identity of the frozen weights, by which models name them.

    Raises:
        TadError: no weights are given, or a file does not have its published checksum.
    """
    if weights is None:
        raise TadError(f"run {run}: the weights of the adapters' encoder are not given; add --encoder")
    expect_published(weights, spec.backbone)
    return weights_identity(weights, spec.backbone)


def check_encoder(model: Path, stamped: dict[str, Any], spec: AdaptersSpec, weights: Path | None) -> None:
    """Check that weights are those that a model with adapters was trained around; it names them by their hash.

    Raises:
        TadError: other weights, or none, are given.
    """
    named = stamped["inputs"].get("encoder", "")
    given = encoder_identity(spec, weights, run=str(stamped["spec"].get("run", "")))
    if given != named:
        raise TadError(
            f"{model}: trained around encoder weights {named}, but {weights} is {given}; restore these weights, or"
            " train again"
        )
