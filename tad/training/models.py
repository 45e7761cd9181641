"""A model made by train → the detector in it, checked against what it is to be used with."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tad import plugins
from tad.errors import TadError
from tad.provenance import expect
from tad.specs import Plugin
from tad.training import checkpoint
from tad.training.inputs import UNKNOWN_RECIPE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A loaded detector in evaluation mode."""

    detector: Any
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
) -> Model:
    """The detector in a file made by train.

    Args:
        path: the file.
        dataset: that it must have been trained on.
        features: name of the feature set that it must have been trained on.
        plugin: the detector that it must be, with its settings.
        resize: `train.resize` that it must have been trained with.
        dim: channels of the features that it is given.
        recipe: of these features, see `tad.training.inputs.recipe_of`.
        device: where it is to be.

    Raises:
        TadError: not made by train; another detector, dataset or feature set than the settings say; other features
            than it was trained on; weights that do not fit the detector or are not finite.
    """
    tensors, metadata = checkpoint.read_tensors(path)
    checkpoint.read_json_field(path, metadata, "tad_stamp", dict)
    labels = checkpoint.read_json_field(path, metadata, "labels", list)
    facts = checkpoint.read_json_field(path, metadata, "detector", dict)
    named = plugin.model_dump(mode="json")
    made = expect(path, stage="train", dataset=dataset, features=features, detector=named)
    width, used = metadata.get("feature_dim", ""), made.get("recipe")
    if width != str(dim):
        raise TadError(f"{path}: trained on features {width} wide, these are {dim} wide; use those it was trained on")
    if used == UNKNOWN_RECIPE:
        log.warning("%s: imported; that these features are those it was trained on cannot be checked", path)
    elif used != recipe:
        raise TadError(f"{path}: trained on features of recipe {used}, these are of recipe {recipe}; run train again")
    resized = made["spec"].get("train", {}).get("resize")
    if resized != resize:
        raise TadError(f"{path}: trained with train.resize {resized}, this uses {resize}; make them equal")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TadError(f"{path}: weight '{name}' is not finite; remove the file and run train again")
    max_length = int(facts.get("max_length", 0))
    make = plugins.load("detectors", plugin.name)
    detector = make(feature_dim=dim, num_classes=len(labels), max_length=max_length, **plugin.settings)
    try:
        detector.load_state_dict(tensors)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:160]
        raise TadError(f"{path}: its weights do not fit detector {plugin.name} ({why}); run train again") from None
    return Model(detector.to(device).eval(), made, [str(label) for label in labels], max_length)


def weights_digest(tensors: dict[str, Tensor]) -> str:
    """The content of weights, whatever else is in their file."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        state.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()[:16]
