"""Read PyTorch's files (.pt, .pth) without running code from them, and check the sizes and types of their tensors."""

import io
import mmap
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tad.core.arrays import refuse_zip_bomb
from tad.core.limits import DEPTH, LimitError, most_unpacked
from tad.core.unpickle import refuse_wasteful

# What PyTorch itself writes for dense tensors and numbers. It would also allow zeroed memory of any length, sparse and
# nested tensors. Types beside these are left to PyTorch's own list and to `harmless`.
NAMES = re.compile(
    r"torch\.(\w+Storage|Size|device|float\w*|bfloat16|u?int\d+|bool)|torch\.storage\.\w+Storage"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|collections\.OrderedDict|builtins\.(set|complex)"
    r"|(?!torch\b|builtins\b|__builtin__\b).*"
)
PICKLES = 5  # at the start of a file in PyTorch's format of before 2020
OBJECTS = 200_000  # of a checkpoint; published ones have some thousand


def load_plain(path: Path, harmless: Sequence[Any] = ()) -> Any:
    """Load a file of `torch.save` that holds tensors, numbers, text and containers only.

    Args:
        path: the file.
        harmless: further types that the file may contain.

    Raises:
        one of `tad.core.errors.DAMAGE`: the file is damaged, holds anything else, or would unpack to far more than its
            size.
    """
    import torch

    path = Path(path)
    if zipfile.is_zipfile(path):
        refuse_zip_bomb(path, stored_only=True)
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.filename.endswith("data.pkl"):
                    refuse_wasteful(io.BytesIO(archive.read(record)), allowed=NAMES)
    else:
        with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for _ in range(PICKLES):
                refuse_wasteful(data, allowed=NAMES)
                if data.tell() == len(data):  # a file of any other program
                    break
    with torch.serialization.safe_globals(list(harmless)):
        value = torch.load(path, map_location="cpu", weights_only=True)
    refuse_odd_tensors(value, path.stat().st_size)
    return value


def refuse_odd_tensors(value: Any, stored: int) -> None:
    """Check every tensor in nested containers: dense, on the CPU, of plain numbers, and no larger than its file.

    A tensor may repeat one stored number a billion times (a view with stride 0); copying it would fill the memory.

    Raises:
        LimitError: a tensor or all tensors together are larger than a file of `stored` bytes can hold, or a tensor is
            of a kind that weights and features never are.
    """
    import torch

    total, seen, stack = 0, 0, [(value, 0)]
    while stack:
        item, depth = stack.pop()
        seen += 1
        if depth > DEPTH or seen > OBJECTS:
            raise LimitError("holds too many values, or values nested too deeply, for a checkpoint")
        if isinstance(item, torch.Tensor):
            total += _bytes_of(item)
            if total > most_unpacked(stored):
                raise LimitError(f"its tensors declare {total} bytes or more, but the file has {stored}")
        elif isinstance(item, Mapping):
            stack += [(part, depth + 1) for part in item.values()]
        elif isinstance(item, list | tuple | set):
            stack += [(part, depth + 1) for part in item]


def _bytes_of(tensor: Any) -> int:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout} on device {tensor.device.type}"
        raise LimitError(f"holds a tensor that is {kind}; weights and features are dense")
    if tensor.dtype.itemsize == 1 and tensor.is_floating_point():
        raise LimitError(f"holds a tensor of {tensor.dtype}; weights and features have 16 bits or more")
    return int(tensor.numel()) * int(tensor.dtype.itemsize)
