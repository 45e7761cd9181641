"""Describe what is probably wrong with a table but not certain, one sentence each, for the log and map.json."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator

from tad.annotations.table import Table, Video
from tad.annotations.units import FEWEST, Span, in_percent, span_of
from tad.core.ids import alike

# Labels that scripts write where there is none, though a class may be called so.
NO_CLASSES = frozenset({"none", "null", "undefined", "-", "--", "?", "."})
SEPARATORS = ";|/,+&"
DAMAGED = ("Ã", "Â", "â€")  # what UTF-8 that was read as Latin-1 or Windows-1252 begins with
QUOTES = "'\"`"
SHOWN = 3
BEGINNING, MINUTE = 0.1, 1.1 / 60  # share of a video that is suspicious if no instance of any lies after it
SCRIPTS = ("LATIN", "CYRILLIC", "GREEK")  # whose letters look alike


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


def beginnings(table: Table) -> str:
    """Return a sentence if nothing after the beginning of any video is annotated; empty otherwise."""
    spans = spans_of(table.videos.items())
    if len(spans) < FEWEST:
        return ""
    share = max(span.last / span.duration for span in spans)
    if share > BEGINNING:
        return ""
    minutes = "the times may be minutes (or minutes and seconds with a point, 1.30 for 1:30), or "
    return (
        f"all instances of {len(spans)} videos lie in the first {100 * share:.2g} % of their video;"
        f" {minutes if share <= MINUTE else ''}the durations may be in another unit (frames, milliseconds); if so,"
        " convert them to seconds"
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


def _scripts(text: str) -> str:
    """Return the names of several alphabets within one word; empty if there is one."""
    for word in () if text.isascii() else text.split():
        names = {unicodedata.name(letter, "").partition(" ")[0] for letter in word}
        if len(found := [name.capitalize() for name in SCRIPTS if name in names]) > 1:
            return " and ".join(found)
    return ""


def _together(labels: Iterable[str]) -> Iterator[str]:
    """Yield a sentence if words of letters are written together in one label, and apart in another."""
    seen: dict[str, str] = {}
    for label in labels:
        text = "".join(letter for letter in alike(label) if letter not in " -")
        other = seen.setdefault(text, label)
        if text.isalpha() and alike(other) != alike(label):  # others are refused by the check
            yield (
                f"labels '{other}' and '{label}' differ only in blanks or hyphens and count as different classes; if"
                " they are one, write them alike"
            )


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
        if scripts := _scripts(label):
            yield (
                f"label '{label}'{_place(table, label)} has a word of {scripts} letters, some of which look alike;"
                " write it with those of one alphabet"
            )
        if repaired := _repaired(label):
            yield (
                f"label '{label}'{_place(table, label)} looks like '{repaired}', read in a wrong encoding; export it"
                " again as UTF-8"
            )


def _of_ids(table: Table) -> Iterator[str]:
    same: dict[str, list[str]] = defaultdict(list)
    for video_id in table.videos:
        same[alike(video_id).removesuffix(".0")].append(video_id)
    several = [ids for ids in same.values() if len(ids) > 1]
    if several:
        shown = ", ".join(" and ".join(f"'{v}'" for v in ids) for ids in several[:SHOWN])
        yield (
            f"{sum(map(len, several))} videos have names that differ only in case, in kinds of letters, hyphens or"
            f" blanks, or in '.0' ({shown}); they count as different videos; if they are the same, write them alike"
        )
    for video_id in table.videos:
        if repaired := _repaired(video_id):
            yield f"video '{video_id}' looks like '{repaired}', read in a wrong encoding; export it again as UTF-8"
            return


def doubts(table: Table) -> list[str]:
    """Return a sentence for each thing in a table that is probably a mistake; the table itself is valid."""
    found = (percent(table), beginnings(table), *_of_labels(table), *_together(table.labels), *_of_ids(table))
    return [sentence for sentence in found if sentence]
