"""Safetensors files for weights and training states, written atomically with equal bytes for equal content.

Loading such a file cannot run code. A training state also holds averaged weights, optimiser moments and the loss
normaliser.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tad.core import checksums, formats
from tad.core.errors import DAMAGE, TadError, cause_of
from tad.core.files import canonical, publish
from tad.core.limits import LimitError
from tad.core.strict_json import parse_json

CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Path:
    """Write tensors and metadata to a safetensors file, atomically.

    Metadata values that are not strings are written as canonical JSON. The library's own writer is not used: it orders
    the metadata randomly, so equal models would differ in bytes. The metadata also get a checksum of the file.
    """
    assert sys.byteorder == "little"
    # large item sizes first, so all tensors are aligned
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    text = {key: value if isinstance(value, str) else canonical(value) for key, value in metadata.items()}
    text[checksums.KEY] = checksums.UNSEALED
    header: dict[str, Any] = {"__metadata__": text}
    offset = 0
    for name in names:
        end = offset + tensors[name].numel() * tensors[name].element_size()
        dtype, shape = CODES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    head = canonical(header).encode()
    head += b" " * (-len(head) % 8)
    with publish(Path(path), size=8 + len(head) + offset) as partial:
        with open(partial, "wb") as handle:
            handle.write(len(head).to_bytes(8, "little") + head)
            for name in names:
                flat = tensors[name].detach().cpu().contiguous().reshape(-1)
                if flat.numel():
                    handle.write(memoryview(flat.view(torch.uint8).numpy()))  # type: ignore[arg-type]
        checksums.seal_inline(partial)
    return Path(path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors (to the CPU) and the metadata of a safetensors file.

    Raises:
        TadError: the file is missing or truncated, does not match its checksum, has a format that this version cannot
            read, or is not a safetensors file (for example a pickled checkpoint).
    """
    if not Path(path).is_file():
        raise TadError(f"{path}: no such file")
    try:
        sealed = checksums.verify_inline(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            metadata.pop(checksums.KEY, None)
            formats.check_header(metadata, path, names=metadata, sealed=sealed)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, tensor in tensors.items():
            if tensor.dtype not in CODES:
                raise LimitError(f"weight '{name[:80]}' is of {tensor.dtype}")
    except TadError:
        raise
    except (SafetensorError, *DAMAGE) as error:
        raise TadError(
            f"{path}: not a readable safetensors file ({cause_of(error)}); remove it and create it again"
        ) from None
    return tensors, metadata


def read_json_field(path: Path, metadata: dict[str, str], key: str, kind: type) -> Any:
    """Return a JSON value of the metadata, which must have the type `kind`.

    Raises:
        TadError: it is absent or has another type, so the file was not made by this workflow.
    """
    try:
        value = parse_json(metadata[key])
    except (KeyError, ValueError):
        value = None
    if not isinstance(value, kind):
        raise TadError(f"{path}: contains no '{key}', so it was not made by tad train; remove it and run train again")
    return value


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with `prefix.` added to their names."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix.`, with the prefix removed."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state by "<parameter index>.<name>"; parameters that were never updated have none."""
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load a state from `optimizer_tensors` into an optimiser over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
