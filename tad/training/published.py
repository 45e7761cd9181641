"""Published detector checkpoints (`.pth.tar`) → models as train writes them, without running code from the file.

The published drivers save `epoch`, `state_dict`, `state_dict_ema`, `optimizer`, `scheduler` and `mAP`, a NumPy scalar;
keys of the weights begin with `module.`, and the averages (ema) are what the published numbers are of.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tad import plugins
from tad.errors import DAMAGE, TadError, cause_of
from tad.feature_files import plain_scalar
from tad.files import publish, sha256
from tad.provenance import stamp
from tad.specs import TrainStageSpec
from tad.training import checkpoint
from tad.training.inputs import UNKNOWN_RECIPE

log = logging.getLogger(__name__)
LISTED = 5
STATES = {"ema": "state_dict_ema", "plain": "state_dict"}
RULE = "published checkpoint"
NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


def _harmless() -> list[Any]:
    """What a checkpoint may name besides tensors and containers: NumPy scalars of plain numbers."""
    scalars: list[Any] = [(plain_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*scalars, (np.dtype, "numpy.dtype"), *(type(np.dtype(name)) for name in NUMBERS)]


def read_checkpoint(path: Path, *, weights: str = "ema") -> tuple[dict[str, Tensor], int]:
    """The weights of a published checkpoint under the names of our detectors, and its epoch (-1: not said).

    Args:
        path: the file.
        weights: `ema` for the averages (what the published drivers evaluate), `plain` for the weights themselves.

    Raises:
        TadError: missing, damaged, holding anything but tensors, numbers and containers, or without these weights.
    """
    path = Path(path)
    if not path.is_file():
        raise TadError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(_harmless()):
            value = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise TadError(f"{path}: not a plain checkpoint ({_said(error)}); nothing was run from it") from None
    key = STATES[weights]
    state = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(state, Mapping):
        has = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise TadError(f"{path}: holds no '{key}' ({has:.120}); give the published file, or choose other --weights")
    tensors = {str(name).removeprefix("module."): item for name, item in state.items()}
    for name, item in tensors.items():
        if not isinstance(item, Tensor):
            raise TadError(f"{path}: '{name}' is a {type(item).__name__}, not a tensor; give the published file")
        if item.is_floating_point() and not torch.isfinite(item).all():
            raise TadError(f"{path}: weight '{name}' is not finite; fetch the file again")
    epoch = value.get("epoch")
    whole = isinstance(epoch, int | np.integer) and not isinstance(epoch, bool)
    return tensors, int(epoch) if whole else -1


def _said(error: BaseException) -> str:
    """torch explains at length how to switch its protection off; only what it refused is passed on."""
    for line in str(error).splitlines():
        if "Unsupported" in line or "GLOBAL" in line:
            return line.split("WeightsUnpickler error:")[-1].strip().partition(" was not an allowed")[0][:120]
    return cause_of(error)


def check_fits(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str, listing: Path) -> None:
    """Every weight is there, none is left over, and all have the shapes of the detector.

    Raises:
        TadError: one line with the missing, unknown and misshapen keys; where one does not hold them, they are all in
            the file `listing`, one a line.
    """
    found = {
        "missing": [name for name in wanted if name not in tensors],
        "unknown": [name for name in tensors if name not in wanted],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} for {tuple(wanted[name].shape)}"
            for name in wanted
            if name in tensors and tensors[name].shape != wanted[name].shape
        ],
    }
    if not any(found.values()):
        return
    where = ""
    if any(len(names) > LISTED for names in found.values()):
        with publish(listing) as partial:
            partial.write_text("".join(f"{what}: {name}\n" for what, names in found.items() for name in names))
        where = f"; all are listed in {listing}"
    named = "; ".join(
        f"{len(names)} {what}: {', '.join(names[:LISTED])}{' …' if len(names) > LISTED else ''}"
        for what, names in found.items()
        if names
    )
    raise TadError(
        f"{source}: not weights of this detector ({named}{where}); check its settings (tad show), the width of the "
        "features and the number of classes"
    )


def import_checkpoint(
    path: Path,
    out: Path,
    *,
    spec: TrainStageSpec,
    feature_dim: int,
    labels: list[str],
    weights: str = "ema",
) -> Path:
    """Write the weights of a published checkpoint as the model of a run, for detect.

    Args:
        path: the published file.
        out: the model to write, `results/<run>/model.safetensors`.
        spec: settings of the run; detector and window must be those of the checkpoint.
        feature_dim: channels of the features.
        labels: the classes in the order of the checkpoint's outputs.
        weights: see `read_checkpoint`.

    Raises:
        TadError: see `read_checkpoint` and `check_fits`, whose list of keys lies beside `out`.
    """
    tensors, epoch = read_checkpoint(path, weights=weights)
    sizes = {"num_classes": len(labels), "max_length": spec.train.max_length}
    make = plugins.load("detectors", spec.detector.name)
    with torch.device("meta"):  # names and shapes are all that is needed
        detector = make(feature_dim=feature_dim, **sizes, **spec.detector.settings)
    wanted: dict[str, Tensor] = detector.state_dict()
    listing = Path(out).with_suffix(".mismatch.txt")
    check_fits(tensors, wanted, source=str(path), listing=listing)
    listing.unlink(missing_ok=True)  # of an earlier try
    content = sha256(Path(path))
    facts = {"epoch": epoch, "epoch_rule": RULE, "seed": "unknown", "device": "unknown", "recipe": UNKNOWN_RECIPE}
    header = {
        "tad_stamp": stamp(
            "train", spec.model_dump(mode="json"), {"checkpoint": content[:16]}, **facts, weights=weights
        ),
        "labels": labels,
        "detector": {**spec.detector.model_dump(mode="json"), **sizes},
        "feature_dim": str(feature_dim),
    }
    # a tensor may be a view, of one repeated number for example
    ordered = {
        name: tensors[name].to(wanted[name].dtype).clone(memory_format=torch.contiguous_format) for name in wanted
    }
    checkpoint.write_tensors(out, ordered, header)
    log.info("%s: %d weights (%s) of epoch %d from %s", out, len(ordered), weights, epoch, path)
    return Path(out)
