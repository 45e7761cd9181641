"""Probing of video files by decoding them completely in a separate process.

Each file is decoded with PyAV, whose frames are the reference, and with the requested reader if that is another one. A
decoder that crashes or stalls ends only its process, not the stage.
"""

import logging
import multiprocessing
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tad.core.errors import TadError
from tad.core.notices import TRANSIENT
from tad.core.processes import QuietStart, end_with_parent_process, spawning
from tad.settings.stages import ProbeSpec
from tad.video.containers import has_edit_list, unfollowed_edits
from tad.video.health import contradictions, judge, lost_unseen, missing_samples
from tad.video.scanning import POINTS, Scan, scan
from tad.video.structure import ENDS, lost_packets
from tad.video.wholeness import lost_samples

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.2
SAME_LEVELS = 12.0  # largest mean difference of these, in grey levels, between identical frames
COLOUR_LEVELS = 3  # largest difference of any of these, in grey levels, between identical colours
SAME_RATE, HALF_FRAME = 1e-3, 0.5  # tolerated relative error of the header's rate, and its drift in frames at the end
JITTER, LONG_GAP, LONG_SHARE = 0.05, 1.5, 0.01
CLOCK_SECONDS = 1e-3  # containers such as Matroska and FLV round times to milliseconds
# decord decodes ahead without bound while the backbone works, so the whole video must fit into this much memory
AHEAD_BYTES = 1 << 30
START_SECONDS = 120.0
FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")  # signals that no crash of a decoder sends


def _serve(connection: Connection, quiet: QuietStart) -> None:
    """Run the decoding process: scan requested files, report progress, and exit with the parent process."""
    end_with_parent_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this process
    said = [time.monotonic()]

    def beat(frames: int) -> None:
        now = time.monotonic()
        if now - said[0] > BEAT_SECONDS:
            said[0] = now
            connection.send(frames)

    try:
        connection.send(0)
        quiet.started()
        while True:
            path, reader, max_pixels = connection.recv()
            connection.send(scan(path, reader, max_pixels=max_pixels, beat=beat))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class Decoder:
    """A process that scans files and is replaced if a decoder crashes or stalls in it."""

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
        quiet = QuietStart()
        self._process = context.Process(target=_serve, args=(theirs, quiet), daemon=True)
        with spawning(), quiet.starting():
            self._process.start()
        theirs.close()
        if not self._connection.poll(START_SECONDS):
            raise TadError(
                f"the decoding process did not start within {START_SECONDS:.0f} s; is the machine overloaded?"
            )
        try:
            self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise TadError(
                f"the decoding process ended while it started ({self._stop()}); is there too little memory (ulimit -v)?"
                " give it more and run the same command again"
            ) from None

    def _stop(self) -> str:
        """End the process; return its signal or exit status."""
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
        """Run `scan` in the process; after a crash or a stall the result holds only the `cause` and a frame count.

        A signal that decoders do not send themselves ends the process when something kills this whole stage (the
        process may get it first) or memory is short. The video is decoded once more before it counts as the cause.
        """
        result, signalled = self._attempt(path, reader)
        if signalled:
            log.warning(
                "the decoding process was killed (%s); %s is decoded again", result.cause, path.name, extra=TRANSIENT
            )
            result, _ = self._attempt(path, reader)
        return result

    def _attempt(self, path: Path, reader: str) -> tuple[Scan, bool]:
        """Return the result of one pass, and whether the process was ended by a signal from outside."""
        if self._process is None:
            self._start()
        request = (path, reader, self.max_pixels)
        try:
            self._connection.send(request)
        except (BrokenPipeError, ConnectionResetError):
            # it ended while idle, for example for lack of memory: this video is not the cause
            cause = self._stop()
            log.warning("the decoding process had ended (%s); %s gets a new one", cause, path.name, extra=TRANSIENT)
            self._start()
            self._connection.send(request)
        frames, end = 0, ""
        try:
            while self._connection.poll(self.stall_seconds):
                message = self._connection.recv()
                if isinstance(message, Scan):
                    return message, False
                frames = message
            cause = f"decoding with {reader} stood still for {self.stall_seconds:g} s after frame {frames}"
            self._process.kill()
            self._stop()
        except (EOFError, ConnectionResetError):
            end = self._stop()
            cause = f"{reader} crashed ({end}) after frame {frames}"
        nothing = Scan(np.zeros(frames), np.zeros((0, POINTS * POINTS * 3), np.uint8), (), {}, cause)
        return nothing, end in FROM_OUTSIDE


def rate_of(times: np.ndarray, header_rate: float) -> float:
    """Return the mean frame rate of presentation times in frames per second.

    The header's rate, which has more digits, is used if it places the last frame within half a frame of its time.
    """
    if len(times) < 2 or times[-1] <= times[0]:
        return header_rate or 25.0
    span = float(times[-1] - times[0])
    rate = (len(times) - 1) / span
    near = abs(rate - header_rate) < SAME_RATE * rate
    if near and abs((len(times) - 1) / header_rate - span) * rate <= HALF_FRAME:
        return header_rate
    return rate


def is_variable(times: np.ndarray) -> bool:
    """Return whether the frame rate varies: std/mean of the gaps > 5 %, or over 1 % of them exceed 1.5 × the median.

    Times that are evenly spaced but for rounding to milliseconds do not vary, although the gaps at 120 frames a second
    are 8 and 9 ms.
    """
    gaps = np.diff(times)
    if len(gaps) < 2 or gaps.mean() <= 0:
        return False
    if np.abs(times - np.linspace(times[0], times[-1], len(times))).max() <= 1.001 * CLOCK_SECONDS:
        return False
    return bool(gaps.std() / gaps.mean() > JITTER or (gaps > LONG_GAP * np.median(gaps)).mean() > LONG_SHARE)


def disagreement(truth: Scan, other: Scan, reader: str, *, rate: float) -> str:
    """Compare a reader's pass with PyAV's: return how it differs; empty if frames and times agree."""
    if other.cause:
        return other.cause if reader in other.cause else f"{reader}: {other.cause}"
    if other.frames != truth.frames:
        return f"{reader} gives {other.frames} frames where {truth.frames} can be decoded"
    if other.shape != truth.shape:
        return f"{reader} gives frames of {other.shape} where {truth.shape} are right"
    late = np.abs(other.times - truth.times).max(initial=0.0)
    if late > 0.1 / rate:
        return f"{reader}'s times are off by up to {late:.3g} s"
    apart = np.abs(other.marks.astype(np.int16) - truth.marks)
    wrong = apart.mean(axis=1) > SAME_LEVELS
    if wrong.any():
        return f"{reader} shows other frames ({int(wrong.sum())} of {truth.frames} differ)"
    if apart.max(initial=0) > COLOUR_LEVELS:
        return f"{reader} gives other colours (by up to {int(apart.max())} levels)"
    return ""


def _plain_cause(path: Path) -> str:
    """Check a file without decoding it: return what is wrong; empty if nothing is."""
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
    """Return the manifest entry of an unusable video, without path, hash and size."""
    return {
        "frames": 0, "rate": 0.0, "start": 0.0, "duration": 0.0, "width": 0, "height": 0, "rotation": 0,
        "mirrored": False, "header_frames": 0, "vfr": False, "edit_list": False, "codec": "", "pix_fmt": "",
        "audio": False, "stream": 0, "streams": 0, "times": "", "clock_restarts": 0, "reader": "pyav",
        "reader_cause": "", "status": "damaged", "cause": cause, "notes": [], "salvaged_frames": salvaged,
        "flagged_frames": 0, "lost_frames": 0, "lost_at_start": 0, "flawed_share": 1.0,
    }  # fmt: skip


def examine(path: Path, decoder: Decoder, *, spec: ProbeSpec) -> dict[str, Any]:
    """Probe a file: return its manifest entry, without path, hash and size.

    `start` and `duration` are the start of the first frame's display and the end of the last one's, in seconds on the
    file's time line, whose 0 is the start of its earliest stream. `status` is defined in `tad.video.health`; `notes`
    lists unusual properties that are not damage.
    """
    cause = _plain_cause(path)
    if cause:
        return damaged(cause)
    truth, cut = decoder.scan(path, "pyav"), lost_samples(path)
    if truth.cause or truth.tally is None:
        opened = "cannot be opened" not in truth.cause
        cause = truth.cause if opened or not cut else f"truncated: 0 frames can be decoded ({truth.cause})"
        return damaged(cause, salvaged=truth.frames)
    header, tally, edit_list = truth.facts["header"], truth.tally, has_edit_list(path)
    missing = missing_samples(tally, truth.facts["promised"])
    if cut:
        unseen, wrong = lost_unseen(truth.times, header, tally)
        missing, tally.flagged = max(missing, unseen), max(tally.flagged, wrong if cut != ENDS else 0)
    problems = contradictions(truth.times, header, tally, edits=edit_list)
    problems += filter(None, [unfollowed_edits(path, shown=truth.frames > 0), _gaps(path, tally.restarts)])
    health = judge(truth.frames, tally, missing=missing, cut=cut, problems=problems, most=spec.most_flawed)
    if health.status == "damaged":
        return damaged(health.cause, salvaged=truth.frames - tally.flagged) | health.entry()
    rate = rate_of(truth.times, header.rate)
    reader, reader_cause = spec.reader, ""
    if reader != "pyav":
        reader_cause = _against(path, truth, decoder, reader, rate=rate)
        if reader_cause:
            reader, reader_cause = "pyav", f"edit list: {reader_cause}" if edit_list else reader_cause
            log.info("%s: read with PyAV (%s)", path.name, reader_cause)
    orientation = truth.facts["orientation"]
    return {
        "frames": truth.frames, "rate": rate, "start": truth.start, "duration": tally.end,
        "width": header.width, "height": header.height, "rotation": orientation.rotation,
        "mirrored": orientation.mirrored, "header_frames": header.frames,
        "vfr": is_variable(truth.times), "edit_list": edit_list, "codec": header.codec, "pix_fmt": header.pix_fmt,
        "audio": header.audio, "stream": header.stream, "streams": header.streams, "times": tally.times,
        "clock_restarts": tally.restarts, "reader": reader, "reader_cause": reader_cause, "notes": _notes(path, truth),
        "salvaged_frames": truth.frames - tally.flagged, **health.entry(),
    }  # fmt: skip


def _gaps(path: Path, restarts: int) -> str:
    """Return that packets of a transport stream are missing; recordings may have been joined where a clock restarts."""
    gaps = lost_packets(path) - restarts
    return f"its packets have {gaps} gaps, where parts of the stream are missing" if gaps > 0 else ""


def _notes(path: Path, truth: Scan) -> list[str]:
    """Return and log unusual properties of a file that are not damage."""
    header, tally = truth.facts["header"], truth.tally
    assert tally is not None
    notes = []
    if header.streams > 1:
        size = f"{header.width}x{header.height}"
        notes.append(f"holds {header.streams} video streams; stream {header.stream} ({size}) is read")
    if tally.restarts:
        notes.append(f"its clock restarts {tally.restarts} times; each part continues at the end of the previous one")
    if tally.times == "rate":
        notes.append("holds no times; they follow from the frame rate in its header")
    if header.frames and header.frames - tally.second_fields != truth.frames:
        notes.append(f"header states {header.frames} frames, {truth.frames} can be decoded")
    if header.pixel_aspect != 1:
        notes.append(
            f"pixels are {header.pixel_aspect:.3f} times as wide as high; they are used as they are, as published "
            "features were made"
        )
    if truth.facts["orientation"].odd:
        notes.append(f"is to be shown turned by {truth.facts['orientation'].odd:.1f} degrees; it is left as it is")
    for note in notes:
        log.warning("%s: %s", path.name, note)
    return notes


def _against(path: Path, truth: Scan, decoder: Decoder, reader: str, *, rate: float) -> str:
    """Return why `reader` cannot be used for this file; empty if it can."""
    ahead = truth.frames * int(np.prod(truth.shape))
    if reader == "decord" and ahead > AHEAD_BYTES:
        return f"decord may decode {ahead / 2**30:.1f} GiB ahead"
    return disagreement(truth, decoder.scan(path, reader), reader, rate=rate)
