"""Sweep suppression settings on held-out videos: detect once, then suppress and score with every combination.

Candidates and scores are cached in `results/<run>/sweep/`, so that each combination is computed only once. For a run
with several seeds, scores are means over its trainings.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from tad.annotations.table import Table, read_table, write_table
from tad.core import formats
from tad.core.errors import TadError
from tad.core.files import digest, read_json, write_json
from tad.core.limits import LimitError
from tad.provenance.fingerprint import code
from tad.provenance.stamps import expect, read_stamp, stamp
from tad.settings.config import Config
from tad.settings.paths import command_of, path_of
from tad.settings.resolved import Resolved
from tad.settings.stage_table import FEATURES, TABLES
from tad.settings.stages import DetectStageSpec, EvaluateStageSpec, NmsSpec, Settings, SuppressStageSpec, TrainStageSpec
from tad.settings.strict_yaml import parse_yaml

Source = Literal["held-out", "train", "test"]
MOST_COMBINATIONS = 1000


@dataclass(frozen=True)
class Chosen:
    """The videos to tune on, and a note on how this choice affects the scores."""

    video_ids: list[str]
    meaning: str


def combinations(config: Config, run: str, changes: list[str]) -> list[Settings]:
    """Return the combinations of settings to try, each a complete section `nms`; the first has the current settings.

    Args:
        changes: `nms.<key>=<value>,<value>,…`, one text per key.

    Raises:
        TadError: a change is outside section `nms`, has an unknown key or an invalid value, or there are more than
            `MOST_COMBINATIONS` combinations.
    """
    present = config.resolve_run(run).sections["nms"]

    def changed(one: Settings) -> Settings:
        resolved = Resolved({"nms": present}, models={"nms": NmsSpec})
        resolved.lay("nms", one, "sweep")
        return resolved.check("sweep").sections["nms"]

    tried: dict[str, list[Any]] = {}
    for text in changes:
        name, equals, values = text.partition("=")
        section, _, key = name.partition(".")
        if not (equals and values and key) or section != "nms":
            raise TadError(f"sweep: {text!r}: write nms.<setting>=<value>,<value>; only suppression is swept")
        if key in tried:
            raise TadError(f"sweep: nms.{key} is given twice; give all of its values at once")
        try:
            parsed = [parse_yaml(value) for value in values.split(",")]
        except LimitError:
            raise TadError(f"sweep: {text!r}: the values cannot be read; separate them by commas") from None
        for value in parsed:
            changed({key: value})
        tried[key] = parsed
    all_settings = [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]
    if not changes or len(all_settings) > MOST_COMBINATIONS:
        raise TadError(f"sweep: {len(all_settings) if changes else 0} combinations; give 1 to {MOST_COMBINATIONS}")
    settings = [present, *map(changed, all_settings)]
    return [one for k, one in enumerate(settings) if one not in settings[:k]]


def _kept_aside(features: Path, table: Table, spec: TrainStageSpec) -> list[str]:
    """Return the train videos that training held out."""
    from tad.features.store import FeatureReader
    from tad.training.data.roles import roles_of

    with FeatureReader(features) as reader:
        return [item.video_id for item in roles_of(reader, table, spec).judged]


def choose(table: Table, model: Path, features: Path, *, on: Source) -> Chosen:
    """Choose the videos to tune on.

    Raises:
        TadError: `on` is `held-out`, and no videos were held out.
    """
    stamped = expect(model, stage="train")
    if on != "held-out":
        video_ids = sorted(table.split(on))
        if on == "test":
            return Chosen(
                video_ids, "PEEKED: the test videos; settings that are chosen on them give an optimistic score"
            )
        return Chosen(video_ids, "OPTIMISTIC: the detector was trained on these videos")
    if table.split("val"):
        return Chosen(sorted(table.split("val")), "split val, on which nothing was trained")
    settings = stamped["spec"]
    if settings.get("train", {}).get("selection") != "held-out":
        raise TadError(
            f"{model}: trained on all train videos, and {table.dataset} has no val split: nothing is held out; sweep a "
            "run with `train: { selection: held-out, hold_out: 0.2 }`, or add --on train (optimistic) or --on test "
            "(peeks)"
        )
    aside = _kept_aside(features, table, TrainStageSpec.model_validate(settings))
    return Chosen(aside, "train videos that training kept aside (their loss chose the epoch; no weight has seen them)")


class Training:
    """A trained detector, with its candidates for the chosen videos and their scores under given settings."""

    def __init__(self, config: Config, run: str, *, on: Source, device: str) -> None:
        self.run, self.device = run, device
        self.detect = cast(DetectStageSpec, config.spec("detect", run=run))
        self.evaluate = cast(EvaluateStageSpec, config.spec("evaluate", run=run))
        root, dataset = config.root, self.detect.dataset
        self.model = path_of("train", root=root, run=run)
        self.features = path_of("features", root=root, dataset=dataset, features=self.detect.features)
        source = config.table_file(run)
        for path in (self.model, self.features, source):
            if not path.is_file():
                raise TadError(f"{path}: no such file; make it with `{command_of(path, root=root)}`")
        annotated = expect(source, stage=TABLES, dataset=dataset)
        table = read_table(source)
        self.chosen = choose(table, self.model, self.features, on=on)
        self.folder = path_of("sweep", root=root, run=run, on=on)
        self.annotations = self.folder / "annotations.json"
        videos = {v: replace(table.videos[v], split="val") for v in self.chosen.video_ids}
        self.table = Table(table.dataset, table.labels, videos, table.excluded)
        left_out = {v: why for v, why in self.detect.exclude.items() if v in videos}
        if self.detect.fused:
            raise TadError(f"{run}: its candidates are fused with those of another run; sweep each run separately")
        self.detect = self.detect.model_copy(update={"split": "val", "exclude": left_out})
        inputs = {"annotations": str(annotated["identity"]), "videos": digest(self.chosen.video_ids)}
        write_table(self.table, self.annotations, stamp("annotate", annotated["spec"], inputs))

    @property
    def instances(self) -> int:
        """The number of annotated instances in the chosen videos."""
        return sum(len(video.instances) for video in self.table.videos.values())

    def candidates(self) -> Path:
        """Return the file of candidates for the chosen videos; detect them unless the cached file is up to date."""
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
        """Return, for each of the settings, the mAP at each tIoU of the protocol, followed by their mean."""
        candidates, cache = self.candidates(), self.folder / "scores.json"
        base = {
            "candidates": str(read_stamp(candidates)["identity"]),
            "eval": self.evaluate.eval.model_dump(mode="json"),
            "code": [code(stage, {}) for stage in ("suppress", "evaluate")],
        }
        known: dict[str, list[float]] = (
            formats.unmarked(read_json(cache), cache, kind="sweep") if cache.is_file() else {}
        )
        keys = [digest({**base, "nms": one}, 16) for one in settings]
        for key, one in zip(keys, settings, strict=True):
            if key not in known:
                known[key] = self._score(candidates, SuppressStageSpec(run=self.run, nms=NmsSpec.model_validate(one)))
                write_json(cache, {**formats.mark("sweep"), **known})
        return [known[key] for key in keys]

    @property
    def thresholds(self) -> list[str]:
        """The names of the thresholds of the protocol."""
        from tad.metrics.protocols import protocol

        settings = self.evaluate.eval
        rules = protocol(settings.protocol)
        if rules.of_moments:
            return list(settings.tolerances or rules.tolerances)
        return [f"{t:g}" for t in settings.tiou]

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


def _lines(tried: list[Settings], scores: list[list[float]], thresholds: Sequence[str], *, file: str) -> Iterator[str]:
    keys = [key for key in tried[0] if any(one[key] != tried[0][key] for one in tried)]
    best = max(range(len(tried)), key=lambda k: scores[k][-1])  # the first wins ties: the current settings
    names = [*keys, *(f"mAP@{t}" for t in thresholds), "average"]
    rows = [[*(str(one[key]) for key in keys), *(f"{100 * value:.2f}" for value in values)]
            for one, values in zip(tried, scores, strict=True)]  # fmt: skip
    widths = [max(len(row[c]) for row in [names, *rows]) for c in range(len(names))]
    for k, row in enumerate([names, *rows], start=-1):
        mark = {0: "  now", best: "  best"}.get(k, "") if best else {0: "  now, best"}.get(k, "")
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + mark
    if best == 0:
        yield "No other settings are better than those that the run has."
    else:
        changed = ", ".join(f"{key}: {tried[best][key]}" for key in keys if tried[best][key] != tried[0][key])
        yield f"To keep the best, in the run's row of {file}:  nms: {{ {changed} }}"


def sweep(
    run: str, changes: list[str], *, config: Path = Path("config.yaml"), on: Source = "held-out", device: str = "cpu"
) -> Iterator[str]:
    """Yield lines: the videos used, a table of scores with the best settings marked, and the change to the run's row.

    Args:
        run: name in `runs`; its model, features and annotations must exist.
        changes: see `combinations`.
        on: `held-out` (split val, or else the train videos that training held out), `train` (optimistic) or `test`
            (tunes on the test videos).
        device: see `tad.core.device.resolve`; scores do not depend on it.

    Raises:
        TadError: a setting does not exist, files are missing, no videos were held out, or the run uses external class
            scores.
    """
    settings = Config.read(config)
    if settings.run(run).external:
        raise TadError(f"runs.{run}: it has class scores for the test videos only; sweep a row without `external`")
    tried = combinations(settings, run, changes)
    trainings = [Training(settings, name, on=on, device=device) for name in settings.trainings(run)]
    first = trainings[0]
    yield f"{run}: {len(first.chosen.video_ids)} videos, {first.instances} instances: {first.chosen.meaning}"
    scores = [training.scores(tried) for training in trainings]
    means = [[sum(values) / len(scores) for values in zip(*one, strict=True)] for one in zip(*scores, strict=True)]
    if len(trainings) > 1:
        yield f"means over {len(trainings)} seeds, each on the videos that were held out from its training"
    yield from _lines(tried, means, first.thresholds, file=settings.source_of("runs", run))
    if on != "held-out":
        yield first.chosen.meaning
