"""Reading of published feature files (.npy, .npz, .pt, .h5, .csv, pickles of tensors) without running code from them.

A pickle names functions that are called on loading. Here only a short list of functions that build arrays and tensors
is allowed; a file with any other name is rejected.
"""

# T snippets, C channels

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import h5py
import numpy as np

from tad.core import formats
from tad.core.arrays import read_npy, read_npz
from tad.core.csv_rows import csv_rows
from tad.core.errors import DAMAGE, TadError, cause_of
from tad.core.h5 import CheckedH5, open_h5, read_dataset, reading
from tad.core.strict_json import parse_json
from tad.core.unpickle import unpickle
from tad.features.facts import (
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
REMEDY = "download or export it again"
TORCH_ZIP = b"PK\x03\x04"


def _only(values: Mapping[str, Any], key: str) -> Any:
    if key in values:
        return values[key]
    if len(values) == 1:
        return next(iter(values.values()))
    raise ValueError(f"contains {', '.join(sorted(map(str, values))[:5]) or 'nothing'}, but no '{key}'")


def _is_row(cells: list[str]) -> bool:
    """Return whether the first line of a table contains numbers other than column numbers."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return False
    return numbers not in ([*range(len(cells))], [*range(1, len(cells) + 1)])


def _table(path: Path) -> np.ndarray:
    """Read an array (T, C) from a CSV file with a header and one row per snippet.

    Raises:
        ValueError: there is no header, a row has another width, or a cell is not a number; the message names the line.
    """
    with open(path, encoding="utf-8", newline="") as handle:
        lines = csv_rows(handle)
        _, header = next(lines, (1, []))
        if not header or _is_row(header):
            raise ValueError(f"line 1: expected a header, but it {'is a row of numbers' if header else 'is empty'}")
        rows = []
        for number, cells in lines:
            if len(cells) != len(header):
                raise ValueError(f"line {number}: {len(cells)} columns, the header has {len(header)}")
            try:
                rows.append(np.array(cells, dtype=np.float32))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return np.stack(rows) if rows else np.empty((0, len(header)), np.float32)


def _value(path: Path) -> Any:
    """Read a feature file: an array or tensor, or a dict of them."""
    if path.suffix == ".npy":
        return read_npy(path)
    if path.suffix == ".csv":
        return _table(path)
    if path.suffix == ".npz":
        return read_npz(path, "feats")
    with open(path, "rb") as handle:
        if path.suffix in (".pkl", ".pickle") and handle.read(4) != TORCH_ZIP:
            return unpickle(handle)
    from tad.core.checkpoints import load_plain

    return load_plain(path)


def _json(text: Any) -> Any:
    """Return the decoded value of a JSON attribute; None if it is not valid."""
    try:
        return parse_json(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _array(value: Any, layout: str) -> np.ndarray:
    """Return the content of a file as array (T, C); SlowFast's two streams (1, C, T) are concatenated, slow first."""
    if isinstance(value, Mapping) and {"slow_feature", "fast_feature"} <= set(value):
        streams = [_array(value[name], layout) for name in ("slow_feature", "fast_feature")]
        if len(streams[0]) != len(streams[1]):
            raise ValueError(f"{len(streams[0])} slow rows and {len(streams[1])} fast rows")
        return np.concatenate(streams, axis=1)
    if isinstance(value, Mapping):
        value = _only(value, "feats")
    if hasattr(value, "detach"):
        from tad.core.checkpoints import refuse_odd_tensors

        refuse_odd_tensors(value, value.untyped_storage().nbytes())
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"contains {kind}, not an array of numbers")
    while value.ndim > 2 and value.shape[0] == 1:
        value = value[0]
    if value.ndim != 2:
        raise ValueError(f"contains an array of shape {value.shape}, expected (snippets, channels)")
    array: np.ndarray = value.T if layout == "CT" else value
    return array


def _refusal(where: str, error: BaseException) -> TadError:
    return TadError(f"{where}: {cause_of(error)}; no code from it was run; download or export it again")


class FeatureFiles:
    """Feature files of videos: a folder with one file per video (also in subfolders), or an HDF5 file with datasets.

    Args:
        source: the folder or file.
        prefix: prefix of the names before the video's id.
        suffix: suffix of the names after the video's id, without the file's own.
        layout: `TC` for arrays (snippets, channels), `CT` for (channels, snippets); leading axes of size 1 are removed.

    Raises:
        TadError: the source does not exist or is not HDF5, or a video has two files.
    """

    def __init__(self, source: Path, *, prefix: str = "", suffix: str = "", layout: str = "TC") -> None:
        self.source, self.prefix, self.suffix, self.layout = Path(source), prefix, suffix, layout
        self.single = self.source.suffix in HDF5
        self.export: ExportHead | None = None if self.single else read_sidecar(self.source)
        self.paths = dict(self._listed())

    def _listed(self) -> Iterator[tuple[str, Path]]:
        if self.single:
            with CheckedH5(self.source) as checked, reading(self.source, REMEDY):
                file = checked.file
                head = file.attrs.get(HEAD_ATTRIBUTE)
                if head is not None:
                    value = _json(head)
                    known = value if isinstance(value, dict) else {}
                    formats.unmarked(known, self.source, kind="export", sealed=checked.sealed)
                    self.export = parse_facts(ExportHead, value, f"{self.source}: {HEAD_ATTRIBUTE}")
                for name in file:
                    if self._is_of_video(name):
                        yield self._video_id(name), self.source
            return
        if not self.source.is_dir():
            what = "not a folder of feature files" if self.source.exists() else "no such folder or file"
            raise TadError(f"{self.source}: {what}; give a folder of {', '.join(SUFFIXES)} files or one .h5 file")
        seen: dict[str, Path] = {}
        for path in sorted(self.source.rglob("*")):
            name = path.name.removesuffix(path.suffix)
            if path.suffix not in SUFFIXES or not self._is_of_video(name):
                continue
            video_id = self._video_id(name)
            if video_id in seen:
                raise TadError(f"{path}: {seen[video_id]} belongs to the same video; remove one of them")
            seen[video_id] = path
            yield video_id, path

    def _is_of_video(self, name: str) -> bool:
        longer = len(name) >= len(self.prefix) + len(self.suffix)
        return longer and name.startswith(self.prefix) and name.endswith(self.suffix)

    def _video_id(self, name: str) -> str:
        """Return the id of a name; ids are percent-encoded in our exports, so that none can refer to another path."""
        return (unquote(name) if self.export else name).removeprefix(self.prefix).removesuffix(self.suffix)

    def _full(self, video_id: str) -> str:
        return f"{self.prefix}{video_id}{self.suffix}"

    @property
    def files(self) -> list[Path]:
        """All files, sorted, including the sidecar of an export."""
        beside = [] if self.single or self.export is None else [self.source / SIDECAR]
        return sorted({*self.paths.values(), *beside})

    def facts(self, video_id: str) -> ExportedVideo | None:
        """Return the recorded facts of an exported video; None for other features.

        Raises:
            TadError: the export has no facts of this video, or they are damaged.
        """
        if self.export is None:
            return None
        if isinstance(self.export, Export):
            video = self.export.videos.get(self._full(video_id))
            value = video.model_dump() if video else None
        else:
            with open_h5(self.source) as file, reading(self.source, REMEDY):
                link = file.get(self._name(video_id), getlink=True)
                own = isinstance(link, h5py.HardLink)
                value = _json(file[self._name(video_id)].attrs.get(VIDEO_ATTRIBUTE)) if own else None
        where = f"{self.source}: '{video_id}'"
        if value is None:
            raise TadError(f"{where} has no facts in this export, so its times are unknown; export the features again")
        facts: ExportedVideo = parse_facts(ExportedVideo, value, where)
        return facts

    def _name(self, video_id: str) -> str:
        return quote(self._full(video_id), safe="") if self.export else self._full(video_id)

    @staticmethod
    def read_one(path: Path, *, layout: str = "TC") -> np.ndarray:
        """Return the features (T, C) in one file.

        Raises:
            TadError: the file is damaged, contains objects or code, or is not a two-dimensional array.
        """
        try:
            return _array(_value(path), layout)
        except DAMAGE as error:
            raise _refusal(str(path), error) from None

    def read(self, video_id: str) -> np.ndarray:
        """Return the features (T, C) of a video in their stored number type.

        Raises:
            TadError: the file is damaged, contains objects or code, or is not a two-dimensional array.
        """
        path = self.paths[video_id]
        if not self.single:
            return self.read_one(path, layout=self.layout)
        try:
            return _array(self._dataset(video_id), self.layout)
        except DAMAGE as error:
            raise _refusal(f"{path}: '{self._full(video_id)}'", error) from None

    def _dataset(self, video_id: str) -> Any:
        with open_h5(self.source) as file:
            return read_dataset(file, self._name(video_id))
