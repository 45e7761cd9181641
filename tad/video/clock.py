"""Presentation times, in ticks of the file, for containers whose stored times are not sufficient.

AVI stores no times: the time of a chunk is its position in the file, including empty chunks. Frames that the decoder
reorders are assigned these positions in presentation order. In transport and program streams the clock may restart
where two recordings were joined; each part then continues at the end of the previous one, as in the ffmpeg program.
"""

import heapq
from fractions import Fraction

FAR_SECONDS, BACK_SECONDS = Fraction(10), Fraction(1, 10)  # ffmpeg treats larger jumps as a clock restart
# maximum number of frames that a decoder may hold back to reorder them
REORDER = {"h264": 16, "hevc": 16}
REORDER_OTHERS = 2
PLACEHOLDER = 1  # bytes: a chunk of at most this size only compensates the encoder's delay and takes no time


class Continued:
    """Time shifts that join the parts of a stream whose clock restarts; all times are in ticks of the stream.

    A packet starts a new part if its decoding time is more than 10 seconds from the end of the previous packet, or more
    than 0.1 seconds before the latest decoded time. The new part is shifted to the end of the previous one.
    """

    def __init__(self, time_base: Fraction, frame_ticks: Fraction) -> None:
        self.restarts = 0
        self.shift = 0
        self._far, self._back = FAR_SECONDS / time_base, BACK_SECONDS / time_base
        self._frame = frame_ticks
        self._next: Fraction | None = None
        self._latest: Fraction | None = None

    def packet(self, dts: int | None, duration: int) -> int:
        """Return the shift of the next packet from its decoding time; a packet without a time keeps the last shift."""
        step = Fraction(duration) if duration else self._frame
        if dts is None:
            if self._next is not None:
                self._next += step
            return self.shift
        now = Fraction(dts + self.shift)
        if self._next is not None and self._latest is not None:
            delta = now - self._next
            if abs(delta) > self._far or now + self._back < self._latest:
                self.restarts += 1
                self.shift -= round(delta)
                now = Fraction(dts + self.shift)
        self._latest = now if self._latest is None else max(now, self._latest)
        self._next = now + step
        return self.shift

    def shown(self, ticks: int) -> None:
        """Record the shifted presentation time, `ticks`, of a decoded frame."""
        if self._latest is not None:
            self._latest = max(self._latest, Fraction(ticks))


class ChunkPlaces:
    """Assignment of chunk positions to frames in presentation order.

    Packets are numbered in file order. A packet is assumed to yield no frame if a frame of a packet more than `reorder`
    packets later has arrived first; one position is then skipped.
    """

    def __init__(self, reorder: int) -> None:
        self._reorder = reorder
        self._placeholders = 0
        self._places: list[int] = []
        self._without: list[int] = []  # packets whose frame has not arrived yet
        self._shown: set[int] = set()

    def packet(self, number: int, place: int, size: int) -> None:
        """Add the position of packet `number`, which has `size` bytes."""
        if size <= PLACEHOLDER:
            self._placeholders += 1
            return
        heapq.heappush(self._places, place - self._placeholders)
        heapq.heappush(self._without, number)

    def take(self, number: int | None) -> int | None:
        """Return the position of the next frame, which comes from packet `number`, or None if no packet is left."""
        if number is not None:
            self._shown.add(number)
        while self._without and self._without[0] in self._shown:
            self._shown.discard(heapq.heappop(self._without))
        while number is not None and self._without and self._without[0] + self._reorder < number:
            heapq.heappop(self._without)
            if len(self._places) > 1:
                heapq.heappop(self._places)
            while self._without and self._without[0] in self._shown:
                self._shown.discard(heapq.heappop(self._without))
        return heapq.heappop(self._places) if self._places else None
