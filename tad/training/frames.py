"""Frames as features: per picked frame a row of height · width · channels values from 0 to 255, decoded when it is
needed; of optical flow, read from where it is kept."""

# T frames, H rows, W columns

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F

from tad.cache import GRID_ATTRS, FeatureReader
from tad.errors import TadError
from tad.grid import Grid
from tad.provenance import read_stamp
from tad.specs import FrameSpec
from tad.training import frame_flow
from tad.video.seeking import Cursor, Noted, Source

log = logging.getLogger(__name__)
AT_ONCE = 32  # frames that are resized together


def open_features(path: Path) -> FeatureReader:
    """A reader of an index: of stored features, or of frames where the stage index made it.

    Raises:
        TadError: no such file, or one that carries no stamp.
    """
    return FrameReader(path) if read_stamp(path)["stage"] == "index" else FeatureReader(path)


def shrunk(images: Iterable[np.ndarray], frames: FrameSpec) -> Iterator[np.ndarray]:
    """Images (H, W, 3) uint8 squeezed to the size of the settings, as rows of uint8."""
    for some in _batched(images):
        x_NCHW = torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2).float()
        x_NCHW = F.interpolate(x_NCHW, (frames.height, frames.width), mode=frames.interpolation, align_corners=False)
        yield from x_NCHW.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).flatten(1).numpy()


def _batched(images: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    left = iter(images)
    while some := tuple(itertools.islice(left, AT_ONCE)):
        yield some


def source_of(facts: Mapping[str, Any], index: Path) -> Source:
    """The video behind an index's entry.

    Raises:
        TadError: it is not the file that was indexed.
    """
    path = Path(str(facts["path"]))
    if not path.is_file() or path.stat().st_size != int(facts["bytes"]):
        raise TadError(f"{path}: not the file that {index} is of; run probe again")
    return Source(path, str(facts["reader"]), "resample", float(facts["rate"]), float(facts["native_rate"]))


def flow_of(index: Path, facts: Mapping[str, Any], frames: FrameSpec) -> np.ndarray:
    """The flow (T, H·W·2) uint8 of a video, from where it is kept, beside the index; computed and kept if it is not.

    Raises:
        TadError: another video, one that cannot be decoded, or a file of flow that is not whole.
    """
    path, length = frame_flow.file_of(index, str(facts["checksum"])), int(facts["length"])
    if not path.is_file():
        source = source_of(facts, index)
        started = time.monotonic()
        try:
            frame_flow.keep(path, shrunk(source.images(), frames), length=length, frames=frames)
        except TadError as error:
            raise TadError(f"{source.path}: flow: {error}") from None
        log.info("%s: flow of %d frames in %.0f s", source.path.name, length, time.monotonic() - started)
    return frame_flow.kept(path, length=length, frames=frames)


class FrameReader(FeatureReader):
    """An index of frames, read as if its rows were stored. One pass over a video finds where its frames are; windows
    are then decoded from the key frame before them.

    Raises:
        TadError: a video that is not there any more or cannot be decoded.
    """

    def __enter__(self) -> Self:
        super().__enter__()
        self.frames = FrameSpec.model_validate(self.stamp["spec"]["frames"])
        self._noted: dict[str, Noted] = {}
        self._cursor = Cursor()
        return self

    def __exit__(self, *error: Any) -> None:
        self._cursor.close()
        super().__exit__(*error)

    @property
    def dim(self) -> int:
        """Values of a frame."""
        return self.frames.dim

    def grid(self, video_id: str) -> Grid:
        """The grid of a video's frames."""
        facts = self.attrs(video_id)
        start, step, duration = (float(facts[name]) for name in GRID_ATTRS)
        return Grid(start, step, int(facts["length"]), duration)

    def _source(self, video_id: str) -> Source:
        return source_of(self.attrs(video_id), self.path)

    def _flow(self, video_id: str) -> np.ndarray:
        """The flow of a video, computed if it is not kept any more."""
        return flow_of(self.path, self.attrs(video_id), self.frames)

    def stored(self, video_id: str) -> np.ndarray:
        """All frames of a video, (T, H·W·channels) uint8; what its header promised too much repeats the last one."""
        if self.frames.modality == "flow":
            return np.array(self._flow(video_id))
        noted = Noted(self._source(video_id))
        length = self.grid(video_id).length
        rows = np.zeros((length, self.dim), np.uint8)
        count = -1
        for count, row in enumerate(shrunk(noted.images(), self.frames)):
            if count < length:
                rows[count] = row
        if count < 0:
            raise TadError(f"{noted.source.path}: no frame could be decoded; run probe again")
        rows[count + 1 :] = rows[min(count, length - 1)]
        self._noted[video_id] = noted
        return rows

    def read(self, video_id: str, first: int = 0, last: int | None = None) -> np.ndarray:
        """Frames [first, last) as float32 rows."""
        first, last, _ = slice(first, last).indices(self.grid(video_id).length)
        rows = np.empty((max(last - first, 0), self.dim), np.float32)
        self.read_into(rows, video_id, first)
        return rows

    def read_into(self, out_TC: np.ndarray, video_id: str, first: int) -> None:
        """Fill a float32 array with the frames from `first` on, decoded from the key frame before them."""
        if self.frames.modality == "flow":
            out_TC[:] = self._flow(video_id)[first : first + len(out_TC)]
            return
        noted = self._noted.get(video_id)
        if noted is None:
            out_TC[:] = self.stored(video_id)[first : first + len(out_TC)]
            return
        there = max(min(len(noted.times) - first, len(out_TC)), 0)
        start = first if there else len(noted.times) - 1  # beyond the last one it is repeated
        images = self._cursor.clip(noted, start, max(there, 1))
        rows = np.stack(list(shrunk(images, self.frames)))
        out_TC[:] = rows[np.minimum(np.arange(len(out_TC)), len(rows) - 1)]
