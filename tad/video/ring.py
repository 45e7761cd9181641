"""Shared-memory ring buffer that transfers frames from a decoding process to the consumer.

A frame is copied once, into the ring, where the consumer reads it. The memory is anonymous, so it is freed with the
last process that holds it, even after a crash. A decoding process that exceeds its memory limit ends itself.
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
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tad.core.errors import TadError
from tad.video.reader import Frame, Header, PyavReader, Reader, VideoError, open_video
from tad.video.sampling import sampled
from tad.video.scanning import Scan, Scanner

SLOTS = 4  # one is read while another is filled; two more absorb variations in speed
SLOT_BYTES = 1 << 23
MOST_FRAMES = 64  # per slot
MEMORY_STATUS = 86  # exit status of a process that exceeded its memory limit
WATCH_SECONDS = 0.1
REFERENCE_FRAMES = 32  # frames that a decoder may hold as references in addition to the limit
FRAMES_READ, WAITS, STARTED = 0, 1, 2  # indices of `Ring.progress`


@dataclass(frozen=True, slots=True)
class Job:
    """A video to decode, with its reader, its rate policy and its properties found by `probe`.

    `max_pixels`: if it is not 0, the video has not been probed. It is read with PyAV, at most this many pixels large,
    and scanned on the way; its other properties are guesses.
    """

    video_id: str
    path: Path
    reader: str
    policy: str
    rate: float
    native_rate: float
    frames: int
    frame_bytes: int
    start: float = 0.0
    max_pixels: int = 0


class Ring:
    """Slots of shared memory, each for several frames of one size.

    The consumer creates the ring and passes it to the spawned decoding process.
    """

    def __init__(self, context: Any, *, largest_frame: int) -> None:
        self.slot_bytes = max(SLOT_BYTES, largest_frame)
        self._memory = context.RawArray(ctypes.c_ubyte, SLOTS * self.slot_bytes)
        self.progress = context.RawArray(ctypes.c_int64, 3)

    def view(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return a view of the frames (N, H, W, 3) uint8 in a slot."""
        flat = np.frombuffer(self._memory, np.uint8, count=int(np.prod(shape)), offset=slot * self.slot_bytes)
        return flat.reshape(shape)


class Sender:
    """Decoding process's end of the connection.

    It receives a `Job` or the number of a free slot. It sends (slot, shape) of each filled slot, and after a video
    None, its `Scan` if it was not probed before, or the cause of a failure.
    """

    def __init__(self, connection: Connection, ring: Ring) -> None:
        self.connection, self.ring = connection, ring
        self._free: deque[int] = deque(range(SLOTS))

    def _receive(self) -> Any:
        """Receive a message; `WAITS` is set meanwhile, so that the consumer does not report a stall."""
        self.ring.progress[WAITS] = 1
        message = self.connection.recv()
        self.ring.progress[WAITS] = 0
        return message

    def next_job(self) -> Job:
        """Wait for the next job."""
        while not isinstance(message := self._receive(), Job):
            self._free.append(message)
        return message

    def send(self, job: Job) -> Scan | None:
        """Decode a video into the ring; return the scan of a video that was not probed.

        Raises:
            TadError: see `read_frames`; or frames are larger than the manifest states.
        """
        slot, filled, shape = -1, 0, (0, 0, 0)
        scanner = Scanner(job.path, max_pixels=job.max_pixels) if job.max_pixels else None
        images = scanned_frames(job, scanner, beat=self._beat) if scanner else read_frames(job, beat=self._beat)
        try:
            for image in images:
                if image.nbytes > self.ring.slot_bytes and scanner:
                    raise VideoError(job.path, "frames are too large to be read before they are probed")
                if image.nbytes > self.ring.slot_bytes:
                    size = f"frames of {image.shape[1]}x{image.shape[0]}"
                    raise TadError(f"{job.path}: {size}, larger than its manifest states; run probe again")
                most = min(MOST_FRAMES, self.ring.slot_bytes // image.nbytes)
                if slot < 0:
                    slot, filled, shape = self._free_slot(), 0, image.shape
                # copy now, while the frame is in the CPU's cache and before the next one is allocated
                self.ring.view(slot, (most, *shape))[filled] = image
                filled += 1
                if filled == most:
                    self.connection.send((slot, (filled, *shape)))
                    slot = -1
            if slot >= 0:
                self.connection.send((slot, (filled, *shape)))
                slot = -1
            return scanner.result() if scanner else None
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
    """Yield the resampled frames (H, W, 3) uint8 of a video; `beat` is called for each decoded frame.

    Raises:
        VideoError: the file cannot be read to its end.
        TadError: the number of frames differs from the manifest.
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
            counted(video), policy=job.policy, rate=job.rate, native_rate=job.native_rate, start=job.start,
            reader=job.reader,
        )  # fmt: skip
        failure = video.failing() if decoded != job.frames and isinstance(video, PyavReader) else ""
    if failure:
        raise VideoError(job.path, failure)
    if decoded != job.frames:
        raise TadError(f"{job.path}: {decoded} frames, but its manifest states {job.frames}; run probe again")


def guessed_rate(header: Header) -> float:
    """Return the frame rate that a video is read with before it is probed: the one that its header states."""
    return header.rate or 25.0


def scanned_frames(job: Job, scanner: Scanner, *, beat: Callable[[], None] = lambda: None) -> Iterator[np.ndarray]:
    """Yield the resampled frames (H, W, 3) uint8 of a video that was not probed, and record what probing needs.

    They are those of `read_frames` after probing if that finds the rate that the header states (`guessed_rate`).

    Raises:
        VideoError: the file cannot be read to its end.
    """

    def counted(frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            beat()
            yield frame

    with open_video(job.path, reader="pyav") as video:
        frames = counted(scanner.frames(video))
        first = next(frames, None)
        if first is None:
            raise VideoError(job.path, "no frame can be decoded")
        native_rate = guessed_rate(scanner.facts["header"])
        yield from sampled(
            chain((first,), frames), policy=job.policy, rate=job.rate, native_rate=native_rate, start=first.start
        )


def own_bytes() -> int:
    """Return the private resident memory of this process in bytes, without mapped files and rings."""
    if sys.platform == "linux":
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: the peak in bytes, rings included


def _watch(limit: list[int], parent: int) -> None:
    """Exit this process if it exceeds `limit` bytes or its parent has ended, regardless of the decoder's state."""
    while True:
        if own_bytes() > limit[0]:
            os._exit(MEMORY_STATUS)
        if os.getppid() != parent:
            os._exit(0)
        time.sleep(WATCH_SECONDS)


def serve(connection: Connection, ring: Ring, memory: int) -> None:
    """Run the decoding process: decode one video after another, and exit with the parent process.

    Args:
        connection: connection to the consumer.
        ring: ring for the frames.
        memory: limit of its own memory in bytes, in addition to some frames of the video.
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
                connection.send(sender.send(job))
            except VideoError as error:
                connection.send((job.video_id, error.cause))
            except MemoryError:
                connection.send((job.video_id, f"{job.reader} asks for more memory than there is"))
            except TadError as error:
                connection.send(str(error))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
