"""The checked configuration: the settings of every stage of every run, and what a run still needs."""

from pathlib import Path
from typing import Any

from tad import plugins, specs
from tad.constraints import broken
from tad.distill import lesson_of
from tad.errors import TadError
from tad.fuse import fused_spec
from tad.joins import check_joins, join_spec, may_miss
from tad.labels import LabelsSpec, label_settings, labels_seen, missing_split
from tad.resolution import Resolution
from tad.resolved import parse
from tad.rows import FeatureRow
from tad.specs import Plugin, Settings, Spec
from tad.strict_yaml import read_yaml
from tad.weights import missing_weights

CONSTRAINED = {"max_length": "train", "pretext_epochs": "train", "fuse_borders": "detect"}  # the others: of detectors


class Config(Resolution):
    """A resolved configuration; every run's settings are made when it is, so that a typo stops a dry run."""

    def __init__(self, values: dict[str, Any], source: str = "config.yaml", root: Path = Path()) -> None:
        super().__init__(values, source, root)
        check_joins(self)
        for run in self.file.runs:
            row = self.file.runs[run]
            self.spec("annotate", dataset=row.dataset)
            for features in {row.features, *self.parts(row.features)}:
                kind = self._row("features", features)
                self.spec(kind.made_by, dataset=row.dataset, features=features)
                if kind.made_by == "extract" and kind.weights == "pretrain":
                    self.spec("pretrain", dataset=row.dataset, features=features)
            for stage in ("train", "detect", "classify", "suppress", "evaluate"):
                self.spec(stage, run=run)

    @classmethod
    def read(cls, path: Path = Path("config.yaml")) -> "Config":
        """The configuration in a YAML file; paths in it are relative to the file's folder."""
        values = read_yaml(Path(path))
        return cls(values, source=str(path), root=Path(path).parent)

    # ── specs ──

    def recipe(self, features: str, dataset: str) -> Settings:
        """Fields of the recipe of a feature set for a dataset."""
        row: FeatureRow = self._row("features", features)
        resolved = self.resolve_features(features, dataset)
        return {
            "backbone": {"name": self._encoder(features)[0], "settings": resolved.sections["settings"]},
            "clip": resolved.sections["clip"],
            "network": row.network.model_dump(),
            "dtype": row.dtype,
            "on_damaged": row.on_damaged,
            "pretrained_on": labels_seen(dataset, resolved.sections["pretrain"]) if row.weights == "pretrain" else "",
        }

    def spec(self, stage: str, *, run: str = "", dataset: str = "", features: str = "") -> Spec:
        """The settings of a stage: by run for train, detect, suppress and evaluate; else by dataset (and features)."""
        source = f"{self.source} {'features.' + features if features else 'datasets.' + dataset}"
        if stage == "pretrain":
            source += ".pretrain"
        if run:
            source = f"{self.source} runs.{run}"
            row = self.run(run)
            dataset, features = row.dataset, row.features
        values = getattr(self, f"_{stage}")(run, dataset, features)
        return parse(specs.OF_STAGE[stage], values, source)

    def _annotate(self, _run: str, dataset: str, _features: str) -> Settings:
        row = self.dataset(dataset)
        settings = self.resolve_dataset(dataset).sections["settings"]
        plugin = Plugin(name=self.format(dataset), settings=settings).model_dump()
        return {"dataset": dataset, "format": plugin, "exclude": row.exclude, "on_invalid": row.on_invalid}

    def _probe(self, _run: str, dataset: str, _features: str) -> Settings:
        return {"dataset": dataset, "reader": self.dataset(dataset).reader}

    def _pretrain(self, _run: str, dataset: str, features: str) -> Settings:
        recipe = self.recipe(features, dataset)
        pretrain = self.resolve_features(features, dataset).sections["pretrain"]
        return {"backbone": recipe["backbone"], "clip": recipe["clip"], **pretrain}

    def _extract(self, _run: str, dataset: str, features: str) -> Settings:
        return {"dataset": dataset, **self.recipe(features, dataset)}

    def _index(self, _run: str, dataset: str, features: str) -> Settings:
        row: FeatureRow = self._row("features", features)
        return {"dataset": dataset, "features": features, "frames": row.frames, "on_damaged": row.on_damaged}

    def _merge(self, _run: str, dataset: str, features: str) -> Settings:
        row: FeatureRow = self._row("features", features)
        return {"dataset": dataset, "features": features, "on_damaged": row.on_damaged}

    def _convert(self, _run: str, dataset: str, features: str) -> Settings:
        row: FeatureRow = self._row("features", features)
        names = ("clip", "dim", "dtype", "prefix", "layout", "tolerance", "timing", "every", "channels")
        own = {key: getattr(row, key) for key in names}
        return {"dataset": dataset, "features": features, **own, "may_miss": may_miss(self, dataset, features)}

    def _join(self, _run: str, dataset: str, features: str) -> Settings:
        return join_spec(self, dataset, features)

    def _detector(self, run: str) -> Settings:
        row = self.run(run)
        name, _ = self._plugin("detectors", row.detector, f"runs.{run}.detector")
        settings = self.resolve_run(run).sections["settings"]
        for key, value in settings.items():
            if key.endswith("_dim") and value < 1:
                raise TadError(f"{self.source}: runs.{run}.detector.{key}: {value}: a width is at least 1")
        return Plugin(name=name, settings=settings).model_dump()

    def constraints(self, detector: str) -> Settings:
        """`constraints` of a detector's YAML."""
        return dict(plugins.document("detectors", detector).get("constraints", {}))

    def _train(self, run: str, dataset: str, features: str) -> Settings:
        row, detector, sections = self.run(run), self._detector(run), self.resolve_run(run).sections
        recipe = sections["train"]
        settings = {**sections["detect"], "pretext_epochs": recipe["pretext_epochs"], **detector["settings"]}
        if problem := broken(self.constraints(detector["name"]), settings, max_length=recipe["max_length"]):
            where = CONSTRAINED.get(problem.partition(":")[0], "detector")
            raise TadError(f"{self.source}: runs.{run}.{where}.{problem}")
        self._one_draw(run, dataset, features)
        named = {"run": run, "dataset": dataset, "features": features}
        return {
            **named,
            "detector": detector,
            "train": recipe,
            "seed": row.seed,
            "exclude": row.exclude,
            "distill": lesson_of(self, run, detector, recipe) if row.distill else None,
            **label_settings(row.labels, plugins.document("detectors", detector["name"])),
        }

    def _one_draw(self, run: str, dataset: str, features: str) -> None:
        """Raise where an encoder that sees a share of the labels sees others than a run with few labels."""
        row, given = self.run(run), label_settings(self.run(run).labels, {}).get("labels")
        for part in self.parts(features):
            entry = self._row("features", part)
            pretrain = self.resolve_features(part, dataset).sections.get("pretrain", {})
            if given is None or entry.weights != "pretrain" or pretrain.get("share", 1) == 1:
                continue
            where, labels = f"{self.source}: runs.{run}.labels", LabelsSpec.model_validate(given)
            ours, theirs = (labels.share, labels.seed), (pretrain["share"], pretrain["share_seed"])
            if labels.file or ours != theirs:
                mine = "a file" if labels.file else f"share {ours[0]:g}, seed {ours[1]}"
                raise TadError(
                    f"{where}: the encoder of features {part} sees the labels of share {theirs[0]:g}, seed {theirs[1]},"
                    f" the run those of {mine}: make features.{part}.pretrain share and share_seed equal to the run's"
                    " share and seed"
                )
            if row.exclude:
                raise TadError(
                    f"{self.source}: runs.{run}.exclude: the run would draw its labels among other videos than the"
                    f" encoder of features {part}; exclude them from dataset {dataset}"
                )

    def _detect(self, run: str, dataset: str, features: str) -> Settings:
        sections = self.resolve_run(run).sections
        return {
            "run": run,
            "dataset": dataset,
            "features": features,
            "detector": self._detector(run),
            "detect": sections["detect"],
            "resize": sections["train"]["resize"],
            "exclude": self.run(run).exclude,
            "fused": fused_spec(self, run),
        }

    def _suppress(self, run: str, _dataset: str, _features: str) -> Settings:
        row = self.run(run)
        external = {"external": row.external} if row.external else {}
        return {"run": run, "nms": self.resolve_run(run).sections["nms"], **external}

    def _classify(self, run: str, dataset: str, features: str) -> Settings:
        row = self.run(run)
        settings = {"classify": row.classify, "seed": row.seed, "exclude": row.exclude}
        return {"run": run, "dataset": dataset, "features": features, **settings}

    def _evaluate(self, run: str, dataset: str, _features: str) -> Settings:
        return {"run": run, "dataset": dataset, "eval": self.resolve_run(run).sections["eval"]}

    def _summarise(self, run: str, dataset: str, features: str) -> Settings:
        seeds = [self.run(name).seed for name in self.trainings(run)]
        return {**self._evaluate(run, dataset, features), "seeds": seeds}

    # ── what must be there before anything runs ──

    def _published(self, kind: str, name: str, key: str) -> str:
        text = plugins.document(kind, name).get("published", {}).get(key, "")
        return " ".join(str(text).split())

    def _missing_files(self, dataset: str, key: str) -> list[str]:
        """The sentence about the `annotations` or `videos` of a dataset, if they are not there."""
        path = getattr(self.dataset(dataset), key)
        if dataset in self.generated or (path and (self.root / path).exists()):
            return []
        if not path:
            return [f"set datasets.{dataset}.{key} in {self.source}"]
        where = self._published("datasets", self.format(dataset), key)
        return [f"put the {key} of {dataset} at {path} ({where})"]

    def backbone(self, features: str, dataset: str) -> Plugin:
        """The backbone of a feature set with its settings for a dataset."""
        if frames := self._row("features", features).frames:  # what a detector on frames begins with
            own = plugins.document("backbones", "i3d")["settings"]
            return Plugin(name="i3d", settings=own | {"streams": frames.modality})
        return Plugin.model_validate(self.recipe(features, dataset)["backbone"])

    def missing(self, dataset: str, features: str = "") -> list[str]:
        """What the user still has to put where, one sentence each; empty when all is there.

        Runs on imported features need neither videos nor weights. Without `features`, all runs of the dataset count.
        """
        needs = self._missing_files(dataset, "annotations")
        asked = {features} if features else {r.features for r in self.file.runs.values() if r.dataset == dataset}
        wanted = {part for name in asked for part in self.parts(name)}
        if not wanted or wanted - self.made_by("convert"):
            needs += self._missing_files(dataset, "videos")
        for name in sorted(wanted):
            entry: FeatureRow = self._row("features", name)
            if entry.source:
                if not (self.root / entry.source).exists():
                    where = f" ({entry.published})" if entry.published else ""
                    needs.append(f"put the features {name} at {entry.source}{where}")
            elif entry.weights != "pretrain":
                needs += missing_weights(self.root, entry.weights, self.backbone(name, dataset))
        return needs

    def external_scores(self, run: str) -> str:
        """The file of class scores of whole videos that a run combines with its detections, as config.yaml names it;
        `own` for the workflow's own, empty for none."""
        return str(self.run(run).external.get("source", ""))

    def missing_scores(self, run: str) -> list[str]:
        """The sentences about that file and the split of labels, if they are not there."""
        source, needs = self.external_scores(run), missing_split(self.root, run, self.run(run).labels)
        if source in ("", "own") or (self.root / source).is_file():
            return needs
        return [
            *needs,
            f"put the class scores of whole videos of run {run} at {source} (external.source), or write source: own for"
            " a classifier on the run's own features",
        ]

    def require(self, dataset: str, features: str = "") -> None:
        """Raise the list of what is missing as one TadError."""
        if needs := self.missing(dataset, features):
            raise TadError("; ".join(needs))

    def require_scores(self, run: str) -> None:
        """Raise what `missing_scores` says."""
        if needs := self.missing_scores(run):
            raise TadError("; ".join(needs))

    def require_files(self, dataset: str, key: str) -> None:
        """Raise if the `annotations` or `videos` of a dataset are missing, whatever its runs need besides."""
        if needs := self._missing_files(dataset, key):
            raise TadError(needs[0])
