"""Read pickles of containers, numbers, text, arrays and tensors without running code from them."""

import io
import mmap
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

from tad.core.limits import LimitError

INSTRUCTIONS = 5_000_000  # of a pickle


def plain_scalar(dtype: Any, data: Any = b"") -> Any:
    """Build a NumPy scalar of a plain number type (`numpy.core.multiarray.scalar` in pickles).

    Raises:
        pickle.UnpicklingError: another type, since objects could be of any kind.
    """
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufc" or not isinstance(data, bytes):
        raise pickle.UnpicklingError(f"a scalar of type {dtype!r:.40} is not a plain number")
    return np.frombuffer(data, dtype, count=1)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Decode bytes in pickles of protocol 2 and below. Other encodings are refused: they would import a module."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r:.40}")
    return text.encode("latin1")


def _empty_array(_type: Any, shape: Any, _code: Any) -> Any:
    """Return the empty array that the state in the pickle fills; pickles start with shape (0,)."""
    if shape != (0,):
        raise pickle.UnpicklingError(f"an array that begins with shape {shape!r:.40}")
    return np.empty(0)


def _array_of(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufc":
        raise pickle.UnpicklingError(f"an array of type {dtype!r:.40} is not of plain numbers")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _tensor(*arguments: Any) -> Any:
    import torch

    return torch._utils._rebuild_tensor_v2(*arguments)  # type: ignore[no-untyped-call]


def _storage(data: Any) -> Any:
    """Load a tensor's storage with `weights_only`. PyTorch's own function would load it without restriction."""
    import torch

    if not isinstance(data, bytes):
        raise pickle.UnpicklingError("a tensor storage that is not bytes")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


FUNCTIONS: Mapping[tuple[str, str], Callable[..., Any]] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): plain_scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_of for core in ("core", "_core")},
    ("_codecs", "encode"): _encode,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}


TYPES: Mapping[tuple[str, str], type] = {
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
}


class PlainUnpickler(pickle.Unpickler):
    """Unpickle containers, numbers, text, arrays and tensors, and refuse everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Look up a function or type in the allow-list.

        Functions are wrapped each time, because a pickle may set attributes of the objects that it names.

        Raises:
            pickle.UnpicklingError: any other name.
        """
        if (module, name) == ("numpy", "ndarray"):  # an argument of _reconstruct, which does not need it
            return type("ndarray", (), {})
        if (module, name) in TYPES:
            return TYPES[module, name]
        if (module, name) not in FUNCTIONS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither an array nor a tensor")
        function = FUNCTIONS[module, name]
        return lambda *arguments: function(*arguments)


def refuse_wasteful(data: Any, *, allowed: re.Pattern[str] | None = None) -> None:
    """Check the instructions of the next pickle in `data` without running it.

    Python allocates its list of remembered values by the highest number in a pickle, so five bytes could ask for
    gigabytes.

    Args:
        data: a stream with the pickle, such as a memory map; it is then behind the pickle.
        allowed: `module.name` of the functions and types that it may name; by default any.

    Raises:
        LimitError: a number is far above what was remembered, there are too many instructions, or a name is not
            allowed.
        ValueError: the pickle is damaged.
    """
    argument: Any
    for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        if count > INSTRUCTIONS:
            raise LimitError(f"a pickle of more than {INSTRUCTIONS} instructions; features need few")
        if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > 2 * count + 1000:
            raise LimitError(f"a pickle that allocates memory for {argument} values")
        if allowed and instruction.name == "GLOBAL" and not allowed.fullmatch(argument.replace(" ", ".")):
            raise LimitError(f"it asks for {argument.replace(' ', '.'):.80}, which is neither an array nor a tensor")


def unpickle(handle: IO[bytes]) -> Any:
    """Read the value in a pickle, of Python 2 as well; see `PlainUnpickler`.

    A file is mapped into memory, so that no declared length can allocate more than the file has.

    Raises:
        LimitError: see `refuse_wasteful`. Any of `tad.core.errors.DAMAGE`: damage, or other types than arrays.
    """
    in_memory = isinstance(handle, io.BytesIO)
    with handle if in_memory else mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        refuse_wasteful(data)
        data.seek(0)
        return PlainUnpickler(data, encoding="latin1").load()  # type: ignore[arg-type]
