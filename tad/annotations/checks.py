"""Detect definite errors in an annotation table; report file, video, entry, cause and remedy in one line each."""

import logging
import math
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from tad.annotations.doubts import percent, spans_of
from tad.annotations.duplicates import Near
from tad.annotations.table import SPLITS, Dropped, Instance, Table, Video, among
from tad.annotations.units import DAY, UNIX, fractions_of, frames_alone, likely_unit, set_unit, span_of
from tad.core.errors import Message, Remedy, TadError
from tad.core.ids import alike, invisible, unsafe
from tad.settings.plugins import nearest

log = logging.getLogger(__name__)

# Seconds. ActivityNet's 23,064 segments end up to 0.85 s after their video (rounded durations, re-muxed containers);
# the wrong segments of THUMOS14 end 2.3 s or more after it. An instance must also start inside the video.
TOLERANCE = 1.0
SAME = 1e-3  # seconds by which the ends of duplicates may differ, as in the data loaders of the ActionFormer family
# what pandas and spreadsheets write where there is no value, or a formula failed or was never computed
FAILED = frozenset({"#n/a", "#name?", "#ref!", "#value!", "#div/0!", "#null!", "#num!", "#formula!"})
NO_VALUES = FAILED | {"nan", "<na>", "nat", "n/a"}
WHOLE = re.compile(r"([0-9]+)(?:\.0+)?")  # a class number; pandas writes 7.0 for 7 beside missing values
LISTED = 20  # maximum number of problems that are logged individually
DROPPABLE = ("nan", "negative", "degenerate", "beyond", "label", "duplicate")
KNOWN_KINDS = ("degenerate", "negative", "beyond", "duplicate", "empty")
LOST = "\ufffd"  # what a letter becomes that an encoding does not have
CORRECT = "correct the two times"
DROP = Message(("; or leave such instances out with ", Remedy("drop", "on_invalid: drop")))
CLIP = Message((", or cut them at the ends of their video with ", Remedy("clip", "clip")))
CLIPPABLE = ("beyond", "negative")
Policy = Literal["error", "drop", "clip"]


@dataclass(frozen=True)
class Problem:
    """An error in a table: its kind, location, cause and remedy.

    The remedy may be a function: the nearest of 100,000 labels takes seconds to find, and few problems are printed.
    """

    kind: str
    video: str
    entry: str
    cause: str | Message
    remedy: str | Message | Callable[[], str]

    def line(self, source: str) -> Message:
        """Format the problem as one line."""
        remedy = self.remedy() if callable(self.remedy) else self.remedy
        place = f"video '{self.video}'" + (f", {self.entry}" if self.entry else "") if self.video else "all videos"
        return Message((f"{source}: {place}: ", self.cause, "; ", remedy))


def _video_problem(video_id: str, video: Video) -> Problem | None:
    why = unsafe(video_id)
    if why:
        return Problem("id", video_id.encode("unicode_escape").decode(), "", f"the id {why}", "rename the video")
    if video_id.casefold() in NO_VALUES:
        return Problem("id", video_id, "", "the id stands for a missing value", "give the name of the video")
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


def _moment_problem(video_id: str, instance: Instance, duration: float | None) -> Problem | None:
    """Return the reason why the time of a moment is invalid."""
    time, end, entry = instance.start, instance.end, instance.entry
    if not (math.isfinite(time) and math.isfinite(end)):
        return Problem("nan", video_id, entry, f"{time} is not a time", "give it in seconds")
    if end != time:
        kind = Remedy("is moments", "but the data set has `kind: moments`")
        has_length = Message((f"{time:g}-{end:g} s has a length, ", kind))
        choice = Remedy("moment", "set `moment: start` (or middle, end) in the data set's row")
        one = Message(("give one time (column time), or ", choice))
        return Problem("degenerate", video_id, entry, has_length, one)
    if time < 0:
        return Problem("negative", video_id, entry, f"{time:g} s lies before the video", "give 0 or later")
    if duration is not None and time > duration + TOLERANCE:
        remedy = "correct the time or the duration"
        remedy += " (milliseconds or frames must be converted to seconds)" if time > 2 * duration else ""
        cause = f"{time:g} s lies {time - duration:.2f} s after the end of the video ({duration:g} s)"
        return Problem("beyond", video_id, entry, cause, remedy)
    return None


def _segment_problem(video_id: str, instance: Instance, duration: float | None) -> Problem | None:
    """Return the reason why the times of a segment are invalid."""
    start, end, entry = instance.start, instance.end, instance.entry
    if not (math.isfinite(start) and math.isfinite(end)):
        return Problem("nan", video_id, entry, f"{start} to {end} is not a segment", "give both ends in seconds")
    if start < 0:
        cause = f"{start:g}-{end:g} s begins before the video"
        return Problem("negative", video_id, entry, cause, "begin at 0 or later")
    if end == start:
        kind = Remedy("moments", "set `kind: moments` in the data set's row")
        points = ", or with format annotation_tool `points: 2` in its settings for a segment of 2 s around it"
        remedy = Message(("correct the two times; if it is a moment, ", kind, points))
        return Problem("degenerate", video_id, entry, f"{start:g}-{end:g} s has no length", remedy)
    if end < start:
        return Problem("degenerate", video_id, entry, f"{start:g}-{end:g} s ends before it starts", CORRECT)
    beyond = _beyond(start, end, duration)
    return Problem("beyond", video_id, entry, *beyond) if beyond else None


def _instance_problem(
    video_id: str, instance: Instance, earlier: Near, duration: float | None, labels: Collection[str], kind: str
) -> Problem | None:
    start, end, entry = instance.start, instance.end, instance.entry
    time_problem = _moment_problem if kind == "moments" else _segment_problem
    if problem := time_problem(video_id, instance, duration):
        return problem
    if instance.label not in labels:
        if not instance.label:
            return Problem("label", video_id, entry, "no label", "give the class, or remove the instance")
        cause = f"unknown label '{instance.label}'"
        return Problem("label", video_id, entry, cause, partial(among, instance.label, list(labels)))
    if other := earlier.find(instance):
        times = f"{start:g}" if kind == "moments" else f"{start:g}-{end:g}"
        cause = f"'{instance.label}' {times} s repeats {other.entry or 'an earlier one'}"
        return Problem("duplicate", video_id, entry, cause, "remove one of them")
    return None


def _folded(label: str) -> str:
    """Return a label in the form in which misspellings are equal (see `alike`); `7.0` becomes `7`."""
    text = alike(label)
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _difference(one: str, other: str) -> str:
    """Return how two labels differ that are probably misspellings of one: equal after `_folded`."""
    if WHOLE.fullmatch(alike(other)):
        return "as text, not as numbers"
    if " ".join(one.casefold().split()) == " ".join(other.casefold().split()):
        return "in case or spaces"
    return "in kinds of letters, hyphens, apostrophes or spaces"


def _label_fault(label: str) -> tuple[str, str]:
    """Return cause and remedy if a label cannot be a class; empty otherwise."""
    shown = label.encode("unicode_escape").decode()
    if hidden := invisible(label):
        return f"label '{shown}' holds an invisible character ({hidden})", "remove it"
    if any("\ud800" <= letter <= "\udfff" for letter in label):
        return f"label '{shown}' is not valid Unicode", "write it again"
    if LOST in label:
        return f"label '{label}' has lost letters in a wrong encoding ({LOST})", "export the file again as UTF-8"
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in label):
        return f"label '{shown}' holds a line break or another control character", "write it on one line"
    if label.casefold() in NO_VALUES:
        return f"label '{label}' stands for a missing value", "give the class, or another name if it is one"
    return "", ""


def _label_problem(table: Table) -> Problem | None:
    seen: dict[str, str] = {}
    for label in table.labels:
        cause, remedy = _label_fault(label)
        folded = _folded(label)
        if not cause and folded in seen:
            how = _difference(seen[folded], label)
            cause, remedy = f"labels '{seen[folded]}' and '{label}' differ only {how}", "write them alike"
        if cause:
            of_label = ((v, i.entry) for v, video in table.videos.items() for i in video.instances if i.label == label)
            return Problem("label", *next(of_label, ("", "")), cause, remedy)
        seen[folded] = label
    return None


def refuse_labels(table: Table, *, source: str) -> None:
    """Refuse labels that cannot be classes, or that are probably one and written differently.

    Raises:
        TadError: there is one.
    """
    problem = _label_problem(table)
    _refuse([problem] if problem else [], source)


def _unit_problem(videos: Mapping[str, Video]) -> Problem | None:
    """Detect times that are not in seconds: (nearly) all last ends lie far beyond the durations, or between 0 and 1."""
    timed = {
        video_id: [(i.start, i.end) for i in video.instances]
        for video_id, video in videos.items()
        if video.instances and not video.in_frames and all(math.isfinite(i.end) for i in video.instances)
    }
    spans = [span_of(v, rows, d, videos[v].rate) for v, rows in timed.items() if (d := videos[v].duration)]
    unit = likely_unit(spans)
    if unit and len(spans) > 1:
        typical = statistics.median(span.last / span.duration for span in spans)
        cause = f"the times end about {typical:.0f} times later than the videos, so they look like {unit.words}"
        return Problem("unit", "", "", cause, unit.remedy)
    ends = [max(end for _, end in rows) for rows in timed.values()]
    if len(ends) > 1 and not spans and statistics.median(ends) > DAY:
        unix = statistics.median(ends) > UNIX
        what = "Unix times or microseconds" if unix else "milliseconds (or microseconds)"
        cause = f"the times reach {statistics.median(ends):.0f}, more than a day, so they look like {what}"
        convert = "convert them to seconds from the start of the video"
        remedy = convert if unix else Message((set_unit("milliseconds"), f", or {convert}"))
        return Problem("unit", "", "", cause, remedy)
    if len(spans) > 1 and max(ends) <= 1 and statistics.median(span.duration for span in spans) >= 10:
        cause = f"all times lie between 0 and 1, so they look like {fractions_of(spans)}"
        return Problem("unit", "", "", cause, "convert them to seconds")
    return None


def _table_problems(table: Table) -> Iterator[Problem]:
    for video_id, video in table.videos.items():
        problem = _video_problem(video_id, video)
        if problem:
            yield problem
    problem = _label_problem(table) or _unit_problem(table.videos)
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


def _refuse(problems: list[Problem], source: str, *hints: str | Message) -> None:
    if not problems:
        return
    for problem in problems[:LISTED] if len(problems) > 1 else []:  # a single problem is reported by the exception
        log.error("%s", problem.line(source))
    more = f" ({len(problems) - 1} more problems, the first ones in the log)" if len(problems) > 1 else ""
    raise TadError(problems[0].line(source), *hints, more)


def _cut(instance: Instance, problem: Problem, duration: float | None) -> Instance | None:
    """Clip an instance to its video; return None if nothing remains or clipping does not solve the problem."""
    end = instance.end if duration is None else min(instance.end, duration)
    start = max(instance.start, 0.0)
    return replace(instance, start=start, end=end) if problem.kind in CLIPPABLE and end - start > SAME else None


def _check_video(
    table: Table, video_id: str, policies: Mapping[str, str], labels: Collection[str]
) -> tuple[Video, list[tuple[Problem, str]]]:
    """Return the video with its accepted segments, and each problem with the policy that was applied to it."""
    video = table.videos[video_id]
    usable = Near(SAME)
    problems: list[tuple[Problem, str]] = []
    duration = None if video.in_frames else video.duration
    for instance in video.instances:
        problem = _instance_problem(video_id, instance, usable, duration, labels, table.kind)
        if problem is not None and policies[problem.kind] == "clip":
            part = _cut(instance, problem, duration)
            further = _instance_problem(video_id, part, usable, duration, labels, table.kind) if part else problem
            problems.append((further, "drop") if further else (problem, "clip"))
            if part and not further:
                usable.add(part)
            continue
        if problem is None or policies[problem.kind] == "keep":
            usable.add(instance)
        if problem is not None:
            problems.append((problem, policies[problem.kind]))
    for k, (start, end) in enumerate(video.ambiguous):
        if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
            problem = Problem("degenerate", video_id, f"ambiguous {k}", f"{start} to {end} is empty", "correct it")
            policy = policies["degenerate"]
            problems.append((problem, "drop" if policy == "clip" else policy))
    ambiguous = tuple((start, end) for start, end in video.ambiguous if 0 <= start < end < math.inf)
    return replace(video, instances=tuple(usable.instances), ambiguous=ambiguous), problems


def missing_splits(table: Table) -> list[str]:
    """Describe the consequences of each empty split, in one sentence each."""
    lost = {"train": "nothing can be trained", "test": "nothing can be scored"}
    remedy = (
        "assign some videos to it, or let a share of all be drawn by seed (formats csv and activitynet; settings:"
        " {test_share: 0.2})"
    )
    return [
        f"no video is in split '{split}', so {what}; {remedy}" for split, what in lost.items() if not table.split(split)
    ]


def _common_cause(table: Table, problems: Sequence[Problem]) -> str:
    """Return what the instances of a file have in common that explains their problems, as the end of a sentence."""
    count = sum(len(video.instances) for video in table.videos.values())
    if len(problems) == count > 1 and all(problem.remedy == CORRECT for problem in problems):
        return f"; all {count} instances end before they start, so the columns of starts and ends may be swapped"
    late = {problem.video for problem in problems if problem.kind == "beyond"}
    if late and (
        words := percent(table) or frames_alone(spans_of((v, x) for v, x in table.videos.items() if v in late))
    ):
        return f"; {words}"
    return ""


def _log(source: str, what: str, items: tuple[Dropped, ...]) -> None:
    for item in items[:LISTED]:
        log.warning("%s: %s: video '%s', %s: %s", source, what, item.video, item.entry, item.cause)
    if len(items) > LISTED:
        log.warning("%s: %d instances %s; the table lists all", source, len(items), what)


def check(table: Table, *, source: str, on_invalid: Policy = "error") -> Table:
    """Validate a table and return it; with `drop` or `clip`, return it without its invalid instances.

    An instance is invalid if one of its ends is NaN or infinite, if it starts before 0, has no positive length (in a
    table of moments: has a length), ends more than `TOLERANCE` s after its video or starts after it, has an unknown
    label, or repeats another instance of the video (same label, both ends within `SAME` s). Errors that concern the
    whole file are always refused: unsafe ids, unknown splits, impossible durations, labels that differ only in case or
    contain invisible characters, times that are not in seconds, and a split with videos but without instances. For the
    kinds of defect that `table.known` names, it takes precedence over `on_invalid`.

    Args:
        source: the file, for messages.
        on_invalid: `error` stops at the first invalid instance and logs the others; `drop` removes invalid instances
            and lists them in `dropped`; `clip` clips instances that extend beyond their video, lists them in
            `clipped`, and drops those that cannot be clipped.

    Raises:
        TadError: the table is invalid; the message names the file, the video and entry, the cause and the remedy.
    """
    for kind, policy in table.known.items():
        if kind not in KNOWN_KINDS or policy not in ("keep", "drop", "error", "clip"):
            kinds = ", ".join(KNOWN_KINDS)
            raise TadError(
                f"{table.dataset}: known.{kind}: {policy}: kinds are {kinds}; each is keep, drop, clip or error"
            )
    _refuse(list(_table_problems(table)), source)
    policies = {kind: str(on_invalid) for kind in DROPPABLE} | table.known
    videos: dict[str, Video] = {}
    done: dict[str, list[Problem]] = {"error": [], "drop": [], "clip": [], "keep": []}
    labels = dict.fromkeys(table.labels)  # their order, and a fast test of membership
    for video_id in table.videos:
        videos[video_id], problems = _check_video(table, video_id, policies, labels)
        for problem, policy in problems:
            done[policy].append(problem)
    can_be_cut = any(problem.kind in CLIPPABLE for problem in done["error"])
    _refuse(done["error"], source, DROP, *([CLIP] if can_be_cut else []), _common_cause(table, done["error"]))
    dropped, clipped = (
        tuple(Dropped(p.video, p.entry, f"{p.kind}: {p.cause}") for p in done[policy]) for policy in ("drop", "clip")
    )
    checked = replace(table, videos=videos, dropped=(*table.dropped, *dropped), clipped=(*table.clipped, *clipped))
    empty = _empty_problem(checked)
    _refuse([empty] if empty else [], source)
    for kind, count in Counter(problem.kind for problem in done["keep"]).items():
        log.info("%s: %d instances kept although '%s': the published protocol counts them", source, count, kind)
    late = {problem.video for policy in ("drop", "clip") for problem in done[policy] if problem.kind == "beyond"}
    if words := frames_alone(spans_of((v, table.videos[v]) for v in table.videos if v in late)):
        log.warning("%s: %s", source, words)
    _log(source, "dropped", dropped)
    _log(source, "cut at the ends of their video", clipped)
    return checked
