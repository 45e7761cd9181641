"""Read annotations of any known layout into a table, for `tad evaluate`, which also accepts the table of annotate."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tad.annotations.checks import KNOWN_KINDS, Policy, check
from tad.annotations.doubts import doubts
from tad.annotations.moments import At, as_moments
from tad.annotations.table import SPLITS, Table, read_table
from tad.core.errors import TadError
from tad.datasets import csv, thumos14
from tad.datasets._parse import NOTHING, SPLIT_NAMES, entries_of, labels_of, load_json, read_database

log = logging.getLogger(__name__)

AMBIGUOUS = "Ambiguous"
SHOWN = 3
SHEETS = (".csv", ".tsv", ".txt")
# key of a remedy that names settings of config.yaml → the options of `tad evaluate`
OPTIONS = {
    "splits": "map it, with --splits",
    "drop": "--on-invalid drop",
    "is moments": "and the protocol scores moments",
    "moment": "--moment start, middle or end",
    "moments": "use a protocol of moments (--protocol moments)",
    "unit": "make the table with `tad annotate` and `unit: {value}`",
}


def read_any(path: Path, *, splits: Mapping[str, str] = NOTHING) -> Table:
    """Read annotations into a table without checking them.

    Supported are an output of annotate, a JSON file in ActivityNet's layout, a custom CSV file, and a folder of
    THUMOS'14's text files. Splits keep the meaning that they have in the file: training, validation and testing are
    train, val and test. Videos of a CSV file without splits are test. Nothing is excluded (the protocol does that),
    except videos of unknown subsets that have no annotations.

    Args:
        splits: the file's subset names → train, val, test or empty (exclude), in addition to the usual names.

    Raises:
        TadError: the layout is unknown; the message names the file, the video and the entry.
    """
    return _read(Path(path), splits)[0]


def _read(path: Path, splits: Mapping[str, str]) -> tuple[Table, bool]:
    """Return the table of `read_any`, and whether it is a table that annotate has checked."""
    if path.is_dir():
        return thumos14.read_folder(path), False
    if path.suffix.lower() in SHEETS:
        table = csv.read(path, csv.settings_of({"split": "test", "splits": dict(splits)}))
        if table.notes:
            log.warning("%s: accepted despite an unusual notation: %s", path, "; ".join(table.notes))
        return _in_seconds(table, path), False
    value = load_json(path)
    if isinstance(value, dict) and set(value) >= {"stamp", "videos", "labels"}:
        return read_table(path), True
    return _of_database(value, path, splits), False


def _of_database(value: Any, path: Path, splits: Mapping[str, str]) -> Table:
    """Return the table of a JSON value in ActivityNet's layout."""
    if isinstance(value, dict) and "results" in value:
        raise TadError(f"{path}: is a results file; the annotations go in its place, the detections come first")
    ignored: Counter[str] = Counter()
    names, entries = {**SPLIT_NAMES, **splits}, entries_of(value, path)
    try:
        videos = read_database(path, ambiguous=AMBIGUOUS, splits=names, ignored=ignored, entries=entries)
    except TadError as error:
        error.reword(OPTIONS)
        raise
    if ignored:
        counts = ", ".join(f"{subset} {count}" for subset, count in sorted(ignored.items()))
        log.warning("%s: videos of unknown subsets without annotations are left out (%s)", path, counts)
    return Table(path.stem, tuple(label for label in labels_of(videos) if label), videos)


def _in_seconds(table: Table, path: Path) -> Table:
    """Convert all times of a table to seconds.

    Raises:
        TadError: a video has times in frames, and the file does not state its frame rate.
    """
    videos = {video_id: video.in_seconds() for video_id, video in table.videos.items()}
    left = next((video_id for video_id, video in videos.items() if video.in_frames and video.instances), "")
    if left:
        raise TadError(
            f"{path}: video '{left}': times are frames, and no rate is known; add a column fps, or make the table with "
            "'tad annotate'"
        )
    return replace(table, videos=videos)


def read_checked(
    path: Path,
    *,
    counted: Collection[str] = (),
    on_invalid: str = "",
    splits: Mapping[str, str] = NOTHING,
    moment: At | None = None,
) -> Table:
    """Read annotations with `read_any` and apply the checks of `tad annotate`, which its own tables have passed.

    Args:
        counted: kinds of defects to keep, because the protocol counts them or excludes them by its own rule; ignored
            if `on_invalid` is set.
        on_invalid: error, drop, clip, or keep (count invalid instances as they are); empty: error.
        moment: the annotations are moments, or this time of their segments is (empty: segments are refused); None: the
            annotations are segments.

    Raises:
        TadError: an error of `read_any` or `tad.annotations.checks.check`.
    """
    table, checked = _read(Path(path), splits)
    if moment is not None and (moment or not checked):
        table = as_moments(table, moment)
    if checked:
        return table
    for sentence in doubts(table):
        log.warning("%s: %s", path, sentence)
    kinds: Collection[str] = {"duplicate", *(counted if not on_invalid else ())}
    if on_invalid == "keep":
        kinds = KNOWN_KINDS
    policy: Policy = "error" if on_invalid in ("", "keep") else on_invalid  # type: ignore[assignment]
    known = {"empty": "keep", **dict.fromkeys(kinds, "keep")}
    try:
        return replace(check(replace(table, known=known), source=str(path), on_invalid=policy), known={})
    except TadError as error:
        error.reword(OPTIONS)
        raise


def split_of(table: Table, seen: Collection[str], source: Path) -> str:
    """Return the split of the videos `seen` in a results file; for an empty results file, the only split there is.

    Raises:
        TadError: none of the videos is annotated, or they belong to several splits and the user must choose one.
    """
    there = [split for split in SPLITS if table.split(split)]
    if not seen and len(there) == 1:
        return there[0]
    if not seen:
        several = ", ".join(there)
        raise TadError(
            f"{source}: has no videos, and the annotations have several splits ({several}); choose one with --split"
        )
    known = {video_id: table.videos[video_id].split for video_id in seen if video_id in table.videos}
    if not known:
        shown = ", ".join(sorted(seen)[:SHOWN]) or "none"
        have = ", ".join(sorted(table.videos)[:SHOWN])
        raise TadError(
            f"{source}: none of its {len(seen)} videos ({shown} …) is annotated ({have} …); do the ids match?"
        )
    splits = [split for split in SPLITS if split in known.values()]
    if len(splits) > 1:
        counts = ", ".join(f"{split} {list(known.values()).count(split)}" for split in splits)
        raise TadError(f"{source}: detections in videos of several splits ({counts}); choose one with --split")
    return splits[0]
