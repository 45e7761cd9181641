"""Import of published detector checkpoints (`.pth.tar`) as models of train, without running code from the file.

The published drivers save `epoch`, `state_dict`, `state_dict_ema`, `optimizer`, `scheduler` and `mAP`, a NumPy scalar.
Weight names begin with `module.`. The published results are those of the averaged weights (ema).
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tad.core.checkpoints import load_plain
from tad.core.errors import DAMAGE, TadError, cause_of
from tad.core.files import publish, sha256
from tad.core.unpickle import plain_scalar
from tad.provenance.stamps import stamp
from tad.settings import plugins
from tad.settings.stages import TrainStageSpec
from tad.training.data.inputs import UNKNOWN_RECIPE
from tad.training.io import tensors as checkpoint

log = logging.getLogger(__name__)
LISTED = 2
STATES = {"ema": "state_dict_ema", "plain": "state_dict"}
RULE = "published checkpoint"
NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


def _harmless() -> list[Any]:
    """Return the types that a checkpoint may contain besides tensors and containers: NumPy scalars of numbers."""
    scalars: list[Any] = [(plain_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*scalars, (np.dtype, "numpy.dtype"), *(type(np.dtype(name)) for name in NUMBERS)]


def read_checkpoint(path: Path, *, weights: str = "ema") -> tuple[dict[str, Tensor], int]:
    """Read the weights of a published checkpoint, renamed for our detectors, and its epoch (-1 if unknown).

    Args:
        path: the file.
        weights: `ema` for the averaged weights, which the published drivers evaluate; `plain` for the others.

    Raises:
        TadError: the file is missing or damaged, contains anything but tensors, numbers and containers, or lacks these
            weights.
    """
    path = Path(path)
    if not path.is_file():
        raise TadError(f"{path}: no such file")
    try:
        value = load_plain(path, _harmless())
    except DAMAGE as error:
        raise TadError(f"{path}: not a plain checkpoint ({_cause(error)}); no code from it was run") from None
    key = STATES[weights]
    state = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(state, Mapping):
        contents = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise TadError(
            f"{path}: contains no '{key}' ({contents:.120}); use the published file, or choose other --weights"
        )
    tensors = {str(name).removeprefix("module."): item for name, item in state.items()}
    for name, item in tensors.items():
        if not isinstance(item, Tensor):
            raise TadError(f"{path}: '{name}' is a {type(item).__name__}, not a tensor; use the published file")
        if item.is_floating_point() and not torch.isfinite(item).all():
            raise TadError(f"{path}: weight '{name}' is not finite; download the file again")
    epoch = value.get("epoch")
    whole = isinstance(epoch, int | np.integer) and not isinstance(epoch, bool)
    return tensors, int(epoch) if whole else -1


def _cause(error: BaseException) -> str:
    """Return what torch refused to load, without its long advice on how to switch the protection off."""
    for line in str(error).splitlines():
        if "Unsupported" in line or "GLOBAL" in line:
            return line.split("WeightsUnpickler error:")[-1].strip().partition(" was not an allowed")[0][:120]
    return cause_of(error)


def check_fits(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str, listing: Path) -> None:
    """Check that the weights have exactly the detector's names and shapes.

    Raises:
        TadError: one line with the missing, unknown and differently shaped weights. If there are too many for a line,
            all of them are written to the file `listing`.
    """
    mismatches = {
        "missing": [name for name in wanted if name not in tensors],
        "unknown": [name for name in tensors if name not in wanted],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} for {tuple(wanted[name].shape)}"
            for name in wanted
            if name in tensors and tensors[name].shape != wanted[name].shape
        ],
    }
    if not any(mismatches.values()):
        return
    where = ""
    if any(len(names) > LISTED for names in mismatches.values()):
        with publish(listing) as partial:
            partial.write_text("".join(f"{what}: {name}\n" for what, names in mismatches.items() for name in names))
        where = f"; all are listed in {listing.name}, beside the model"
    named = "; ".join(
        f"{len(names)} {what}: {', '.join(names[:LISTED])}{' …' if len(names) > LISTED else ''}"
        for what, names in mismatches.items()
        if names
    )
    raise TadError(
        f"{source}: not the weights of this detector ({named}{where}); check its settings (tad show), the width of the "
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
    """Convert a published checkpoint to the model of a run, for detect.

    Args:
        path: the published file.
        out: the model to write, `results/<run>/model.safetensors`.
        spec: settings of the run; detector and window must be those of the checkpoint.
        feature_dim: number of feature channels.
        labels: the classes in the order of the checkpoint's outputs.
        weights: see `read_checkpoint`.

    Raises:
        TadError: see `read_checkpoint` and `check_fits`; the list of mismatches is written beside `out`.
    """
    tensors, epoch = read_checkpoint(path, weights=weights)
    sizes = {"num_classes": len(labels), "max_length": spec.train.max_length}
    with torch.device("meta"):  # only names and shapes are needed
        detector = plugins.build(
            "detectors", spec.detector.name, spec.detector.settings, feature_dim=feature_dim, **sizes
        )
    wanted: dict[str, Tensor] = detector.state_dict()
    listing = Path(out).with_suffix(".mismatch.txt")
    check_fits(tensors, wanted, source=str(path), listing=listing)
    listing.unlink(missing_ok=True)  # left by an earlier attempt
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
    # a tensor may be a view, for example of a single repeated number
    ordered = {
        name: tensors[name].to(wanted[name].dtype).clone(memory_format=torch.contiguous_format) for name in wanted
    }
    checkpoint.write_tensors(out, ordered, header)
    log.info("%s: %d weights (%s) of epoch %d from %s", out, len(ordered), weights, epoch, path)
    return Path(out)
