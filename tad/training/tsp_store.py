"""Videos → the frames that TSP's clips are cut from: all of them decoded once and kept on disk, or decoded on demand.

The two give the same clips. What is kept is about 1 MB per second of video at TSP's frame size: right for some hundred
hours; for ActivityNet it would be a terabyte.
"""

# T frames, N frames of any clips, H rows, W columns, C channels

import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tad.progress import track
from tad.specs import ClipSpec
from tad.training.tsp_clips import Clips, Frames, padded, placed
from tad.video.seeking import Cursor, Noted, Source

log = logging.getLogger(__name__)
FRAMES_AT_ONCE = 64
Steps = Callable[[torch.Tensor], torch.Tensor]


def source_of(folder: Path, entry: Mapping[str, Any], clip: ClipSpec) -> Source:
    """A video of the manifest, with the recipe's rate policy."""
    return Source(
        folder / entry["path"], entry["reader"], policy=clip.policy, rate=clip.rate, native_rate=float(entry["rate"])
    )


def steps_of(backbone: Any) -> Steps:
    """What turns a video's frames, in order, into what the backbone's clips are cut from: frames at its size, flow."""
    steps: Steps = backbone.stream() if hasattr(backbone, "stream") else backbone.shrink
    return steps


def channels_of(backbone: Any) -> int:
    """Values of a pixel of these."""
    return int(getattr(backbone, "channels", 3))


@torch.no_grad()
def levels(frames_NHWC: np.ndarray, steps: Steps) -> np.ndarray:
    """Steps as uint8: a backbone may resize to fractions of a level, which training does not need."""
    small = steps(torch.from_numpy(frames_NHWC))
    small = small.round().to(torch.uint8) if small.is_floating_point() else small
    return np.ascontiguousarray(small.numpy())


def _prepared(frames: Iterator[np.ndarray], steps: Steps) -> Iterator[np.ndarray]:
    """The steps of a video's frames, a few at a time."""
    waiting: list[np.ndarray] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == FRAMES_AT_ONCE:
            yield levels(np.stack(waiting), steps)
            waiting.clear()
    if waiting:
        yield levels(np.stack(waiting), steps)


def kept_bytes(videos: Mapping[str, tuple[Any, Any]], *, backbone: Any, clip: ClipSpec) -> int:
    """What `decode` would write, by the manifest."""
    height, width = backbone.frame_size
    seconds = ((entry["frames"], float(entry["rate"])) for _, entry in videos.values())
    kept = sum(frames * (clip.rate or rate) / rate for frames, rate in seconds)
    return int(kept * channels_of(backbone) * height * width)


def frames_of(
    videos: Mapping[str, tuple[Any, Any]],
    folder: Path,
    *,
    backbone: Any,
    clip: ClipSpec,
    scratch: Path,
    most: int | None = None,
) -> Clips:
    """The frames of all videos: kept in `scratch` if they take at most `most` bytes (None: half of what is free there),
    else decoded on demand."""
    needed = kept_bytes(videos, backbone=backbone, clip=clip)
    most = shutil.disk_usage(scratch).free // 2 if most is None else most
    if needed <= most:
        return decode(videos, folder, backbone=backbone, clip=clip, scratch=scratch)
    log.info("decoded frames would take %.1f GB of at most %.1f: clips are decoded on demand", needed / 1e9, most / 1e9)
    return OnDemand(videos, folder, backbone=backbone, clip=clip)


def decode(
    videos: Mapping[str, tuple[Any, Any]], folder: Path, *, backbone: Any, clip: ClipSpec, scratch: Path
) -> Frames:
    """Decode every video once, in order, to uint8 frames of the backbone's size, or to the flow between them.

    They go to a nameless temporary file in `scratch` that is mapped into memory, so that memory stays bounded by what
    the system can spare, and the file goes away with the process.
    """
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
        shape = (total, *backbone.frame_size, channels_of(backbone))
        store = np.memmap(file, dtype=np.uint8, mode="r", shape=shape) if total else np.zeros(shape, np.uint8)
    return Frames(store, first, count, rates)


class OnDemand:
    """Clips that are decoded when they are asked for, by as many threads as ask.

    A first pass over all videos notes the times of their frames; memory holds 8 bytes for each of these. For flow the
    frame before a clip is decoded, too.
    """

    def __init__(self, videos: Mapping[str, tuple[Any, Any]], folder: Path, *, backbone: Any, clip: ClipSpec) -> None:
        self.count: list[int] = []
        self.rates: list[float] = []
        self._noted: list[Noted] = []
        self._backbone, self._here = backbone, threading.local()
        self._before = int(channels_of(backbone) == 2)  # frames that a step depends on besides its own
        for _, entry in track(videos.values(), "look through", len(videos)):
            noted = Noted(source_of(folder, entry, clip))
            self.count.append(sum(1 for _ in noted.images()))
            self.rates.append(clip.rate or float(entry["rate"]))
            self._noted.append(noted)

    def clip(self, video: int, start: float, length: int) -> np.ndarray:
        """See `Clips`."""
        if not hasattr(self._here, "cursor"):
            self._here.cursor = Cursor()
        index, there = placed(start * self.rates[video], self.count[video], length)
        before = min(self._before, index)
        images = self._here.cursor.clip(self._noted[video], index - before, there + before)
        return padded(levels(np.stack(images), steps_of(self._backbone))[before:], length)
