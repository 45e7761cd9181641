"""Detect detections whose times are not seconds, by the durations of their videos and by the ground truth."""

# D detections, V videos

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tad.annotations.table import Table
from tad.annotations.units import MOST_PERCENT, Span, fractions_of, likely_unit
from tad.metrics.columns import Columns

MOST = 0.5  # another unit is considered if a larger share of the detections ends too late
FEWEST, ENOUGH = 2, 10  # videos and detections from which a unit can be certain
GRID = 15.0  # times as many as seconds, up to which they look like positions of features and not like frames
SMALL, LIKELY = 0.1, 0.7  # largest share of a video before its last detection, to be certain and to be likely too small
REACHED = 0.8  # share of the videos before their last instance, from which a detector ought to reach as far
SEVERAL = 5  # videos from which a common last end, or one that is a little too small, is no chance
ALIKE, DIFFERENT = 1.15, 2.0  # ratios of last ends that are alike, and of durations that differ
FAR = 4.0  # ratio of detected to annotated last ends that tells a unit where no duration is known
LEAST_FRACTIONS, SHORTEST = 2, 5.0  # detections, and seconds of the shortest video, from which fractions are suspected


@dataclass(frozen=True)
class Finding:
    """What the times of detections look like.

    Attributes:
        words: the likely unit.
        cause: the observation, with its numbers.
        factor: typical ratio of these times to seconds.
        certain: whether the times cannot be seconds; otherwise this is only likely.
    """

    words: str
    cause: str
    factor: float
    certain: bool


@dataclass(frozen=True)
class Seen:
    """The detections of a video beside its ground truth: their span, and the last annotated end (0 without any)."""

    span: Span
    annotated: float


def seen_in(columns: Columns, table: Table, videos: Collection[str]) -> tuple[list[Seen], list[Seen]]:
    """Return the videos with detections and a known duration, and those without a duration but with instances.

    In the latter the last annotated end stands for the duration.
    """
    first_V, last_V = np.full(len(columns.video_ids), np.inf), np.full(len(columns.video_ids), -np.inf)
    np.minimum.at(first_V, columns.video, columns.segments[:, 0])
    np.maximum.at(last_V, columns.video, columns.segments[:, 1])
    count_V = np.bincount(columns.video, minlength=len(columns.video_ids))
    whole_V = np.ones(len(columns.video_ids), np.bool_)
    whole_V[columns.video[(columns.segments % 1 != 0).any(axis=1)]] = False
    known: list[Seen] = []
    others: list[Seen] = []
    for k, video_id in enumerate(columns.video_ids):
        if video_id not in videos or video_id not in table.videos or not np.isfinite(last_V[k] - first_V[k]):
            continue
        video = table.videos[video_id]
        annotated = max((i.end for i in video.instances), default=0.0)
        length = video.duration or annotated
        span = Span(
            video_id, float(last_V[k]), length, video.rate, float(first_V[k]), int(count_V[k]), bool(whole_V[k])
        )
        if length > 0:
            (known if video.duration else others).append(Seen(span, annotated))
    return known, others


def _large(spans: Sequence[Span]) -> Finding | None:
    """Detect times beyond the videos."""
    unit = likely_unit(spans)
    if unit is None:
        return None
    ratio = statistics.median(span.last / span.duration for span in spans)
    words = unit.words
    if unit.setting == "frames" and not (spans[0].rate and ratio > spans[0].rate / 2):
        what = "positions on the grid of the features" if ratio <= GRID else "frames"
        words = f"{what} (about {ratio:.3g} per second)"
    late = sum(span.last > span.duration for span in spans)
    cause = (
        f"in {late} of {len(spans)} videos, the last detection ends typically {ratio:.3g} times later than the video"
    )
    return Finding(words, cause, ratio, len(spans) >= FEWEST)


def _a_little_large(spans: Sequence[Span]) -> Finding | None:
    """Detect times of which the last lies beyond (nearly) every video, by about the same factor."""
    ratios = sorted(span.last / span.duration for span in spans)
    least = ratios[len(ratios) // 10]
    if len(spans) < SEVERAL or least < ALIKE or ratios[-1] > DIFFERENT * least:
        return None
    ratio = statistics.median(ratios)
    words = f"positions on the grid of the features (about {ratio:.3g} per second)"
    cause = (
        f"the last detection of nearly all {len(spans)} videos ends typically {ratio:.3g} times later than the video"
    )
    return Finding(words, cause, ratio, certain=False)


def _small_unit(spans: Sequence[Span], factor: float) -> str:
    """Name the unit of times that are `factor` times smaller than seconds."""
    last = max(span.last for span in spans)
    if last <= 1:
        return fractions_of(spans)
    if max(span.last * 60 / span.duration for span in spans) <= 1.1 and factor > 20:
        return "minutes"
    return f"positions on the grid of the features (one in about {factor:.3g} s)"


def _small(videos: Sequence[Seen], detections: int) -> Finding | None:
    """Detect times that end long before the last instance of (nearly) every video."""
    spans = [seen.span for seen in videos]
    last = max(span.last for span in spans)
    shortest = min(span.duration for span in spans)
    if last <= 1 and shortest >= SHORTEST and detections >= LEAST_FRACTIONS:
        cause = f"all {detections} detections end within the first second, and the shortest video lasts {shortest:g} s"
        beyond = sum(seen.annotated > 1 for seen in videos)
        certain = len(videos) >= FEWEST and detections >= ENOUGH and beyond > MOST * len(videos)
        factor = statistics.median(span.last / span.duration for span in spans)
        return Finding(fractions_of(spans), cause, factor, certain)
    share = max(span.last / span.duration for span in spans)
    factors = [seen.annotated / seen.span.last for seen in videos if seen.annotated and seen.span.last > 0]
    if len(factors) < SEVERAL or detections < ENOUGH or share > LIKELY:
        return None
    reached = statistics.median(seen.annotated / seen.span.duration for seen in videos)
    factor = statistics.median(factors)
    certain = share <= SMALL and reached >= 2 * SMALL and min(factors) > 1
    if not certain and (reached < REACHED or min(factors) < 1 / REACHED):
        return None
    cause = (
        f"no detection ends in the last {100 * (1 - share):.0f} % of any of the {len(spans)} videos, and the last"
        f" instance ends typically {factor:.3g} times later than the last detection"
    )
    return Finding(_small_unit(spans, factor), cause, 1 / factor, certain)


def _equal(spans: Sequence[Span]) -> Finding | None:
    """Detect times that end alike in videos of different durations: per cent, or a grid of one length."""
    lasts = sorted(span.last for span in spans)
    if len(spans) < SEVERAL:
        return None
    low, high = lasts[len(lasts) // 10], lasts[-1]
    durations = sorted(span.duration for span in spans)
    spread = durations[-1 - len(durations) // 10] / durations[len(durations) // 10]
    if low <= 0 or high > ALIKE * low or spread < DIFFERENT:
        return None
    words = f"positions on a grid of about {high:.0f} in every video"
    words = "per cent of the duration" if high / ALIKE <= MOST_PERCENT - 0.5 <= high * ALIKE else words
    cause = (
        f"the last detections of nearly all {len(spans)} videos end between {low:g} and {high:g}, although the videos"
        f" last {durations[0]:g} to {durations[-1]:g} s"
    )
    return Finding(words, cause, statistics.median(span.last / span.duration for span in spans), certain=False)


def _without_durations(videos: Sequence[Seen]) -> Finding | None:
    """Compare the last detections with the last instances, where no duration is known."""
    ratios = [seen.span.last / seen.annotated for seen in videos]
    if len(ratios) < FEWEST + 1:
        return None
    ratio = statistics.median(ratios)
    cause = f"the last detections end typically {ratio:.3g} times as late as the last instances of {len(ratios)} videos"
    if min(ratios) >= FAR:
        names = ((500.0, "milliseconds"), (GRID, "frames"), (0.0, "positions on the grid of the features"))
        return Finding(next(name for least, name in names if ratio >= least), cause, ratio, certain=False)
    if max(ratios) <= 1 / FAR and ratio > 0:
        return Finding(_small_unit([seen.span for seen in videos], 1 / ratio), cause, ratio, certain=False)
    return None


def finding(columns: Columns, table: Table, videos: Collection[str], *, late: float) -> Finding | None:
    """Return what the times of detections look like if they are probably not seconds; None otherwise.

    Args:
        late: share of the detections that end after their video.
    """
    known, others = seen_in(columns, table, videos)
    if not known:
        return _without_durations(others)
    spans = [seen.span for seen in known]
    detections = sum(span.starts for span in spans)
    if late > MOST and (found := _large(spans)):
        return found
    if found := _a_little_large(spans):
        return found
    if late <= 1 - MOST and (found := _small(known, detections)):
        return found
    return _equal(spans)
