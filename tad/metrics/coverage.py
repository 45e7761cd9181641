"""Report what was and was not scored: entries of map.json, each with its warning."""

import logging
import os
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tad.annotations.doubts import NO_CLASSES
from tad.annotations.table import SPLITS, Table
from tad.core.errors import TadError
from tad.core.ids import VIDEO_EXTENSIONS, invisible
from tad.metrics.columns import Columns
from tad.metrics.evaluation import Evaluation
from tad.metrics.files import Detections, Truth
from tad.metrics.overrun import outside_their_videos
from tad.settings.stages import EvaluateStageSpec

log = logging.getLogger(__name__)

FEWEST, WIDEST = 10, 0.15  # a score on fewer videos, or with a wider interval of average mAP, is called weak
MOST_REPEATED = 0.05  # share of the detections from which repetitions are reported
MIXER = np.uint64(0x9E3779B97F4A7C15)
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


def plain_id(video_id: str) -> str:
    """Normalise a video id to detect that two are written differently: case, folder, extension, prefix `v_`."""
    text = "".join(letter for letter in unicodedata.normalize("NFC", video_id) if not invisible(letter)).strip()
    stem, suffix = os.path.splitext(text.replace("\\", "/").rpartition("/")[2])
    text = stem if suffix.lower() in VIDEO_EXTENSIONS else stem + suffix
    return text.casefold().removeprefix("v_")


def outside(video_ids: Sequence[str], table: Table, missing: Collection[str], path: Path) -> dict[str, Any]:
    """Report videos with detections that do not count: those of other splits, and those that are not annotated.

    Args:
        missing: annotated videos without an entry in the detections.
        path: the detections, for messages.

    Raises:
        TadError: the id of a video that is not annotated is only written differently from a missing one.
    """
    unknown = [video_id for video_id in video_ids if video_id not in table.videos]
    written = {plain_id(video_id): video_id for video_id in missing}
    for video_id in unknown:
        if (meant := written.get(plain_id(video_id))) is not None:
            raise TadError(
                f"{path}: video '{video_id}' is not annotated, but '{meant}' is and has no detections; write their ids"
                " alike (case, folder, extension, prefix v_)"
            )
    if unknown:
        log.warning(
            "%d videos of the detections are not annotated, for example '%s'; they do not count (map.json lists them)",
            len(unknown),
            unknown[0],
        )
    others = [video_id for video_id in video_ids if video_id in table.videos]
    return {"videos_outside_the_split": len(video_ids), "unknown_videos": unknown, "videos_of_other_splits": others}


def unscored(result: Evaluation, columns: Columns) -> dict[str, Any]:
    """Report detections whose class has no instance, in this split or in the annotations as a whole."""
    unknown = result.unknown_labels
    if unknown:
        count, label = sum(unknown.values()), next(iter(unknown))
        row = int(np.flatnonzero(columns.label == columns.labels.index(label))[0])
        missing = f"; '{label}' may stand for a missing label" if label.strip().casefold() in NO_CLASSES else ""
        log.warning(
            "%d detections do not count, as their %d classes are not annotated (first: '%s', video %s)%s; map.json"
            " lists the classes", count, len(unknown), label, columns.place(row), missing,
        )  # fmt: skip
    return {"labels_without_instances": result.unscored, "unknown_labels": unknown}


def repeated(columns: Columns) -> int:
    """Count detections that repeat another one exactly, and warn if there are many: a file is listed twice, perhaps."""
    if not len(columns):
        return 0
    parts = (columns.video, columns.label, columns.segments[:, 0], columns.segments[:, 1], columns.scores)
    key = np.zeros(len(columns), np.uint64)
    for part in parts:
        bits = np.ascontiguousarray(part, np.float64).view(np.uint64)
        key = (key ^ bits ^ (bits >> np.uint64(29))) * MIXER
        key ^= key >> np.uint64(32)
    count = len(columns) - len(np.unique(key))
    if count > MOST_REPEATED * len(columns):
        log.warning(
            "%d of %d detections repeat another one exactly, and count as false positives; if two files were joined,"
            " remove the repetitions", count, len(columns),
        )  # fmt: skip
    return count


def detected(
    result: Evaluation, found: Detections, table: Table, truth: Truth, *, excluded: Collection[str], path: Path
) -> dict[str, Any]:
    """Report what was scored of the detections, what was not and why.

    Args:
        excluded: videos that the protocol or annotate leaves out.
        path: the detections, for messages.

    Raises:
        TadError: the times cannot be seconds, or an id is written differently from an annotated one.
    """
    times = outside_their_videos(found.columns, table, truth, refused_as=path)
    others = outside([v for v in result.outside if v not in excluded], table, result.missing, path)
    return {
        "scored": result.detections,
        "repeated": repeated(found.columns),
        **unscored(result, found.columns),
        "times": times,
        **others,
    }


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
