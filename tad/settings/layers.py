"""Resolve rows of config.yaml and component settings to sections; each value keeps the file that it comes from.

There are five layers, and a later one overrides earlier ones: the defaults in the settings classes; the component's
YAML; its `for: <dataset>` (what the paper changes per data set); the row in config.yaml; Snakemake's --config and
--configfile. An unknown key is an error in every layer.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from tad.core.errors import TadError
from tad.settings import plugins, recipes
from tad.settings.base import Settings
from tad.settings.components import DetectorSettings, FormatSettings
from tad.settings.include import KINDS, with_included
from tad.settings.paths import FOLDERS
from tad.settings.resolved import Resolved, of_component, parse
from tad.settings.rows import ConfigFile, DatasetRow, FeatureRow, RunRow
from tad.settings.sections import DetectSpec, EvalSpec, TrainSpec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def wrong_name(name: str, kind: str) -> str:
    """Return why a row of `datasets`, `features` or `runs` cannot have a name; empty if it can."""
    if not NAME.fullmatch(name):
        return f"the name '{name}' has other characters than the letters A to Z, digits, _ and -; choose another"
    if kind == "runs" and name in FOLDERS:
        return f"'{name}' is a folder of all runs (as {', '.join(sorted(FOLDERS - {name}))}); choose another name"
    return ""


class Resolution:
    """The rows of a configuration, with checked names, and the settings that they resolve to."""

    def __init__(
        self,
        values: Settings,
        source: str = "config.yaml",
        root: Path = Path(),
        *,
        written: Settings | None = None,
        folder: Path | None = None,
    ) -> None:
        """Read the rows of a configuration and of the files that it includes.

        Args:
            values: the whole configuration.
            source: its name in messages.
            root: the folder that paths in rows are relative to.
            written: the configuration file's own values, if `values` also has changes from the command line.
            folder: the folder that `include` is relative to; `root` by default.

        Raises:
            TadError: an invalid row, a row that is in two files, or a missing included file.
        """
        self.source = source
        self.root = Path(root)
        self._resolved: dict[tuple[str, ...], Resolved] = {}
        self.included = with_included(
            values, folder=self.root if folder is None else folder, source=source, written=written or values
        )
        self.file = parse(ConfigFile, self.included.values, source)
        for kind in KINDS:
            for name in getattr(self.file, kind):
                if why := wrong_name(name, kind):
                    raise TadError(f"{self.where(kind, name)}: {why}")

    # ── rows ──

    def source_of(self, kind: str, name: str) -> str:
        """Return the file of a row of `datasets`, `features` or `runs`."""
        return self.included.file_of(kind, name) or self.source

    def where(self, kind: str, name: str) -> str:
        """Return the name of a row in messages: its file and its key."""
        return f"{self.source_of(kind, name)}: {kind}.{name}"

    def own(self, kind: str) -> list[str]:
        """Return the names of rows that are not included, or that Snakemake's command line changes."""
        files, changed = self.included.files, self.included.changed
        return [name for name in getattr(self.file, kind) if (kind, name) not in files or (kind, name) in changed]

    def _row(self, kind: str, name: str) -> Any:
        rows = getattr(self.file, kind)
        if name not in rows:
            raise TadError(f"{self.source}: {kind} has no '{name}'; {plugins.nearest(name, list(rows))}")
        return rows[name]

    def run(self, name: str) -> RunRow:
        """Return the row of a run; `<run>/seed-<k>` is the k-th training of a run with several seeds."""
        base, _, part = name.partition("/")
        row: RunRow = self._row("runs", base)
        if not part:
            return row
        if name not in self.trainings(base):
            raise TadError(f"{self.where('runs', base)}.seeds: {row.seeds}: there is no '{part}'; raise seeds")
        return row.model_copy(update={"seed": row.seed + int(part.removeprefix("seed-")), "seeds": 1})

    def trainings(self, run: str) -> list[str]:
        """Return the trainings of a run: the run itself, or `<run>/seed-<k>` for each of several seeds."""
        count = self.run(run).seeds
        return [run] if count == 1 else [f"{run}/seed-{k}" for k in range(count)]

    def dataset(self, name: str) -> DatasetRow:
        """Return the row of a dataset."""
        row: DatasetRow = self._row("datasets", name)
        return row

    def feature_set(self, name: str) -> FeatureRow:
        """Return the row of a feature set."""
        row: FeatureRow = self._row("features", name)
        return row

    def format(self, dataset: str) -> str:
        """Return the module of tad/datasets that reads a dataset."""
        row = self.dataset(dataset)
        self._known("datasets", row.format or dataset, f"{self.where('datasets', dataset)}.format")
        return row.format or dataset

    @cached_property
    def generated(self) -> set[str]:
        """Datasets whose files the workflow generates."""
        return {name for name in self.file.datasets if self._renders(self.format(name))}

    def _renders(self, format_: str) -> bool:
        model = plugins.settings_class("datasets", format_)
        return issubclass(model, FormatSettings) and model.render is not None

    def made_by(self, stage: str) -> set[str]:
        """Return the feature sets that a stage makes.

        `extract` makes those of videos, `convert` published ones, `join` joined ones and `index` those of frames.
        """
        return {name for name, row in self.file.features.items() if row.made_by == stage}

    def parts(self, features: str) -> list[str]:
        """Return the parts of a joined feature set, in order; for any other feature set, itself."""
        row = self.file.features.get(features)
        return list(row.join) if row and row.join else [features]

    # ── resolution ──

    def _plugin(self, kind: str, value: str | dict[str, Any], where: str) -> tuple[str, Settings]:
        if not isinstance(value, str) and "name" not in value:
            raise TadError(f"{where} needs a `name` in addition to its changes")
        name = value if isinstance(value, str) else str(value["name"])
        self._known(kind, name, where)
        return name, {} if isinstance(value, str) else {k: v for k, v in value.items() if k != "name"}

    def _known(self, kind: str, name: str, where: str) -> None:
        known = recipes.names() if kind == "recipes" else plugins.names(kind)
        if name not in known:
            hint = plugins.nearest(name, known)
            raise TadError(f"{where}: no {kind[:-1]} is called '{name}'; {hint}")

    def resolve_dataset(self, name: str) -> Resolved:
        """Resolve the sections `settings` and `eval` of a data set, and `render` if the workflow generates it."""
        if (known := self._resolved.get(("datasets", name))) is not None:
            return known
        row, source = self.dataset(name), f"{self.source_of('datasets', name)} datasets.{name}"
        resolved = of_component("datasets", self.format(name), [name])
        if row.kind == "moments":
            resolved.lay("eval", {"protocol": "moments"}, f"{source} (kind: moments)")
        for section in ("settings", "eval", "render"):
            resolved.lay(section, getattr(row, section), source)
        return self._keep(resolved.check(source), "datasets", name)

    def _keep(self, resolved: Resolved, *key: str) -> Resolved:
        """Cache a resolved row, which must not be changed afterwards."""
        self._resolved[key] = resolved
        return resolved

    def _encoder(self, features: str) -> tuple[str, Settings, str]:
        """Return a feature set's backbone, the changes of its row, and its recipe ("" for none)."""
        row, where = self.feature_set(features), self.where("features", features)
        if not row.recipe:
            return (*self._plugin("backbones", row.backbone, f"{where}.backbone"), "")
        name, changes = self._plugin("recipes", row.recipe, f"{where}.recipe")
        return recipes.recipe(name).backbone, changes, name

    def notes(self, features: str) -> list[str]:
        """Return the notes on the recipe of a feature set, one per line; empty for rows without a recipe."""
        row = self.feature_set(features)
        if row.join:
            return [f"{part}: {line}" for part in row.join for line in self.notes(part)]
        _, changes, recipe = self._encoder(features) if row.recipe else ("", {}, "")
        return recipes.notes(recipe, changed=[*changes, *row.clip]) if recipe else []

    def resolve_features(self, name: str, dataset: str) -> Resolved:
        """Resolve the sections `settings`, `clip` and `pretrain` of a feature set for a dataset.

        Imported features have the first two, joined ones `settings` and the `clip` of their first part.
        """
        if (known := self._resolved.get(("features", name, dataset))) is not None:
            return known
        row, source = self.feature_set(name), f"{self.source_of('features', name)} features.{name}"
        if row.join:
            resolved = _joined(list(row.join), self.resolve_features(row.join[0], dataset), source)
        elif row.run:
            resolved = self._of_run(row, source)
        elif row.source or row.frames:
            resolved = _imported(row, source)
        else:
            resolved = self._encoded(name, dataset, source)
        return self._keep(resolved, "features", name, dataset)

    def _of_run(self, row: FeatureRow, source: str) -> Resolved:
        """Return the sections of features that the encoder of a run computes: one row per position of its windows.

        Raises:
            TadError: there is no such run, or it has no adapters.
        """
        run = self.run(row.run)
        frames = self.feature_set(run.features).frames
        if run.adapters is None or frames is None:
            raise TadError(f"{source}.run: {row.run} has no adapters on frames; name a run with `adapters`")
        each = run.adapters.frames_per_position
        clip = {"length": each, "stride": each, "policy": "resample", "rate": frames.rate}
        given = Resolved({"settings": {"run": row.run}, "clip": clip})
        given.origin = {f"{section}.{key}": source for section in given.sections for key in given.sections[section]}
        return given

    def _encoded(self, name: str, dataset: str, source: str) -> Resolved:
        """Resolve the sections of a feature set that a backbone computes."""
        row = self.feature_set(name)
        backbone, changes, recipe = self._encoder(name)
        resolved = of_component("backbones", backbone, [dataset, name])
        for section, values in (recipes.sections(recipe) if recipe else {}).items():
            resolved.lay(section, values, recipes.source(recipe))
        resolved.lay("settings", changes, source)
        resolved.lay("clip", row.clip, source)
        if row.weights == "pretrain" and "pretrain" not in resolved.sections:
            raise TadError(
                f"{self.where('features', name)}: backbone {backbone} is not trained here; set `weights` to its file or"
                " folder, or to `package` where a Python package holds them (`tad weights list`)"
            )
        resolved.lay("pretrain", row.pretrain, source)
        return resolved.check(source)

    def _variants(self, dataset: str) -> list[str]:
        """Return the names under which a detector's YAML may have settings for a dataset; later ones override.

        They are the format, the format with its setting `target` if it has one, and the dataset itself.
        """
        format_, settings = self.format(dataset), self.resolve_dataset(dataset).sections["settings"]
        target = [f"{format_}_{settings['target']}"] if "target" in settings else []
        return list(dict.fromkeys([format_, *target, dataset]))

    def detector_name(self, run: str) -> str:
        """Return the module of tad/detectors that a run names."""
        return self._plugin("detectors", self.run(run).detector, f"{self.where('runs', run)}.detector")[0]

    def resolve_run(self, name: str) -> Resolved:
        """Resolve the sections `settings`, `train`, `detect`, `nms` and `eval` of a run, and check them together."""
        if (known := self._resolved.get(("runs", name))) is not None:
            return known
        row, where, source = self.run(name), self.where("runs", name), f"{self.source_of('runs', name)} runs.{name}"
        detector, changes = self._plugin("detectors", row.detector, f"{where}.detector")
        names = self._variants(row.dataset)
        resolved = of_component("detectors", detector, [*names, *(f"{dataset}-{row.features}" for dataset in names)])
        evaluation = self.resolve_dataset(row.dataset)
        resolved.sections["eval"], resolved.models["eval"] = evaluation.sections["eval"], EvalSpec
        resolved.origin |= {k: v for k, v in evaluation.origin.items() if k.startswith("eval.")}
        resolved.lay("settings", changes, source)
        for section in ("train", "detect", "nms", "eval"):
            resolved.lay(section, getattr(row, section), source)
        resolved.check(source)
        settings, train, detect = (resolved.specs[section] for section in ("settings", "train", "detect"))
        assert isinstance(settings, DetectorSettings)
        assert isinstance(train, TrainSpec)
        assert isinstance(detect, DetectSpec)
        try:
            settings.check(train=train, detect=detect)
        except ValueError as error:
            raise TadError(f"{where}.{error}") from None
        self._check_kind(name, settings, str(resolved.sections["nms"]["kind"]))
        return self._keep(resolved, "runs", name)

    def _check_kind(self, name: str, settings: DetectorSettings, suppressed: str) -> None:
        """Check that the data set, the detector and the suppression are all of segments, or all of moments.

        Raises:
            TadError: they are not; the message says what fits.
        """
        row, where = self.run(name), self.where("runs", name)
        kind, own = self.dataset(row.dataset).kind, "moments" if settings.moments else "segments"
        if kind != own:
            fits = "set `kind: moments` in its row" if settings.moments else "use a detector of moments, spot_moments"
            raise TadError(
                f"{where}: detector {self.detector_name(name)} detects {own}, and data set {row.dataset} has {kind};"
                f" {fits}"
            )
        if suppressed != own:
            raise TadError(f"{where}.nms.kind: {suppressed}: the detector detects {own}; set kind: {own}")


def _joined(parts: list[str], first: Resolved, source: str) -> Resolved:
    """Return the sections of joined features: their parts, and the clips of the first part, which set the times."""
    clips = {key: origin for key, origin in first.origin.items() if key.startswith("clip.")}
    sections = {"settings": {"join": parts}, "clip": first.sections["clip"]}
    return Resolved(sections, clips | {"settings.join": source})


def _imported(row: FeatureRow, source: str) -> Resolved:
    """Return the sections of published features, or of frames."""
    names = ("source", "dim", "dtype", "prefix", "suffix", "layout", "tolerance", "timing", "every", "channels")
    own = row.frames.model_dump() if row.frames else {key: getattr(row, key) for key in names}
    if row.keypoints:
        own |= {"dim": row.stored_dim, "keypoints": row.keypoints.model_dump(mode="json")}
    given = Resolved({"settings": own, "clip": row.frames.clip if row.frames else row.clip})
    given.origin = {f"{section}.{key}": source for section in given.sections for key in given.sections[section]}
    return given
