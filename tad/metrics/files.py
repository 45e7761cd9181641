"""Evaluate a results file against an annotation table, with the settings of a run."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.metrics.columns import Columns, hint, label_text
from tad.metrics.evaluation import Evaluation
from tad.metrics.evaluation import evaluate as score
from tad.metrics.measures import measure
from tad.metrics.moments import Nearness, as_points, tolerance
from tad.metrics.protocols import Protocol, protocol
from tad.metrics.results_file import read_results
from tad.provenance.stamps import check
from tad.settings.stages import EvalSpec

PROPOSAL = "action"  # the only label of a class-agnostic detector, as training names it
Truth = dict[str, list[tuple[float, float, str]]]


@dataclass(frozen=True)
class Detections:
    """The content of a results file that an evaluation uses; `stamp` is empty if `tad` did not write the file."""

    columns: Columns
    labels: list[str]
    excluded: dict[str, str]
    external_scores: Any
    stamp: dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """An evaluation with its inputs.

    Attributes:
        proposals: the only label of a class-agnostic detector, else empty.
        measures: the results of the measures besides mAP.
    """

    result: Evaluation
    truth: Truth
    excluded: dict[str, str]
    detections: Detections
    rules: Protocol
    proposals: str
    measures: dict[str, Any]


def read_detections(path: Path, run: str = "") -> Detections:
    """Read the detections of a results file.

    Raises:
        TadError: not a results file; or, if `run` is given, a file of another run.
    """
    columns, head = read_results(path)
    for key, kind in (("stamp", dict), ("labels", list), ("excluded", dict)):
        if not isinstance(head.get(key) or kind(), kind):
            what = "an object" if kind is dict else "a list"
            raise TadError(f"{path}: '{key}' is {head[key]!r:.40}, not {what}; remove the entry or recreate the file")
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


def ground_truth(
    table: Table, split: str, rules: Protocol, *, proposals: str = "", background: Collection[str] = ()
) -> tuple[Truth, dict[str, str]]:
    """Return the videos that count, with their instances, and the excluded videos with their reasons.

    `proposals`, the only label of a class-agnostic detector, replaces every label. Instances with a label in
    `background` are ignored.

    Raises:
        TadError: a split without videos; the message gives the number of videos of each split.
    """
    videos = table.split(split)
    ignored = {label_text(label) for label in background}
    if not videos:
        counts = {name: len(table.split(name)) for name in ("train", "val", "test")}
        raise TadError(f"{table.dataset}: split '{split}' has no videos; videos per split: {counts}")
    left = {video_id: why for video_id in videos if (why := rules.leaves_out(video_id))}
    truth = {
        video_id: [(i.start, i.end, proposals or i.label) for i in video.instances if i.label not in ignored]
        for video_id, video in sorted(videos.items())
        if video_id not in left
    }
    return truth, {**table.excluded, **left}


def _check_background(background: Collection[str], table: Table, found: Detections) -> None:
    """Refuse a background label that occurs in neither annotations nor detections, as it must be a typo."""
    if not background:
        return
    known = list(dict.fromkeys((*table.labels, *found.columns.labels)))
    texts = {label_text(name) for name in known}
    for label in background:
        if label_text(label) not in texts:
            raise TadError(f"{table.dataset}: eval.background: unknown label '{label}'; {hint(label, known)}")


def _check_kind(table: Table, rules: Protocol, settings: EvalSpec) -> None:
    """Refuse a protocol of segments for moments, and settings that the protocol does not use.

    Raises:
        TadError: the message says which protocol or setting fits.
    """
    if table.kind == "moments" and not rules.of_moments:
        raise TadError(
            f"{table.dataset}: protocol {settings.protocol} scores segments, and the annotations are moments; set"
            " protocol moments, tennis, soccernet-v2, … (docs/methods/moments.md)"
        )
    for name, given in (("tolerances", settings.tolerances), ("moment", settings.moment)):
        if given and not rules.of_moments:
            raise TadError(
                f"{table.dataset}: eval.{name} is for protocols of moments, not {settings.protocol}; remove it, or set"
                " protocol moments"
            )
    if rules.of_moments and settings.measures:
        raise TadError(
            f"{table.dataset}: eval.measures: {', '.join(settings.measures)}: for segments, and protocol"
            f" {settings.protocol} scores moments; remove it"
        )


def nearness(table: Table, rules: Protocol, settings: EvalSpec) -> Nearness:
    """Return the rule of a protocol of moments, with the frame rates of the videos."""
    return Nearness(
        tuple(map(tolerance, settings.tolerances or rules.tolerances)),
        {video_id: video.rate for video_id, video in table.videos.items() if video.rate},
        rule="soccernet" if rules.matching == "soccernet" else "moments",
        grid_rate=rules.grid_rate,
        moment=settings.moment,
        averages=rules.averages,
    )


def score_file(path: Path, table: Table, *, run: str, split: str, settings: EvalSpec) -> Scored:
    """Score a results file of a run against a split of the table.

    Raises:
        TadError: detections of another run, an unknown protocol, or an input that `tad.metrics.evaluate` refuses.
    """
    return score_detections(read_detections(path, run), path, table, split=split, settings=settings)


def score_detections(found: Detections, path: Path, table: Table, *, split: str, settings: EvalSpec) -> Scored:
    """Score detections as `score_file` does; error messages name them `path`."""
    rules = protocol(settings.protocol)
    proposals = PROPOSAL if found.labels == [PROPOSAL] and PROPOSAL not in table.labels else ""
    _check_background(settings.background, table, found)
    truth, excluded = ground_truth(table, split, rules, proposals=proposals, background=settings.background)
    labels = [proposals] if proposals else list(table.labels)
    durations = {video_id: video.duration or 0.0 for video_id, video in table.videos.items()}
    unclear = {video_id: table.videos[video_id].ambiguous for video_id in truth}
    _check_kind(table, rules, settings)
    try:
        near = nearness(table, rules, settings) if rules.of_moments else None
        tiou = rules.exact(settings.tiou)
        columns = found.columns if near is None else as_points(found.columns, near)
        result = score(truth, columns, tiou=tiou, labels=labels, ambiguous=unclear, near=near, **rules.rules())
        left = set(excluded) - set(truth)
        others = measure(
            truth, found.columns, result=result, labels=labels, durations=durations, settings=settings, left_out=left
        )
    except TadError as error:
        raise TadError(f"{path} against split {split} of {table.dataset}: {error}") from None
    return Scored(result, truth, excluded, found, rules, proposals, others)
