"""Frames of a video from the process that decodes them to the one that uses them, through memory that both see.

A frame is copied once, into the ring; the consumer looks at it there. The memory has no name: it goes with the last
process that holds it, however that ends. Limits are kept here too: a reader that takes too much memory ends itself.
"""

# N frames, H rows, W columns

import ctypes
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tad.errors import TadError
from tad.video.reader import Frame, Reader, VideoError, open_video
from tad.video.sampling import sampled

SLOTS = 4  # one is read while another is filled; two more even out what takes turns
SLOT_BYTES = 1 << 23
MOST_FRAMES = 64  # in one slot
MEMORY_STATUS = 86  # exit status of a reader that grew beyond its limit
WATCH_SECONDS = 0.1
REFERENCE_FRAMES = 32  # decoded frames that a decoder may hold for itself, on top of the limit
FRAMES_READ, WAITS, STARTED = 0, 1, 2  # what the reader tells in `Ring.progress`


@dataclass(frozen=True, slots=True)
class Job:
    """One video to read: with which reader, by which rate policy, and what `probe` found out about it."""

    video_id: str
    path: Path
    reader: str
    policy: str
    rate: float
    native_rate: float
    frames: int
    frame_bytes: int


class Ring:
    """Slots of shared memory, each for some frames of one size; made by the consumer, passed to a spawned reader."""

    def __init__(self, context: Any, *, largest_frame: int) -> None:
        self.slot_bytes = max(SLOT_BYTES, largest_frame)
        self._memory = context.RawArray(ctypes.c_ubyte, SLOTS * self.slot_bytes)
        self.progress = context.RawArray(ctypes.c_int64, 3)

    def view(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """The frames (N, H, W, 3) uint8 in a slot, not copied."""
        flat = np.frombuffer(self._memory, np.uint8, count=int(np.prod(shape)), offset=slot * self.slot_bytes)
        return flat.reshape(shape)


class Sender:
    """The reading process's side: takes jobs and free slots, sends (slot, shape) of filled ones, then None or a cause.

    Messages to it are a `Job`, or the number of a slot that is free again.
    """

    def __init__(self, connection: Connection, ring: Ring) -> None:
        self.connection, self.ring = connection, ring
        self._free: deque[int] = deque(range(SLOTS))

    def _receive(self) -> Any:
        """The next message; meanwhile the consumer sees that it is the one who is waited for."""
        self.ring.progress[WAITS] = 1
        message = self.connection.recv()
        self.ring.progress[WAITS] = 0
        return message

    def next_job(self) -> Job:
        """The next job, once there is one."""
        while not isinstance(message := self._receive(), Job):
            self._free.append(message)
        return message

    def send(self, job: Job) -> None:
        """Decode a video into the ring.

        Raises:
            TadError: see `read_frames`; frames that are not of the size in the manifest.
        """
        slot, filled, shape = -1, 0, (0, 0, 0)
        try:
            for image in read_frames(job, beat=self._beat):
                if image.nbytes > self.ring.slot_bytes:
                    size = f"frames of {image.shape[1]}x{image.shape[0]}"
                    raise TadError(f"{job.path}: {size} where its manifest says smaller ones; run probe again")
                most = min(MOST_FRAMES, self.ring.slot_bytes // image.nbytes)
                if slot < 0:
                    slot, filled, shape = self._free_slot(), 0, image.shape
                # at once, while the frame is in the processor's cache and before the next needs memory of its own
                self.ring.view(slot, (most, *shape))[filled] = image
                filled += 1
                if filled == most:
                    self.connection.send((slot, (filled, *shape)))
                    slot = -1
            if slot >= 0:
                self.connection.send((slot, (filled, *shape)))
                slot = -1
        finally:
            if slot >= 0:
                self._free.appendleft(slot)

    def _beat(self) -> None:
        self.ring.progress[FRAMES_READ] += 1

    def _free_slot(self) -> int:
        while not self._free:
            self._free.append(self._receive())
        return self._free.popleft()


def read_frames(job: Job, *, beat: Callable[[], None] = lambda: None) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 of a video, resampled; `beat` is called for each that is decoded.

    Raises:
        VideoError: the file cannot be read to its end.
        TadError: it has another number of frames than the manifest says.
    """
    decoded = 0

    def counted(video: Reader) -> Iterator[Frame]:
        nonlocal decoded
        for frame in video:
            decoded += 1
            beat()
            yield frame

    with open_video(job.path, reader=job.reader) as video:
        yield from sampled(
            counted(video), policy=job.policy, rate=job.rate, native_rate=job.native_rate, reader=job.reader
        )
    if decoded != job.frames:
        raise TadError(f"{job.path}: {decoded} frames where its manifest says {job.frames}; run probe again")


def own_bytes() -> int:
    """Memory of this process that it shares with no other: what is resident without files and rings."""
    if sys.platform == "linux":
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes, the most so far, rings included


def _watch(limit: list[int], parent: int) -> None:
    """End this process when it grows beyond `limit` bytes or its parent is gone, whatever the decoder does."""
    while True:
        if own_bytes() > limit[0]:
            os._exit(MEMORY_STATUS)
        if os.getppid() != parent:
            os._exit(0)
        time.sleep(WATCH_SECONDS)


def serve(connection: Connection, ring: Ring, memory: int) -> None:
    """The reading process: one video after another, each once and in order; ends with its parent.

    Args:
        memory: bytes that it may take for itself, besides some frames of the video.
    """
    ring.progress[STARTED] = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this process
    limit = [memory]
    threading.Thread(target=_watch, args=(limit, os.getppid()), daemon=True).start()
    sender = Sender(connection, ring)
    try:
        while True:
            job = sender.next_job()
            limit[0] = memory + REFERENCE_FRAMES * job.frame_bytes
            try:
                sender.send(job)
                connection.send(None)
            except VideoError as error:
                connection.send((job.video_id, error.cause))
            except MemoryError:
                connection.send((job.video_id, f"{job.reader} asks for more memory than there is"))
            except TadError as error:
                connection.send(str(error))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
