"""Detect the unit, or another origin, of times that cannot be seconds because they end long after their videos."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tad.core.errors import Message, Remedy

TOLERANCE = 1.0  # seconds by which a segment may end after its video, as in tad.annotations.checks
FACTOR = 2.0  # minimum median ratio of last end to duration for which a unit is reported
SHARE = 0.8  # minimum share of the videos with instances that end too late
# minimum median share of a video before its last end after conversion; below it, a conversion fits by chance
LEAST = 0.2
FITTING = 0.95  # minimum share of the videos whose ends fit their duration after conversion from a unit


PERCENT, NEAR, MOST_PERCENT = 80.0, 2.0, 100.5  # least last end, ratio of durations, and greatest end in per cent
FEWEST = 3  # videos, from which per cent are considered; and starts of a video that show from when it counts
FRAME = 0.04  # seconds
OVER = 1.1  # greatest share of a video before its last end, after conversion to days or hours
HOUR, DAY, UNIX = 3600.0, 86_400.0, 1e9  # seconds: of an hour and a day, and from which times may count from 1970


@dataclass(frozen=True)
class Span:
    """The times of a video as the file states them.

    Attributes:
        last: the last end.
        duration: of the video in seconds.
        rate: frames per second if known.
        first: the first start; None if it is not known.
        starts: how many different starts there are.
        whole: whether all times are whole numbers.
    """

    video_id: str
    last: float
    duration: float
    rate: float | None = None
    first: float | None = None
    starts: int = 0
    whole: bool = False


def span_of(video_id: str, segments: Sequence[tuple[float, float]], duration: float, rate: float | None = None) -> Span:
    """Return the span of the segments (start, end) of a video; at least one is needed."""
    starts = {start for start, _ in segments}
    whole = all(time % 1 == 0 for segment in segments for time in segment)
    return Span(video_id, max(end for _, end in segments), duration, rate, min(starts), len(starts), whole)


@dataclass(frozen=True)
class Unit:
    """A candidate unit of all times.

    Attributes:
        words: the unit in words.
        setting: the value of the setting `unit`; empty if there is none.
        fits: whether the times fit their videos in this unit.
        doubtful: whether they fit in another one too, which `words` names.
    """

    words: str
    setting: str
    fits: bool = True
    doubtful: bool = False

    @property
    def remedy(self) -> Message:
        """The remedy to show to the user."""
        if not self.setting:
            return Message(("convert them to seconds from the start of the video",))
        where = Remedy("where", " in the settings of the data set (formats csv, activitynet and annotation_tool)")
        return Message((set_unit(self.setting), where, ", or convert them to seconds"))


def set_unit(unit: str) -> Remedy:
    """Return the remedy for times in this unit."""
    return Remedy("unit", f"set `unit: {unit}`", unit)


def _rates(spans: Sequence[Span]) -> str:
    rates = sorted({round(span.rate, 2) for span in spans if span.rate})
    if not rates:
        return "frames"
    return f"frames at {rates[0]:g}" + (f" to {rates[-1]:g}" if len(rates) > 1 else "") + " per second"


def _fits(spans: Sequence[Span], factors: Sequence[float]) -> bool:
    inside = sum(s.last / factor <= s.duration + TOLERANCE for s, factor in zip(spans, factors, strict=True))
    return inside >= FITTING * len(spans)


def in_percent(spans: Sequence[Span]) -> bool:
    """Return whether times look like per cent of the duration.

    They do if none exceeds 100, the last ends of nearly all videos lie near 100, and the durations differ much, so that
    the last ends do not follow them.
    """
    durations = [span.duration for span in spans]
    return _near_100(spans) and max(durations) >= NEAR * min(durations)


def _near_100(spans: Sequence[Span]) -> bool:
    """Return whether no time exceeds 100, and the last ends of nearly all of several videos lie near it."""
    if len(spans) < FEWEST or max(span.last for span in spans) > MOST_PERCENT:
        return False
    return sum(span.last >= PERCENT for span in spans) >= SHARE * len(spans)


def _whole_minutes(span: Span) -> bool:
    """Return whether both times are whole minutes; the last alone may be a number of frames."""
    return span.first is not None and span.last % 60 == 0 and span.first % 60 == 0


def _shorter_than_a_frame(spans: Sequence[Span], factor: float) -> bool:
    """Return whether what is annotated of most videos lies within one frame if the times are divided by `factor`."""
    lengths = [span.last - span.first for span in spans if span.first is not None]
    return bool(lengths) and 0 < statistics.median(lengths) / factor < FRAME


def fractions_of(spans: Sequence[Span]) -> str:
    """Return what times between 0 and 1 are: days, as spreadsheets store clock times, hours, or shares of the duration.

    The latter of a video whose end is annotated is over a half.
    """
    if statistics.median(span.last for span in spans) < 0.5:
        words = {DAY: "days, as spreadsheets store clock times (0.5 is 12 hours)", HOUR: "hours"}
        for factor, unit in words.items():
            shares = [span.last * factor / span.duration for span in spans]
            if max(shares) <= OVER and statistics.median(shares) >= LEAST:
                return unit
    return "fractions of the duration"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def _other_start(spans: Sequence[Span]) -> tuple[str, bool] | None:
    """Return what times from another start than the video's look like, and whether that is certain.

    The times of nearly every video then lie after its end, and no further apart than it lasts. Frames or milliseconds
    lie as close together only if a video has one or two instances.
    """
    for factor, unit in ((1.0, "seconds"), (1e3, "milliseconds")):
        after = [
            (span, span.first / factor, span.last / factor)
            for span in spans
            if span.first is not None
            and span.first / factor >= span.duration
            and (span.last - span.first) / factor <= span.duration + TOLERANCE
        ]
        if len(after) < FITTING * len(spans):
            continue
        begin = statistics.median(first for _, first, _ in after)
        what = "times of day, or times in a longer recording" if begin < DAY else "times in a longer recording"
        what = f"{what} (the first are at about {_clock(begin)})" if begin < UNIX else "Unix times"
        filled = statistics.median((last - first) / span.duration for span, first, last in after) >= LEAST
        certain = filled and 2 * sum(span.starts >= FEWEST for span, _, _ in after) >= len(spans)
        return what if factor == 1 else f"{what} in {unit}", certain
    return None


def likely_unit(spans: Sequence[Span], *, share: float = SHARE) -> Unit | None:
    """Return the unit in which the times fit their videos; None if (nearly) all of them fit in seconds.

    The candidates are per cent of the duration, seconds from another start (times of day), frames at each video's rate
    (60 per second where it is unknown), milliseconds and microseconds, the latter in order of increasing factor; the
    first that fits is returned. Times after which nearly nothing of a video would be annotated (1/100 s taken for
    milliseconds) do not fit.

    Args:
        share: minimum share of the videos whose last segment must end too late for the search to start.
    """
    over = [span for span in spans if span.last > span.duration + TOLERANCE]
    if not over or len(over) < share * len(spans):
        return None
    ratio = statistics.median(span.last / span.duration for span in over)
    if ratio < FACTOR:
        return None
    if in_percent(spans):
        return Unit("per cent of the duration", "")
    if len(spans) >= FEWEST and all(_whole_minutes(span) for span in spans) and _fits(spans, [60.0] * len(spans)):
        return Unit("hours and minutes that were meant as minutes and seconds (spreadsheets read 1:30 as 1:30:00)", "")
    other = _other_start(spans)
    if other and other[1]:
        return Unit(other[0], "")
    rival = other[0] if other else "per cent of the duration" if _near_100(spans) else ""
    perhaps = f" or, less likely, {rival}" if rival else ""
    if _fits(spans, [span.rate or 60.0 for span in spans]):
        return Unit(_rates(spans) + perhaps, "frames", doubtful=bool(rival))
    for factor, words, setting in ((1e3, "milliseconds", "milliseconds"), (1e6, "microseconds", "")):
        filled = statistics.median(span.last / factor / span.duration for span in spans)
        if filled >= LEAST and not _shorter_than_a_frame(spans, factor) and _fits(spans, [factor] * len(spans)):
            return Unit(words + perhaps, setting, doubtful=bool(rival))
    unknown = f"a unit {ratio:.0f} times smaller than seconds, or times from another start than the video's"
    return Unit(other[0] if other else unknown, "", fits=False)


def frames_alone(spans: Sequence[Span]) -> str:
    """Return a warning about videos whose times are certainly frames although the table is in seconds; empty if none.

    Their times end far beyond the video and are whole numbers; at the known frame rate, they fit and reach far into it.
    """
    found = [
        span
        for span in spans
        if span.rate and span.whole and span.last >= FACTOR * span.duration
        and LEAST * span.duration <= span.last / span.rate <= span.duration + TOLERANCE
    ]  # fmt: skip
    if not found:
        return ""
    first, more = found[0], f" (and those of {len(found) - 1} more videos)" if len(found) > 1 else ""
    return f"the times of video '{first.video_id}'{more} look like {_rates(found)}; convert them to seconds"
