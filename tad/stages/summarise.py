"""Stage summarise: aggregates the scores of a run's seeds (mean, standard deviation, confidence interval over videos).

Inputs: `results/<run>/seed-<k>/map.json` (evaluate) and `detections.json` (suppress) of each seed, annotations
    (annotate).
Output: `results/<run>/map.json`: the layout of evaluate, averaged over seeds, with additional `std` and `seeds`.
Settings: `tad.settings.stages.SummariseStageSpec`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tad.annotations.table import read_table
from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.core.storage import forecast
from tad.metrics.bootstrap import describe, draw, resample
from tad.metrics.files import Scored, score_file
from tad.metrics.measures import headlines
from tad.provenance.stamps import expect, stamp
from tad.settings.stage_table import TABLES
from tad.settings.stages import SummariseStageSpec

log = logging.getLogger(__name__)

AVERAGED = ("average_mAP", "averages", "mAP", "AP", "recall")
EQUAL = ("protocol", "videos", "excluded", "instances", "classes", "epoch_rule", "features", "detector")


def _mean(values: Sequence[Any]) -> Any:
    """Return the mean of numbers, or elementwise of nested dicts with the same keys; equal values stay unchanged."""
    if isinstance(values[0], dict):
        return {key: _mean([value[key] for value in values]) for key in values[0]}
    return values[0] if all(value == values[0] for value in values) else float(np.mean(values))


def _deviation(values: Sequence[Any]) -> Any:
    """Return the sample standard deviation (ddof 1) of numbers, or elementwise of nested dicts with the same keys."""
    if isinstance(values[0], dict):
        return {key: _deviation([value[key] for value in values]) for key in values[0]}
    return float(np.std(values, ddof=1))


def _common(values: Sequence[Any]) -> Any:
    """Return the common value if all are equal, otherwise the list of all values; dicts are merged key by key."""
    if all(isinstance(value, dict) for value in values):
        return {key: _common([value.get(key, "unknown") for value in values]) for key in values[0]}
    return values[0] if all(value == values[0] for value in values) else list(values)


def _read(scores: Sequence[Path], spec: SummariseStageSpec) -> list[dict[str, Any]]:
    """Read the scores of all seeds.

    Raises:
        TadError: there is not one score per seed, or the scores differ in run, seed, settings, videos or instances.
    """
    if len(scores) != len(spec.seeds):
        raise TadError(
            f"{len(scores)} scores for {len(spec.seeds)} seeds {list(spec.seeds)}; give one map.json per seed"
        )
    settings = spec.eval.model_dump(mode="json")
    documents: list[dict[str, Any]] = []
    for k, (path, seed) in enumerate(zip(scores, spec.seeds, strict=True)):
        expect(
            path, stage="evaluate", run=f"{spec.run}/seed-{k}", dataset=spec.dataset, split=spec.split, eval=settings
        )
        documents.append(read_json(path))
        if documents[k]["seed"] != seed:
            raise TadError(
                f"{path}: trained with seed {documents[k]['seed']}, expected {seed}; remove it and run again"
            )
        for key in EQUAL:
            if documents[k][key] != documents[0][key]:
                raise TadError(
                    f"{path}: {key} is {documents[k][key]!r:.80}, but {documents[0][key]!r:.80} in {scores[0]}, so the "
                    "scores are not comparable; remove the older one and run again"
                )
    return documents


def _interval(scored: Sequence[Scored]) -> dict[str, Any]:
    """Return the confidence interval of the mean over seeds; all seeds use the same resampled videos."""
    counts_NV = draw(scored[0].result.videos)
    values_NH = np.mean([resample(one.result.matches, counts_NV) for one in scored], axis=0)
    return describe(values_NH, scored[0].result.names, scored[0].result.weights)


def summarise(
    scores: Sequence[Path], detections: Sequence[Path], annotations: Path, out: Path, *, spec: SummariseStageSpec
) -> Path:
    """Average the scores of a run's seeds and write map.json.

    Args:
        scores: map.json of seed-0, seed-1, …, made by evaluate.
        detections: made by suppress, in the same order.
        annotations: table made by annotate.
        out: the map.json to write.
        spec: settings.

    Raises:
        TadError: files belong to other runs, seeds, settings or videos, or a score does not match its detections.
    """
    documents = _read(scores, spec)
    table_stamp = expect(annotations, stage=TABLES, dataset=spec.dataset)
    table = read_table(annotations)
    scored = []
    for k, (path, document) in enumerate(zip(detections, documents, strict=True)):
        one = score_file(path, table, run=f"{spec.run}/seed-{k}", split=spec.split, settings=spec.eval)
        if not np.isclose(one.result.average_mean_ap, document["average_mAP"], rtol=0, atol=1e-9):
            raise TadError(f"{scores[k]}: does not match the score of {path}; remove it and run evaluate again")
        scored.append(one)
    inputs = {f"seed-{k}": str(document["stamp"]["identity"]) for k, document in enumerate(documents)}
    inputs["annotations"] = str(table_stamp["identity"])
    own = stamp("summarise", spec.model_dump(mode="json"), inputs)
    omitted = {*AVERAGED, *spec.eval.measures, "stamp", "run", "seed", "interval", "warnings"}
    rest = {key: _common([d[key] for d in documents]) for key in documents[0] if key not in omitted}
    averaged = [key for key in (*AVERAGED, *spec.eval.measures) if key in documents[0]]
    mean = {key: _mean([document[key] for document in documents]) for key in averaged}
    deviation = {key: _deviation([document[key] for document in documents]) for key in ("average_mAP", "mAP")}
    if spec.eval.measures:
        deviation["measures"] = _deviation([headlines(document) for document in documents])
    forecast(out, sum(path.stat().st_size for path in map(Path, scores)), what="summarise")
    write_json(
        out,
        {
            "stamp": own,
            "run": spec.run,
            **mean,
            "std": deviation,
            "interval": _interval(scored),
            "seeds": list(spec.seeds),
            "per_seed": {str(d["seed"]): {key: d[key] for key in ("average_mAP", "mAP")} for d in documents},
            **rest,
            "warnings": list(dict.fromkeys(line for document in documents for line in document["warnings"])),
        },
    )
    log.info(
        "%s: average mAP %.2f ± %.2f (%s), seeds %s", out, 100 * mean["average_mAP"], 100 * deviation["average_mAP"],
        spec.eval.protocol, ", ".join(map(str, spec.seeds)),
    )  # fmt: skip
    return Path(out)
