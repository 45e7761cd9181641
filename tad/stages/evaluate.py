"""Detections and annotations → the score, with everything that a reader needs to compare it.

Inputs: detections (suppress, or any ActivityNet results file), annotations (annotate), model (train; only for what its
    stamp says).
Output: `results/<run>/map.json`, and a timeline of the video with the most instances as PNG.
Settings: `tad.specs.EvaluateStageSpec`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tad.annotations import Table, read_table
from tad.errors import TadError
from tad.files import digest, read_json, write_json
from tad.metrics import Evaluation, Protocol
from tad.metrics.bootstrap import describe, draw, resample
from tad.metrics.files import Detections, Truth, score_file
from tad.metrics.timeline import timeline
from tad.provenance import expect, read_stamp, stamp
from tad.specs import EvaluateStageSpec

log = logging.getLogger(__name__)

NO_DETECTIONS = "no entry in the detections"


def _missing(
    result: Evaluation, truth: Truth, detections: Detections, spec: EvaluateStageSpec, path: Path
) -> dict[str, Any]:
    """Videos without an entry in the detections; the policy decides whether they stop the evaluation."""
    causes = {v: detections.excluded.get(v, NO_DETECTIONS) for v in result.missing}
    if causes and spec.eval.on_missing == "error":
        first = next(iter(causes))
        raise TadError(
            f"{path}: {len(causes)} of {result.videos} videos have no detections, for example '{first}' "
            f"({causes[first]}); complete them, or set eval.on_missing to count so that their instances count as missed"
        )
    return {"policy": spec.eval.on_missing, "videos": causes, "instances": sum(len(truth[v]) for v in causes)}


def _dropped(result: Evaluation, table: Table, split: str) -> dict[str, int]:
    """Annotated instances of the split that are not scored: dropped by annotate as invalid, or by the protocol."""
    videos = table.split(split)
    invalid = sum(dropped.video in videos for dropped in table.dropped)
    return {"invalid": invalid, "duplicates": result.duplicates, "too_short": result.too_short}


def _scores(result: Evaluation) -> dict[str, Any]:
    """Fractions, per tIoU in the order of `tiou`."""
    tious = [f"{t:g}" for t in result.tiou]
    return {
        "average_mAP": result.average_mean_ap,
        "tiou": list(result.tiou),
        "mAP": dict(zip(tious, result.mean_ap.tolist(), strict=True)),
        "AP": {
            label: dict(zip(tious, values, strict=True))
            for label, values in zip(result.labels, result.ap.T.tolist(), strict=True)
        },
        "recall": {
            f"{depth}x": dict(zip(tious, values, strict=True))
            for depth, values in zip(result.recall_at, result.recall.T.tolist(), strict=True)
        },
    }


def _protocol(result: Evaluation, rules: Protocol, name: str) -> dict[str, Any]:
    """The conventions, and whether the split is the one that the protocol stands for."""
    complete = rules.videos in (0, result.videos) and rules.instances in (0, sum(result.instances))
    if not complete:
        log.warning(
            "protocol %s stands for %d videos and %d instances, these annotations have %d and %d; map.json says so",
            *(name, rules.videos, rules.instances, result.videos, sum(result.instances)),
        )
    return {"name": name, **rules.model_dump(mode="json"), "complete": complete}


def _made_by(model: dict[str, Any], detections: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Seed, epoch rule, features and hashes, from the stamps; "unknown" where a stamp is not there."""
    stamps = {"train": model, "suppress": detections, "evaluate": own}
    settings = model.get("spec", {})
    return {
        "features": settings.get("features", "unknown"),
        "detector": settings.get("detector", {}).get("name", "unknown"),
        "epoch_rule": model.get("epoch_rule", "unknown"),
        "epoch": model.get("epoch", "unknown"),
        "seed": model.get("seed", settings.get("seed", "unknown")),
        "training": {"videos": model.get("videos", "unknown"), "excluded": model.get("excluded", "unknown")},
        "hashes": {
            "recipe": model.get("recipe", "unknown"),
            "spec": {stage: digest(made["spec"]) for stage, made in stamps.items() if made},
            "code": {stage: made["code"] for stage, made in stamps.items() if made},
        },
    }


def _draw(path: Path, truth: Truth, detections: Detections, table: Table, title: str) -> None:
    """The timeline of the video with the most instances (of those with detections; the first of equal ones)."""
    seen = [video_id for video_id in truth if video_id in detections.results]
    chosen = max(seen, key=lambda video_id: len(truth[video_id]))
    duration = table.videos[chosen].duration
    timeline(path, chosen, truth[chosen], detections.results[chosen], duration=duration, title=title)


def _stamp(
    detections: Path, annotations: Path, model: Path | None, spec: EvaluateStageSpec, made: Mapping[str, Any]
) -> Any:
    inputs = {"annotations": str(read_stamp(annotations)["identity"])}
    inputs["detections"] = str(made["identity"]) if made else digest(read_json(detections), 16)
    if model is not None:
        inputs["model"] = str(read_stamp(model)["identity"])
    return stamp("evaluate", spec.model_dump(mode="json"), inputs)


def evaluate(
    detections: Path,
    annotations: Path,
    out: Path,
    *,
    spec: EvaluateStageSpec,
    model: Path | None = None,
    figure: Path | None = None,
) -> Path:
    """Score detections and write map.json.

    Args:
        detections: made by suppress, or a results file from elsewhere (which has no stamp).
        annotations: table made by annotate.
        out: the map.json to write.
        model: made by train; its stamp gives seed, epoch rule and recipe.
        figure: PNG of one video's timeline, if wanted.

    Raises:
        TadError: inputs of another run or dataset, an unknown protocol, no instances, no video in common, unknown
            labels, values that are not finite, missing videos where `eval.on_missing` is error.
    """
    made = expect(model, stage="train", run=spec.run, dataset=spec.dataset) if model is not None else {}
    expect(annotations, stage="annotate", dataset=spec.dataset)
    table = read_table(annotations)
    scored = score_file(detections, table, run=spec.run, split=spec.split, settings=spec.eval)
    result, truth, found, excluded = scored.result, scored.truth, scored.detections, scored.excluded
    missing = _missing(result, truth, found, spec, detections)
    own = _stamp(detections, annotations, model, spec, found.stamp)
    document = {
        "stamp": own,
        **{"run": spec.run, "dataset": spec.dataset, "split": spec.split},
        **_scores(result),
        "interval": describe(resample(result.matches, draw(result.videos)), result.tiou),
        "protocol": _protocol(result, scored.rules, spec.eval.protocol),
        "videos": {
            "evaluated": result.videos - len(result.missing),
            "in_split": len(table.split(spec.split)),
            "without_instances": sum(not rows for rows in truth.values()),
        },
        "missing_videos": missing,
        "excluded": {**excluded, **{v: why for v, why in found.excluded.items() if v in table.split(spec.split)}},
        "instances": sum(result.instances),
        "instances_per_class": dict(zip(result.labels, result.instances, strict=True)),
        "instances_dropped": _dropped(result, table, spec.split),
        "detections": {
            "scored": result.detections,
            "labels_without_instances": result.unscored,
            "videos_outside_the_split": len([v for v in result.outside if v not in excluded]),
        },
        "classes": "one, proposals" if scored.proposals else len(result.labels),
        "external_scores": found.external_scores,
        **_made_by(made, found.stamp, own),
    }
    write_json(out, document)
    headline = f"average mAP {100 * result.average_mean_ap:.2f} ({spec.eval.protocol})"
    if figure is not None:
        _draw(figure, truth, found, table, f"{spec.run}: {headline}")
    log.info(
        "%s: %s, %d of %d videos, %d instances", out, headline,
        result.videos - len(result.missing), result.videos, sum(result.instances),
    )  # fmt: skip
    return Path(out)
