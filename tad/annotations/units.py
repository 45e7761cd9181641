"""Detect the unit of times that cannot be seconds because they end long after their videos."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

TOLERANCE = 1.0  # seconds by which a segment may end after its video, as in tad.annotations.checks
FACTOR = 2.0  # minimum median ratio of last end to duration for which a unit is reported
SHARE = 0.8  # minimum share of the videos with instances that end too late
# minimum median share of a video before its last end after conversion; below it, a conversion fits by chance
LEAST = 0.2
FITTING = 0.95  # minimum share of the videos whose ends fit their duration after conversion from a unit


@dataclass(frozen=True)
class Span:
    """A video's last end as the file states it, its duration in seconds, and its frames per second if known."""

    video_id: str
    last: float
    duration: float
    rate: float | None = None


@dataclass(frozen=True)
class Unit:
    """A candidate unit of all times.

    Attributes:
        words: the unit in words.
        setting: the value of the setting `unit`; empty if there is none.
        fits: whether the times fit their videos in this unit.
    """

    words: str
    setting: str
    fits: bool = True

    @property
    def remedy(self) -> str:
        """The remedy to show to the user."""
        if not self.setting:
            return "convert them to seconds"
        return (
            f"set `unit: {self.setting}` in the settings of the data set (formats csv and activitynet), or convert them"
            " to seconds"
        )


def _rates(spans: Sequence[Span]) -> str:
    rates = sorted({round(span.rate, 2) for span in spans if span.rate})
    if not rates:
        return "frames"
    return f"frames at {rates[0]:g}" + (f" to {rates[-1]:g}" if len(rates) > 1 else "") + " per second"


def _fits(spans: Sequence[Span], factors: Sequence[float]) -> bool:
    inside = sum(s.last / factor <= s.duration + TOLERANCE for s, factor in zip(spans, factors, strict=True))
    return inside >= FITTING * len(spans)


def likely_unit(spans: Sequence[Span], *, share: float = SHARE) -> Unit | None:
    """Return the unit in which the times fit their videos; None if (nearly) all of them fit in seconds.

    The candidates are frames at each video's rate (60 per second where it is unknown), milliseconds and microseconds,
    tried in order of increasing factor; the first that fits is returned. Times after which nearly nothing of a video
    would be annotated (1/100 s taken for milliseconds) do not fit.

    Args:
        share: minimum share of the videos whose last segment must end too late for the search to start.
    """
    over = [span for span in spans if span.last > span.duration + TOLERANCE]
    if not over or len(over) < share * len(spans):
        return None
    ratio = statistics.median(span.last / span.duration for span in over)
    if ratio < FACTOR:
        return None
    if _fits(spans, [span.rate or 60.0 for span in spans]):
        return Unit(_rates(spans), "frames")
    for factor, words, setting in ((1e3, "milliseconds", "milliseconds"), (1e6, "microseconds", "")):
        filled = statistics.median(span.last / factor / span.duration for span in spans)
        if filled >= LEAST and _fits(spans, [factor] * len(spans)):
            return Unit(words, setting)
    words = f"a unit {ratio:.0f} times smaller than seconds, or times from another start than the video's"
    return Unit(words, "", fits=False)
