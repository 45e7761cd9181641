"""Optional measures besides mAP (`eval.measures`): entries of map.json, as fractions."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tad.metrics.columns import Columns
from tad.metrics.evaluation import Evaluation
from tad.metrics.frames import frame_labels, frame_map, segmentation
from tad.metrics.inputs import Truth
from tad.metrics.unseen import unseen_measures
from tad.settings.stages import EvalSpec

log = logging.getLogger(__name__)
AT = (1, 5, 10, 100)
BACKGROUND_NAMES = {"background", "bg", "sil", "silence", "idle", "none", "null", "no action", "no_action", "nothing"}
HEADLINES = {"proposals": ("AUC",), "frames": ("mAP",), "segmentation": ("edit", "accuracy")}


def proposal_measures(truth: Truth, detections: Columns, *, left_out: Collection[str] = ()) -> dict[str, Any]:
    """Compute AR@1, 5, 10 and 100 and the area under the curve (ActivityNet's proposal task)."""
    from tad.metrics.proposals import average_recall  # imports numba

    curve = average_recall(truth, detections, left_out=left_out)
    return {
        "AUC": curve.auc,
        "AR": {str(number): curve.average_recall(number) for number in AT},
        "tiou": [round(t, 9) for t in curve.tiou],
        "videos": curve.videos,
        "instances": curve.instances,
    }


def headlines(score: Mapping[str, Any]) -> dict[str, float]:
    """Return the main number of each measure besides mAP in a map.json, by name."""
    numbers = {
        f"{name} {key}": float(score[name][key]) for name, keys in HEADLINES.items() if name in score for key in keys
    }
    return numbers | {f"unseen {name}": float(one["average_mAP"]) for name, one in score.get("unseen", {}).items()}


def _warn_of_background(labels: Sequence[str], background: Collection[str]) -> None:
    """Warn of a label that usually stands for background but counts as an action."""
    for label in labels:
        if label.strip().casefold() in BACKGROUND_NAMES and label not in background:
            log.warning(
                "the label '%s' counts as an action; if it stands for background, name it with --background (in the"
                " workflow: eval.background)", label,
            )  # fmt: skip


def measure(
    truth: Truth,
    detections: Columns,
    *,
    result: Evaluation,
    labels: Sequence[str],
    durations: Mapping[str, float],
    settings: EvalSpec,
    left_out: Collection[str] = (),
) -> dict[str, Any]:
    """Compute the measures that the settings ask for.

    Args:
        truth: annotated instances.
        detections: detections.
        result: the evaluation of the same detections.
        labels: annotated classes.
        durations: of the videos, in seconds.
        settings: section `eval`.
        left_out: videos that the protocol excludes.

    Raises:
        TadError: see `average_recall`, `frame_map`, `frame_labels` and `unseen_measures`.
    """
    found: dict[str, Any] = {}
    if "unseen" in settings.measures:
        found["unseen"] = unseen_measures(result, settings.unseen_splits)
    if "proposals" in settings.measures:
        found["proposals"] = proposal_measures(truth, detections, left_out=left_out)
    if "frames" in settings.measures:
        per_class = frame_map(truth, detections, durations=durations, labels=labels, rate=settings.frame_rate)
        mean = sum(per_class.values()) / len(per_class)
        found["frames"] = {"mAP": mean, "rate": settings.frame_rate, "AP": per_class}
    if "segmentation" in settings.measures:
        _warn_of_background(labels, settings.background)
        pairs = frame_labels(
            truth, detections, durations=durations, labels=labels, rate=settings.frame_rate,
            least=settings.frame_score, background=settings.background,
        )  # fmt: skip
        scores = segmentation(*pairs)
        found["segmentation"] = {
            "F1": {f"{100 * overlap:g}": value for overlap, value in scores.f1.items()},
            "edit": scores.edit,
            "accuracy": scores.accuracy,
            "rate": settings.frame_rate,
            "least_score": settings.frame_score,
            "background": list(settings.background),
        }
    return found
