"""Videos → chunks of their frames, decoded by processes of their own, several videos at a time.

Each process reads one video after another, once and in order; a chunk waits in it until the consumer takes it, so
memory stays bounded whatever is slower.
"""

# N frames, H rows, W columns

import logging
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from tad.errors import TadError
from tad.video.reader import Frame, Reader, open_video
from tad.video.sampling import sampled

log = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 24
CHUNK_FRAMES = 64


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


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive frames (N, H, W, 3) uint8 of a video, after resampling; `last` says that no more will come."""

    video_id: str
    frames: np.ndarray
    last: bool


def read_chunks(job: Job) -> Iterator[np.ndarray]:
    """The frames of a video, resampled, in chunks (N, H, W, 3) uint8.

    Raises:
        TadError: the file cannot be read to its end, or has another number of frames than the manifest says.
    """
    decoded = 0

    def counted(video: Reader) -> Iterator[Frame]:
        nonlocal decoded
        for frame in video:
            decoded += 1
            yield frame

    with open_video(job.path, reader=job.reader) as video:
        images = sampled(
            counted(video), policy=job.policy, rate=job.rate, native_rate=job.native_rate, reader=job.reader
        )
        yield from _stacked(images)
    if decoded != job.frames:
        raise TadError(f"{job.path}: {decoded} frames where its manifest says {job.frames}; run probe again")


def _stacked(images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Images in chunks of bounded size, (N, H, W, 3)."""
    waiting: list[np.ndarray] = []
    for image in images:
        waiting.append(image)
        if len(waiting) == CHUNK_FRAMES or len(waiting) * image.nbytes >= CHUNK_BYTES:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)


def _serve(connection: Connection) -> None:
    """The reading process: takes jobs, sends chunks, ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this process
    try:
        while True:
            job: Job = connection.recv()
            try:
                for frames in read_chunks(job):
                    connection.send(frames.shape)
                    connection.send_bytes(frames.reshape(-1).data)
                connection.send(None)
            except TadError as error:
                connection.send(str(error))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class Feed:
    """Iterate to get the chunks of all jobs: in order within a video, videos mixed. Jobs start in the order given."""

    def __init__(self, jobs: Sequence[Job], *, workers: int) -> None:
        self._waiting = list(reversed(jobs))
        self._workers = max(1, min(workers, len(jobs)))
        self._current: dict[Any, Job] = {}

    def _receive(self, connection: Any) -> Chunk:
        job = self._current[connection]
        try:
            message = connection.recv()
            if isinstance(message, str):
                raise TadError(message)
            if message is None:
                del self._current[connection]
                return Chunk(job.video_id, np.zeros((0, 0, 0, 3), np.uint8), last=True)
            frames = np.empty(message, np.uint8)
            connection.recv_bytes_into(frames.reshape(-1).data)
            return Chunk(job.video_id, frames, last=False)
        except (EOFError, ConnectionResetError):
            raise TadError(f"{job.path}: the process that decodes it died ({job.reader}); run probe again") from None

    def __iter__(self) -> Iterator[Chunk]:
        context = multiprocessing.get_context("spawn")
        processes, connections = [], []
        try:
            for _ in range(self._workers if self._waiting else 0):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                connections.append(ours)
                self._give(ours)
            while self._current:
                for ready in wait(list(self._current)):
                    chunk = self._receive(ready)
                    if chunk.last:
                        self._give(ready)
                    yield chunk
        finally:
            for connection in connections:
                connection.close()
            for process in processes:
                process.join(timeout=2)
                if process.is_alive():
                    process.kill()
                    process.join()

    def _give(self, connection: Any) -> None:
        if self._waiting:
            job = self._waiting.pop()
            self._current[connection] = job
            connection.send(job)
