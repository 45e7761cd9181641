"""Frames as features: one row of height · width · channels values from 0 to 255 per sampled frame.

RGB frames are decoded on demand; optical flow is read from its cache.
"""

# T frames, H rows, W columns

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.features.store import GRID_ATTRS, FeatureReader
from tad.provenance.conditions import uses
from tad.settings.stages import FrameSpec
from tad.training.data.frame_source import shrunk, source_of
from tad.video.seeking import Cursor, Noted, Source


class FrameReader(FeatureReader):
    """Reader of a frame index with the interface of `FeatureReader`.

    The first pass over a video records the locations of its frames; windows are then decoded from the preceding key
    frame.

    Raises:
        TadError: a video is missing or cannot be decoded.
    """

    def __enter__(self) -> Self:
        super().__enter__()
        self.frames = FrameSpec.model_validate(self.stamp["spec"]["frames"])
        self._noted: dict[str, Noted] = {}
        self._cursor = Cursor()
        self._flow: Callable[..., np.ndarray] | None = None
        if uses("flow", {"frames": self.frames.modality}):
            from tad.training.data.frame_flow import load_or_compute_flow

            self._flow = lambda video_id, *part: load_or_compute_flow(
                self.path, self.attrs(video_id), self.frames, *part
            )
        return self

    def __exit__(self, *error: Any) -> None:
        self._cursor.close()
        super().__exit__(*error)

    @property
    def dim(self) -> int:
        """Number of values per frame."""
        return self.frames.dim

    def grid(self, video_id: str) -> Grid:
        """Return the time grid of a video's frames."""
        facts = self.attrs(video_id)
        start, step, duration, offset = (float(facts[name]) for name in GRID_ATTRS)
        return Grid(start, step, int(facts["length"]), duration, offset)

    def _source(self, video_id: str) -> Source:
        return source_of(self.attrs(video_id), self.path)

    def stored(self, video_id: str) -> np.ndarray:
        """Return all frames of a video, (T, H·W·channels) uint8.

        If the video has fewer frames than its header states, the last one is repeated.
        """
        if self._flow is not None:
            return self._flow(video_id)
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
        """Return the frames [first, last) as float32 rows."""
        first, last, _ = slice(first, last).indices(self.grid(video_id).length)
        rows = np.empty((max(last - first, 0), self.dim), np.float32)
        self.read_into(rows, video_id, first)
        return rows

    def read_into(self, out_TC: np.ndarray, video_id: str, first: int) -> None:
        """Read the frames from `first` on into a float32 array, decoding from the preceding key frame."""
        if self._flow is not None:
            out_TC[:] = self._flow(video_id, first, first + len(out_TC))
            return
        noted = self._noted.get(video_id)
        if noted is None:
            out_TC[:] = self.stored(video_id)[first : first + len(out_TC)]
            return
        there = max(min(len(noted.times) - first, len(out_TC)), 0)
        start = first if there else len(noted.times) - 1  # beyond the end the last frame is repeated
        images = self._cursor.clip(noted, start, max(there, 1))
        rows = np.stack(list(shrunk(images, self.frames)))
        out_TC[:] = rows[np.minimum(np.arange(len(out_TC)), len(rows) - 1)]
