"""Stage evaluate: scores detections against annotations, and records everything needed to compare the score.

Inputs: detections (suppress, or any ActivityNet results file), annotations (annotate), the model's stamp (train).
Output: `results/<run>/map.json`, and a timeline of the video with the most instances as PNG.
Settings: `tad.settings.stages.EvaluateStageSpec`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tad.annotations.table import Table, read_table
from tad.core import formats, notices
from tad.core.errors import TadError
from tad.core.files import digest, sha256, write_json
from tad.core.garbage import collection_paused
from tad.core.storage import forecast
from tad.datasets._any import read_checked, split_of
from tad.datasets._epic_actions import read_actions
from tad.datasets._parse import NOTHING
from tad.metrics import Evaluation, Protocol, coverage, epic_actions, grounding, protocol
from tad.metrics.bootstrap import describe, draw, resample
from tad.metrics.files import Detections, Scored, Truth, read_detections, score_detections, score_file
from tad.metrics.timeline import timeline
from tad.provenance.stamps import expect, stamp
from tad.settings.stage_table import TABLES
from tad.settings.stages import EvaluateStageSpec, explain

log = logging.getLogger(__name__)
SCORE_BYTES, CLASS_BYTES, PICTURE_BYTES = 50_000, 1000, 100_000  # map.json and the diagnosis; each class; a picture


def _scores(result: Evaluation) -> dict[str, Any]:
    """Return mAP, AP and recall as fractions per threshold, in the order of `tiou`, or of `tolerances` for moments."""
    tious, near = result.names, result.near
    averages = {name: float(result.mean_ap @ w) for name, w in near.average_weights().items()} if near else {}
    return {
        "average_mAP": result.average_mean_ap,
        **({"tolerances": list(tious)} if near else {"tiou": [round(t, 9) for t in result.tiou]}),
        **({"averages": averages} if averages else {}),
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
    """Return the protocol's rules, and whether the split has the numbers of videos and instances that it defines."""
    complete = rules.videos in (0, result.videos) and rules.instances in (0, sum(result.instances))
    if not complete:
        counts = {"videos": (rules.videos, result.videos), "instances": (rules.instances, sum(result.instances))}
        defined = " and ".join(f"{wanted} {what}" for what, (wanted, _) in counts.items() if wanted)
        found = " and ".join(str(there) for wanted, there in counts.values() if wanted)
        log.warning(
            "protocol %s is defined for %s, but these annotations have %s (map.json: protocol.complete)",
            *(name, defined, found),
        )
    return {"name": name, **rules.model_dump(mode="json"), "complete": complete}


def _made_by(model: dict[str, Any], detections: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return seed, epoch rule, features and hashes from the stamps; "unknown" if a stamp is missing."""
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
            "spec": {stage: digest(stamped["spec"]) for stage, stamped in stamps.items() if stamped},
            "code": {stage: stamped["code"] for stage, stamped in stamps.items() if stamped},
        },
    }


def _teachers(model: dict[str, Any]) -> dict[str, Any]:
    """Return the runs of the model's teachers by name, with the identities of their models."""
    distill = model.get("spec", {}).get("distill") or {"teachers": ()}
    inputs = model.get("inputs", {})
    return {
        teacher["name"]: {"run": teacher["run"], "model": inputs.get(f"teacher {teacher['name']}", "unknown")}
        for teacher in distill["teachers"]
    }


def _draw(path: Path, truth: Truth, detections: Detections, table: Table, title: str) -> None:
    """Draw the timeline of the video with the most instances, among those with detections; the first in a tie."""
    detected = set(detections.columns.video_ids)
    candidates = [video_id for video_id in truth if video_id in detected] or list(truth)
    chosen = max(candidates, key=lambda video_id: len(truth[video_id]))
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
        detections: made by suppress, or an external results file (without a stamp).
        annotations: table made by annotate.
        out: the map.json to write.
        spec: settings.
        model: made by train; its stamp provides seed, epoch rule and recipe.
        figure: optional PNG to write with the timeline of one video.
        diagnosis: optional JSON file to write the diagnosis to; its figures are written beside it.

    Raises:
        TadError: inputs belong to another run or dataset; the protocol or a label is unknown; there are no instances or
            no common videos; values are not finite; or videos are missing and `eval.on_missing` is error.
    """
    behind = notices.join(notices.read(path) for path in (annotations, model, detections) if path is not None)
    with notices.collecting() as own, collection_paused():
        trained = expect(model, stage="train", run=spec.run, dataset=spec.dataset) if model is not None else {}
        annotated = expect(annotations, stage=TABLES, dataset=spec.dataset)
        table = read_table(annotations)
        scored = score_file(detections, table, run=spec.run, split=spec.split, settings=spec.eval)
        inputs = {"annotations": str(annotated["identity"])}
        if model is not None:
            inputs["model"] = str(trained["identity"])
        score = _Score(detections, out, spec, table, scored, trained, inputs, behind, own)
        return _write(score, figure, diagnosis)


def evaluate_file(
    detections: Path,
    annotations: Path,
    out: Path,
    *,
    protocol_name: str,
    tiou: Sequence[float] = (),
    split: str = "",
    settings: Mapping[str, Any] | None = None,
    on_invalid: str = "",
    splits: Mapping[str, str] = NOTHING,
    figure: Path | None = None,
    diagnosis: Path | None = None,
) -> Path:
    """Score external detections against annotations in any supported format, and write map.json.

    Args:
        detections: a results file in ActivityNet's format.
        annotations: see `tad.datasets._any.read_any`.
        out: the map.json to write.
        protocol_name: one of `tad.metrics.protocols`.
        tiou: thresholds; default: those of the protocol. Protocols of moments have `tolerances` in `settings`.
        split: train, val or test; default: the split that the detections belong to.
        settings: further fields of `tad.settings.stages.EvalSpec`.
        on_invalid: handling of invalid instances, see `tad.datasets._any.read_checked`.
        splits: renamed splits, see `tad.datasets._any.read_checked`.
        figure: see `evaluate`.
        diagnosis: see `evaluate`.

    Raises:
        TadError: as in `evaluate`; or a file has an unknown layout.
    """
    rules, settings = protocol(protocol_name), dict(settings or {})
    if rules.of_moments and tiou:
        raise TadError(f"protocol {protocol_name} scores moments; give --tolerances 1f,2f (or 0.5s) in place of --tiou")
    if not (rules.of_moments or tiou or rules.tiou):
        raise TadError(f"protocol {protocol_name} defines no thresholds; set them, for example --tiou 0.3,0.5,0.7")
    if not rules.of_moments:
        settings["tiou"] = list(tiou or rules.tiou)
    at = settings.get("moment", "") if rules.of_moments else None
    with notices.collecting() as own, collection_paused():
        table = read_checked(annotations, counted=rules.counted, on_invalid=on_invalid, splits=splits, moment=at)
        predicted = read_detections(detections)
        split = split or split_of(table, predicted.columns.video_ids, detections)
        spec = _spec(table, split, protocol_name, settings)
        scored = score_detections(predicted, detections, table, split=split, settings=spec.eval)
        inputs = {"annotations": _content(annotations)}
        behind = notices.join(notices.read(path) for path in (annotations, detections))
        score = _Score(detections, out, spec, table, scored, {}, inputs, behind, own)
        return _write(score, figure, diagnosis)


def evaluate_actions(
    detections: Path,
    annotations: Path,
    out: Path,
    *,
    nouns: Path | None = None,
    tiou: Sequence[float] = (),
    pair_tiou: float = 0.5,
    submission: Path | None = None,
    figure: Path | None = None,
    diagnosis: Path | None = None,
) -> Path:
    """Score action detection on EPIC-KITCHENS as the challenge's script does, and write map.json.

    Args:
        detections: detections of verbs if `nouns` is given, otherwise a submission to the challenge.
        annotations: see `tad.datasets._epic_actions.read_actions`.
        out: the map.json to write.
        nouns: detections of nouns, from another run.
        tiou: thresholds; default: those of the protocol.
        pair_tiou: minimum tIoU between the verb and the noun of a pair.
        submission: optional file to write the pairs to, in the challenge's format.
        figure: see `evaluate`.
        diagnosis: see `evaluate`.

    Raises:
        TadError: as in `evaluate_file`; or a label is not a class of EPIC-KITCHENS-100, or scores cannot be multiplied.
    """
    with notices.collecting() as own:
        truth = read_actions(annotations)
        tiou = list(tiou or protocol(epic_actions.PROTOCOL).tiou)
        spec = _spec(truth.tables["action"], "test", epic_actions.PROTOCOL, {"tiou": tiou})
        scored, actions = epic_actions.score_actions(
            truth.tables, truth.names, detections, nouns, settings=spec.eval, tiou=pair_tiou
        )
        if submission is not None:
            epic_actions.write_submission(actions, submission)
        inputs = {"annotations": _content(annotations)} | ({"nouns": sha256(nouns)[:16]} if nouns else {})
        behind = notices.join(notices.read(path) for path in (detections, nouns) if path is not None)
        score = _Score(detections, out, spec, truth.tables["action"], scored, {}, inputs, behind, own)
        return _write(score, figure, diagnosis)


def evaluate_queries(predictions: Path, annotations: Path, out: Path, *, tiou: Sequence[float] = ()) -> Path:
    """Score temporal grounding as Moment-DETR's evaluation does, and write map.json.

    Args:
        predictions: JSON lines, see `tad.metrics.grounding`.
        annotations: JSON lines, see `tad.metrics.grounding`.
        out: the map.json to write.
        tiou: thresholds; default: those of the protocol.

    Raises:
        TadError: an input is invalid; the message names file, line and a remedy.
    """
    with notices.collecting() as own:
        truth = grounding.read_queries(annotations, "relevant_windows", 2)
        predicted = grounding.read_queries(predictions, "pred_relevant_windows", 3)
        missing, unknown = [q for q in truth if not predicted.get(q)], [q for q in predicted if q not in truth]
        if missing or unknown:
            log.warning(
                "%d of %d queries have no prediction and score 0; %d predicted queries are not annotated and ignored",
                len(missing), len(truth), len(unknown),
            )  # fmt: skip
        odd = grounding.check_windows(truth, predicted, grounding.read_durations(annotations))
        rules = protocol(grounding.PROTOCOL)
        thresholds = list(tiou or rules.tiou)
        try:
            score = grounding.retrieval(truth, predicted, tiou=thresholds)
            lengths = grounding.by_length(truth, predicted, tiou=thresholds)
        except TadError as error:
            raise TadError(f"{predictions} against {annotations}: {error}") from None
        inputs = {"annotations": sha256(annotations)[:16], "detections": sha256(predictions)[:16]}
        document = {
            "stamp": stamp("evaluate", {"protocol": grounding.PROTOCOL, "tiou": thresholds}, inputs),
            **score.document(),
            "interval": score.interval(),
            "by_length": lengths,
            "without_predictions": missing,
            "not_annotated": unknown,
            "windows": odd,
            "protocol": {"name": grounding.PROTOCOL, **rules.model_dump(mode="json")},
            "warnings": notices.lines({"evaluate": own}),
        }
    return write_json(out, document)


def _spec(table: Table, split: str, protocol_name: str, settings: Mapping[str, Any]) -> EvaluateStageSpec:
    """Return the settings for evaluating files that do not belong to a run.

    Raises:
        TadError: a setting is invalid.
    """
    wanted = {"protocol": protocol_name, "on_missing": "count", **settings}
    values = {"run": "", "dataset": table.dataset, "split": split, "eval": wanted}
    try:
        return EvaluateStageSpec.model_validate(values)
    except ValidationError as error:
        raise TadError(f"protocol {protocol_name}: {explain(error)}") from None


def _content(path: Path) -> str:
    """Return 16 hex digits of the digest of a file, or of all annotation files below a folder."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix in (".txt", ".csv", ".json")]
        return digest([[str(file.relative_to(path)), sha256(file)] for file in files], 16)
    return sha256(path)[:16]


@dataclass(frozen=True)
class _Score:
    """An evaluation and its provenance.

    Attributes:
        trained: stamp of the model; empty if there is none.
        inputs: identities of the inputs.
        behind: warnings recorded in the inputs.
        own: warnings of this evaluation so far.
    """

    detections: Path
    out: Path
    spec: EvaluateStageSpec
    table: Table
    scored: Scored
    trained: Mapping[str, Any]
    inputs: dict[str, str]
    behind: dict[str, list[str]]
    own: list[str]


def _diagnose(score: _Score, path: Path, stamped: dict[str, Any], title: str) -> None:
    """Write diagnosis.json, and its figures beside it."""
    from tad.metrics.diagnosis import Diagnosis  # imports numba
    from tad.metrics.diagnosis_figures import draw_all

    lengths = {video_id: video.duration or 0.0 for video_id, video in score.table.videos.items()}
    document = Diagnosis(score.scored.result, durations=lengths).document(score.scored.rules.buckets)
    rule = {"matching": score.scored.rules.matching}  # of the protocol; the diagnosis itself uses ActivityNet's rule
    write_json(path, {"stamp": {**stamped, **formats.mark("diagnosis")}, "run": score.spec.run, **rule, **document})
    draw_all(document, path.parent, title)


def _write(score: _Score, figure: Path | None, diagnosis: Path | None) -> Path:
    """Write map.json, and the figure and the diagnosis if requested."""
    spec, scored, table, out = score.spec, score.scored, score.table, score.out
    result, truth, detections, excluded = scored.result, scored.truth, scored.detections, scored.excluded
    found = coverage.detected(result, detections, table, truth, excluded=excluded, path=score.detections)
    pictures = (figure is not None) + 4 * (diagnosis is not None)
    forecast(out, SCORE_BYTES + CLASS_BYTES * len(table.labels) + PICTURE_BYTES * pictures, what="evaluate")
    identity = str(detections.stamp["identity"]) if detections.stamp else sha256(score.detections)[:16]
    own = stamp("evaluate", spec.model_dump(mode="json"), {**score.inputs, "detections": identity})
    document = {
        "stamp": own,
        **{"run": spec.run, "dataset": spec.dataset, "split": spec.split},
        **_scores(result),
        **scored.measures,
        "interval": describe(resample(result.matches, draw(result.videos)), result.names, result.weights),
        "protocol": _protocol(result, scored.rules, spec.eval.protocol),
        "videos": {
            "evaluated": result.videos - len(result.missing),
            "in_split": len(table.split(spec.split)),
            "without_instances": sum(not rows for rows in truth.values()),
        },
        "missing_videos": coverage.missing(result, truth, detections, spec, score.detections),
        "excluded": {**excluded, **{v: why for v, why in detections.excluded.items() if v in table.split(spec.split)}},
        "flawed_videos": coverage.flawed(table),
        "instances": sum(result.instances),
        "instances_per_class": dict(zip(result.labels, result.instances, strict=True)),
        "instances_without_length": result.points,
        "reversed": coverage.backward(result, truth),
        "instances_dropped": coverage.dropped(result, table, spec.split),
        "detections": found,
        "classes": "one, proposals" if scored.proposals else len(result.labels),
        "external_scores": detections.external_scores,
        **_made_by(dict(score.trained), detections.stamp, own),
    }
    coverage.warn_if_weak(result, document["interval"]["average_mAP"], spec)
    document["warnings"] = notices.lines(notices.join([score.behind, {"evaluate": score.own}]))
    write_json(out, document)
    headline = f"average mAP {100 * result.average_mean_ap:.2f} ({spec.eval.protocol})"
    name = spec.run or score.detections.name
    if diagnosis is not None:
        _diagnose(score, diagnosis, own, name)
    if figure is not None:
        _draw(figure, truth, detections, table, f"{name}: {headline}")
    log.info(
        "%s: %s, %d of %d videos, %d instances (%d duplicates and %d too short ones dropped)", out, headline,
        result.videos - len(result.missing), result.videos, sum(result.instances), result.duplicates, result.too_short,
    )  # fmt: skip
    return Path(out)
