"""Training curves for TensorBoard, written in the training's own thread.

torch's `SummaryWriter` writes in a thread, where a full disk is a traceback in the log and is noticed many steps later.
"""

import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from tad.core.errors import StorageError
from tad.core.storage import storing

FLUSH_SECONDS = 30.0


class Curves:
    """Writer of one event file.

    Raises:
        StorageError: the file cannot be written.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        """`step`: where the training begins or resumes; TensorBoard drops what an interrupted run wrote beyond it."""
        now = time.time()
        self._path = Path(folder) / f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        self._flushed = time.monotonic()
        with storing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "wb")  # noqa: SIM115 - open as long as this object
        self._records = RecordWriter(self._file)
        self._write(event_pb2.Event(wall_time=now, file_version="brain.Event:2"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(wall_time=now, step=step, session_log=start))

    def add(self, values: dict[str, float], *, step: int) -> None:
        """Write some values of a step, each as a curve `train/<name>`."""
        points = [summary_pb2.Summary.Value(tag=f"train/{name}", simple_value=value) for name, value in values.items()]
        self._write(event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=points)))
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            with storing(self._path):
                self._file.flush()
            self._flushed = time.monotonic()

    def _write(self, event: event_pb2.Event) -> None:
        with storing(self._path):
            self._records.write(event.SerializeToString())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with storing(self._path):
                self._file.close()
        except StorageError:
            if error is None:  # otherwise the error that stopped the training is reported
                raise
