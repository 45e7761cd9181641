"""Which train videos keep their labels: a share of each class drawn by seed, or a published list."""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tad.annotations import Table
from tad.errors import TadError
from tad.labels import LabelsSpec
from tad.training.data import Item
from tad.training.label_draw import draw_labelled

log = logging.getLogger(__name__)
LABELLED, UNLABELLED = "training", "training_unlabel"  # subsets of the published files
PREFIX = "v_"  # of ActivityNet's files, which some annotations leave out


@dataclass(frozen=True)
class LabelSplit:
    """The train videos with labels, those without (whose instances nobody sees any more), and what is known of both.

    Attributes:
        labelled, unlabelled: in the order of before.
        facts: numbers of both, where the split is from, and the classes that lost all of their labels.
    """

    labelled: list[Item]
    unlabelled: list[Item] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def read_split(path: Path) -> dict[str, bool]:
    """Train video → whether it has labels, from a CSV with the columns video and subset (others do not count).

    Raises:
        TadError: no such file, columns or training rows; a video that is listed twice.
    """
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            if missing := {"video", "subset"} - set(reader.fieldnames or ()):
                raise TadError(f"{path}: no column '{min(missing)}'; a split of labels has video and subset")
            rows = [(row["video"] or "", row["subset"] or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TadError(f"{path}: not a readable split of labels ({str(error)[:100]})") from None
    found: dict[str, bool] = {}
    for video_id, subset in rows:
        if subset not in (LABELLED, UNLABELLED):
            continue
        if video_id in found:
            raise TadError(f"{path}: video '{video_id}' is listed twice; remove one of its rows")
        found[video_id] = subset == LABELLED
    if not found:
        raise TadError(f"{path}: no row has the subset {LABELLED} or {UNLABELLED}")
    return found


def _named(listed: dict[str, bool], known: set[str]) -> dict[str, bool]:
    """The list with the annotations' ids, which may or may not have the prefix."""
    without = {video_id: video_id.removeprefix(PREFIX) for video_id in listed}
    return {
        video_id if video_id in known or without[video_id] not in known else without[video_id]: labelled
        for video_id, labelled in listed.items()
    }


def _from_file(
    items: Sequence[Item], table: Table, excluded: set[str], spec: LabelsSpec
) -> tuple[set[str], set[str], int]:
    """Ids with labels and without, of listed videos only; and how many of these are not there."""
    known = set(table.split("train"))
    listed = _named(read_split(Path(spec.file)), known | excluded)
    absent = [video_id for video_id in listed if video_id not in known and video_id not in excluded]
    if absent and spec.on_absent == "error":
        raise TadError(
            f"{spec.file}: {len(absent)} of {len(listed)} videos are not in the train split of {table.dataset}, for"
            f" example '{absent[0]}'; use the annotations that it was made for, or set labels.on_absent ignore"
        )
    if absent:
        log.warning("%s: %d listed videos are not in the train split: ignored", spec.file, len(absent))
    labelled = {item.video_id for item in items if listed.get(item.video_id, False)}
    unlabelled = {item.video_id for item in items if not listed.get(item.video_id, True)}
    return labelled, unlabelled, len(absent)


def _lost(labelled: set[str], used: set[str], table: Table) -> list[str]:
    """Classes that have instances in train videos and none in those with labels."""
    instances = {v: {i.label for i in table.videos[v].instances} for v in used}
    kept = set().union(*(instances[v] for v in labelled))
    return sorted(set().union(*instances.values()) - kept)


def split_labels(
    items: Sequence[Item], table: Table, spec: LabelsSpec | None, *, excluded: Sequence[str] = ()
) -> LabelSplit:
    """Divide the train videos.

    Args:
        items: those that are used.
        table: the annotations.
        spec: None: all have labels.
        excluded: train videos that are left out with a reason, which a list may name.

    Raises:
        TadError: a list that names absent videos, or no instance in the videos with labels.
    """
    if spec is None:
        return LabelSplit(list(items))
    absent = 0
    if spec.file:
        labelled, unlabelled, absent = _from_file(items, table, set(excluded), spec)
        origin = Path(spec.file).name
    else:
        first = {i.video_id: next((n.label for n in table.videos[i.video_id].instances), "") for i in items}
        labelled = draw_labelled(first, share=spec.share, seed=spec.seed)
        unlabelled, origin = set(first) - labelled, f"{spec.share:.4g} of each class, seed {spec.seed}"
    mine = [item for item in items if item.video_id in labelled]
    if not any(len(item.labels_N) for item in mine):
        raise TadError(
            f"labels ({origin}): none of the {len(mine)} of {len(items)} train videos that keep their labels has an"
            " instance; raise labels.share, draw with another labels.seed, or look at labels.file"
        )
    lost = _lost(labelled, labelled | unlabelled, table)
    if lost:
        log.warning("labels (%s): no labelled video shows %s: the detector cannot learn it", origin, ", ".join(lost))
    others = [
        replace(item, segments_N2=item.segments_N2[:0], labels_N=item.labels_N[:0])
        for item in items
        if item.video_id in unlabelled
    ]
    log.info("%d train videos with labels, %d without (%s; %s)", len(mine), len(others), origin, spec.others)
    facts = {"labelled": len(mine), "unlabelled": len(others), "not_listed": len(items) - len(mine) - len(others)}
    facts["not_there"] = absent
    used = {"from": origin, "unlabelled_are": spec.others, "classes_without_labels": lost}
    return LabelSplit(mine, others, {**facts, **used})
