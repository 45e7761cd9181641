"""A results file and the annotation table → detections, ground truth and their evaluation, under a run's settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tad.annotations import Table
from tad.errors import TadError
from tad.files import read_json
from tad.metrics.evaluation import Evaluation
from tad.metrics.evaluation import evaluate as score
from tad.metrics.protocols import Protocol, protocol
from tad.provenance import expect
from tad.specs import EvalSpec

Truth = dict[str, list[tuple[float, float, str]]]


@dataclass(frozen=True)
class Detections:
    """What is used of a results file; `stamp` is empty where it was not made by `tad`."""

    results: dict[str, list[dict[str, Any]]]
    labels: list[str]
    excluded: dict[str, str]
    external_scores: bool
    stamp: dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """An evaluation with what it was made of; `proposals` is the one label of a detector that does not classify."""

    result: Evaluation
    truth: Truth
    excluded: dict[str, str]
    detections: Detections
    rules: Protocol
    proposals: str


def read_detections(path: Path, run: str) -> Detections:
    """The detections in a results file.

    Raises:
        TadError: not a results file, or made by another run.
    """
    document = read_json(path)
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, dict) or not all(isinstance(entries, list) for entries in results.values()):
        raise TadError(f"{path}: not a results file (expected 'results': {{video id: [detections]}})")
    found = expect(path, stage="suppress", run=run) if "stamp" in document else {}
    external = document.get("external_data") or {}
    return Detections(
        results,
        [str(label) for label in document.get("labels", [])],
        dict(document.get("excluded", {})),
        bool(external.get("used", False)),
        found,
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
    truth = {
        video_id: [(i.start, i.end, proposals or i.label) for i in video.instances]
        for video_id, video in sorted(videos.items())
        if video_id not in rules.left_out
    }
    return truth, {**table.excluded, **{v: why for v, why in rules.left_out.items() if v in videos}}


def score_file(path: Path, table: Table, *, run: str, split: str, settings: EvalSpec) -> Scored:
    """Score a results file of a run against a split of the table.

    Raises:
        TadError: detections of another run, an unknown protocol, and whatever `tad.metrics.evaluate` refuses.
    """
    found, rules = read_detections(path, run), protocol(settings.protocol)
    proposals = found.labels[0] if len(found.labels) == 1 and found.labels[0] not in table.labels else ""
    truth, excluded = ground_truth(table, split, rules, proposals=proposals)
    labels = [proposals] if proposals else list(table.labels)
    try:
        result = score(truth, found.results, tiou=settings.tiou, labels=labels, **rules.rules())
    except TadError as error:
        raise TadError(f"{path} against split {split} of {table.dataset}: {error}") from None
    return Scored(result, truth, excluded, found, rules, proposals)
