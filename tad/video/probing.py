"""A video file → what is true about it, found by decoding it in a process of its own: with PyAV, whose frames count as
the truth, and with the reader that was asked for, if it is another.

A decoder that crashes or stands still takes its process down, not the stage.
"""

import logging
import multiprocessing
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tad.errors import TadError
from tad.specs import ProbeSpec
from tad.video.containers import has_edit_list, truncated
from tad.video.reader import PyavReader, VideoError, open_video

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.2
POINTS = 8  # a frame is remembered by POINTS × POINTS pixels
SAME_LEVELS = 12.0  # mean difference of those, in grey levels, up to which two frames count as the same
JITTER, LONG_GAP, LONG_SHARE = 0.05, 1.5, 0.01
# decord decodes ahead without bound while the backbone works: a video must fit into this much memory, whole
AHEAD_BYTES = 1 << 30
START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Scan:
    """One reader's pass over a file."""

    times: np.ndarray  # (N,) float64 seconds from the first frame
    marks: np.ndarray  # (N, POINTS·POINTS·3) uint8
    shape: tuple[int, ...]  # (H, W, 3) of an upright frame
    facts: dict[str, Any]  # PyAV only: width, height, rotation, codec, ...
    cause: str  # why it stopped early; empty if it did not

    @property
    def frames(self) -> int:
        """Number of frames decoded."""
        return len(self.times)


def _mark(image: np.ndarray) -> np.ndarray:
    rows = (np.arange(POINTS) + 0.5) / POINTS * image.shape[0]
    columns = (np.arange(POINTS) + 0.5) / POINTS * image.shape[1]
    return image[rows.astype(int)[:, None], columns.astype(int)[None, :], :3].reshape(-1)


def scan(path: Path, reader: str, *, max_pixels: int, beat: Any = lambda frames: None) -> Scan:
    """Decode the whole file once with `reader`; a failure on the way ends the scan and is its `cause`.

    Args:
        max_pixels: a header that promises larger frames is refused before decoding (PyAV looks first).
        beat: called with the number of frames so far, after each.
    """
    times: list[float] = []
    marks: list[np.ndarray] = []
    shape: tuple[int, ...] = ()
    facts: dict[str, Any] = {}
    cause = ""
    try:
        with open_video(path, reader=reader) as video:
            if isinstance(video, PyavReader):
                header = video.header
                facts = {name: getattr(header, name) for name in header.__slots__}
                if header.width * header.height > max_pixels:
                    raise VideoError(
                        path, f"header promises {header.width}x{header.height} pixels, more than {max_pixels}"
                    )
            for frame in video:
                shape = shape or frame.image.shape
                if frame.image.ndim != 3 or frame.image.shape[2] != 3 or not np.isfinite(frame.time):
                    raise VideoError(path, f"frame {frame.number} comes as {frame.image.shape} at {frame.time} s")
                times.append(frame.time)
                marks.append(_mark(frame.image))
                beat(len(times))
            if isinstance(video, PyavReader):
                facts["rotation"] = video.rotation
    except VideoError as error:
        cause = error.cause
    empty = np.zeros((0, POINTS * POINTS * 3), np.uint8)
    return Scan(np.array(times, np.float64), np.stack(marks) if marks else empty, shape, facts, cause)


def _serve(connection: Connection) -> None:
    """The decoding process: scans what it is asked to, says that it is alive, ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this process
    said = [time.monotonic()]

    def beat(frames: int) -> None:
        now = time.monotonic()
        if now - said[0] > BEAT_SECONDS:
            said[0] = now
            connection.send(frames)

    connection.send(0)
    try:
        while True:
            path, reader, max_pixels = connection.recv()
            connection.send(scan(path, reader, max_pixels=max_pixels, beat=beat))
    except (EOFError, BrokenPipeError):
        return


class Decoder:
    """A process that scans files; replaced when a decoder crashes or stands still in it."""

    def __init__(self, *, stall_seconds: float, max_pixels: int) -> None:
        self.stall_seconds, self.max_pixels = stall_seconds, max_pixels
        self._process: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(START_SECONDS):
            raise TadError(
                f"the decoding process did not start within {START_SECONDS:.0f} s; is the machine overloaded?"
            )
        self._connection.recv()

    def _stop(self) -> str:
        """End the process; says how it had ended by itself, if it had."""
        if self._process is None:
            return ""
        self._connection.close()
        self._process.join(timeout=2)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        self._process = None
        if code is not None and code < 0:
            return f"{signal.Signals(-code).name}"
        return f"exit status {code}"

    def scan(self, path: Path, reader: str) -> Scan:
        """`scan` in the process; a crash or a stall is the scan's `cause`, with nothing saved."""
        if self._process is None:
            self._start()
        request = (path, reader, self.max_pixels)
        try:
            self._connection.send(request)
        except (BrokenPipeError, ConnectionResetError):
            # it ended while it waited (the system short of memory, say): no fault of this video's
            log.warning("the decoding process had ended (%s); %s gets a new one", self._stop(), path.name)
            self._start()
            self._connection.send(request)
        frames = 0
        try:
            while self._connection.poll(self.stall_seconds):
                message = self._connection.recv()
                if isinstance(message, Scan):
                    return message
                frames = message
            cause = f"decoding with {reader} stood still for {self.stall_seconds:g} s after frame {frames}"
            self._process.kill()
            self._stop()
        except (EOFError, ConnectionResetError):
            cause = f"{reader} crashed ({self._stop()}) after frame {frames}"
        return Scan(np.zeros(frames), np.zeros((0, POINTS * POINTS * 3), np.uint8), (), {}, cause)


def rate_of(times: np.ndarray, header_rate: float) -> float:
    """Mean frames per second by presentation times; the header's value where it agrees (it has more digits)."""
    if len(times) < 2 or times[-1] <= times[0]:
        return header_rate or 25.0
    rate = float((len(times) - 1) / (times[-1] - times[0]))
    return header_rate if abs(rate - header_rate) < 1e-3 * rate else rate


def is_variable(times: np.ndarray) -> bool:
    """True if the gaps between frames vary: std/mean > 5 %, or more than 1 % of them exceed 1.5 times the median."""
    gaps = np.diff(times)
    if len(gaps) < 2 or gaps.mean() <= 0:
        return False
    return bool(gaps.std() / gaps.mean() > JITTER or (gaps > LONG_GAP * np.median(gaps)).mean() > LONG_SHARE)


def disagreement(truth: Scan, other: Scan, reader: str, *, rate: float) -> str:
    """Why `reader`'s pass is wrong for the file, measured by PyAV's; empty if the two agree in frames and times."""
    if other.cause:
        return other.cause if reader in other.cause else f"{reader}: {other.cause}"
    if other.frames != truth.frames:
        return f"{reader} gives {other.frames} frames where {truth.frames} can be decoded"
    if other.shape != truth.shape:
        return f"{reader} gives frames of {other.shape} where {truth.shape} are right"
    late = np.abs(other.times - truth.times).max(initial=0.0)
    if late > 0.1 / rate:
        return f"{reader}'s times are off by up to {late:.3g} s"
    apart = np.abs(other.marks.astype(np.int16) - truth.marks).mean(axis=1)
    if (apart > SAME_LEVELS).any():
        return f"{reader} shows other frames ({int((apart > SAME_LEVELS).sum())} of {truth.frames} differ)"
    return ""


def _plain_cause(path: Path) -> str:
    """What is wrong before any decoder looks; empty if nothing is."""
    if not path.is_file():
        return "missing"
    if path.stat().st_size == 0:
        return "empty file (0 bytes)"
    with open(path, "rb") as handle:
        head = handle.read(512)
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return "text, not a video (a failed download?)"
    return ""


def damaged(cause: str, *, salvaged: int = 0) -> dict[str, Any]:
    """The part of a manifest entry that says why a video cannot be used."""
    return {
        "frames": 0, "rate": 0.0, "duration": 0.0, "width": 0, "height": 0, "rotation": 0, "header_frames": 0,
        "vfr": False, "edit_list": False, "codec": "", "pix_fmt": "", "audio": False,
        "reader": "pyav", "reader_cause": "", "status": "damaged", "cause": cause, "salvaged_frames": salvaged,
    }  # fmt: skip


def examine(path: Path, decoder: Decoder, *, spec: ProbeSpec) -> dict[str, Any]:
    """The manifest entry of one file, without path, hash and size: counted frames, times, and the reader to use.

    A video is damaged if it is not one, ends before its container does, cannot be decoded to its end, or stalls.
    """
    cause = _plain_cause(path)
    if cause:
        return damaged(cause)
    truth = decoder.scan(path, "pyav")
    if truncated(path):
        return damaged(f"truncated: {truth.frames} frames can be decoded", salvaged=truth.frames)
    if truth.cause:
        return damaged(truth.cause, salvaged=truth.frames)
    if truth.frames == 0:
        return damaged("no frame can be decoded")
    facts = truth.facts
    rate = rate_of(truth.times, facts["rate"])
    edit_list = has_edit_list(path)
    if facts["frames"] not in (0, truth.frames):
        log.warning("%s: header promises %d frames, %d can be decoded", path.name, facts["frames"], truth.frames)
    if facts["pixel_aspect"] != 1:
        told = "%s: pixels are %.3f times as wide as high; they are used as they are, as published features were made"
        log.warning(told, path.name, facts["pixel_aspect"])
    reader, reader_cause = spec.reader, ""
    if reader != "pyav":
        reader_cause = _against(path, truth, decoder, reader, rate=rate)
        if reader_cause:
            reader, reader_cause = "pyav", f"edit list: {reader_cause}" if edit_list else reader_cause
            log.info("%s: read with PyAV (%s)", path.name, reader_cause)
    return {
        "frames": truth.frames, "rate": rate, "duration": truth.frames / rate,
        "width": facts["width"], "height": facts["height"], "rotation": facts["rotation"],
        "header_frames": facts["frames"],
        "vfr": is_variable(truth.times), "edit_list": edit_list, "codec": facts["codec"], "pix_fmt": facts["pix_fmt"],
        "audio": facts["audio"], "reader": reader, "reader_cause": reader_cause,
        "status": "ok", "cause": "", "salvaged_frames": truth.frames,
    }  # fmt: skip


def _against(path: Path, truth: Scan, decoder: Decoder, reader: str, *, rate: float) -> str:
    """Why `reader` should not read this file; empty if it should."""
    ahead = truth.frames * int(np.prod(truth.shape))
    if reader == "decord" and ahead > AHEAD_BYTES:
        return f"decord may decode {ahead / 2**30:.1f} GiB ahead"
    return disagreement(truth, decoder.scan(path, reader), reader, rate=rate)
