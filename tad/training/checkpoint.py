"""Weights and training states as safetensors: written whole with equal bytes for equal content, read without trust.

Nothing here can run code on loading. A state also holds averages, optimiser moments and the loss normaliser.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tad.errors import TadError
from tad.files import canonical, publish

CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Path:
    """Write tensors and metadata (values as canonical JSON, text as it is) as a safetensors file, atomically.

    Written here because the library's own writer orders the metadata at random, so that equal models differ in bytes.
    """
    assert sys.byteorder == "little"
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # large items first: all aligned
    text = {key: value if isinstance(value, str) else canonical(value) for key, value in metadata.items()}
    header: dict[str, Any] = {"__metadata__": text}
    offset = 0
    for name in names:
        end = offset + tensors[name].numel() * tensors[name].element_size()
        dtype, shape = CODES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    head = canonical(header).encode()
    head += b" " * (-len(head) % 8)
    with publish(Path(path)) as partial, open(partial, "wb") as handle:
        handle.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            if flat.numel():
                handle.write(memoryview(flat.view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return Path(path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors (CPU) and the metadata of a safetensors file.

    Raises:
        TadError: missing, truncated, or something else (a pickled checkpoint, say) under this name.
    """
    if not Path(path).is_file():
        raise TadError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise TadError(f"{path}: not a readable safetensors file ({str(error)[:80]}); remove and remake it") from None


def read_json_field(path: Path, metadata: dict[str, str], key: str, kind: type) -> Any:
    """One JSON value of the metadata, of the type `kind`.

    Raises:
        TadError: absent or of another type: the file was not made by this workflow.
    """
    try:
        value = json.loads(metadata[key])
    except (KeyError, ValueError):
        value = None
    if not isinstance(value, kind):
        raise TadError(f"{path}: holds no '{key}', so it was not made by tad train; remove it and run train again")
    return value


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix.`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix.`, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's per-parameter state by "<parameter index>.<name>"; parameters never stepped have none."""
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the state of `optimizer_tensors` back into an optimiser over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
