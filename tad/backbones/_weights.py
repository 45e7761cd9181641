"""Load weight files into backbones without executing code from the file; every mismatch is reported."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from tad.backbones._contract import BackboneBase
from tad.core import checksums, formats
from tad.core.checkpoints import load_plain, refuse_odd_tensors
from tad.core.errors import DAMAGE, TadError, cause_of
from tad.settings.stages import Plugin
from tad.weights.published import weight_files, weights_identity

__all__ = ["fit_weights", "load_weights", "read_weights", "weights_identity"]

LISTED = 5
WRAPPERS = ("model_state", "model", "state_dict", "module", "ema_encoder", "target_encoder")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or a pickled checkpoint (weights only; wrappers and `module.` removed).

    Raises:
        TadError: the file is missing, damaged, in a newer format, or contains anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise TadError(f"{path}: no such weight file; `tad weights list` shows where weights are published")
    if path.suffix == ".safetensors":
        try:
            sealed = checksums.verify_inline(path)
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                formats.check_header(metadata, path, names=metadata, sealed=sealed)
            tensors = dict(load_file(path))
            refuse_odd_tensors(tensors, path.stat().st_size)
            return tensors
        except TadError:
            raise
        except (SafetensorError, *DAMAGE) as error:
            raise TadError(f"{path}: not a safetensors file ({cause_of(error)}); fetch it again") from None
    try:
        # training checkpoints of TSP contain an argparse namespace, which is plain data; no other class is allowed
        value = load_plain(path, [Namespace])
    except DAMAGE as error:
        raise TadError(f"{path}: not a plain weight file ({cause_of(error)}); fetch it again") from None
    return _tensors(value, path)


def _tensors(value: Any, path: Path) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
            break
    if not isinstance(value, Mapping):
        raise TadError(f"{path}: contains a {type(value).__name__}, not a state dict; use the published checkpoint")
    tensors = {str(key).removeprefix("module."): tensor for key, tensor in value.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise TadError(f"{path}: contains no tensors; use the published checkpoint")
    return tensors


def _listed(what: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return [f"{len(keys)} {what}: {', '.join(keys[:LISTED])}{more}"]


def fit_weights(state: Mapping[str, Tensor], backbone: BackboneBase, *, source: str) -> None:
    """Load a complete state dict into `backbone`.

    `backbone.published_keys` renames published keys first (the backbone's own names are unchanged). BatchNorm's step
    counters may be missing, as in older files; evaluation does not use them.

    Raises:
        TadError: keys are missing, unknown or have another shape; the message lists them.
    """
    given = backbone.published_keys(state)
    expected = backbone.state_dict()
    missing = [key for key in expected if key not in given and not key.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in expected]
    shapes = [
        f"{key} {tuple(given[key].shape)} for {tuple(expected[key].shape)}"
        for key in expected
        if key in given and given[key].shape != expected[key].shape
    ]
    problems = _listed("missing", missing) + _listed("unknown", unknown) + _listed("of another shape", shapes)
    if problems:
        raise TadError(f"{source}: not weights of this backbone ({'; '.join(problems)}); check the backbone's settings")
    backbone.load_state_dict(given, strict=False)


def load_weights(path: Path, backbone: BackboneBase, plugin: Plugin | None = None) -> BackboneBase:
    """Load a weight file (.safetensors, or a pickle read with weights_only) into `backbone`; return it in eval mode.

    If `path` is a folder, all its weight files are loaded (one per stream of a two-stream network); with `plugin`, the
    name and settings of the backbone, files for other settings are skipped.

    Raises:
        TadError: the file cannot be read or does not fit, or two files of a folder contain the same parameters; see
            `read_weights` and `fit_weights`.
    """
    if backbone.model_file:
        (file,) = weight_files(path, plugin)
        backbone.load_model(file)
        return backbone.eval()
    state: dict[str, Tensor] = {}
    origin: dict[str, Path] = {}
    for file in weight_files(path, plugin):
        tensors = backbone.published_keys(read_weights(file))
        twice = sorted(tensors.keys() & state.keys())
        if twice:
            raise TadError(
                f"{path}: {origin[twice[0]].name} and {file.name} both contain {twice[0]}; name one file instead of"
                " the folder, or move the other one away"
            )
        origin |= dict.fromkeys(tensors, file)
        state |= tensors
    fit_weights(state, backbone, source=str(path))
    return backbone.eval()
