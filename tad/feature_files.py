"""Published feature files → arrays, without running code from them: .npy, .npz, .pt, .h5, .csv, pickles of tensors.

A pickle names functions that are called when it is read. Here a name is looked up in a short list of functions that
build arrays and tensors, each written or wrapped below; every other name refuses the file.
"""

# T snippets, C channels

import csv
import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

import h5py
import numpy as np

from tad.cache import open_h5
from tad.errors import DAMAGE, TadError, cause_of
from tad.feature_facts import (
    HEAD_ATTRIBUTE,
    SIDECAR,
    VIDEO_ATTRIBUTE,
    Export,
    ExportedVideo,
    ExportHead,
    parse_facts,
    read_sidecar,
)

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".pkl", ".pickle", ".csv")
HDF5 = (".h5", ".hdf5")
TORCH_ZIP = b"PK\x03\x04"


def plain_scalar(dtype: Any, data: Any = b"") -> Any:
    """A NumPy scalar of a plain number type, as pickles name it (`numpy.core.multiarray.scalar`).

    Raises:
        pickle.UnpicklingError: another type: objects could be of any kind.
    """
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufc" or not isinstance(data, bytes):
        raise pickle.UnpicklingError(f"a scalar of type {dtype!r:.40} is no plain number")
    return np.frombuffer(data, dtype, count=1)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes in pickles of protocol 2 and below; another encoding would import its module."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r:.40}")
    return text.encode("latin1")


def _empty_array(_type: Any, shape: Any, _code: Any) -> Any:
    """An array to be filled by the state that follows; pickles start with one of shape (0,)."""
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
    """The storage in a tensor's pickle. torch's own function reads it without restriction; this one does not."""
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
    """Reads pickles of containers, numbers, text, arrays and tensors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """A listed function or type; functions are wrapped anew, because a pickle may set attributes of what it names.

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


def unpickle(handle: IO[bytes]) -> Any:
    """The value in a pickle (Python 2's too); see `PlainUnpickler`."""
    return PlainUnpickler(handle, encoding="latin1").load()


def _only(values: Mapping[str, Any], key: str) -> Any:
    if key in values:
        return values[key]
    if len(values) == 1:
        return next(iter(values.values()))
    raise ValueError(f"holds {', '.join(sorted(map(str, values))[:5]) or 'nothing'}, and no '{key}'")


def _is_row(cells: list[str]) -> bool:
    """Whether the first line of a table is numbers that do not just count the columns."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return False
    return numbers not in ([*range(len(cells))], [*range(1, len(cells) + 1)])


def _table(path: Path) -> np.ndarray:
    """(T, C) of a CSV file with a header and a row for each snippet.

    Raises:
        ValueError: no header, a row of another width, or a cell that is no number; the line is named.
    """
    with open(path, encoding="utf-8", newline="") as handle:
        lines = csv.reader(handle)
        header = next(lines, [])
        if not header or _is_row(header):
            raise ValueError(f"line 1: {'a row of numbers' if header else 'nothing'} where a header is expected")
        rows = []
        for cells in lines:
            if len(cells) != len(header):
                raise ValueError(f"line {lines.line_num}: {len(cells)} columns, the header has {len(header)}")
            try:
                rows.append(np.array(cells, dtype=np.float32))
            except ValueError as error:
                raise ValueError(f"line {lines.line_num}: {error}") from None
    return np.stack(rows) if rows else np.empty((0, len(header)), np.float32)


def _value(path: Path) -> Any:
    """What a feature file holds: an array or tensor, or a dict of them."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".csv":
        return _table(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return _only({name: archive[name] for name in archive.files}, "feats")
    with open(path, "rb") as handle:
        zipped = handle.read(4) == TORCH_ZIP
        handle.seek(0)
        if path.suffix in (".pkl", ".pickle") and not zipped:
            return unpickle(handle)
        import torch

        return torch.load(handle, map_location="cpu", weights_only=True)


def _json(text: Any) -> Any:
    """The value of an attribute that should be JSON; nothing when it is none."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _array(value: Any, layout: str) -> np.ndarray:
    """(T, C) of what a file holds; SlowFast's two streams (1, C, T) side by side, slow first."""
    if isinstance(value, Mapping) and {"slow_feature", "fast_feature"} <= set(value):
        streams = [_array(value[name], layout) for name in ("slow_feature", "fast_feature")]
        if len(streams[0]) != len(streams[1]):
            raise ValueError(f"{len(streams[0])} slow rows and {len(streams[1])} fast rows")
        return np.concatenate(streams, axis=1)
    if isinstance(value, Mapping):
        value = _only(value, "feats")
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"holds {kind}, not an array of numbers")
    while value.ndim > 2 and value.shape[0] == 1:
        value = value[0]
    if value.ndim != 2:
        raise ValueError(f"holds an array of shape {value.shape}, not (snippets, channels)")
    array: np.ndarray = value.T if layout == "CT" else value
    return array


def _refusal(where: str, error: BaseException) -> TadError:
    return TadError(f"{where}: {cause_of(error)}; nothing was run from it; fetch or export it again")


class FeatureFiles:
    """The features of each video in a folder (one file each, subfolders too) or in one HDF5 file (a dataset each).

    Args:
        source: the folder or file.
        prefix: what the names begin with before the video's id.
        layout: `TC` for arrays (snippets, channels), `CT` for (channels, snippets); leading axes of 1 are dropped.

    Raises:
        TadError: absent, not HDF5, or two files of one video.
    """

    def __init__(self, source: Path, *, prefix: str = "", layout: str = "TC") -> None:
        self.source, self.prefix, self.layout = Path(source), prefix, layout
        self.single = self.source.suffix in HDF5
        self.export: ExportHead | None = None if self.single else read_sidecar(self.source)
        self.places = dict(self._listed())

    def _listed(self) -> Iterator[tuple[str, Path]]:
        if self.single:
            with open_h5(self.source) as file:
                head = file.attrs.get(HEAD_ATTRIBUTE)
                if head is not None:
                    self.export = parse_facts(ExportHead, _json(head), f"{self.source}: {HEAD_ATTRIBUTE}")
                for name in file:
                    if name.startswith(self.prefix):
                        yield self._video_id(name), self.source
            return
        if not self.source.is_dir():
            what = "not a folder of feature files" if self.source.exists() else "no such folder or file"
            raise TadError(f"{self.source}: {what}; name a folder of {', '.join(SUFFIXES)} files or one .h5 file")
        seen: dict[str, Path] = {}
        for path in sorted(self.source.rglob("*")):
            if path.suffix not in SUFFIXES or not path.name.startswith(self.prefix):
                continue
            video_id = self._video_id(path.name.removesuffix(path.suffix))
            if video_id in seen:
                raise TadError(f"{path}: {seen[video_id]} is of the same video; keep one of them")
            seen[video_id] = path
            yield video_id, path

    def _video_id(self, name: str) -> str:
        """The id behind a name; our exports write ids percent-encoded, so that none can name another place."""
        return (unquote(name) if self.export else name).removeprefix(self.prefix)

    @property
    def files(self) -> list[Path]:
        """The files behind the videos, sorted; the facts of an export among them."""
        beside = [] if self.single or self.export is None else [self.source / SIDECAR]
        return sorted({*self.places.values(), *beside})

    def facts(self, video_id: str) -> ExportedVideo | None:
        """What our export said of a video; None for features from elsewhere.

        Raises:
            TadError: an export without facts of this video, or with damaged ones.
        """
        if self.export is None:
            return None
        if isinstance(self.export, Export):
            found = self.export.videos.get(self.prefix + video_id)
            value = found.model_dump() if found else None
        else:
            with h5py.File(self.source, "r") as file:
                link = file.get(self._name(video_id), getlink=True)
                own = isinstance(link, h5py.HardLink)
                value = _json(file[self._name(video_id)].attrs.get(VIDEO_ATTRIBUTE)) if own else None
        where = f"{self.source}: '{video_id}'"
        if value is None:
            raise TadError(f"{where} has no facts in this export, so nobody knows its times; export the features again")
        facts: ExportedVideo = parse_facts(ExportedVideo, value, where)
        return facts

    def _name(self, video_id: str) -> str:
        return quote(self.prefix + video_id, safe="") if self.export else self.prefix + video_id

    @staticmethod
    def read_one(path: Path, *, layout: str = "TC") -> np.ndarray:
        """Features (T, C) in one file.

        Raises:
            TadError: a file that is damaged, that holds objects or code, or no array of two axes.
        """
        try:
            return _array(_value(path), layout)
        except DAMAGE as error:
            raise _refusal(str(path), error) from None

    def read(self, video_id: str) -> np.ndarray:
        """Features (T, C) of a video as stored, of any number type.

        Raises:
            TadError: a file that is damaged, that holds objects or code, or no array of two axes.
        """
        path = self.places[video_id]
        if not self.single:
            return self.read_one(path, layout=self.layout)
        try:
            return _array(self._dataset(video_id), self.layout)
        except DAMAGE as error:
            raise _refusal(f"{path}: '{self.prefix}{video_id}'", error) from None

    def _dataset(self, video_id: str) -> Any:
        with h5py.File(self.source, "r") as file:
            name = self._name(video_id)
            if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
                raise ValueError("is not a dataset of its own file")
            if file[name].external or file[name].is_virtual:
                raise ValueError("takes its numbers from another file")
            return file[name][()]
