"""Report what was and was not scored: entries of map.json, each with its warning."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tad.annotations.table import SPLITS, Table
from tad.core.errors import TadError
from tad.metrics.evaluation import Evaluation
from tad.metrics.files import Detections, Truth
from tad.settings.stages import EvaluateStageSpec

log = logging.getLogger(__name__)

FEWEST, WIDEST = 10, 0.15  # a score on fewer videos, or with a wider interval of average mAP, is called weak
NO_DETECTIONS = "no entry in the detections"


def missing(
    result: Evaluation, truth: Truth, detections: Detections, spec: EvaluateStageSpec, path: Path
) -> dict[str, Any]:
    """Report videos without an entry in the detections; `eval.on_missing` decides whether they are an error."""
    causes = {v: detections.excluded.get(v, NO_DETECTIONS) for v in result.missing}
    if causes and spec.eval.on_missing == "error":
        first = next(iter(causes))
        raise TadError(
            f"{path}: {len(causes)} of {result.videos} videos have no detections, for example '{first}' "
            f"({causes[first]}); complete them, or set eval.on_missing to count so that their instances count as missed"
        )
    return {"policy": spec.eval.on_missing, "videos": causes, "instances": sum(len(truth[v]) for v in causes)}


def dropped(result: Evaluation, table: Table, split: str) -> dict[str, int]:
    """Count annotated instances of the split that annotate dropped as invalid, or that the protocol does not score."""
    videos = table.split(split)
    invalid, clipped = (sum(item.video in videos for item in items) for items in (table.dropped, table.clipped))
    return {
        "invalid": invalid,
        "clipped": clipped,  # these are scored, cut at the end of their video
        "duplicates": result.duplicates,
        "too_short": result.too_short,
    }


def flawed(table: Table) -> dict[str, dict[str, Any]] | None:
    """Count the videos whose files are flawed, by split; None if no video files were inspected.

    Each entry holds `videos` (how many), `used` and `excluded` (how many of them), and `worst`: the video with the
    largest share of frames that may be wrong or are lost, or None.
    """
    if table.flawed is None:
        return None
    counts = {}
    for split in SPLITS:
        videos = table.split(split)
        flaws = {video_id: flaw for video_id, flaw in table.flawed.items() if video_id in videos}
        if videos:
            used = sum(flaw.used for flaw in flaws.values())
            worst = max(flaws, key=lambda video_id: flaws[video_id].share, default=None)
            named = None if worst is None else {"video": worst, **asdict(flaws[worst])}
            counts[split] = {"videos": len(flaws), "used": used, "excluded": len(flaws) - used, "worst": named}
    return counts


def outside(video_ids: Sequence[str], table: Table) -> dict[str, Any]:
    """Report videos with detections that do not count: those of other splits, and those that are not annotated."""
    unknown = [video_id for video_id in video_ids if video_id not in table.videos]
    if unknown:
        log.warning(
            "%d videos of the detections are not annotated, for example '%s'; they do not count (map.json lists them)",
            len(unknown),
            unknown[0],
        )
    others = [video_id for video_id in video_ids if video_id in table.videos]
    return {"videos_outside_the_split": len(video_ids), "unknown_videos": unknown, "videos_of_other_splits": others}


def unscored(result: Evaluation) -> dict[str, Any]:
    """Report detections whose class has no instance, in this split or in the annotations as a whole."""
    unknown = result.unknown_labels
    if unknown:
        count, label = sum(unknown.values()), next(iter(unknown))
        log.warning(
            "%d detections do not count, as their %d classes are not annotated (first: '%s'); map.json lists the"
            " classes", count, len(unknown), label,
        )  # fmt: skip
    return {"labels_without_instances": result.unscored, "unknown_labels": unknown}


def warn_if_weak(result: Evaluation, interval: Sequence[float], spec: EvaluateStageSpec) -> None:
    """Warn if a run is scored on too few videos for its score to mean much."""
    low, high = interval
    if spec.run and (result.videos < FEWEST or high - low > WIDEST):
        log.warning(
            "weak split %s: %d videos with %d instances; the bootstrap interval of average mAP is %.1f to %.1f",
            spec.split, result.videos, sum(result.instances), 100 * low, 100 * high,
        )  # fmt: skip


def backward(result: Evaluation, truth: Truth) -> int:
    """Count segments that end before they start, and warn about the first such instance."""
    if result.reversed:
        rows = [(v, s, e, label) for v, rows in truth.items() for s, e, label in rows if e < s]
        first = "(first: video '{}', '{}' {:g} to {:g} s)".format(*(rows[0][k] for k in (0, 3, 1, 2))) if rows else ""
        log.warning(
            "%d instances and %d detections end before they start%s; they count as in the protocol's own script",
            len(rows), result.reversed - len(rows), f" {first}" if first else "",
        )  # fmt: skip
    return result.reversed
