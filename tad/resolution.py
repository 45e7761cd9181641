"""config.yaml's rows and the components' YAML → resolved sections, each value with the file that it comes from.

Four layers, the later wins, an unknown key is an error in each: the component's YAML; its `for: <dataset>` section
(what the paper changes per data set); the row in config.yaml; Snakemake's --config and --configfile.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from tad import plugins, recipes
from tad.errors import TadError
from tad.joins import join_sections, parts_of
from tad.resolved import Resolved, parse
from tad.rows import ConfigFile, DatasetRow, FeatureRow, RunRow
from tad.specs import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
RESERVED = {"annotations", "videos", "features", "data", "logs"}


class Resolution:
    """The rows of a configuration, with names that can be file names, and what they mean together."""

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
