"""Batching of clips from several videos, and assignment of the computed rows to their videos.

Every batch has the same number of clips (the last one is padded with copies), so all rows are computed by the same
kernels: a video's rows depend neither on the other videos in a batch nor on its length.
"""

# B clips, T frames (of a clip) or snippets (of a video), H rows, W columns, C channels

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tad.backbones._contract import BackboneBase
from tad.core.errors import TadError
from tad.core.lanes import INLINE
from tad.extraction.overlap import RUN, runs
from tad.settings.stages import ExtractSpec
from tad.video.clips import ClipBuffer, count_clips

BATCH_CPU, BATCH_GPU = 1, 32  # on a CPU larger batches are not faster (measured), and a batch of 1 needs no padding
PATIENCE = 4  # number of batches for which a finished video waits for others to share its last batch
FLOAT16_MAX = 65504.0


class Rows:
    """Growing array of a video's rows; concatenating them at the end would need twice the memory."""

    def __init__(self, *, expected: int, dtype: type[np.floating[Any]]) -> None:
        self._expected, self._dtype = max(expected, 1), dtype
        self._array = np.empty((0, 0), dtype)
        self.count = 0

    def add(self, row_C: np.ndarray) -> None:
        """Append a row, converted to the data type."""
        if self.count == len(self._array):  # unwritten memory is not yet allocated by the system
            larger = np.empty((max(self._expected, self.count + self.count // 4 + 1), len(row_C)), self._dtype)
            larger[: self.count] = self._array[: self.count] if self.count else 0
            self._array = larger
        self._array[self.count] = row_C
        self.count += 1

    def features(self) -> np.ndarray:
        """Return the rows so far (T, C)."""
        return self._array[: self.count]


@dataclass
class Stream:
    """State of a video in progress: its clip buffer, its computed rows, and whether all its frames have arrived."""

    video_id: str
    buffer: ClipBuffer[Tensor]
    rows: Rows
    ended_at: int | None = None  # number of batches that had been run when its last frame arrived
    run: list[list[Tensor]] = field(default_factory=list)  # clips waiting to be computed with overlapping ones
    known: int = 0  # number of first clips whose rows are known, so that they are not computed

    @property
    def complete(self) -> bool:
        """Whether all rows have been computed."""
        return self.ended_at is not None and self.rows.count == self.buffer.clips


@dataclass
class _Flying:
    """A batch that a lane or the device may still be computing."""

    streams: list[Stream]
    rows_BC: Future[Tensor]
    event: Any = field(default=None)

    def fetch(self) -> np.ndarray:
        """Wait for the batch and return its rows (B, C), without padding."""
        if self.event is not None:
            self.event.synchronize()
        return self.rows_BC.result().numpy()[: len(self.streams)]


class Preparer:
    """Preprocessing of a video's frames, in order: transfer to the device, resizing, and optical flow if needed."""

    def __init__(self, backbone: BackboneBase, device: torch.device) -> None:
        self._backbone, self._steps = backbone, backbone.stream()
        self._device = device

    def __call__(self, frames_NHWC: np.ndarray) -> Tensor:
        """Preprocess frames (N, H, W, 3) uint8, each of them once.

        The memory of the frames is reused afterwards, so a backbone's `stream` must copy frames that it stores.
        """
        given = torch.from_numpy(frames_NHWC)
        frames = given
        if self._device.type == "cuda":
            frames = frames.pin_memory().to(self._device, non_blocking=True)
        steps = self._steps(frames)
        return steps.clone() if steps.untyped_storage().data_ptr() == given.untyped_storage().data_ptr() else steps

    def finish(self) -> Tensor | None:
        """Return the steps that needed the end of the video; None if there are none."""
        return self._backbone.finish(self._steps)


class Encoder:
    """Computes features from the preprocessed frames of several videos, each video in order.

    Args:
        backbone: the encoder. Batches are computed in its `lanes`.
        spec: settings.
        device: device of the encoder.
        batch: number of clips per batch; 0: the default for the device.
    """

    def __init__(self, backbone: BackboneBase, *, spec: ExtractSpec, device: torch.device, batch: int = 0) -> None:
        self.backbone, self.spec, self.device = backbone, spec, device
        lanes = backbone.lanes.count
        # batches that may be computed while the next one is prepared; one more waits, so that no lane does
        self._most = 1 if device.type == "cuda" else lanes + 1 if lanes > 1 else 0
        self.batch = batch or (BATCH_GPU if device.type == "cuda" else BATCH_CPU)
        self.dtype = np.float16 if spec.dtype == "float16" else np.float32
        self.batches = 0
        self._together = runs(backbone, spec, device) if self.batch == BATCH_CPU else None
        self._streams: dict[str, Stream] = {}
        # by shape, because videos with different aspect ratios may have clips of different sizes
        self._clips: dict[tuple[int, ...], list[tuple[Stream, Tensor]]] = {}
        self._flying: deque[_Flying] = deque()

    def begin(self, video_id: str, *, frames: int, known_TC: np.ndarray | None = None) -> None:
        """Start a video with about `frames` frames; `known_TC`: rows of its first clips, which are not computed."""
        clip = self.spec.clip
        timing: dict[str, Any] = {"length": clip.length, "stride": clip.stride, "tail": clip.tail}
        rows = Rows(expected=count_clips(frames, **timing), dtype=self.dtype)
        for row_C in () if known_TC is None else known_TC:
            rows.add(row_C)
        self._streams[video_id] = Stream(video_id, ClipBuffer(**timing), rows, known=rows.count)

    def push(self, video_id: str, steps_NHWC: Tensor) -> None:
        """Add the next preprocessed frames of a video."""
        stream = self._streams[video_id]
        for step in steps_NHWC:
            clip = stream.buffer.push(step)
            if clip is None or stream.buffer.clips <= stream.known:
                continue
            stream.run.append(clip)
            if self._together is None or len(stream.run) == RUN:
                self._take_run(stream)

    def end(self, video_id: str) -> None:
        """Mark a video as having no more frames."""
        stream = self._streams[video_id]
        self._take_run(stream)
        clip = stream.buffer.finish()
        if stream.buffer.clips < stream.known:
            raise TadError(
                f"{video_id}: has fewer clips than an earlier part of the file had; remove the cached features"
            )
        if clip is not None:
            self._take(stream, clip)
        stream.ended_at = self.batches

    def drop(self, video_id: str) -> None:
        """Discard a video with its rows and waiting clips."""
        stream = self._streams.pop(video_id, None)
        for shape, clips in self._clips.items():
            self._clips[shape] = [(owner, clip) for owner, clip in clips if owner is not stream]

    def finished(self, *, last: bool = False) -> list[Stream]:
        """Return the videos that have been completed since the last call; `last` completes all remaining videos."""
        for clips in list(self._clips.values()):
            ended = [owner.ended_at for owner, _ in clips if owner.ended_at is not None]
            if clips and (last or (ended and self.batches - min(ended) >= PATIENCE)):
                self._run(clips)
        self._collect(0 if last else self._most)
        complete = [stream for stream in self._streams.values() if stream.complete]
        for stream in complete:
            del self._streams[stream.video_id]
        return complete

    def _take_run(self, stream: Stream) -> None:
        """Compute the waiting overlapping clips: together if there are enough, otherwise one by one."""
        clips, stream.run = stream.run, []
        if self._together is not None and len(clips) == RUN:
            self._start([stream] * RUN, self._of_run, clips)
            return
        for clip in clips:
            self._take(stream, clip)

    def _of_run(self, clips: list[list[Tensor]]) -> Tensor:
        """Return the rows (G, C) of overlapping clips, together if this gives the same bits."""
        assert self._together is not None
        rows_GC = self._together(clips)
        if rows_GC is None:
            rows_GC = torch.cat([self.backbone(torch.stack(clip)[None]) for clip in clips])
        return rows_GC

    def _take(self, stream: Stream, clip: list[Tensor]) -> None:
        stacked = torch.stack(clip)
        waiting = self._clips.setdefault(tuple(stacked.shape), [])
        waiting.append((stream, stacked))
        if len(waiting) == self.batch:
            self._run(waiting)

    def _run(self, clips: list[tuple[Stream, Tensor]]) -> None:
        """Start computing a batch and empty `clips`."""
        streams = [stream for stream, _ in clips]
        batch = [clip for _, clip in clips] + [clips[-1][1]] * (self.batch - len(clips))
        clips.clear()
        self._start(streams, self.backbone, torch.stack(batch))

    def _start(self, streams: list[Stream], compute: Callable[..., Tensor], given: Any) -> None:
        """Start computing rows of these videos, (B, C) with B at least their number."""
        self.batches += 1
        if self.device.type == "cuda":
            flying = _Flying(streams, INLINE.submit(lambda: compute(given).float().to("cpu", non_blocking=True)))
            flying.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            flying.event.record()
        else:
            flying = _Flying(streams, self.backbone.lanes.submit(lambda: compute(given).float()))
        self._flying.append(flying)
        self._collect(self._most)

    def _collect(self, most: int) -> None:
        """Store the rows of the oldest batches, until at most this number of batches may still be computed."""
        while len(self._flying) > most:
            flying = self._flying.popleft()
            for stream, row_C in zip(flying.streams, flying.fetch(), strict=True):
                self._store(stream, row_C)

    def _store(self, stream: Stream, row_C: np.ndarray) -> None:
        largest = np.abs(row_C).max()
        if not np.isfinite(largest):
            raise TadError(
                f"{stream.video_id}: features contain NaN or infinity; check the weights, nothing was stored"
            )
        if self.dtype == np.float16 and largest > FLOAT16_MAX:
            raise TadError(f"{stream.video_id}: feature value {largest:.3g} does not fit float16; set dtype: float32")
        stream.rows.add(row_C)
