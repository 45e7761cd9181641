"""Videos → chunks of their frames, decoded by processes of their own, several videos at a time.

Each process reads one video after another into its ring and waits when that is full, so memory stays bounded whatever
is slower. One that stands still, crashes or takes too much memory costs its video and nothing else.
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

from tad.errors import TadError
from tad.video.ring import FRAMES_READ, MEMORY_STATUS, STARTED, WAITS, Job, Ring, serve

log = logging.getLogger(__name__)
POLL_SECONDS = 1.0
START_SECONDS = 120.0  # until a new process has imported what it needs, on a machine with other work
END_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive frames (N, H, W, 3) uint8 of a video, after resampling; theirs is the ring's memory, which is used
    again once the next item of the feed is asked for."""

    video_id: str
    frames: np.ndarray


@dataclass(frozen=True, slots=True)
class Ended:
    """No more frames of a video will come: all were there, or `cause` says what happened."""

    video_id: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reading process may do: seconds without a further frame, bytes of memory for itself."""

    stall_seconds: float = 60.0
    memory: int = 3 << 29


class _Worker:
    """One reading process and the job it is at."""

    def __init__(self, context: Any, limits: Limits, largest_frame: int) -> None:
        self.limits = limits
        self.ring = Ring(context, largest_frame=largest_frame)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.ring, limits.memory), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.rank = 0
        self._quiet, self._seen, self._before = -START_SECONDS, (0, 0), 0

    def give(self, job: Job, rank: int) -> None:
        """Have it read a video; the rank is the job's place in the order."""
        self.job, self.rank, self._before = job, rank, self.ring.progress[FRAMES_READ]
        self.connection.send(job)

    @property
    def frames(self) -> int:
        """Frames of its present video decoded so far."""
        return int(self.ring.progress[FRAMES_READ] - self._before)

    def stands_still(self, seconds: float) -> bool:
        """Whether it has decoded nothing for too long, after another `seconds` in which somebody looked."""
        seen = (self.ring.progress[STARTED], self.ring.progress[FRAMES_READ])
        if self.ring.progress[WAITS] or seen != self._seen:
            self._quiet, self._seen = 0.0, seen
        else:
            self._quiet += seconds
        return self._quiet > self.limits.stall_seconds

    def end(self) -> int | None:
        """End the process; its exit status if it had ended by itself."""
        self.connection.close()
        self.process.join(timeout=END_SECONDS)
        status: int | None = self.process.exitcode
        if status is None:
            self.process.kill()
            self.process.join()
        return status

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.end()

    def cause_of_death(self) -> str:
        """Why it is gone.

        Raises:
            TadError: it ended with an error of its own, which the next video would meet too.
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
    """Iterate to get the frames of all jobs: in order within a video, then its `Ended`; videos mixed.

    Jobs start in the order given, and what is there of an earlier one comes before what is there of a later one: where
    the consumer is the slower side, it is at one video at a time, and a kill loses that one.

    Raises:
        TadError: (while iterating) a file that is not what its manifest says.
    """

    def __init__(self, jobs: Sequence[Job], *, workers: int, limits: Limits | None = None) -> None:
        self._waiting = list(reversed(list(enumerate(jobs))))
        self._count = max(1, min(workers, len(jobs)))
        self._largest = max((job.frame_bytes for job in jobs), default=0)
        self._limits = limits or Limits()
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._stopped = False

    def _busy(self) -> dict[Any, _Worker]:
        return {worker.connection: worker for worker in self._workers if worker.job is not None}

    def _next(self, worker: _Worker | None = None) -> None:
        """Give the next job to a worker, a new one if none is given."""
        if not self._waiting:
            return
        rank, job = self._waiting.pop()
        if worker is not None:
            try:
                return worker.give(job, rank)
            except (BrokenPipeError, ConnectionResetError):  # it ended between two videos: no fault of this one
                self._workers.remove(worker)
                worker.end()
        self._workers.append(_Worker(self._context, self._limits, self._largest))
        self._workers[-1].give(job, rank)

    def _lost(self, worker: _Worker, cause: str) -> Ended:
        """A worker is gone: another takes its place, its video is given up."""
        assert worker.job is not None
        self._workers.remove(worker)
        self._next()
        log.warning("%s: %s; the video is left out", worker.job.path, cause)
        return Ended(worker.job.video_id, cause)

    def _receive(self, worker: _Worker) -> Iterator[Chunk | Ended]:
        job = worker.job
        assert job is not None
        try:
            message = worker.connection.recv()
            if isinstance(message, str):
                raise TadError(message)
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
        """Start the reading processes, which decode until their rings are full; iterating does it otherwise."""
        while len(self._workers) < self._count and self._waiting:
            self._next()

    def stop(self) -> None:
        """Have the iteration end soon, from whatever thread."""
        self._stopped = True

    def close(self) -> None:
        """End the reading processes."""
        for worker in self._workers:  # all are told before the first is waited for
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
                # no more than a poll's time counts: this process may have been suspended together with the readers
                elapsed, looked = min(now - looked, POLL_SECONDS), now
                for worker in self._busy().values():
                    if worker.stands_still(elapsed):
                        seconds, frames = self._limits.stall_seconds, worker.frames
                        worker.kill()
                        reader = worker.job.reader if worker.job else ""
                        yield self._lost(worker, f"{reader} stood still for {seconds:g} s after frame {frames}")
        finally:
            self.close()
