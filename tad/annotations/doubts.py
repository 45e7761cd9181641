"""Describe what is probably wrong with a table but not certain, one sentence each, for the log and map.json."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tad.annotations.table import Table, Video
from tad.annotations.units import Span, in_percent, span_of

# Labels that scripts write where there is none, though a class may be called so.
NO_CLASSES = frozenset({"none", "null", "undefined", "-", "--", "?", "."})
SEPARATORS = ";|/,+&"
DAMAGED = ("Ã", "Â", "â€")  # what UTF-8 that was read as Latin-1 or Windows-1252 begins with
QUOTES = "'\"`"
SHOWN = 3


def spans_of(videos: Iterable[tuple[str, Video]]) -> list[Span]:
    """Return the spans of the videos with instances in seconds and a known duration."""
    return [
        span_of(video_id, [(i.start, i.end) for i in video.instances], video.duration, video.rate)
        for video_id, video in videos
        if video.instances and video.duration and not video.in_frames
    ]


def percent(table: Table) -> str:
    """Return a sentence if the times look like per cent of the durations; empty otherwise."""
    spans = spans_of(table.videos.items())
    if not in_percent(spans):
        return ""
    durations = [span.duration for span in spans]
    return (
        f"no time exceeds 100, and the last of most videos is near it, although the videos last {min(durations):g} to"
        f" {max(durations):g} s; the times look like per cent of the duration; if they are, convert them to seconds"
    )


def _place(table: Table, label: str) -> str:
    rows = [
        (video_id, i.entry) for video_id, video in table.videos.items() for i in video.instances if i.label == label
    ]
    if not rows:
        return ""
    video_id, entry = rows[0]
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f" (video '{video_id}', {entry or 'an instance'}{more})"


def _repaired(text: str) -> str:
    """Return what a text was before it was read in a wrong encoding; empty if it was not."""
    if not any(start in text for start in DAMAGED):
        return ""
    for encoding in ("cp1252", "latin-1"):
        try:
            return text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return ""


def _of_labels(table: Table) -> Iterator[str]:
    known = set(table.labels)
    for label in table.labels:
        if label.casefold() in NO_CLASSES:
            yield (
                f"label '{label}'{_place(table, label)} counts as a class; if it stands for a missing value, remove"
                " these instances"
            )
        if len(label) > 1 and label[0] in QUOTES and label[-1] == label[0]:
            yield f"label '{label}'{_place(table, label)} is in quotation marks, which count as a part of it"
        several = (label.split(mark) for mark in SEPARATORS if mark in label)
        if any(all(part.strip() in known for part in parts) for parts in several):
            yield (
                f"label '{label}'{_place(table, label)} counts as a class of its own, although its parts are classes;"
                " if it means all of them, give each a row"
            )
        if repaired := _repaired(label):
            yield (
                f"label '{label}'{_place(table, label)} looks like '{repaired}', read in a wrong encoding; export it"
                " again as UTF-8"
            )


def _of_ids(table: Table) -> Iterator[str]:
    alike: dict[str, list[str]] = defaultdict(list)
    for video_id in table.videos:
        alike[video_id.casefold().removesuffix(".0")].append(video_id)
    several = [ids for ids in alike.values() if len(ids) > 1]
    if several:
        shown = ", ".join(" and ".join(f"'{v}'" for v in ids) for ids in several[:SHOWN])
        yield (
            f"{len(several)} videos have names that differ only in case or in '.0' ({shown}); they count as different"
            " videos; if they are the same, write them alike"
        )
    for video_id in table.videos:
        if repaired := _repaired(video_id):
            yield f"video '{video_id}' looks like '{repaired}', read in a wrong encoding; export it again as UTF-8"
            return


def doubts(table: Table) -> list[str]:
    """Return a sentence for each thing in a table that is probably a mistake; the table itself is valid."""
    return [sentence for sentence in (percent(table), *_of_labels(table), *_of_ids(table)) if sentence]
