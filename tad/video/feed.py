"""Parallel decoding of videos in worker processes.

Each worker decodes one video after another into its ring buffer and waits while the buffer is full, so memory is
bounded. If a worker stalls, crashes or exceeds its memory limit, only its current video is lost.
"""

# N frames, H rows, W columns

import logging
import multiprocessing
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from tad.core.errors import TadError
from tad.core.processes import spawning
from tad.video.ring import FRAMES_READ, MEMORY_STATUS, STARTED, WAITS, Job, Ring, serve
from tad.video.scanning import Scan

log = logging.getLogger(__name__)
POLL_SECONDS = 1.0
START_SECONDS = 120.0  # time for a new process to finish its imports on a busy machine
END_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive frames (N, H, W, 3) uint8 of a video after resampling.

    They are a view of the ring's memory, which is reused when the next item of the feed is requested.
    """

    video_id: str
    frames: np.ndarray


@dataclass(frozen=True, slots=True)
class Ended:
    """End of a video; `cause` is the reason if its frames are incomplete, and empty otherwise."""

    video_id: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a worker: seconds without a new frame, and bytes of its own memory."""

    stall_seconds: float = 60.0
    memory: int = 3 << 29


class _Worker:
    """A decoding process and its current job."""

    def __init__(self, context: Any, limits: Limits, largest_frame: int) -> None:
        self.limits = limits
        self.ring = Ring(context, largest_frame=largest_frame)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.ring, limits.memory), daemon=True)
        with spawning():
            self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.rank = 0
        self._quiet, self._seen, self._before = -START_SECONDS, (0, 0), 0

    def give(self, job: Job, rank: int) -> None:
        """Assign a job; its rank is its position in the order of jobs."""
        self.job, self.rank, self._before = job, rank, self.ring.progress[FRAMES_READ]
        self.connection.send(job)

    @property
    def frames(self) -> int:
        """Number of frames of the current video decoded so far."""
        return int(self.ring.progress[FRAMES_READ] - self._before)

    def is_stalled(self, seconds: float) -> bool:
        """Add `seconds` of observed time, and return whether the worker has stalled."""
        seen = (self.ring.progress[STARTED], self.ring.progress[FRAMES_READ])
        if self.ring.progress[WAITS] or seen != self._seen:
            self._quiet, self._seen = 0.0, seen
        else:
            self._quiet += seconds
        return self._quiet > self.limits.stall_seconds

    def end(self) -> int | None:
        """End the process; return its exit status if it had already ended, else None."""
        self.connection.close()
        self.process.join(timeout=END_SECONDS)
        status: int | None = self.process.exitcode
        if status is None:
            self.process.kill()
            self.process.join()
        return status

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.end()

    def cause_of_death(self) -> str:
        """Return why the process ended.

        Raises:
            TadError: it failed in a way that would affect the next video as well.
        """
        assert self.job is not None
        status, reader = self.end(), self.job.reader
        if status == MEMORY_STATUS:
            return f"decoding with {reader} took more than {self.limits.memory >> 20} MiB after frame {self.frames}"
        if status == -signal.SIGTERM:
            raise TadError(f"{self.job.path}: the process that decodes it was ended from outside (SIGTERM)")
        if status is not None and status < 0:
            return f"{reader} crashed ({signal.Signals(-status).name}) after frame {self.frames}"
        raise TadError(f"{self.job.path}: the process that decodes it ended with status {status}; see the lines above")


class Feed:
    """Iterator over the frames of all jobs.

    The chunks of a video arrive in order, followed by its `Ended`; those of different videos are interleaved. Jobs
    start in the given order, and available chunks of an earlier job come first. If the consumer is slower than the
    decoding, it therefore processes one video at a time, and an interruption loses only that video.

    Attributes:
        lost: a line for each video whose process crashed or stood still. They are warnings only when the other videos
            are done: if everything is killed, the processes that decode may be the first to end.

    Raises:
        TadError: (while iterating) a file does not match its manifest.
    """

    def __init__(self, jobs: Sequence[Job], *, workers: int, limits: Limits | None = None) -> None:
        self._waiting = list(reversed(list(enumerate(jobs))))
        self._count = max(1, min(workers, len(jobs)))
        self._largest = max((job.frame_bytes for job in jobs), default=0)
        self._limits = limits or Limits()
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._stopped = False
        self.lost: list[str] = []
        self.scans: dict[str, Scan] = {}  # of videos that were not probed, until they are taken

    def _busy(self) -> dict[Any, _Worker]:
        return {worker.connection: worker for worker in self._workers if worker.job is not None}

    def _next(self, worker: _Worker | None = None) -> None:
        """Assign the next job to a worker, or to a new one if none is given."""
        if not self._waiting:
            return
        rank, job = self._waiting.pop()
        if worker is not None:
            try:
                return worker.give(job, rank)
            except (BrokenPipeError, ConnectionResetError):  # ended between two videos: this one is not the cause
                self._workers.remove(worker)
                worker.end()
        self._workers.append(_Worker(self._context, self._limits, self._largest))
        self._workers[-1].give(job, rank)

    def _lost(self, worker: _Worker, cause: str) -> Ended:
        """Replace a worker that has ended, and give up its video."""
        assert worker.job is not None
        self._workers.remove(worker)
        self._next()
        self.lost.append(f"{worker.job.path}: {cause}; the video is left out")
        log.info("%s", self.lost[-1])
        return Ended(worker.job.video_id, cause)

    def _receive(self, worker: _Worker) -> Iterator[Chunk | Ended]:
        job = worker.job
        assert job is not None
        try:
            message = worker.connection.recv()
            if isinstance(message, str):
                raise TadError(message)
            if isinstance(message, Scan):
                self.scans[job.video_id], message = message, None
            if message is None or isinstance(message[0], str):
                worker.job = None
                self._next(worker)
                yield Ended(job.video_id, "" if message is None else message[1])
            else:
                slot, shape = message
                yield Chunk(job.video_id, worker.ring.view(slot, shape))
                worker.connection.send(slot)
        except (EOFError, ConnectionResetError, BrokenPipeError):
            yield self._lost(worker, worker.cause_of_death())

    def start(self) -> None:
        """Start the workers, which decode until their rings are full; otherwise iterating starts them."""
        while len(self._workers) < self._count and self._waiting:
            self._next()

    def stop(self) -> None:
        """Request the end of the iteration; may be called from any thread."""
        self._stopped = True

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:  # signal all of them before waiting for the first
            worker.connection.close()
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def __iter__(self) -> Generator[Chunk | Ended]:
        try:
            self.start()
            looked = time.monotonic()
            while not self._stopped and (busy := self._busy()):
                ready = wait(list(busy), timeout=POLL_SECONDS)
                if ready:
                    yield from self._receive(min((busy[c] for c in ready), key=lambda worker: worker.rank))
                now = time.monotonic()
                # count at most one poll interval: this process may have been suspended together with its workers
                elapsed, looked = min(now - looked, POLL_SECONDS), now
                for worker in self._busy().values():
                    if worker.is_stalled(elapsed):
                        seconds, frames = self._limits.stall_seconds, worker.frames
                        worker.kill()
                        reader = worker.job.reader if worker.job else ""
                        yield self._lost(worker, f"{reader} stood still for {seconds:g} s after frame {frames}")
        finally:
            self.close()
