"""Loading of models made by train, with checks against the settings and features that they are used with."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tad.core.errors import TadError
from tad.layers.contract import DetectorBase
from tad.provenance.conditions import uses
from tad.provenance.stamps import expect
from tad.settings import plugins
from tad.settings.adapters import AdaptersSpec
from tad.settings.stages import Plugin
from tad.training.data.inputs import UNKNOWN_RECIPE
from tad.training.io import tensors as checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A loaded detector in evaluation mode, with the stamp, labels and window length of its file."""

    detector: DetectorBase
    stamp: dict[str, Any]
    labels: list[str]
    max_length: int


def load_model(
    path: Path,
    *,
    dataset: str,
    features: str,
    plugin: Plugin,
    resize: int,
    dim: int,
    recipe: str,
    device: torch.device,
    adapters: AdaptersSpec | None = None,
    encoder: Path | None = None,
) -> Model:
    """Load the detector of a file made by train.

    Args:
        path: the file.
        dataset: expected dataset.
        features: expected name of the feature set.
        plugin: expected detector with its settings.
        resize: expected `train.resize`.
        dim: number of channels of the features in use.
        recipe: recipe of these features, see `tad.training.data.inputs.recipe_of`.
        device: device to load the detector to.
        adapters: expected settings of the adapters; None: the detector has no encoder.
        encoder: weights (file or folder) of the adapters' encoder, which the file does not hold.

    Raises:
        TadError: the file was not made by train; it has another detector, dataset or feature set than the settings; it
            was trained on other features; or its weights do not fit the detector or are not finite.
    """
    tensors, metadata = checkpoint.read_tensors(path)
    checkpoint.read_json_field(path, metadata, "tad_stamp", dict)
    labels = checkpoint.read_json_field(path, metadata, "labels", list)
    facts = checkpoint.read_json_field(path, metadata, "detector", dict)
    named = plugin.model_dump(mode="json")
    inside = adapters.model_dump(mode="json") if adapters is not None else None
    stamped = expect(path, stage="train", dataset=dataset, features=features, detector=named, adapters=inside)
    width, used = metadata.get("feature_dim", ""), stamped.get("recipe")
    if width != str(dim):
        raise TadError(
            f"{path}: trained on features with {width} channels, but these have {dim}; use the features that it was"
            " trained on"
        )
    if used == UNKNOWN_RECIPE:
        log.warning("%s: imported model; it cannot be checked that it was trained on these features", path)
    elif used != recipe:
        raise TadError(f"{path}: trained on features of recipe {used}, but these have recipe {recipe}; run train again")
    resized = stamped["spec"].get("train", {}).get("resize")
    if resized != resize:
        raise TadError(f"{path}: trained with train.resize {resized}, but the settings use {resize}; make them equal")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TadError(f"{path}: weight '{name}' is not finite; remove the file and run train again")
    max_length = int(facts.get("max_length", 0))
    sizes = {"feature_dim": dim, "num_classes": len(labels), "max_length": max_length}
    detector: DetectorBase
    if uses("adapters", {"adapters": adapters}) and adapters is not None:
        from tad.training.adapted import build_adapted, check_encoder

        check_encoder(path, stamped, adapters, encoder)
        detector = build_adapted(plugin, adapters, encoder, lr=1.0, **sizes)  # the rate is only for training
    else:
        detector = plugins.build("detectors", plugin.name, plugin.settings, **sizes)
    try:
        detector.load_state_dict(tensors)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:160]
        raise TadError(f"{path}: its weights do not fit detector {plugin.name} ({why}); run train again") from None
    return Model(detector.to(device).eval(), stamped, [str(label) for label in labels], max_length)


def weights_digest(tensors: dict[str, Tensor]) -> str:
    """Return a digest of the weights' names, types, shapes and values, independent of other content of their file."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        state.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()[:16]
