"""What is certainly wrong with an annotation table, said in one line each: file, video, entry, cause, remedy."""

import logging
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tad.annotations import SPLITS, Dropped, Instance, Table, Video, among
from tad.errors import TadError
from tad.ids import unsafe
from tad.plugins import nearest

log = logging.getLogger(__name__)

# ActivityNet's 23,064 segments overrun by up to 0.85 s (durations rounded, containers re-muxed); THUMOS14's wrong
# ones by 2.3 s and more. An instance must also start inside the video.
TOLERANCE = 1.0
SAME = 1e-3  # ends of duplicates; the ActionFormer family's loaders use the same value
LISTED = 20  # problems written to the log one by one
DROPPABLE = ("nan", "negative", "degenerate", "beyond", "label", "duplicate")
KNOWN_KINDS = ("degenerate", "beyond", "duplicate", "empty")
Policy = Literal["error", "drop"]


@dataclass(frozen=True)
class Problem:
    """One thing that cannot be right: its kind, where it is, and what to do about it."""

    kind: str
    video: str
    entry: str
    cause: str
    remedy: str

    def line(self, source: str) -> str:
        """The problem as one line."""
        place = f"video '{self.video}'" + (f", {self.entry}" if self.entry else "") if self.video else "all videos"
        return f"{source}: {place}: {self.cause}; {self.remedy}"


def _video_problem(video_id: str, video: Video) -> Problem | None:
    why = unsafe(video_id)
    if why:
        return Problem("id", video_id.encode("unicode_escape").decode(), "", f"the id {why}", "rename the video")
    if video.split not in SPLITS:
        return Problem("split", video_id, "", f"split '{video.split}'", nearest(video.split, list(SPLITS)))
    duration = video.duration
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        return Problem(
            "duration", video_id, "", f"a duration of {duration} s", "give the seconds, or leave the duration out"
        )
    return None


def _beyond(start: float, end: float, duration: float | None) -> tuple[str, str] | None:
    if duration is None or (end <= duration + TOLERANCE and start < duration):
        return None
    cause = f"{start:g}-{end:g} s ends {end - duration:.2f} s after the video ({duration:g} s)"
    if start >= duration:
        cause = f"{start:g}-{end:g} s begins after the end of the video ({duration:g} s)"
    remedy = "correct the times or the duration"
    if end > 2 * duration:
        remedy += " (milliseconds or frames must be converted to seconds)"
    return cause, remedy


def _instance_problem(
    video_id: str, instance: Instance, earlier: list[Instance], duration: float | None, labels: list[str]
) -> Problem | None:
    start, end, entry = instance.start, instance.end, instance.entry
    if not (math.isfinite(start) and math.isfinite(end)):
        return Problem("nan", video_id, entry, f"{start} to {end} is not a segment", "give both ends in seconds")
    if start < 0:
        cause = f"{start:g}-{end:g} s begins before the video"
        return Problem("negative", video_id, entry, cause, "begin at 0 or later")
    if end <= start:
        order = "ends before it starts" if end < start else "has no length"
        return Problem("degenerate", video_id, entry, f"{start:g}-{end:g} s {order}", "correct the two times")
    beyond = _beyond(start, end, duration)
    if beyond:
        return Problem("beyond", video_id, entry, *beyond)
    if instance.label not in labels:
        cause = f"unknown label '{instance.label}'" if instance.label else "no label"
        return Problem("label", video_id, entry, cause, among(instance.label, labels))
    for other in earlier:
        if instance.label == other.label and abs(start - other.start) < SAME and abs(end - other.end) < SAME:
            cause = f"'{instance.label}' {start:g}-{end:g} s repeats {other.entry or 'an earlier one'}"
            return Problem("duplicate", video_id, entry, cause, "remove one of them")
    return None


def _label_problem(labels: tuple[str, ...]) -> Problem | None:
    seen: dict[str, str] = {}
    for label in labels:
        folded = " ".join(label.casefold().split())
        if folded in seen:
            cause = f"labels '{seen[folded]}' and '{label}' differ only in case or spaces"
            return Problem("label", "", "", cause, "write them alike")
        seen[folded] = label
    return None


def _unit_problem(videos: Mapping[str, Video]) -> Problem | None:
    """Times that are not seconds show as (nearly) all videos' last ends far beyond the duration, or within 1."""
    last = {
        video_id: (max(i.end for i in video.instances), video.duration)
        for video_id, video in videos.items()
        if video.instances and all(math.isfinite(i.end) for i in video.instances)
    }
    ratios = [end / duration for end, duration in last.values() if duration]
    if len(ratios) > 1 and sum(ratio > 2 for ratio in ratios) >= 0.8 * len(ratios):
        typical = statistics.median(ratios)
        unit = "milliseconds" if typical >= 200 else "frames"
        cause = f"the times end about {typical:.0f} times later than the videos, so they look like {unit}"
        return Problem("unit", "", "", cause, "convert them to seconds")
    ends = [end for end, _ in last.values()]
    if len(ends) > 1 and not ratios and statistics.median(ends) > 86_400:
        cause = f"the times reach {statistics.median(ends):.0f}, more than a day, so they look like milliseconds"
        return Problem("unit", "", "", cause, "convert them to seconds")
    durations = [duration for _, duration in last.values() if duration]
    if len(durations) > 1 and max(ends) <= 1 and statistics.median(durations) >= 10:
        cause = "all times lie between 0 and 1, so they look like fractions of the duration"
        return Problem("unit", "", "", cause, "convert them to seconds")
    return None


def _table_problems(table: Table) -> Iterator[Problem]:
    for video_id, video in table.videos.items():
        problem = _video_problem(video_id, video)
        if problem:
            yield problem
    problem = _label_problem(table.labels) or _unit_problem(table.videos)
    if problem:
        yield problem


def _empty_problem(table: Table) -> Problem | None:
    counts = table.counts()
    if not sum(counter.total() for counter in counts.values()):
        return Problem("empty", "", "", "no instance in any split", "is this the right file?")
    for split, counter in counts.items():
        if not counter and table.known.get("empty") != "keep":
            cause = f"the {len(table.split(split))} videos of split '{split}' hold no instance"
            return Problem("empty", "", "", cause, "annotate some, or move the videos to another split")
    return None


def _refuse(problems: list[Problem], source: str, hint: str = "") -> None:
    if not problems:
        return
    for problem in problems[:LISTED] if len(problems) > 1 else []:  # a single one is in the message
        log.error("%s", problem.line(source))
    more = f" ({len(problems) - 1} more problems, the first ones in the log)" if len(problems) > 1 else ""
    raise TadError(problems[0].line(source) + hint + more)


def _check_video(
    table: Table, video_id: str, policies: Mapping[str, str], labels: list[str]
) -> tuple[Video, list[tuple[Instance, Problem, str]]]:
    """The video with only what may stay, and each problem with what was decided about it."""
    video = table.videos[video_id]
    kept: list[Instance] = []
    found: list[tuple[Instance, Problem, str]] = []
    for instance in video.instances:
        problem = _instance_problem(video_id, instance, kept, video.duration, labels)
        if problem is None or policies[problem.kind] == "keep":
            kept.append(instance)
        if problem is not None:
            found.append((instance, problem, policies[problem.kind]))
    for k, (start, end) in enumerate(video.ambiguous):
        if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
            problem = Problem("degenerate", video_id, f"ambiguous {k}", f"{start} to {end} is no segment", "correct it")
            found.append((Instance(start, end, ""), problem, policies["degenerate"]))
    ambiguous = tuple((start, end) for start, end in video.ambiguous if 0 <= start < end < math.inf)
    return replace(video, instances=tuple(kept), ambiguous=ambiguous), found


def check(table: Table, *, source: str, on_invalid: Policy = "error") -> Table:
    """The table, if nothing in it is certainly wrong; with `drop`, without the instances that are.

    An instance is invalid when an end is NaN or infinite, it begins before 0, has no positive length, ends more than
    `TOLERANCE` s after its video or begins after it, has an unknown label, or repeats another of the video (same
    label, both ends within `SAME` s). What can only be a mistake of the whole file is always refused: unsafe ids,
    unknown splits, impossible durations, labels that differ in case alone, times that are not seconds, a split with
    videos and no instance. `table.known` decides first where it names the kind of defect.

    Args:
        source: the file, for messages.
        on_invalid: `error` stops at the first invalid instance (the others are logged), `drop` leaves them out and
            lists them in `dropped`.

    Raises:
        TadError: the file, the video and entry, the cause and the remedy.
    """
    for kind, policy in table.known.items():
        if kind not in KNOWN_KINDS or policy not in ("keep", "drop", "error"):
            kinds = ", ".join(KNOWN_KINDS)
            raise TadError(f"{table.dataset}: known.{kind}: {policy}: kinds are {kinds}; each is keep, drop or error")
    _refuse(list(_table_problems(table)), source)
    policies = {kind: str(on_invalid) for kind in DROPPABLE} | table.known
    videos: dict[str, Video] = {}
    errors: list[Problem] = []
    dropped = list(table.dropped)
    kept: Counter[str] = Counter()
    labels = list(table.labels)
    for video_id in table.videos:
        videos[video_id], found = _check_video(table, video_id, policies, labels)
        errors += [problem for _, problem, policy in found if policy == "error"]
        dropped += [Dropped(video_id, p.entry, f"{p.kind}: {p.cause}") for _, p, policy in found if policy == "drop"]
        kept.update(problem.kind for _, problem, policy in found if policy == "keep")
    _refuse(errors, source, "; or leave such instances out with on_invalid: drop")
    checked = replace(table, videos=videos, dropped=tuple(dropped))
    empty = _empty_problem(checked)
    _refuse([empty] if empty else [], source)
    for kind, count in kept.items():
        log.info("%s: %d instances kept although '%s': the published protocol counts them", source, count, kind)
    for item in dropped[:LISTED]:
        log.warning("%s: dropped: video '%s', %s: %s", source, item.video, item.entry, item.cause)
    if len(dropped) > LISTED:
        log.warning("%s: %d instances dropped; the table lists all", source, len(dropped))
    return checked
