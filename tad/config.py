"""config.yaml and the components' YAML → the settings of every stage of every run.

Four layers, the later wins, an unknown key is an error in each: the component's YAML; its `for: <dataset>` section
(what the paper changes per data set); the row in config.yaml; Snakemake's --config and --configfile.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from tad import plugins, recipes, specs
from tad.constraints import broken
from tad.distill import lesson_of
from tad.errors import TadError
from tad.fuse import fused_spec
from tad.joins import check_joins, join_sections, join_spec, may_miss, parts_of
from tad.labels import label_settings, labels_seen, missing_split
from tad.resolved import Resolved, parse
from tad.rows import ConfigFile, DatasetRow, FeatureRow, RunRow
from tad.specs import Plugin, Settings, Spec
from tad.strict_yaml import read_yaml
from tad.weights import missing_weights

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
CONSTRAINED = {"max_length": "train", "pretext_epochs": "train", "fuse_borders": "detect"}  # the others: of detectors
RESERVED = {"annotations", "videos", "features", "data", "logs"}


class Config:
    """The checked configuration; every run's settings are resolved when it is made, so a typo stops a dry run."""

    def __init__(self, values: dict[str, Any], source: str = "config.yaml", root: Path = Path()) -> None:
        self.source = source
        self.root = Path(root)
        self.file = parse(ConfigFile, values, source)
        for kind in ("datasets", "features", "runs"):
            for name in getattr(self.file, kind):
                if not NAME.fullmatch(name) or (kind == "runs" and name in RESERVED):
                    raise TadError(
                        f"{source}: {kind}.{name}: a name is letters, digits, _ and -, and none of {sorted(RESERVED)}"
                    )
        check_joins(self)
        for run in self.file.runs:
            for stage in ("train", "detect", "classify", "suppress", "evaluate"):
                self.spec(stage, run=run)
            row = self.file.runs[run]
            self.spec("annotate", dataset=row.dataset)
            for features in {row.features, *self.parts(row.features)}:
                self.spec(self._row("features", features).made_by, dataset=row.dataset, features=features)

    @classmethod
    def read(cls, path: Path = Path("config.yaml")) -> "Config":
        """The configuration in a YAML file; paths in it are relative to the file's folder."""
        values = read_yaml(Path(path))
        return cls(values, source=str(path), root=Path(path).parent)

    # ── rows ──

    def _row(self, kind: str, name: str) -> Any:
        rows = getattr(self.file, kind)
        if name not in rows:
            raise TadError(f"{self.source}: {kind} has no '{name}'; {plugins.nearest(name, list(rows))}")
        return rows[name]

    def run(self, name: str) -> RunRow:
        """The row of a run; `<run>/seed-<k>` is the k-th training of a run with several seeds."""
        base, _, part = name.partition("/")
        row: RunRow = self._row("runs", base)
        if not part:
            return row
        if name not in self.trainings(base):
            raise TadError(f"{self.source}: runs.{base}.seeds: {row.seeds}: there is no '{part}'; raise seeds")
        return row.model_copy(update={"seed": row.seed + int(part.removeprefix("seed-")), "seeds": 1})

    def trainings(self, run: str) -> list[str]:
        """What is trained and evaluated for a run: itself, or `<run>/seed-<k>` for each of several seeds."""
        count = self.run(run).seeds
        return [run] if count == 1 else [f"{run}/seed-{k}" for k in range(count)]

    def dataset(self, name: str) -> DatasetRow:
        """The row of a dataset."""
        row: DatasetRow = self._row("datasets", name)
        return row

    def format(self, dataset: str) -> str:
        """The module of tad/datasets that reads a dataset."""
        row = self.dataset(dataset)
        self._known("datasets", row.format or dataset, f"datasets.{dataset}.format")
        return row.format or dataset

    @cached_property
    def generated(self) -> set[str]:
        """Datasets whose files the workflow makes itself."""
        return {d for d in self.file.datasets if "render" in plugins.document("datasets", self.format(d))}

    def made_by(self, stage: str) -> set[str]:
        """Feature sets by the stage that makes them: `extract` from the videos, `convert` of published ones, `join` of
        others, `index` of frames."""
        return {name for name, row in self.file.features.items() if row.made_by == stage}

    def parts(self, features: str) -> list[str]:
        """The feature sets that one is joined from, in order; of any other, itself."""
        return parts_of(self, features)

    # ── resolution ──

    def _plugin(self, kind: str, value: str | dict[str, Any], where: str) -> tuple[str, Settings]:
        if not isinstance(value, str) and "name" not in value:
            raise TadError(f"{self.source}: {where} needs a `name`, beside what it changes")
        name = value if isinstance(value, str) else str(value["name"])
        self._known(kind, name, where)
        return name, {} if isinstance(value, str) else {k: v for k, v in value.items() if k != "name"}

    def _known(self, kind: str, name: str, where: str) -> None:
        known = recipes.names() if kind == "recipes" else plugins.names(kind)
        if name not in known:
            hint = plugins.nearest(name, known)
            raise TadError(f"{self.source}: {where}: no {kind[:-1]} is called '{name}'; {hint}")

    def _layers(self, kind: str, name: str, sections: tuple[str, ...], variants: list[str]) -> Resolved:
        document = plugins.document(kind, name)
        file = f"tad/{kind}/{name}.yaml"
        resolved = Resolved({s: document.get(s, {}) for s in sections})
        for section, values in resolved.sections.items():
            resolved.origin |= {f"{section}.{key}": file for key in values}
        for variant in variants:
            for section, changes in document.get("for", {}).get(variant, {}).items():
                if section in sections:
                    resolved.lay(section, changes, f"{file} for {variant}")
        return resolved

    def resolve_dataset(self, name: str) -> Resolved:
        """Sections `settings`, `eval` and `render` of a dataset."""
        row = self.dataset(name)
        resolved = self._layers("datasets", self.format(name), ("settings", "eval", "render"), [name])
        resolved.lay("settings", row.settings, f"{self.source} datasets.{name}")
        resolved.lay("eval", row.eval, f"{self.source} datasets.{name}")
        resolved.lay("render", row.render, f"{self.source} datasets.{name}")
        return resolved

    def _encoder(self, features: str) -> tuple[str, Settings, str]:
        """The backbone of a feature set, what its row changes in the settings, and the recipe beneath ("": none)."""
        row: FeatureRow = self._row("features", features)
        if not row.recipe:
            return (*self._plugin("backbones", row.backbone, f"features.{features}.backbone"), "")
        name, changes = self._plugin("recipes", row.recipe, f"features.{features}.recipe")
        return recipes.recipe(name).backbone, changes, name

    def notes(self, features: str) -> list[str]:
        """What is known of the recipe of a feature set, line by line; nothing for rows without one."""
        row: FeatureRow = self._row("features", features)
        if row.join:
            return [f"{part}: {line}" for part in row.join for line in self.notes(part)]
        _, changes, recipe = self._encoder(features) if row.recipe else ("", {}, "")
        return recipes.notes(recipe, changed=[*changes, *row.clip]) if recipe else []

    def resolve_features(self, name: str, dataset: str) -> Resolved:
        """Sections `settings`, `clip` and `pretrain` of a feature set for a dataset (imported: the first two; joined:
        the first, and `clip` of its first part)."""
        row: FeatureRow = self._row("features", name)
        where = f"features.{name}"
        if row.join:
            return join_sections(list(row.join), self.resolve_features(row.join[0], dataset), f"{self.source} {where}")
        if row.source or row.frames:
            names = ("source", "dim", "dtype", "prefix", "layout", "tolerance", "timing", "every", "channels")
            own = row.frames.model_dump() if row.frames else {key: getattr(row, key) for key in names}
            given = Resolved({"settings": own, "clip": row.frames.clip if row.frames else row.clip})
            given.origin = {f"{s}.{key}": f"{self.source} {where}" for s in given.sections for key in given.sections[s]}
            return given
        backbone, changes, recipe = self._encoder(name)
        resolved = self._layers("backbones", backbone, ("settings", "clip", "pretrain"), [dataset, name])
        for section, values in (recipes.sections(recipe) if recipe else {}).items():
            resolved.lay(section, values, recipes.source(recipe))
        source = f"{self.source} {where}"
        resolved.lay("settings", changes, source)
        resolved.lay("clip", row.clip, source)
        if row.weights == "pretrain" and not resolved.sections["pretrain"]:
            raise TadError(
                f"{self.source}: {where}: backbone {backbone} is not trained here; set `weights` to its file or folder"
            )
        resolved.lay("pretrain", row.pretrain, source)
        return resolved

    def _variants(self, dataset: str) -> list[str]:
        """The names under which a detector's YAML may have settings for a dataset: its format's, that with the format's
        setting `target` where it has one, and its own. The later wins."""
        format_, settings = self.format(dataset), self.resolve_dataset(dataset).sections["settings"]
        target = [f"{format_}_{settings['target']}"] if "target" in settings else []
        return list(dict.fromkeys([format_, *target, dataset]))

    def resolve_run(self, name: str) -> Resolved:
        """Sections `settings`, `train`, `detect`, `nms` and `eval` of a run."""
        row = self.run(name)
        where = f"runs.{name}"
        detector, changes = self._plugin("detectors", row.detector, f"{where}.detector")
        names = self._variants(row.dataset)
        variants = [*names, *(f"{name}-{row.features}" for name in names)]
        resolved = self._layers("detectors", detector, ("settings", "train", "detect", "nms"), variants)
        evaluation = self.resolve_dataset(row.dataset)
        resolved.sections["eval"] = evaluation.sections["eval"]
        resolved.origin |= {k: v for k, v in evaluation.origin.items() if k.startswith("eval.")}
        source = f"{self.source} {where}"
        resolved.lay("settings", changes, source)
        for section in ("train", "detect", "nms", "eval"):
            resolved.lay(section, getattr(row, section), source)
        return resolved

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
        source = f"{self.source} {'runs.' + run if run else 'datasets.' + dataset}"
        if run:
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
