"""Frames of several videos → clips → batches → the rows of each video.

Every batch has the same number of clips (a last one is filled up with copies), so that each row comes from the same
kernels whatever shares its batch: rows depend neither on the company of a video nor on its length.
"""

# B clips, T frames (of a clip) or snippets (of a video), H rows, W columns, C channels

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tad.errors import TadError
from tad.extraction.overlap import RUN, runs
from tad.specs import ExtractSpec
from tad.video.clips import ClipBuffer, count_clips

BATCH_CPU, BATCH_GPU = 1, 32  # on a CPU larger batches gain nothing (measured), and this one is never filled up
PATIENCE = 4  # batches for which an ended video may wait for others that would share its last batch
FLOAT16_MAX = 65504.0


class Rows:
    """The rows of a video as they come in, in one array: concatenation at the end would need the memory twice."""

    def __init__(self, *, expected: int, dtype: type[np.floating[Any]]) -> None:
        self._expected, self._dtype = max(expected, 1), dtype
        self._array = np.empty((0, 0), dtype)
        self.count = 0

    def add(self, row_C: np.ndarray) -> None:
        """The next row, converted."""
        if self.count == len(self._array):  # what is not written to yet takes no memory
            larger = np.empty((max(self._expected, self.count + self.count // 4 + 1), len(row_C)), self._dtype)
            larger[: self.count] = self._array[: self.count] if self.count else 0
            self._array = larger
        self._array[self.count] = row_C
        self.count += 1

    def features(self) -> np.ndarray:
        """The rows so far (T, C)."""
        return self._array[: self.count]


@dataclass
class Stream:
    """One video on its way: its clips cut so far, the rows that came back, and whether its frames have ended."""

    video_id: str
    buffer: ClipBuffer[Tensor]
    rows: Rows
    ended_at: int | None = None  # number of batches run when it ended
    run: list[list[Tensor]] = field(default_factory=list)  # clips that wait for others that overlap them

    @property
    def complete(self) -> bool:
        """Whether nothing more is to come."""
        return self.ended_at is not None and self.rows.count == self.buffer.clips


@dataclass
class _Flying:
    """A batch that the device may still be at."""

    streams: list[Stream]
    rows_BC: Tensor
    event: Any = field(default=None)

    def fetch(self) -> np.ndarray:
        """Its rows (B, C), waited for; those that only fill the batch are left out."""
        if self.event is not None:
            self.event.synchronize()
        return self.rows_BC.numpy()[: len(self.streams)]


class Preparer:
    """One video's frames, in order → the steps that clips are cut from: on the device, shrunk, with their flow."""

    def __init__(self, backbone: Any, device: torch.device) -> None:
        stream, shrink = getattr(backbone, "stream", None), getattr(backbone, "shrink", None)
        self._steps: Callable[[Tensor], Tensor] = stream() if stream else shrink or (lambda frames: frames)
        self._device = device

    def __call__(self, frames_NHWC: np.ndarray) -> Tensor:
        """The steps of frames (N, H, W, 3) uint8, each prepared once. The frames' memory is used again afterwards: a
        backbone's `stream` copies what it keeps of them."""
        given = torch.from_numpy(frames_NHWC)
        frames = given
        if self._device.type == "cuda":
            frames = frames.pin_memory().to(self._device, non_blocking=True)
        steps = self._steps(frames)
        return steps.clone() if steps.untyped_storage().data_ptr() == given.untyped_storage().data_ptr() else steps


class Encoder:
    """Prepared frames of any number of videos, each in order → their features."""

    def __init__(self, backbone: Any, *, spec: ExtractSpec, device: torch.device, batch: int = 0) -> None:
        """`batch`: clips computed at once; 0: what suits the device."""
        self.backbone, self.spec, self.device = backbone, spec, device
        self.batch = batch or (BATCH_GPU if device.type == "cuda" else BATCH_CPU)
        self.dtype = np.float16 if spec.dtype == "float16" else np.float32
        self.batches = 0
        self._together = runs(backbone, spec, device) if self.batch == BATCH_CPU else None
        self._streams: dict[str, Stream] = {}
        # by shape, since only equal clips make a batch: videos of another aspect ratio may have another size
        self._clips: dict[tuple[int, ...], list[tuple[Stream, Tensor]]] = {}
        self._flying: deque[_Flying] = deque()

    def begin(self, video_id: str, *, frames: int) -> None:
        """A video of about so many frames follows."""
        clip = self.spec.clip
        timing: dict[str, Any] = {"length": clip.length, "stride": clip.stride, "tail": clip.tail}
        rows = Rows(expected=count_clips(frames, **timing), dtype=self.dtype)
        self._streams[video_id] = Stream(video_id, ClipBuffer(**timing), rows)

    def push(self, video_id: str, steps_NHWC: Tensor) -> None:
        """Take the next prepared frames of a video."""
        stream = self._streams[video_id]
        for step in steps_NHWC:
            clip = stream.buffer.push(step)
            if clip is None:
                continue
            stream.run.append(clip)
            if self._together is None or len(stream.run) == RUN:
                self._take_run(stream)

    def end(self, video_id: str) -> None:
        """The video has no more frames."""
        stream = self._streams[video_id]
        self._take_run(stream)
        clip = stream.buffer.finish()
        if clip is not None:
            self._take(stream, clip)
        stream.ended_at = self.batches

    def drop(self, video_id: str) -> None:
        """The video is given up; its rows and waiting clips go."""
        stream = self._streams.pop(video_id, None)
        for shape, clips in self._clips.items():
            self._clips[shape] = [(owner, clip) for owner, clip in clips if owner is not stream]

    def finished(self, *, last: bool = False) -> list[Stream]:
        """The videos that are complete by now, each given once; `last`: no more frames will come, so all are."""
        for clips in list(self._clips.values()):
            ended = [owner.ended_at for owner, _ in clips if owner.ended_at is not None]
            if clips and (last or (ended and self.batches - min(ended) >= PATIENCE)):
                self._run(clips)
        while self._flying and (last or len(self._flying) > 1 or self.device.type == "cpu"):
            self._collect()
        complete = [stream for stream in self._streams.values() if stream.complete]
        for stream in complete:
            del self._streams[stream.video_id]
        return complete

    def _take_run(self, stream: Stream) -> None:
        """The clips that wait for each other: together if they are enough, else one by one."""
        clips, stream.run = stream.run, []
        rows_BC = self._together(clips) if self._together is not None and len(clips) == RUN else None
        if rows_BC is not None:
            self._start([stream] * RUN, rows_BC)
            return
        for clip in clips:
            self._take(stream, clip)

    def _take(self, stream: Stream, clip: list[Tensor]) -> None:
        stacked = torch.stack(clip)
        waiting = self._clips.setdefault(tuple(stacked.shape), [])
        waiting.append((stream, stacked))
        if len(waiting) == self.batch:
            self._run(waiting)

    def _run(self, clips: list[tuple[Stream, Tensor]]) -> None:
        """Start a batch; empties `clips`."""
        streams = [stream for stream, _ in clips]
        batch = [clip for _, clip in clips] + [clips[-1][1]] * (self.batch - len(clips))
        clips.clear()
        self._start(streams, self.backbone(torch.stack(batch)))

    def _start(self, streams: list[Stream], rows_BC: Tensor) -> None:
        """Rows that the device may still be at, of these videos."""
        self.batches += 1
        flying = _Flying(streams, rows_BC.float().to("cpu", non_blocking=True))
        if self.device.type == "cuda":
            flying.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            flying.event.record()
        self._flying.append(flying)
        if len(self._flying) > 1 or self.device.type == "cpu":
            self._collect()  # of the batch before, while the device is at this one

    def _collect(self) -> None:
        flying = self._flying.popleft()
        for stream, row_C in zip(flying.streams, flying.fetch(), strict=True):
            largest = np.abs(row_C).max()
            if not np.isfinite(largest):
                raise TadError(
                    f"{stream.video_id}: features hold NaN or infinity; check the weights, nothing was stored"
                )
            if self.dtype == np.float16 and largest > FLOAT16_MAX:
                raise TadError(
                    f"{stream.video_id}: a feature of {largest:.3g} does not fit float16; set dtype: float32"
                )
            stream.rows.add(row_C)
