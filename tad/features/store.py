"""Features in HDF5: shards are written atomically and read through an index; damaged or foreign files are rejected.

Layout: one group per video (its id percent-encoded) with the dataset `feats` (T, C) and the timing as attributes; the
root has the stamp and the excluded videos. An index holds external links to its shards, with relative paths; an index
of joined features holds virtual datasets over its parts, also with relative paths.
"""

# T snippets, C channels

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote

import h5py
import numpy as np

from tad.core import formats
from tad.core.errors import DAMAGE, DamagedError, TadError, cause_of
from tad.core.grid import Grid
from tad.core.h5 import CheckedH5, H5Writer, inside, reading, refuse_odd_dataset
from tad.core.strict_json import parse_json

GRID_ATTRS = ("start", "step", "duration", "offset")
JOINED = "joined"  # attribute of joined features with the checksum of each part
ROWS_AT_ONCE = 4096
OPEN_AT_ONCE = 512  # videos; following a link from an index to a shard takes longer than reading a short window
FILES_AT_ONCE = 200  # shards; systems allow 1024 open files or fewer


def key_of(video_id: str) -> str:
    """Return the group name of a video: its id percent-encoded, so that no id can refer to another path."""
    return quote(video_id, safe="")


def checksum(feats_TC: np.ndarray) -> str:
    """Return the sha256 of the stored bytes and their shape."""
    state = hashlib.sha256(str(feats_TC.shape).encode())
    state.update(np.ascontiguousarray(feats_TC).reshape(-1).view(np.uint8).data)  # no copy: they may be large
    return state.hexdigest()


def source_name(name: str) -> str:
    """Escape the name of a file or dataset as source of a virtual dataset, where HDF5 interprets % as a format."""
    return name.replace("%", "%%")


def describe(group: h5py.Group, video_id: str, *, grid: Grid, attrs: dict[str, Any], checksum: str) -> None:
    """Write grid, attributes and checksum of a video's features to its group."""
    facts = {**attrs, "video_id": video_id} | {name: getattr(grid, name) for name in GRID_ATTRS}
    facts["checksum"] = checksum
    for name in sorted(facts):
        group.attrs[name] = facts[name]


class ShardWriter(H5Writer):
    """Writer of a feature shard; videos must be added in the order of their ids."""

    def add(self, video_id: str, feats_TC: np.ndarray, *, grid: Grid, attrs: dict[str, Any]) -> None:
        """Write the features (T, C) of a video with its grid and further attributes.

        Raises:
            TadError: the features are not finite.
        """
        if not all(np.isfinite(feats_TC[k : k + ROWS_AT_ONCE]).all() for k in range(0, len(feats_TC), ROWS_AT_ONCE)):
            raise TadError(
                f"{video_id}: features contain NaN or infinity; check the weights and the video, nothing was stored"
            )
        group = self.file.create_group(key_of(video_id), track_order=False)
        group.create_dataset("feats", data=feats_TC, track_times=False)
        describe(group, video_id, grid=grid, attrs=attrs, checksum=checksum(feats_TC))
        self.check()


@dataclass(frozen=True)
class Rows:
    """The features of a video: one dataset, or several side by side for joined features.

    Attributes:
        path: the file that holds the video's group.
        name: name of the dataset in it.
        shape: (T, C).
        dtype: stored data type; of joined features the widest.
        parts: the datasets with their channels.
    """

    path: Path
    name: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    parts: tuple[tuple[h5py.Dataset, slice], ...]

    def read_into(self, out_TC: np.ndarray, first: int) -> None:
        """Read the rows from `first` on into a contiguous array; without a copy if it has the stored type."""
        rows = np.s_[first : first + len(out_TC)]
        for feats, channels in self.parts:
            width = channels.stop - channels.start
            if feats.dtype == out_TC.dtype and width == out_TC.shape[1]:
                feats.read_direct(out_TC, rows)
            else:  # NumPy converts faster than HDF5
                np.copyto(out_TC[:, channels], feats[rows, :width])


class FeatureReader:
    """Reader of the features in a shard or index. Open it in the process that reads; HDF5 handles cannot be shared.

    Raises:
        TadError: the file is damaged or foreign, a shard is missing, or features are NaN; the message names file and
            video.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._open: dict[str, Rows] = {}
        self._sources: dict[Path, CheckedH5] = {}  # shards, and parts of joined features
        self._known_inside: set[str] = set()  # names of linked files
        self._finite: dict[str, tuple[int, int]] = {}  # snippets that have been checked

    def __enter__(self) -> Self:
        self._index = CheckedH5(self.path)
        self._file, self._folder = self._index.file, self.path.resolve().parent
        try:
            with reading(self.path):
                text = self._file.attrs.get("tad_stamp")
            if text is None:
                raise TadError(f"{self.path}: has no stamp, so it is not a feature file of tad; remove it or import it")
            with reading(self.path):
                self.stamp: dict[str, Any] = parse_json(text)
                self.excluded: dict[str, str] = parse_json(self._file.attrs.get("excluded", "{}"))
                if not isinstance(self.stamp, dict) or not isinstance(self.excluded, dict):
                    raise ValueError("its stamp or its list of excluded videos is not an object")
                self.video_ids: list[str] = sorted(unquote(key) for key in self._file)
            if self.stamp.get("stage") == "index" and type(self) is FeatureReader:
                raise TadError(f"{self.path}: an index of frames, which has no features; only train and detect read it")
            self._index.refuse_damage()
        except BaseException:
            self._index.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        files = [self._index, *self._sources.values()]
        self._close_sources()
        self._index.close()
        if error is None or isinstance(error, Exception):
            for file in files:  # HDF5 passes over some failures of reading
                file.refuse_damage()

    def _close_sources(self) -> None:
        self._open.clear()
        for source in self._sources.values():
            source.close()
        self._sources.clear()

    def _other(self, path: Path) -> CheckedH5:
        """Return another file of the index, which stays open until a later video needs room."""
        if path not in self._sources:
            self._sources[path] = CheckedH5(path)
        return self._sources[path]

    def _make_room(self) -> None:
        """Close the other files if there are many. Only before a video: joined features need several at once."""
        if len(self._sources) >= FILES_AT_ONCE:
            for source in self._sources.values():
                source.refuse_damage()
            self._close_sources()

    def _located(self, video_id: str) -> tuple[Path, h5py.Group]:
        """Return the group of a video and its file, to which an index has a link."""
        self._make_room()
        key = key_of(video_id)
        with reading(self.path):
            link = self._file.get(key, getlink=True)
            if link is None:
                raise TadError(
                    f"{self.path}: no features of video '{video_id}'; extract it or exclude it with a reason"
                )
            if isinstance(link, h5py.SoftLink):
                raise ValueError(f"'{video_id}' is a link to {link.path:.80}")
            if not isinstance(link, h5py.ExternalLink):
                return self.path, self._file[key]
        path = self._inside(link.filename, video_id)
        try:
            source = self._other(path).file
            group = source[link.path]
            if group.file != source:
                raise ValueError("a link to a third file")
            return path, group
        except (DamagedError, formats.FormatError):
            raise
        except DAMAGE as error:
            raise TadError(
                f"{self.path}: the shard of video '{video_id}' is missing or damaged ({str(error)[:120]}); "
                "run extract again"
            ) from error

    def _inside(self, name: str, video_id: str) -> Path:
        """Return the path of a linked file, which lies in the folder of this file after all links are followed.

        An index from others could otherwise make any file of this machine part of its features.
        """
        if name not in self._known_inside:
            if not inside(self._folder / name, self._folder):
                raise TadError(
                    f"{self.path}: the features of '{video_id}' lie in {name}, outside the folder of the index; move"
                    " the files into it and recreate the index"
                )
            self._known_inside.add(name)
        return self._folder / name

    def _group(self, video_id: str) -> h5py.Group:
        with self._naming(video_id):
            return self._located(video_id)[1]

    @contextmanager
    def _naming(self, video_id: str) -> Iterator[None]:
        """Name the video in what is said of damage."""
        try:
            yield
        except DamagedError as error:
            for file in (self._index, *self._sources.values()):
                file.delivered(error)
            text = str(error)
            raise error if "video '" in text else DamagedError(f"{text} (read for video '{video_id}')") from None

    def _feats(self, video_id: str) -> Rows:
        """Return the features of a video, whose files stay open."""
        if video_id not in self._open:
            if len(self._open) == OPEN_AT_ONCE:
                self._open.clear()
            with self._naming(video_id):
                path, group = self._located(video_id)
                with reading(path):
                    if not isinstance(group.get("feats", getlink=True), h5py.HardLink):
                        raise ValueError(f"'{video_id}' has no features of its own")
                    feats = group["feats"]
                    if feats.ndim != 2 or feats.dtype.kind != "f":
                        raise ValueError(f"the features of '{video_id}' are {feats.dtype} {feats.shape}")
                    parts: tuple[tuple[h5py.Dataset, slice], ...] = ((feats, slice(0, feats.shape[1])),)
                    if feats.is_virtual:
                        parts = self._joined(video_id, group)
                    else:
                        refuse_odd_dataset(feats)
            self._open[video_id] = Rows(path, str(feats.name), feats.shape, feats.dtype, parts)
        return self._open[video_id]

    def _joined(self, video_id: str, group: h5py.Group) -> tuple[tuple[h5py.Dataset, slice], ...]:
        """Return the parts of joined features, which exist and are unchanged. They are read here and not by HDF5,
        which would not compare their checksums, and would read NaN where one is missing."""
        checksums, parts, needed = parse_json(group.attrs[JOINED]), [], 0
        for source, wanted in zip(group["feats"].virtual_sources(), checksums, strict=True):
            file, name = (text.replace("%%", "%") for text in (source.file_name, source.dset_name))
            path = self._inside(file, video_id)
            try:
                part = self._other(path).file[name]
                refuse_odd_dataset(part)
                needed += int(part.size)
                same = part.parent.attrs["checksum"] == wanted
            except (DamagedError, formats.FormatError):
                raise
            except DAMAGE as error:
                raise TadError(
                    f"{self.path}: {path}, a part of the joined features of '{video_id}', is missing or damaged "
                    f"({cause_of(error)[:60]}); create it and the joined features again"
                ) from error
            last = source.src_space.get_select_bounds()[1]
            if not (same and np.greater(part.shape, last).all()):
                raise TadError(
                    f"{self.path}: the features of '{video_id}' in {path} have changed since; run join again"
                )
            (_, first_column), (_, last_column) = source.vspace.get_select_bounds()
            parts.append((part, slice(first_column, last_column + 1)))
        if int(group["feats"].size) > needed:
            raise TadError(f"{self.path}: '{video_id}' declares more rows than its parts have; run join again")
        return tuple(parts)

    def location(self, video_id: str) -> tuple[Path, str]:
        """Return the file and the dataset name of a video's features."""
        feats = self._feats(video_id)
        return feats.path, feats.name

    @property
    def dim(self) -> int:
        """Number C of channels.

        Raises:
            TadError: there is no video.
        """
        if not self.video_ids:
            raise TadError(f"{self.path}: contains no videos; check the video folder and the causes in the manifest")
        return int(self._feats(self.video_ids[0]).shape[1])

    def grid(self, video_id: str) -> Grid:
        """Return the time grid of a video's snippets."""
        group = self._group(video_id)
        with reading(self.path):
            start, step, duration, offset = (float(group.attrs[name]) for name in GRID_ATTRS)
            return Grid(start, step, int(group["feats"].shape[0]), duration, offset)

    def attrs(self, video_id: str) -> dict[str, Any]:
        """Return all attributes of a video."""
        group = self._group(video_id)
        with reading(self.path):
            return dict(group.attrs)

    def stored(self, video_id: str) -> np.ndarray:
        """Return the features (T, C) of a video as stored, with verified checksum."""
        feats = self._feats(video_id)
        feats_TC = np.empty(feats.shape, feats.dtype)
        if feats_TC.size:
            with self._naming(video_id), reading(self.path):
                feats.read_into(feats_TC, 0)
        if checksum(feats_TC) != self.attrs(video_id).get("checksum"):
            raise TadError(
                f"{self.path}: features of '{video_id}' do not match their checksum; remove the shard and extract again"
            )
        return feats_TC

    def read(self, video_id: str, first: int = 0, last: int | None = None) -> np.ndarray:
        """Return the features (T, C) of the snippets [first, last) as float32."""
        length, width = self._feats(video_id).shape
        first, last, _ = slice(first, last).indices(length)
        feats_TC = np.empty((max(last - first, 0), width), np.float32)
        self.read_into(feats_TC, video_id, first)
        return feats_TC

    def read_into(self, out_TC: np.ndarray, video_id: str, first: int) -> None:
        """Read the snippets from `first` on into a contiguous float32 array, without a copy if stored as float32."""
        feats = self._feats(video_id)
        if feats.shape[1] != out_TC.shape[1]:
            raise TadError(
                f"{self.path}: features of '{video_id}' have {feats.shape[1]} channels, those of other videos"
                f" {out_TC.shape[1]}; extract again"
            )
        if len(out_TC) == 0:
            return
        with self._naming(video_id), reading(self.path):
            feats.read_into(out_TC, first)
        self._check_finite(video_id, out_TC, first)

    def _check_finite(self, video_id: str, feats_TC: np.ndarray, first: int) -> None:
        """Check that the snippets from `first` on are finite, unless they have been checked before."""
        last = first + len(feats_TC)
        known_first, known_last = self._finite.get(video_id, (first, first))
        if known_first <= first and last <= known_last:
            return
        # summing is faster than checking each value; values are only checked if the sum overflows
        if not np.isfinite(feats_TC.sum()) and not np.isfinite(feats_TC).all():
            raise TadError(
                f"{self.path}: features of '{video_id}' contain NaN or infinity; remove the shard and extract again"
            )
        if first <= known_last and known_first <= last:
            first, last = min(first, known_first), max(last, known_last)
        self._finite[video_id] = first, last
