"""Weight files → a backbone's parameters, without running code from the file and with every mismatch named."""

import zipfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tad.errors import DAMAGE, TadError, cause_of
from tad.specs import Plugin
from tad.weights import weight_files, weights_identity

__all__ = ["fit_weights", "load_weights", "read_weights", "weights_identity"]

LISTED = 5
WRAPPERS = ("model_state", "model", "state_dict", "module")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a pickled checkpoint (weights only; wrappers and `module.` removed).

    Raises:
        TadError: missing, damaged, or holding anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise TadError(f"{path}: no such weight file; `tad weights list` says what is published where")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise TadError(f"{path}: not a safetensors file ({error}); fetch it again") from None
    try:
        _refuse_bomb(path)
        # training checkpoints of TSP carry an argparse namespace; it is data, and nothing else is let in
        with torch.serialization.safe_globals([Namespace]):
            value = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise TadError(f"{path}: not a plain weight file ({cause_of(error)}); fetch it again") from None
    return _tensors(value, path)


def _refuse_bomb(path: Path) -> None:
    """torch stores its archives uncompressed: one that unpacks to more than itself was made to fill the memory.

    Raises:
        ValueError: such an archive.
        zipfile.BadZipFile: a damaged one.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"an archive of {path.stat().st_size} bytes that unpacks to {unpacked}")


def _tensors(value: Any, path: Path) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
            break
    if not isinstance(value, Mapping):
        raise TadError(f"{path}: holds a {type(value).__name__}, not a state dict; give the published checkpoint")
    found = {str(key).removeprefix("module."): tensor for key, tensor in value.items() if isinstance(tensor, Tensor)}
    if not found:
        raise TadError(f"{path}: holds no tensors; give the published checkpoint")
    return found


def _listed(what: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return [f"{len(keys)} {what}: {', '.join(keys[:LISTED])}{more}"]


def fit_weights(state: Mapping[str, Tensor], backbone: nn.Module, *, source: str) -> None:
    """Put a state dict into `backbone`, all of it or an error.

    A backbone with a method `published_keys(state)` translates foreign key layouts first (its own names stay as they
    are). BatchNorm's step counters may be absent (older files); they do not act in evaluation.

    Raises:
        TadError: names the missing, unknown and misshapen keys in one line.
    """
    translate = getattr(backbone, "published_keys", None)
    given = dict(translate(state) if translate else state)
    wanted = backbone.state_dict()
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in wanted]
    shapes = [
        f"{key} {tuple(given[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    problems = _listed("missing", missing) + _listed("unknown", unknown) + _listed("of another shape", shapes)
    if problems:
        raise TadError(f"{source}: not weights of this backbone ({'; '.join(problems)}); check the backbone's settings")
    backbone.load_state_dict(given, strict=False)


def load_weights(path: Path, backbone: nn.Module, plugin: Plugin | None = None) -> nn.Module:
    """Fill `backbone` from a weight file (.safetensors, or a pickle read with weights_only) and return it in eval mode.

    A folder stands for its weight files together (one per stream of a two-stream network); with `plugin`, the name and
    settings of the backbone, those for other settings are left out.

    Raises:
        TadError: the file cannot be read or does not fit, or two files of a folder hold the same parameters; see
            `read_weights` and `fit_weights`.
    """
    translate = getattr(backbone, "published_keys", dict)
    state: dict[str, Tensor] = {}
    origin: dict[str, Path] = {}
    for file in weight_files(path, plugin):
        found = translate(read_weights(file))
        twice = sorted(found.keys() & state.keys())
        if twice:
            raise TadError(
                f"{path}: {origin[twice[0]].name} and {file.name} both hold {twice[0]}; name one file in place of the "
                "folder, or move the other one away"
            )
        origin |= dict.fromkeys(found, file)
        state |= found
    fit_weights(state, backbone, source=str(path))
    return backbone.eval()
