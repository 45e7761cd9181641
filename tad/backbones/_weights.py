"""Weight files → a backbone's parameters, without running code from the file and with every mismatch named."""

import pickle
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tad.errors import TadError
from tad.files import digest, sha256

LISTED = 5
SUFFIXES = (".safetensors", ".pt", ".pth", ".pyth")
WRAPPERS = ("model_state", "model", "state_dict")


def weight_files(path: Path) -> list[Path]:
    """The file itself, or the weight files in a folder, sorted.

    Raises:
        TadError: there is none.
    """
    path = Path(path)
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise TadError(f"{path}: no such weight file; the backbone's YAML says where it is published")
    return files


def weights_identity(path: Path) -> str:
    """16 hex digits of the content of a weight file, or of all weight files in a folder.

    Raises:
        TadError: there is none.
    """
    sums = [sha256(file) for file in weight_files(path)]
    return sums[0][:16] if len(sums) == 1 else digest(sums, 16)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a pickled checkpoint (weights only; wrappers and `module.` removed).

    Raises:
        TadError: missing, damaged, or holding anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise TadError(f"{path}: no such weight file; the backbone's YAML says where it is published")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise TadError(f"{path}: not a safetensors file ({error}); fetch it again") from None
    try:
        # training checkpoints of TSP carry an argparse namespace; it is data, and nothing else is let in
        with torch.serialization.safe_globals([Namespace]):
            value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TadError(f"{path}: not a plain weight file ({cause:.120}); fetch it again") from None
    return _tensors(value, path)


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


def load_weights(path: Path, backbone: nn.Module) -> nn.Module:
    """Fill `backbone` from a weight file (.safetensors, or a pickle read with weights_only) and return it in eval mode.

    A folder stands for all weight files in it together (one per stream of a two-stream network).

    Raises:
        TadError: the file cannot be read or does not fit; see `read_weights` and `fit_weights`.
    """
    translate = getattr(backbone, "published_keys", dict)
    state: dict[str, Tensor] = {}
    for file in weight_files(path):
        state |= translate(read_weights(file))
    fit_weights(state, backbone, source=str(path))
    return backbone.eval()
