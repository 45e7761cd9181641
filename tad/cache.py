"""Features in HDF5: shards written whole, read through an index, refused when damaged or foreign.

Layout: one group per video (its id percent-encoded) with the dataset `feats` (T, C) and the timing facts as attributes;
the root carries the stamp and the excluded videos. An index holds external links to its shards, relative to itself; one
of joined features holds virtual datasets over theirs, likewise relative.
"""

# T snippets, C channels

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote

import h5py
import numpy as np

from tad.errors import TadError
from tad.files import canonical, publish
from tad.grid import Grid

GRID_ATTRS = ("start", "step", "duration")
JOINED = "joined"  # of joined features, the attribute with the checksum of each part
ROWS_AT_ONCE = 4096
OPEN_AT_ONCE = 512  # videos; following a link from an index to its shard takes longer than reading a short window


def key_of(video_id: str) -> str:
    """The group name of a video: percent-encoded, so that no id can name another path."""
    return quote(video_id, safe="")


def checksum(feats_TC: np.ndarray) -> str:
    """sha256 of the stored bytes and their shape."""
    state = hashlib.sha256(str(feats_TC.shape).encode())
    state.update(np.ascontiguousarray(feats_TC).reshape(-1).view(np.uint8).data)  # no copy: they may be large
    return state.hexdigest()


@contextmanager
def open_h5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file opened for reading.

    Raises:
        TadError: missing, truncated or not HDF5 at all.
    """
    if not Path(path).is_file():
        raise TadError(f"{path}: no such file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "truncated" if "truncated" in str(error) else "not a readable HDF5 file"
        raise TadError(f"{path}: {reason}; remove it and run again") from None
    try:
        yield file
    finally:
        file.close()


def source_name(name: str) -> str:
    """A file or dataset as HDF5 wants it named as a source of a virtual dataset, where % begins a format."""
    return name.replace("%", "%%")


def describe(group: h5py.Group, video_id: str, *, grid: Grid, attrs: dict[str, Any], checksum: str) -> None:
    """Store what is known of a video's features beside them."""
    facts = {**attrs, "video_id": video_id, "start": grid.start, "step": grid.step, "duration": grid.duration}
    facts["checksum"] = checksum
    for name in sorted(facts):
        group.attrs[name] = facts[name]


class H5Writer:
    """An HDF5 file that appears whole or not at all; equal content gives equal bytes (no dates inside)."""

    def __init__(self, path: Path, stamp: dict[str, Any]) -> None:
        self._publish = publish(Path(path))
        self._stamp = stamp

    def __enter__(self) -> Self:
        self.file = h5py.File(self._publish.__enter__(), "w", track_order=False)
        self.file.attrs["tad_stamp"] = canonical(self._stamp)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self._publish.__exit__(kind, error, trace)

    def dataset(self, name: str, values: np.ndarray) -> h5py.Dataset:
        """Store an array under `name`, contiguous and without dates."""
        return self.file.create_dataset(name, data=values, track_times=False)

    def attribute(self, name: str, value: Any) -> None:
        """A root attribute, as canonical JSON."""
        self.file.attrs[name] = canonical(value)


class ShardWriter(H5Writer):
    """A shard of features; add the videos in the order of their ids."""

    def add(self, video_id: str, feats_TC: np.ndarray, *, grid: Grid, attrs: dict[str, Any]) -> None:
        """Store the features (T, C) of a video with its grid and further timing facts.

        Raises:
            TadError: features that are not finite.
        """
        if not all(np.isfinite(feats_TC[k : k + ROWS_AT_ONCE]).all() for k in range(0, len(feats_TC), ROWS_AT_ONCE)):
            raise TadError(
                f"{video_id}: features hold NaN or infinity; check the weights and the video, nothing was stored"
            )
        group = self.file.create_group(key_of(video_id), track_order=False)
        group.create_dataset("feats", data=feats_TC, track_times=False)
        describe(group, video_id, grid=grid, attrs=attrs, checksum=checksum(feats_TC))


class FeatureReader:
    """Features of a shard or an index, video by video. Open it in the process that reads (HDF5 handles do not travel).

    Raises:
        TadError: damaged or foreign file, missing shard, NaN features; the message names the file and the video.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._open: dict[str, h5py.Dataset] = {}
        self._sources: dict[Path, h5py.File] = {}  # of joined features
        self._expected: set[str] = set()  # videos whose sources were looked at
        self._finite: dict[str, tuple[int, int]] = {}  # snippets that were looked at

    def __enter__(self) -> Self:
        self._context = open_h5(self.path)
        self._file = self._context.__enter__()
        text = self._file.attrs.get("tad_stamp")
        if text is None:
            self._context.__exit__(None, None, None)
            raise TadError(f"{self.path}: carries no stamp, so it is not a feature file of tad; remove it or import it")
        self.stamp: dict[str, Any] = json.loads(text)
        if self.stamp.get("stage") == "index" and type(self) is FeatureReader:
            self._context.__exit__(None, None, None)
            raise TadError(f"{self.path}: an index of frames, which only train and detect read; it holds no features")
        self.excluded: dict[str, str] = json.loads(self._file.attrs.get("excluded", "{}"))
        self.video_ids: list[str] = sorted(unquote(key) for key in self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.clear()
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        self._context.__exit__(kind, error, trace)

    def _group(self, video_id: str) -> h5py.Group:
        try:
            return self._file[key_of(video_id)]
        except (KeyError, OSError) as error:
            if key_of(video_id) in self._file.keys():  # noqa: SIM118  (a dangling link is a key but not "in" the file)
                raise TadError(
                    f"{self.path}: the shard of video '{video_id}' is missing or damaged; run extract again"
                ) from error
            raise TadError(
                f"{self.path}: no features of video '{video_id}'; extract it or exclude it with a reason"
            ) from None

    def _feats(self, video_id: str) -> h5py.Dataset:
        """The features of a video, which stay open."""
        if video_id not in self._open:
            if len(self._open) == OPEN_AT_ONCE:
                self._open.clear()
            feats = self._group(video_id)["feats"]
            if video_id not in self._expected and feats.is_virtual:
                self._expect_sources(video_id, feats)
                self._expected.add(video_id)
            self._open[video_id] = feats
        return self._open[video_id]

    def _expect_sources(self, video_id: str, feats: h5py.Dataset) -> None:
        """Refuse joined features of which a part is not there, for which HDF5 itself would read NaN, or is another."""
        checksums = json.loads(self._group(video_id).attrs[JOINED])
        for source, wanted in zip(feats.virtual_sources(), checksums, strict=True):
            file, name = (text.replace("%%", "%") for text in (source.file_name, source.dset_name))
            path = self.path.resolve().parent / file
            try:
                if path not in self._sources:
                    self._sources[path] = h5py.File(path, "r")
                part = self._sources[path][name]
                same = part.parent.attrs["checksum"] == wanted
            except (OSError, KeyError) as error:
                raise TadError(
                    f"{self.path}: {path}, which the features of '{video_id}' are joined from, is missing or damaged "
                    f"({str(error)[:60]}); make it and the joined features again"
                ) from error
            last = source.src_space.get_select_bounds()[1]
            if not (same and np.greater(part.shape, last).all()):  # HDF5 would read beyond the end of a shorter one
                raise TadError(
                    f"{self.path}: {path} holds other features of '{video_id}' than were joined; run join again"
                )

    def place(self, video_id: str) -> tuple[Path, str]:
        """The file that the features of a video lie in, and what they are called there."""
        feats = self._feats(video_id)
        return Path(feats.file.filename), str(feats.name)

    @property
    def dim(self) -> int:
        """Width C of the features; an empty file has none."""
        if not self.video_ids:
            raise TadError(f"{self.path}: holds no video; check the video folder and the manifest's causes")
        return int(self._group(self.video_ids[0])["feats"].shape[1])

    def grid(self, video_id: str) -> Grid:
        """The grid of a video's snippets."""
        group = self._group(video_id)
        start, step, duration = (float(group.attrs[name]) for name in GRID_ATTRS)
        return Grid(start, step, int(group["feats"].shape[0]), duration)

    def attrs(self, video_id: str) -> dict[str, Any]:
        """All facts stored with a video."""
        return dict(self._group(video_id).attrs)

    def stored(self, video_id: str) -> np.ndarray:
        """Features (T, C) as stored, checksum verified."""
        feats_TC: np.ndarray = self._feats(video_id)[:]
        if checksum(feats_TC) != self._group(video_id).attrs["checksum"]:
            raise TadError(
                f"{self.path}: features of '{video_id}' do not match their checksum; remove the shard and extract again"
            )
        return feats_TC

    def read(self, video_id: str, first: int = 0, last: int | None = None) -> np.ndarray:
        """Features (T, C) of snippets [first, last) as float32."""
        length, width = self._feats(video_id).shape
        first, last, _ = slice(first, last).indices(length)
        feats_TC = np.empty((max(last - first, 0), width), np.float32)
        self.read_into(feats_TC, video_id, first)
        return feats_TC

    def read_into(self, out_TC: np.ndarray, video_id: str, first: int) -> None:
        """Fill a contiguous float32 array with the snippets from `first` on: what is stored so is read in place."""
        feats = self._feats(video_id)
        if feats.shape[1] != out_TC.shape[1]:
            raise TadError(
                f"{self.path}: features of '{video_id}': {feats.shape[1]} wide, others {out_TC.shape[1]}; extract again"
            )
        if len(out_TC) == 0:
            return
        if feats.dtype == np.float32:
            feats.read_direct(out_TC, np.s_[first : first + len(out_TC)])
        else:  # NumPy converts faster than HDF5
            np.copyto(out_TC, feats[first : first + len(out_TC)])
        self._look_at(video_id, out_TC, first)

    def _look_at(self, video_id: str, feats_TC: np.ndarray, first: int) -> None:
        """Refuse snippets from `first` on that are not finite; what was looked at before is not looked at again."""
        last = first + len(feats_TC)
        known_first, known_last = self._finite.get(video_id, (first, first))
        if known_first <= first and last <= known_last:
            return
        # a sum is faster than a look at each value; where large values overflow it, each is looked at
        if not np.isfinite(feats_TC.sum()) and not np.isfinite(feats_TC).all():
            raise TadError(
                f"{self.path}: features of '{video_id}' hold NaN or infinity; remove the shard and extract again"
            )
        if first <= known_last and known_first <= last:
            first, last = min(first, known_first), max(last, known_last)
        self._finite[video_id] = first, last
