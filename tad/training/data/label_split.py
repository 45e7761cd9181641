"""Split of the train videos into labelled and unlabelled: a seeded share of each class, or a published list."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tad.annotations.label_draw import draw_labelled
from tad.annotations.table import Table
from tad.core.csv_rows import csv_rows
from tad.core.errors import TadError
from tad.core.limits import LimitError
from tad.settings.labels import LabelsSpec
from tad.training.data.windows import Item

log = logging.getLogger(__name__)
LABELLED, UNLABELLED = "training", "training_unlabel"  # subsets of the published files
PREFIX = "v_"  # ActivityNet's file names have it, but some annotations omit it


@dataclass(frozen=True)
class LabelSplit:
    """Labelled and unlabelled train videos; the instances of the unlabelled ones are removed.

    Attributes:
        labelled: videos with labels, in their original order.
        unlabelled: videos without labels, in their original order.
        facts: number of each, source of the split, and the classes that have lost all labels.
    """

    labelled: list[Item]
    unlabelled: list[Item] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def read_split(path: Path) -> dict[str, bool]:
    """Read a CSV with the columns video and subset; return whether each train video is labelled.

    Other columns, and subsets that are not of training, are ignored.

    Raises:
        TadError: the file, a column or all training rows are missing, or a video is listed twice.
    """
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            lines = csv_rows(handle)
            _, header = next(lines, (1, []))
            if missing := {"video", "subset"} - set(header):
                raise TadError(f"{path}: no column '{min(missing)}'; a label split has the columns video and subset")
            named = [dict(zip(header, cells, strict=False)) for _, cells in lines if cells]
            rows = [(row.get("video", ""), row.get("subset", "")) for row in named]
    except (OSError, UnicodeDecodeError, LimitError) as error:
        raise TadError(f"{path}: not a readable label split ({str(error)[:100]})") from None
    listed: dict[str, bool] = {}
    for video_id, subset in rows:
        if subset not in (LABELLED, UNLABELLED):
            continue
        if video_id in listed:
            raise TadError(f"{path}: video '{video_id}' is listed twice; remove one of its rows")
        listed[video_id] = subset == LABELLED
    if not listed:
        raise TadError(f"{path}: no row has the subset {LABELLED} or {UNLABELLED}")
    return listed


def _with_known_ids(listed: dict[str, bool], known: set[str]) -> dict[str, bool]:
    """Replace listed ids by the annotations' ids, which may lack the prefix."""
    without = {video_id: video_id.removeprefix(PREFIX) for video_id in listed}
    return {
        video_id if video_id in known or without[video_id] not in known else without[video_id]: labelled
        for video_id, labelled in listed.items()
    }


def _from_file(
    items: Sequence[Item], table: Table, excluded: set[str], spec: LabelsSpec
) -> tuple[set[str], set[str], int]:
    """Return the labelled and the unlabelled ids of a published list, and the number of absent listed videos."""
    known = set(table.split("train"))
    listed = _with_known_ids(read_split(Path(spec.file)), known | excluded)
    absent = [video_id for video_id in listed if video_id not in known and video_id not in excluded]
    if absent and spec.on_absent == "error":
        raise TadError(
            f"{spec.file}: {len(absent)} of {len(listed)} videos are not in the train split of {table.dataset}, for"
            f" example '{absent[0]}'; use the annotations that the list was made for, or set labels.on_absent: ignore"
        )
    if absent:
        log.warning("%s: %d listed videos are not in the train split and are ignored", spec.file, len(absent))
    labelled = {item.video_id for item in items if listed.get(item.video_id, False)}
    unlabelled = {item.video_id for item in items if not listed.get(item.video_id, True)}
    return labelled, unlabelled, len(absent)


def _classes_without_labels(labelled: set[str], used: set[str], table: Table) -> list[str]:
    """Return the classes that have instances in the used videos but not in the labelled ones."""
    classes = {v: {i.label for i in table.videos[v].instances} for v in used}
    labelled_classes = set().union(*(classes[v] for v in labelled))
    return sorted(set().union(*classes.values()) - labelled_classes)


def split_labels(
    items: Sequence[Item], table: Table, spec: LabelsSpec | None, *, excluded: Sequence[str] = ()
) -> LabelSplit:
    """Split the train videos into labelled and unlabelled ones.

    Args:
        items: the train videos in use.
        table: the annotations.
        spec: settings of the split; None: all videos are labelled.
        excluded: excluded train videos; a published list may still name them.

    Raises:
        TadError: a published list names absent videos, or the labelled videos have no instance.
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
            f"labels ({origin}): none of the {len(mine)} labelled videos (of {len(items)} train videos) has an"
            " instance; raise labels.share, change labels.seed, or check labels.file"
        )
    unlearnable = _classes_without_labels(labelled, labelled | unlabelled, table)
    if unlearnable:
        log.warning(
            "labels (%s): no labelled video has an instance of %s: the detector cannot learn these classes",
            origin,
            ", ".join(unlearnable),
        )
    others = [
        replace(item, segments_N2=item.segments_N2[:0], labels_N=item.labels_N[:0])
        for item in items
        if item.video_id in unlabelled
    ]
    log.info("%d labelled and %d unlabelled train videos (%s; %s)", len(mine), len(others), origin, spec.others)
    facts = {"labelled": len(mine), "unlabelled": len(others), "not_listed": len(items) - len(mine) - len(others)}
    facts["not_there"] = absent
    used = {"from": origin, "unlabelled_are": spec.others, "classes_without_labels": unlearnable}
    return LabelSplit(mine, others, {**facts, **used})
