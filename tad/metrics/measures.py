"""Measures besides mAP that a run can ask for (`eval.measures`): entries of map.json, fractions."""

from collections.abc import Mapping, Sequence
from typing import Any

from tad.metrics.columns import Columns
from tad.metrics.frames import frame_labels, frame_map, segmentation
from tad.metrics.inputs import Truth
from tad.metrics.proposals import average_recall
from tad.specs import EvalSpec

AT = (1, 5, 10, 100)
HEADLINES = {"proposals": ("AUC",), "frames": ("mAP",), "segmentation": ("edit", "accuracy")}


def proposal_measures(truth: Truth, detections: Columns) -> dict[str, Any]:
    """AR@1, 5, 10 and 100 and the area under the curve (ActivityNet's proposal task)."""
    curve = average_recall(truth, detections)
    return {
        "AUC": curve.auc,
        "AR": {str(number): curve.average_recall(number) for number in AT},
        "tiou": list(curve.tiou),
        "videos": curve.videos,
        "instances": curve.instances,
    }


def headlines(score: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a map.json besides mAP that stand for their measure, by name."""
    return {
        f"{name} {key}": float(score[name][key])
        for name, keys in HEADLINES.items()
        if name in score
        for key in keys
    }


def measure(
    truth: Truth,
    detections: Columns,
    *,
    labels: Sequence[str],
    durations: Mapping[str, float],
    settings: EvalSpec,
) -> dict[str, Any]:
    """The measures that the settings ask for.

    Raises:
        TadError: see `average_recall`, `frame_map` and `frame_labels`.
    """
    found: dict[str, Any] = {}
    if "proposals" in settings.measures:
        found["proposals"] = proposal_measures(truth, detections)
    if "frames" in settings.measures:
        per_class = frame_map(truth, detections, durations=durations, labels=labels, rate=settings.frame_rate)
        mean = sum(per_class.values()) / len(per_class)
        found["frames"] = {"mAP": mean, "rate": settings.frame_rate, "AP": per_class}
    if "segmentation" in settings.measures:
        pairs = frame_labels(
            truth, detections, durations=durations, labels=labels, rate=settings.frame_rate, least=settings.frame_score
        )
        scores = segmentation(*pairs)
        found["segmentation"] = {
            "F1": {f"{100 * overlap:g}": value for overlap, value in scores.f1.items()},
            "edit": scores.edit,
            "accuracy": scores.accuracy,
            "rate": settings.frame_rate,
            "least_score": settings.frame_score,
        }
    return found
