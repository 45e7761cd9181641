"""Reader that uses PyAV: upright frames with times on the file's time line, and damage reported by the decoder."""

# H rows, W columns

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from tad.video.base import Closing, Frame, Header, VideoError, av, reason
from tad.video.clock import REORDER, REORDER_OTHERS, ChunkPlaces, Continued
from tad.video.containers import has_edit_list
from tad.video.fields import SecondFields
from tad.video.orientation import Orientation, of_matrix

DEFAULT_RATE = Fraction(25)  # only for files without any time or rate
# decoders that replace a missing reference frame with grey; others wait for the next key frame
DRAW_ON_GREY = frozenset({
    "mpeg1video", "mpeg2video", "mpeg4", "h263", "h263p", "h263i", "flv1", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3",
    "wmv1", "wmv2",
})  # fmt: skip
HIDDEN = frozenset({"vp8", "vp9", "av1"})  # packets may hold frames that are never shown
# Compare pictures with the hashes that a stream may hold; reject packets with other pictures or without references.
# Other decoders do not detect more with these flags.
CHECKED = {"hevc": {"err_detect": "crccheck+explode"}}
NOTHING_CODED = 20  # bytes: an MPEG-4 packet of at most this size codes no change and yields no frame


class _PacketNumber(int):
    """Number of a packet, as an object of its own.

    PyAV keeps what `packet.opaque` is set to under its address, once for all open files. Python's small integers are
    shared, so another reader in the process that frees its packet 3 would take the number from ours.
    """


class Opening(NamedTuple):
    """The first frame of a video.

    Attributes:
        ticks: its stored time, in ticks of `time_base`.
        time_base: seconds per tick.
        width, height: its size before rotation.
        orientation: its orientation.
        start: its time in seconds on the file's time line.
    """

    ticks: int
    time_base: Fraction
    width: int
    height: int
    orientation: Orientation
    start: float


@dataclass(slots=True)
class Tally:
    """Statistics of one pass over a video, complete at the end of the pass.

    Attributes:
        read: number of packets.
        packets: number of packets that should yield a frame.
        before: packets without a frame before the first frame.
        lost: packets without a frame after it.
        second_fields: packets that hold only the second field of a frame, and yield none.
        flagged: frames that may be wrong.
        first_flagged: those of them before the first key frame.
        restarts: number of clock restarts.
        untimed: frames without a stored time.
        end: end of the last frame's display in seconds on the file's time line.
        times: source of the times: `stored`, `chunks` (positions in an AVI file), or `rate` (no times are stored).
    """

    read: int = 0
    packets: int = 0
    before: int = 0
    lost: int = 0
    second_fields: int = 0
    flagged: int = 0
    first_flagged: int = 0
    restarts: int = 0
    untimed: int = 0
    end: float = 0.0
    times: str = "stored"
    keys: list[int] = field(default_factory=list)  # numbers of the key frames
    ended_by: str = ""  # why reading stopped before the end of the file


def choose(streams: Any) -> Any:
    """Select the video stream that a player shows; None if there is none.

    Streams marked as default are preferred, then those with the most pixels, then the first. Cover images are ignored.
    """
    disposition = av.stream.Disposition
    videos = [stream for stream in streams if not stream.disposition & disposition.attached_pic]

    def rank(stream: Any) -> tuple[bool, int, int]:
        codec = stream.codec_context
        pixels = codec.width * codec.height if codec is not None else 0
        return bool(stream.disposition & disposition.default), pixels, -stream.index

    return max(videos, key=rank, default=None)


class _Clock:
    """Times of the packets and frames of one pass, in ticks of the file's time base."""

    def __init__(self, container: Any, stream: Any, rate: Fraction) -> None:
        self.time_base = Fraction(stream.time_base)
        # start of the file's earliest stream, in whole ticks: ffmpeg shifts time stamps by it
        self.begin = math.floor(Fraction(container.start_time or 0, av.time_base) / self.time_base + Fraction(1, 2))
        self._frame = 1 / rate / self.time_base
        codec = stream.codec_context.codec.canonical_name
        reorder = REORDER.get(codec, REORDER_OTHERS)
        self.chunks = ChunkPlaces(reorder) if container.format.name == "avi" else None
        self._first_field: int | None = None  # decoding time of the packet that began the latest frame
        self._between_fields = 0  # ticks from there to the packet with its second field
        discontinuous = container.format.flags & int(av.format.Flags.ts_discont.value)
        self.continued = Continued(self.time_base, self._frame) if discontinuous else None
        self.stored = 0
        self.untimed = 0
        self._decoding_order = container.format.name.startswith("mov")
        self._length: Fraction | int = 0
        self._shifts: dict[int, int] = {}
        self._shift = 0
        self._latest: int | None = None

    def packet(self, number: int, packet: Any, *, second: bool) -> None:
        """Register a packet before it is decoded; `second`: it holds only the second field of a frame."""
        self._length = packet.duration or self._length
        if not second:
            self._first_field, self._between_fields = packet.dts, 0
        elif packet.dts is not None and self._first_field is not None:
            self._between_fields = packet.dts - self._first_field
        if self.chunks is not None and packet.dts is not None:
            if not second:
                self.chunks.packet(number, packet.dts, packet.size)
        elif self.continued is not None:
            shift = self.continued.packet(packet.dts, packet.duration or 0)
            if shift != self._shift or self._shifts:  # files without a restart, nearly all, need no list
                self._shifts[number] = self._shift = shift

    def ticks(self, frame: Any) -> int:
        """Return the presentation time of a decoded frame."""
        ticks: int | None
        if self.chunks is not None:
            ticks = self.chunks.take(frame.opaque)
        else:
            ticks = frame.pts
            if ticks is not None and self.continued is not None:
                ticks += self._shifts.get(frame.opaque, self._shift if frame.opaque is None else 0)
                self.continued.shown(ticks)
        if ticks is None:
            self.untimed += 1
            ticks = self.begin if self._latest is None else self._latest + max(round(self._frame), 1)
        else:
            self.stored += 1
        self._latest = ticks if self._latest is None else max(self._latest, ticks)
        return ticks

    def end(self, last: Any) -> float:
        """Return the end of the last frame's display in seconds on the file's time line."""
        assert self._latest is not None
        # mp4 stores durations in decoding order: the last one belongs to the frame shown last
        length = self._length if self._decoding_order else last.duration
        length = length if length and self.chunks is None else self._frame
        return float((self._latest - self.begin + self._between_fields + length) * self.time_base)


class _Damage:
    """Detection of frames that may be wrong: from a corrupt frame or undecodable packet to the next key frame."""

    def __init__(self, codec: str) -> None:
        # first packet whose frame may be wrong, if any
        self._since: float | None = -1 if codec in DRAW_ON_GREY else None

    def at(self, number: int) -> None:
        """Record that packet `number` could not be decoded."""
        self._since = number if self._since is None else min(self._since, number)

    @property
    def before_key(self) -> bool:
        """Whether no key frame has arrived yet, without any other damage."""
        return self._since == -1

    def flags(self, frame: Any) -> bool:
        """Return whether this frame may be wrong."""
        number = frame.opaque if frame.opaque is not None else math.inf
        if frame.is_corrupt:
            self.at(int(number) if number != math.inf else 0)
            return True
        if self._since is None:
            return False
        if frame.key_frame and number >= self._since:
            self._since = None
            return False
        return bool(number >= self._since)


class PyavReader(Closing):
    """Reader that uses PyAV and needs little memory.

    It applies edit lists, joins parts after a clock restart, and recovers as many frames of a damaged file as possible.
    Packets that cannot be decoded are skipped and counted in `tally`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.orientation = Orientation()  # known from the first frame
        self.opening: Opening | None = None  # set when the first frame of a pass is decoded; None: no seeking
        self.tally = Tally()
        try:
            # tags in old AVI files are not valid UTF-8
            self._container = av.open(str(path), metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(path, f"cannot be opened ({reason(error)})") from None
        if self._container.format.name.endswith("_pipe"):  # FFmpeg's names for single images
            self._container.close()
            raise VideoError(path, "is a picture, not a video")
        self._stream = choose(self._container.streams.video)
        if self._stream is None:
            self._container.close()
            raise VideoError(path, "holds no video stream (audio only)")
        if self._stream.codec_context is None:
            self._container.close()
            raise VideoError(path, "its codec is unknown to PyAV")
        self._codec = self._stream.codec_context.codec.canonical_name
        self._stream.codec_context.thread_count = 1  # videos are decoded in parallel instead
        self._stream.codec_context.copy_opaque = True  # a frame carries the number of its packet
        self._stream.codec_context.options = CHECKED.get(self._codec, {})

    @property
    def header(self) -> Header:
        """Metadata of the container."""
        stream, codec, container = self._stream, self._stream.codec_context, self._container
        rate = stream.average_rate or stream.guessed_rate
        covers = av.stream.Disposition.attached_pic
        videos = sum(not s.disposition & covers for s in container.streams.video)
        return Header(
            codec.width, codec.height, stream.frames, float(rate or 0), self._codec, codec.pix_fmt or "",
            len(container.streams.audio) > 0, float(stream.sample_aspect_ratio or 1), container.format.name,
            (container.duration or 0) / av.time_base, stream.index, videos,
            max(container.start_time or 0, 0) / av.time_base,
        )  # fmt: skip

    def promised(self, size: int) -> tuple[int, int]:
        """Return the number of samples in the file's index, and how many of them end beyond `size` bytes; (0, 0) if the
        container has no index of all samples."""
        kind = self._container.format.name.partition(",")[0]
        if kind not in ("mov", "avi"):
            return 0, 0
        count = beyond = 0
        for entry in self._stream.index_entries:
            if entry.size > 0:
                count += 1
                beyond += entry.pos + entry.size > size
        # FFmpeg counts all samples of a contradictory index, but lists only some; an AVI's count includes empty chunks
        if kind == "mov" and self._stream.frames > count and not has_edit_list(self.path):
            count = self._stream.frames
        return count, beyond

    def failing(self) -> str:
        """Return why the pass is incomplete; empty if no loss is known."""
        count, beyond = self.promised(self.path.stat().st_size)
        lost = self.tally.lost + max(count - self.tally.read, beyond, 0)
        return self.tally.ended_by or (f"decoding fails: {lost} frames are lost" if lost else "")

    def enter(self, seconds: float, opening: Opening) -> Iterator[Frame]:
        """Seek, and decode from the key frame at or before `seconds` after the first frame.

        The key frame may be a later one if the file's index is wrong. Frames have the same times as in the complete
        pass that `opening` is from. They are numbered from 0, and damaged frames are not flagged.
        """
        try:
            at = math.floor(Fraction(seconds) / opening.time_base) + opening.ticks
            self._container.seek(at, stream=self._stream)
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(self.path, f"seeking fails ({reason(error)})") from None
        return self._frames(opening)

    def __iter__(self) -> Iterator[Frame]:
        return self._frames(None)

    def _frames(self, opening: Opening | None) -> Iterator[Frame]:
        rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or DEFAULT_RATE)
        clock, self.tally = _Clock(self._container, self._stream, rate), Tally()
        converter = av.video.reformatter.VideoReformatter()  # shared by all frames
        latest, number, last = 0.0, 0, None
        for frame, flagged in self._decoded(clock):
            ticks = clock.ticks(frame)
            if opening is None:
                opening = self._opening(frame, ticks, clock)
            has_time = clock.stored > 0
            time = float((ticks - opening.ticks) * clock.time_base) if has_time else float(number / rate)
            latest = max(latest, time)
            image = converter.reformat(frame, width=opening.width, height=opening.height, format="rgb24")
            self.tally.flagged += flagged
            if frame.key_frame:
                self.tally.keys.append(number)
            length = float(frame.duration * clock.time_base) if has_time and frame.duration else 0.0
            upright = opening.orientation.upright(image.to_ndarray())
            yield Frame(number, latest, upright, length if has_time else float(1 / rate), opening.start, flagged)
            number, last = number + 1, frame
        if last is not None:
            self._finish(clock, last, float(number / rate))

    def _finish(self, clock: _Clock, last: Any, counted: float) -> None:
        self.tally.untimed = clock.untimed
        self.tally.end = clock.end(last) if clock.stored else counted
        if clock.chunks is not None:
            self.tally.times = "chunks"
        elif not clock.stored:
            self.tally.times = "rate"
        if clock.continued is not None and clock.continued.restarts:
            self.tally.restarts, self.opening = clock.continued.restarts, None  # times of later parts are not unique

    def _opening(self, frame: Any, ticks: int, clock: _Clock) -> Opening:
        """Record the first frame; seeking in the file is possible if frames have stored times."""
        self.orientation = of_matrix(bytes(frame.side_data.get("DISPLAYMATRIX") or b""))
        start = float((ticks - clock.begin) * clock.time_base) if clock.stored else 0.0
        opening = Opening(ticks, clock.time_base, frame.width, frame.height, self.orientation, start)
        self.opening = opening if clock.stored and clock.chunks is None else None
        return opening

    def _packets(self) -> Iterator[Any]:
        """Yield the stream's packets until the end or until reading fails."""
        try:
            yield from self._container.demux(self._stream)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.tally.ended_by = f"reading fails ({reason(error)})"

    def _decoded(self, clock: _Clock) -> Iterator[tuple[Any, bool]]:
        """Yield frames in presentation order, each with whether it may be wrong; updates `tally`."""
        damage, waiting, failed, shown = _Damage(self._codec), set[int](), set[int](), False
        first_key = math.inf
        extradata = bytes(self._stream.codec_context.extradata or b"")
        fields = SecondFields(extradata) if self._codec == "h264" else None
        for number, packet in enumerate(self._packets()):
            packet.opaque = _PacketNumber(number)
            if packet.size:
                second = fields is not None and fields.is_second(packet)
                clock.packet(number, packet, second=second)
                self._count(number, packet, waiting, second=second)
                first_key = min(first_key, number) if packet.is_keyframe else first_key
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, ValueError):
                damage.at(number)
                failed.add(number)
                continue
            for frame in frames:
                waiting.discard(frame.opaque)
                if not shown and frame.opaque is not None:
                    # a stream cut within a group of pictures: packets before the key frame cannot be decoded
                    early = {k for k in waiting if k < min(frame.opaque, first_key)}
                    self.tally.before, waiting, failed = len(early), waiting - early, failed - early
                shown, before_key = True, damage.before_key
                flagged = damage.flags(frame)
                self.tally.first_flagged += flagged and before_key
                yield frame, flagged
        self.tally.lost = self._without_picture(waiting, failed)

    def _count(self, number: int, packet: Any, waiting: set[int], *, second: bool) -> None:
        self.tally.read += 1
        self.tally.second_fields += second
        nothing = self._codec == "mpeg4" and packet.size <= NOTHING_CODED
        if not packet.is_discard and not nothing and not second:
            self.tally.packets += 1
            waiting.add(number)

    def _without_picture(self, waiting: set[int], failed: set[int]) -> int:
        """Return the number of lost packets: those that the decoder rejected, and those without a frame, unless the
        codec has hidden frames or two packets (fields) form one frame."""
        if self._codec in HIDDEN or 2 * len(waiting) >= self.tally.packets > 1:
            return len(failed)
        return len(waiting | failed)

    def close(self) -> None:
        """Release the file and the decoder."""
        self._container.close()
