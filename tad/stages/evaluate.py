"""Detections and annotations → the score, with everything that a reader needs to compare it.

Inputs: detections (suppress, or any ActivityNet results file), annotations (annotate), model (train; only for what its
    stamp says).
Output: `results/<run>/map.json`, and a timeline of the video with the most instances as PNG.
Settings: `tad.specs.EvaluateStageSpec`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tad.annotations import Table, read_table
from tad.datasets._any import read_any, split_of
from tad.errors import TadError
from tad.files import digest, sha256, write_json
from tad.metrics import Evaluation, Protocol, protocol
from tad.metrics.bootstrap import describe, draw, resample
from tad.metrics.diagnosis import Diagnosis
from tad.metrics.diagnosis_figures import draw_all
from tad.metrics.files import Detections, Scored, Truth, read_detections, score_detections, score_file
from tad.metrics.timeline import timeline
from tad.provenance import expect, stamp
from tad.specs import EvaluateStageSpec, explain

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


def _outside(video_ids: Sequence[str], table: Table) -> dict[str, Any]:
    """Videos with detections that do not count: those of other splits, and those that the annotations do not know."""
    unknown = [video_id for video_id in video_ids if video_id not in table.videos]
    if unknown:
        log.warning(
            "%d videos of the detections are not annotated, for example '%s': they do not count; map.json names them",
            len(unknown),
            unknown[0],
        )
    others = [video_id for video_id in video_ids if video_id in table.videos]
    return {"videos_outside_the_split": len(video_ids), "unknown_videos": unknown, "videos_of_other_splits": others}


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
    detector = settings.get("detector", {})
    return {
        "features": settings.get("features", "unknown"),
        "detector": detector.get("name", "unknown"),
        "face": detector.get("settings", {}).get("face", ""),
        "gate": detector.get("settings", {}).get("gate", "none"),
        "teachers": _teachers(model),
        "dead_offsets": model.get("dead_offsets", []),
        "fused_with": detections.get("fused_with", ""),
        "epoch_rule": model.get("epoch_rule", "unknown"),
        "epoch": model.get("epoch", "unknown"),
        "seed": model.get("seed", settings.get("seed", "unknown")),
        "training": {"videos": model.get("videos", "unknown"), "excluded": model.get("excluded", "unknown")},
        "labels": {key: value for key, value in model.get("labels", {}).items() if key != "videos"}
        or ("all" if "videos" in model else "unknown"),
        "hashes": {
            "recipe": model.get("recipe", "unknown"),
            "spec": {stage: digest(made["spec"]) for stage, made in stamps.items() if made},
            "code": {stage: made["code"] for stage, made in stamps.items() if made},
        },
    }


def _teachers(model: dict[str, Any]) -> dict[str, Any]:
    """By name, the runs that taught it, with the identities of their models."""
    lesson = model.get("spec", {}).get("distill") or {"teachers": ()}
    inputs = model.get("inputs", {})
    return {
        teacher["name"]: {"run": teacher["run"], "model": inputs.get(f"teacher {teacher['name']}", "unknown")}
        for teacher in lesson["teachers"]
    }


def _draw(path: Path, truth: Truth, detections: Detections, table: Table, title: str) -> None:
    """The timeline of the video with the most instances (of those with detections; the first of equal ones)."""
    there = set(detections.columns.video_ids)
    seen = [video_id for video_id in truth if video_id in there]
    chosen = max(seen, key=lambda video_id: len(truth[video_id]))
    duration = table.videos[chosen].duration
    timeline(path, chosen, truth[chosen], detections.columns.of_video(chosen), duration=duration, title=title)


def evaluate(
    detections: Path,
    annotations: Path,
    out: Path,
    *,
    spec: EvaluateStageSpec,
    model: Path | None = None,
    figure: Path | None = None,
    diagnosis: Path | None = None,
) -> Path:
    """Score detections and write map.json.

    Args:
        detections: made by suppress, or a results file from elsewhere (which has no stamp).
        annotations: table made by annotate.
        out: the map.json to write.
        model: made by train; its stamp gives seed, epoch rule and recipe.
        figure: PNG of one video's timeline, if wanted.
        diagnosis: JSON file for the diagnosis, if wanted; its pictures lie beside it.

    Raises:
        TadError: inputs of another run or dataset, an unknown protocol, no instances, no video in common, unknown
            labels, values that are not finite, missing videos where `eval.on_missing` is error.
    """
    made = expect(model, stage="train", run=spec.run, dataset=spec.dataset) if model is not None else {}
    annotated = expect(annotations, stage="annotate", dataset=spec.dataset)
    table = read_table(annotations)
    scored = score_file(detections, table, run=spec.run, split=spec.split, settings=spec.eval)
    inputs = {"annotations": str(annotated["identity"])}
    if model is not None:
        inputs["model"] = str(made["identity"])
    return _write(_Score(detections, out, spec, table, scored, made, inputs), figure, diagnosis)


def evaluate_file(
    detections: Path,
    annotations: Path,
    out: Path,
    *,
    protocol_name: str,
    tiou: Sequence[float] = (),
    split: str = "",
    settings: Mapping[str, Any] | None = None,
    figure: Path | None = None,
    diagnosis: Path | None = None,
) -> Path:
    """Score anybody's detections against anybody's annotations and write map.json.

    Args:
        detections: a results file in ActivityNet's format. annotations: see `tad.datasets._any.read_any`.
        protocol_name: one of `tad.metrics.protocols`. tiou: thresholds; those of the protocol if empty.
        split: train, val or test; the one that the detections belong to if empty.
        settings: further fields of `tad.specs.EvalSpec`.
        figure, diagnosis: as in `evaluate`.

    Raises:
        TadError: as `evaluate`, and files in other layouts.
    """
    rules = protocol(protocol_name)
    if not (tiou or rules.tiou):
        raise TadError(f"protocol {protocol_name} names no thresholds; give them, for example --tiou 0.3,0.5,0.7")
    table = read_any(annotations)
    found = read_detections(detections)
    split = split or split_of(table, found.columns.video_ids, detections)
    wanted = {"protocol": protocol_name, "tiou": list(tiou or rules.tiou), "on_missing": "count", **(settings or {})}
    values = {"run": "", "dataset": table.dataset, "split": split, "eval": wanted}
    try:
        spec = EvaluateStageSpec.model_validate(values)
    except ValidationError as error:
        raise TadError(f"protocol {protocol_name}: {explain(error)}") from None
    scored = score_detections(found, detections, table, split=split, settings=spec.eval)
    inputs = {"annotations": _content(annotations)}
    return _write(_Score(detections, out, spec, table, scored, {}, inputs), figure, diagnosis)


def _content(path: Path) -> str:
    """16 hex digits of a file's content, or of all files below a folder."""
    if path.is_dir():
        return digest([[str(file.relative_to(path)), sha256(file)] for file in sorted(path.rglob("*.txt"))], 16)
    return sha256(path)[:16]


@dataclass(frozen=True)
class _Score:
    """An evaluation with where it came from: `made` is the model's stamp, `inputs` the identities of what was read."""

    detections: Path
    out: Path
    spec: EvaluateStageSpec
    table: Table
    scored: Scored
    made: Mapping[str, Any]
    inputs: dict[str, str]


def _diagnose(score: _Score, path: Path, stamped: dict[str, Any], title: str) -> None:
    """diagnosis.json, and its pictures beside it."""
    durations = {video_id: video.duration or 0.0 for video_id, video in score.table.videos.items()}
    document = Diagnosis(score.scored.result, durations=durations).document(score.scored.rules.buckets)
    rule = {"matching": score.scored.rules.matching}  # of the protocol; the diagnosis is by ActivityNet's
    write_json(path, {"stamp": stamped, "run": score.spec.run, **rule, **document})
    draw_all(document, path.parent, title)


def _write(score: _Score, figure: Path | None, diagnosis: Path | None) -> Path:
    """map.json, and the picture and the diagnosis if they are wanted."""
    spec, scored, table, out = score.spec, score.scored, score.table, score.out
    result, truth, found, excluded = scored.result, scored.truth, scored.detections, scored.excluded
    missing = _missing(result, truth, found, spec, score.detections)
    identity = str(found.stamp["identity"]) if found.stamp else sha256(score.detections)[:16]
    own = stamp("evaluate", spec.model_dump(mode="json"), {**score.inputs, "detections": identity})
    document = {
        "stamp": own,
        **{"run": spec.run, "dataset": spec.dataset, "split": spec.split},
        **_scores(result),
        **scored.measures,
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
        "instances_without_length": result.points,
        "instances_dropped": _dropped(result, table, spec.split),
        "detections": {
            "scored": result.detections,
            "labels_without_instances": result.unscored,
            **_outside([v for v in result.outside if v not in excluded], table),
        },
        "classes": "one, proposals" if scored.proposals else len(result.labels),
        "external_scores": found.external_scores,
        **_made_by(dict(score.made), found.stamp, own),
    }
    write_json(out, document)
    headline = f"average mAP {100 * result.average_mean_ap:.2f} ({spec.eval.protocol})"
    name = spec.run or score.detections.name
    if diagnosis is not None:
        _diagnose(score, diagnosis, own, name)
    if figure is not None:
        _draw(figure, truth, found, table, f"{name}: {headline}")
    log.info(
        "%s: %s, %d of %d videos, %d instances (%d duplicates and %d too short ones left out)", out, headline,
        result.videos - len(result.missing), result.videos, sum(result.instances), result.duplicates, result.too_short,
    )  # fmt: skip
    return Path(out)
