"""Suppression settings tried on videos that were held out: detect once, suppress and score with every combination.

The candidates and every score are kept in `results/<run>/sweep/`, so that a combination is computed once. A run with
several seeds counts with the mean over its trainings.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from tad.annotations import Table, read_table, write_table
from tad.config import Config
from tad.errors import TadError
from tad.files import digest, read_json, write_json
from tad.plugins import override
from tad.provenance import FEATURES, code, expect, read_stamp, stamp
from tad.resolved import parse
from tad.specs import DetectStageSpec, EvaluateStageSpec, NmsSpec, Settings, SuppressStageSpec, TrainStageSpec

Source = Literal["held-out", "train", "test"]
MOST_COMBINATIONS = 1000


@dataclass(frozen=True)
class Chosen:
    """The videos to tune on, and what that means for the scores, in words."""

    video_ids: list[str]
    meaning: str


def combinations(config: Config, run: str, changes: list[str]) -> list[Settings]:
    """The settings to try, each as changes of section `nms`; the first are none: the settings as they are.

    Args:
        changes: `nms.<key>=<value>,<value>,…`, one text per key.

    Raises:
        TadError: another section, an unknown key, a value of another type or out of range, more than
            `MOST_COMBINATIONS`.
    """
    present = config.resolve_run(run).sections["nms"]
    tried: dict[str, list[Any]] = {}
    for text in changes:
        name, equals, values = text.partition("=")
        section, _, key = name.partition(".")
        if not (equals and values and key) or section != "nms":
            raise TadError(f"sweep: {text!r}: write nms.<setting>=<value>,<value>; only suppression is swept")
        if key in tried:
            raise TadError(f"sweep: nms.{key} is there twice; give all of its values at once")
        try:
            found = [yaml.safe_load(value) for value in values.split(",")]
        except yaml.YAMLError:
            raise TadError(f"sweep: {text!r}: the values cannot be read; write them with , between") from None
        for value in found:
            parse(NmsSpec, override("nms", present, {key: value}, "sweep"), "sweep: nms")
        tried[key] = found
    made = [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]
    if not changes or len(made) > MOST_COMBINATIONS:
        raise TadError(f"sweep: {len(made) if changes else 0} combinations; give 1 to {MOST_COMBINATIONS}")
    settings = [present, *(override("nms", present, one, "sweep") for one in made)]
    return [one for k, one in enumerate(settings) if one not in settings[:k]]


def _kept_aside(features: Path, table: Table, spec: TrainStageSpec) -> list[str]:
    """The train videos that training did not train on."""
    from tad.cache import FeatureReader
    from tad.training.selection import roles_of

    with FeatureReader(features) as reader:
        return [item.video_id for item in roles_of(reader, table, spec).judged]


def choose(table: Table, model: Path, features: Path, *, on: Source) -> Chosen:
    """The videos to tune on.

    Raises:
        TadError: nothing was held out and `on` does not allow for less.
    """
    made = expect(model, stage="train")
    if on != "held-out":
        video_ids = sorted(table.split(on))
        if on == "test":
            return Chosen(
                video_ids, "PEEKED: the test videos; a score with settings that were chosen on them is no test"
            )
        return Chosen(video_ids, "OPTIMISTIC: the detector was trained on these videos")
    if table.split("val"):
        return Chosen(sorted(table.split("val")), "split val, on which nothing was trained")
    settings = made["spec"]
    if settings.get("train", {}).get("selection") != "held-out":
        raise TadError(
            f"{model}: trained on all train videos, and {table.dataset} has no val split: nothing is held out; sweep a "
            "run with `train: { selection: held-out, hold_out: 0.2 }`, or add --on train (optimistic) or --on test "
            "(peeks)"
        )
    aside = _kept_aside(features, table, TrainStageSpec.model_validate(settings))
    return Chosen(aside, "train videos that training kept aside (their loss chose the epoch; no weight has seen them)")


class Training:
    """One trained detector: its candidates of the chosen videos, and the scores that settings give them."""

    def __init__(self, config: Config, run: str, *, on: Source, device: str) -> None:
        self.run, self.device = run, device
        self.detect = cast(DetectStageSpec, config.spec("detect", run=run))
        self.evaluate = cast(EvaluateStageSpec, config.spec("evaluate", run=run))
        results = config.root / "results"
        self.model = results / run / "model.safetensors"
        self.features = results / f"features/{self.detect.dataset}/{self.detect.features}.h5"
        source = results / f"annotations/{self.detect.dataset}.json"
        for path in (self.model, self.features, source):
            if not path.is_file():
                raise TadError(f"{path}: no such file; make it with `snakemake {path}`")
        annotated = expect(source, stage="annotate", dataset=self.detect.dataset)
        table = read_table(source)
        self.chosen = choose(table, self.model, self.features, on=on)
        self.folder = results / run / "sweep" / on
        self.annotations = self.folder / "annotations.json"
        videos = {v: replace(table.videos[v], split="val") for v in self.chosen.video_ids}
        self.table = Table(table.dataset, table.labels, videos, table.excluded)
        left_out = {v: why for v, why in self.detect.exclude.items() if v in videos}
        if self.detect.fused:
            raise TadError(f"{run}: its candidates are fused with another run; sweep each by itself")
        self.detect = self.detect.model_copy(update={"split": "val", "exclude": left_out})
        inputs = {"annotations": str(annotated["identity"]), "videos": digest(self.chosen.video_ids)}
        write_table(self.table, self.annotations, stamp("annotate", annotated["spec"], inputs))

    @property
    def instances(self) -> int:
        """Annotated instances of the chosen videos."""
        return sum(len(video.instances) for video in self.table.videos.values())

    def candidates(self) -> Path:
        """The candidates of the chosen videos; detected unless those that are there are of this model and code."""
        path = self.folder / "candidates.h5"
        inputs = {
            "features": str(expect(self.features, stage=FEATURES)["identity"]),
            "annotations": str(read_stamp(self.annotations)["identity"]),
            "model": str(read_stamp(self.model)["identity"]),
        }
        wanted = stamp("detect", self.detect.model_dump(mode="json"), inputs)["identity"]
        if not (path.is_file() and read_stamp(path)["identity"] == wanted):
            from tad.stages.detect import detect

            detect(self.features, self.model, self.annotations, path, spec=self.detect, device=self.device)
        return path

    def scores(self, settings: list[Settings]) -> list[list[float]]:
        """mAP at each tIoU of the protocol, and their mean, for each of the settings."""
        candidates, kept = self.candidates(), self.folder / "scores.json"
        base = {
            "candidates": str(read_stamp(candidates)["identity"]),
            "eval": self.evaluate.eval.model_dump(mode="json"),
            "code": [code(stage, {}) for stage in ("suppress", "evaluate")],
        }
        known: dict[str, list[float]] = read_json(kept) if kept.is_file() else {}
        keys = [digest({**base, "nms": one}, 16) for one in settings]
        for key, one in zip(keys, settings, strict=True):
            if key not in known:
                known[key] = self._score(candidates, SuppressStageSpec(run=self.run, nms=NmsSpec.model_validate(one)))
                write_json(kept, known)
        return [known[key] for key in keys]

    def _score(self, candidates: Path, spec: SuppressStageSpec) -> list[float]:
        from tad.metrics.files import score_file
        from tad.stages.suppress import suppress

        detections = self.folder / "detections.json"
        suppress(candidates, detections, spec=spec, device=self.device)
        try:
            result = score_file(detections, self.table, run=self.run, split="val", settings=self.evaluate.eval).result
        finally:
            detections.unlink()
        return [*result.mean_ap.tolist(), result.average_mean_ap]


def _lines(tried: list[Settings], scores: list[list[float]], tiou: tuple[float, ...]) -> Iterator[str]:
    keys = [key for key in tried[0] if any(one[key] != tried[0][key] for one in tried)]
    best = max(range(len(tried)), key=lambda k: scores[k][-1])  # of equal ones the first: the settings as they are
    names = [*keys, *(f"mAP@{t:g}" for t in tiou), "average"]
    rows = [[*(str(one[key]) for key in keys), *(f"{100 * value:.2f}" for value in values)]
            for one, values in zip(tried, scores, strict=True)]  # fmt: skip
    widths = [max(len(row[c]) for row in [names, *rows]) for c in range(len(names))]
    for k, row in enumerate([names, *rows], start=-1):
        mark = {0: "  now", best: "  best"}.get(k, "") if best else {0: "  now, best"}.get(k, "")
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + mark
    if best == 0:
        yield "No other settings are better than those that the run has."
    else:
        found = ", ".join(f"{key}: {tried[best][key]}" for key in keys if tried[best][key] != tried[0][key])
        yield f"To keep the best, in the run's row of config.yaml:  nms: {{ {found} }}"


def sweep(
    run: str, changes: list[str], *, config: Path = Path("config.yaml"), on: Source = "held-out", device: str = "cpu"
) -> Iterator[str]:
    """Lines: on which videos, a table of scores by settings with the best marked, and what to write into config.yaml.

    Args:
        run: name in `runs`; its model, features and annotations must be there.
        changes: see `combinations`.
        on: held-out: split val, or the train videos that training kept aside; train and test say what they are.
        device: see `tad.device.resolve`; no score depends on it.

    Raises:
        TadError: settings that do not exist, files that are missing, no videos that were held out, a run with class
            scores from outside.
    """
    settings = Config.read(config)
    if settings.run(run).external:
        raise TadError(f"runs.{run}: its class scores are of the test videos; sweep a row without `external`")
    tried = combinations(settings, run, changes)
    trainings = [Training(settings, name, on=on, device=device) for name in settings.trainings(run)]
    first = trainings[0]
    yield f"{run}: {len(first.chosen.video_ids)} videos, {first.instances} instances: {first.chosen.meaning}"
    found = [training.scores(tried) for training in trainings]
    means = [[sum(values) / len(found) for values in zip(*one, strict=True)] for one in zip(*found, strict=True)]
    if len(trainings) > 1:
        yield f"means over {len(trainings)} seeds, each on the videos that were held out from its training"
    yield from _lines(tried, means, first.evaluate.eval.tiou)
    if on != "held-out":
        yield first.chosen.meaning
