"""A results file and the annotation table → detections, ground truth and their evaluation, under a run's settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tad.annotations import Table
from tad.errors import TadError
from tad.metrics.columns import Columns
from tad.metrics.evaluation import Evaluation
from tad.metrics.evaluation import evaluate as score
from tad.metrics.measures import measure
from tad.metrics.protocols import Protocol, protocol
from tad.metrics.results_file import read_results
from tad.provenance import check
from tad.specs import EvalSpec

Truth = dict[str, list[tuple[float, float, str]]]


@dataclass(frozen=True)
class Detections:
    """What is used of a results file; `stamp` is empty where it was not made by `tad`."""

    columns: Columns
    labels: list[str]
    excluded: dict[str, str]
    external_scores: Any
    stamp: dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """An evaluation with what it was made of; `proposals` is the one label of a detector that does not classify,
    `measures` what was asked for besides mAP."""

    result: Evaluation
    truth: Truth
    excluded: dict[str, str]
    detections: Detections
    rules: Protocol
    proposals: str
    measures: dict[str, Any]


def read_detections(path: Path, run: str = "") -> Detections:
    """The detections in a results file.

    Raises:
        TadError: not a results file, or (with `run`) made by another run.
    """
    columns, head = read_results(path)
    for key, kind in (("stamp", dict), ("labels", list), ("excluded", dict)):
        if not isinstance(head.get(key) or kind(), kind):
            what = "an object" if kind is dict else "a list"
            raise TadError(f"{path}: '{key}' is {head[key]!r:.40}, not {what}; remove the entry or make the file again")
    stamp = head.get("stamp") or {}
    if stamp and run:
        check(stamp, path, stage="suppress", run=run)
    external = head.get("external_data") or {}
    return Detections(
        columns,
        [str(label) for label in head.get("labels") or []],
        {str(video_id): str(why) for video_id, why in (head.get("excluded") or {}).items()},
        external if isinstance(external, dict) and external.get("used") else False,
        stamp,
    )


def ground_truth(table: Table, split: str, rules: Protocol, *, proposals: str = "") -> tuple[Truth, dict[str, str]]:
    """The videos that count, with their instances, and those left out with their reasons.

    `proposals` replaces every label: the one class of a detector that does not classify.

    Raises:
        TadError: a split without videos; the message counts those of each split.
    """
    videos = table.split(split)
    if not videos:
        counts = {name: len(table.split(name)) for name in ("train", "val", "test")}
        raise TadError(f"{table.dataset}: split '{split}' has no videos; videos per split: {counts}")
    left = {video_id: why for video_id in videos if (why := rules.leaves_out(video_id))}
    truth = {
        video_id: [(i.start, i.end, proposals or i.label) for i in video.instances]
        for video_id, video in sorted(videos.items())
        if video_id not in left
    }
    return truth, {**table.excluded, **left}


def score_file(path: Path, table: Table, *, run: str, split: str, settings: EvalSpec) -> Scored:
    """Score a results file of a run against a split of the table.

    Raises:
        TadError: detections of another run, an unknown protocol, and whatever `tad.metrics.evaluate` refuses.
    """
    return score_detections(read_detections(path, run), path, table, split=split, settings=settings)


def score_detections(found: Detections, path: Path, table: Table, *, split: str, settings: EvalSpec) -> Scored:
    """`score_file` for detections that were read; `path` is what messages call them."""
    rules = protocol(settings.protocol)
    proposals = found.labels[0] if len(found.labels) == 1 and found.labels[0] not in table.labels else ""
    truth, excluded = ground_truth(table, split, rules, proposals=proposals)
    labels = [proposals] if proposals else list(table.labels)
    durations = {video_id: video.duration or 0.0 for video_id, video in table.videos.items()}
    unclear = {video_id: table.videos[video_id].ambiguous for video_id in truth}
    try:
        result = score(truth, found.columns, tiou=settings.tiou, labels=labels, ambiguous=unclear, **rules.rules())
        others = measure(truth, found.columns, labels=labels, durations=durations, settings=settings)
    except TadError as error:
        raise TadError(f"{path} against split {split} of {table.dataset}: {error}") from None
    return Scored(result, truth, excluded, found, rules, proposals, others)
