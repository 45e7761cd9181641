"""Frames of TSP's training clips: all decoded once to a temporary file, or decoded on demand.

Both give the same clips. Decoded frames take about 1 MB per second of video at TSP's frame size, which suits some
hundred hours of video; for ActivityNet it would be a terabyte.
"""

# T frames, N frames of any clips, H rows, W columns, C channels

import io
import logging
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tad.backbones._contract import BackboneBase
from tad.core.checksums import BlockFile, append_blocks_to
from tad.core.progress import track
from tad.core.storage import forecast, storing
from tad.settings.stages import ClipSpec
from tad.training.tsp.clips import Clips, Frames, padded, placed
from tad.video.seeking import Cursor, Noted, Source

log = logging.getLogger(__name__)
FRAMES_AT_ONCE = 64
Steps = Callable[[torch.Tensor], torch.Tensor]


def source_of(folder: Path, entry: Mapping[str, Any], clip: ClipSpec) -> Source:
    """Return the source of a manifest entry's video, with the frame-rate policy of the settings."""
    return Source(
        folder / entry["path"],
        entry["reader"],
        policy=clip.policy,
        rate=clip.rate,
        native_rate=float(entry["rate"]),
        start=float(entry["start"]),
    )


def steps_of(backbone: BackboneBase) -> Steps:
    """Return the backbone's preprocessing of a video's frames in order: resizing, or optical flow."""
    return backbone.stream()


@torch.no_grad()
def levels(frames_NHWC: np.ndarray, steps: Steps) -> np.ndarray:
    """Preprocess frames and round the result to uint8; training does not need a backbone's fractional pixel values."""
    small = steps(torch.from_numpy(frames_NHWC))
    small = small.round().to(torch.uint8) if small.is_floating_point() else small
    return np.ascontiguousarray(small.numpy())


def _prepared(frames: Iterator[np.ndarray], steps: Steps) -> Iterator[np.ndarray]:
    """Preprocess a video's frames in small batches."""
    waiting: list[np.ndarray] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == FRAMES_AT_ONCE:
            yield levels(np.stack(waiting), steps)
            waiting.clear()
    if waiting:
        yield levels(np.stack(waiting), steps)


def decoded_bytes(videos: Mapping[str, tuple[Any, Any]], *, backbone: BackboneBase, clip: ClipSpec) -> int:
    """Estimate the number of bytes that `decode` would write, from the manifest."""
    height, width = backbone.frame_size
    seconds = ((entry["frames"], float(entry["rate"])) for _, entry in videos.values())
    frames_after_sampling = sum(frames * (clip.rate or rate) / rate for frames, rate in seconds)
    return int(frames_after_sampling * backbone.channels * height * width)


def frames_of(
    videos: Mapping[str, tuple[Any, Any]],
    folder: Path,
    *,
    backbone: BackboneBase,
    clip: ClipSpec,
    scratch: Path,
    most: int | None = None,
) -> Clips:
    """Return a source of clips from all videos.

    Frames are decoded to a file in `scratch` if they take at most `most` bytes (None: half of the free space there),
    otherwise on demand.
    """
    needed = decoded_bytes(videos, backbone=backbone, clip=clip)
    most = shutil.disk_usage(scratch).free // 2 if most is None else most
    if needed <= most:
        forecast(scratch, needed, what="decoding the training videos")
        return decode(videos, folder, backbone=backbone, clip=clip, scratch=scratch)
    log.info(
        "decoded frames would take %.1f GB, the limit is %.1f GB: clips are decoded on demand", needed / 1e9, most / 1e9
    )
    return OnDemand(videos, folder, backbone=backbone, clip=clip)


def decode(
    videos: Mapping[str, tuple[Any, Any]], folder: Path, *, backbone: BackboneBase, clip: ClipSpec, scratch: Path
) -> Frames:
    """Decode every video once, in order, to uint8 frames of the backbone's size, or to optical flow.

    The frames are written to an unnamed temporary file in `scratch`: the system decides how much of it stays in memory,
    and the file disappears with the process.

    Raises:
        StorageError: they do not fit on the disk.
    """
    with storing(scratch / "decoded frames", size=decoded_bytes(videos, backbone=backbone, clip=clip)):
        return _decoded(videos, folder, backbone=backbone, clip=clip, scratch=scratch)


def _decoded(
    videos: Mapping[str, tuple[Any, Any]], folder: Path, *, backbone: BackboneBase, clip: ClipSpec, scratch: Path
) -> Frames:
    first, count, rates, total = [], [], [], 0
    with tempfile.TemporaryFile(dir=scratch) as file:
        for _, entry in track(videos.values(), "decode", len(videos)):
            frames = 0
            for chunk in _prepared(source_of(folder, entry, clip).images(), steps_of(backbone)):
                file.write(chunk.tobytes())
                frames += len(chunk)
            first.append(total)
            count.append(frames)
            rates.append(clip.rate or float(entry["rate"]))
            total += frames
        file.flush()
        shape = (total, *backbone.frame_size, backbone.channels)
        append_blocks_to(file.fileno())
        checked = BlockFile(scratch / "decoded frames", io.FileIO(os.dup(file.fileno())))
    return Frames(Stored(checked, shape), first, count, rates)


class Stored:
    """Rows of frames (N, H, W, C) uint8 in a temporary file, read with their checksums compared."""

    def __init__(self, file: BlockFile, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._file, self._bytes = file, math.prod(shape[1:])

    def __getitem__(self, part: slice) -> np.ndarray:
        """Return some successive frames."""
        first, last, _ = part.indices(self.shape[0])
        out = np.empty((max(last - first, 0), *self.shape[1:]), np.uint8)
        self._file.read_at(first * self._bytes, out.reshape(-1).data)
        return out


class OnDemand:
    """Source of clips that are decoded on demand; safe to use from several threads.

    A first pass over all videos records the times of their frames, at 8 bytes per frame. For optical flow the frame
    before a clip is also decoded.
    """

    def __init__(
        self, videos: Mapping[str, tuple[Any, Any]], folder: Path, *, backbone: BackboneBase, clip: ClipSpec
    ) -> None:
        self.count: list[int] = []
        self.rates: list[float] = []
        self._noted: list[Noted] = []
        self._backbone, self._here = backbone, threading.local()
        self._before = int(backbone.channels == 2)  # preceding frames that the preprocessing needs
        for _, entry in track(videos.values(), "scan", len(videos)):
            noted = Noted(source_of(folder, entry, clip))
            self.count.append(sum(1 for _ in noted.images()))
            self.rates.append(clip.rate or float(entry["rate"]))
            self._noted.append(noted)

    def clip(self, video: int, start: float, length: int) -> np.ndarray:
        """Return a clip; see `Clips.clip`."""
        if not hasattr(self._here, "cursor"):
            self._here.cursor = Cursor()
        index, there = placed(start * self.rates[video], self.count[video], length)
        before = min(self._before, index)
        images = self._here.cursor.clip(self._noted[video], index - before, there + before)
        return padded(levels(np.stack(images), steps_of(self._backbone))[before:], length)
