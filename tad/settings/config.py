"""The checked configuration: the settings of every stage of every run."""

import os
from pathlib import Path

from tad.core.errors import TadError
from tad.settings import plugins
from tad.settings.base import Names, Plugin, Settings, Spec
from tad.settings.components import DetectorSettings
from tad.settings.include import merged
from tad.settings.joins import check_joins
from tad.settings.labels import labels_seen
from tad.settings.layers import Resolution
from tad.settings.paths import path_of
from tad.settings.resolved import parse
from tad.settings.rows import RunRow
from tad.settings.stage_table import OF_A_RUN, STAGES
from tad.settings.strict_yaml import read_yaml


class Config(Resolution):
    """A resolved configuration; it resolves the settings of all runs at once, so that a typo stops a dry run."""

    def __init__(
        self,
        values: Settings,
        source: str = "config.yaml",
        root: Path = Path(),
        *,
        written: Settings | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(values, source, root, written=written, folder=folder)
        self._checked: set[str] = set()
        check_joins(self)
        for run in self.own("runs"):
            self.check(run)

    def check(self, run: str) -> None:
        """Resolve the settings of every stage of a run, so that a mistake stops a dry run; later calls are no-ops.

        Raises:
            TadError: invalid settings, or rows that do not exist.
        """
        if run in self._checked:
            return
        self._checked.add(run)
        row = self.run(run)
        self._check_names(run, row)
        self.spec("annotate", dataset=row.dataset)
        self.spec("check", dataset=row.dataset)
        for features in {row.features, *self.parts(row.features)}:
            kind = self.feature_set(features)
            self.spec(kind.made_by, dataset=row.dataset, features=features)
            if kind.made_by == "extract" and kind.weights == "pretrain":
                self.spec("pretrain", dataset=row.dataset, features=features)
        if row.adapters is not None:
            self._check_encoder(row.adapters.encoder, row.dataset)
        for stage in OF_A_RUN:
            if stage != "summarise" or row.seeds > 1:
                self.spec(stage, run=run)

    def _check_encoder(self, features: str, dataset: str) -> None:
        """Resolve the settings of the encoder of adapters, if its row exists (the run's own settings say if not)."""
        row = self.file.features.get(features)
        if row is not None and row.made_by == "extract" and row.weights == "pretrain":
            self.spec("pretrain", dataset=dataset, features=features)

    def _check_names(self, run: str, row: RunRow) -> None:
        for key, kind, name in (("dataset", "datasets", row.dataset), ("features", "features", row.features)):
            if name not in (rows := getattr(self.file, kind)):
                where = f"{self.where('runs', run)}.{key}"
                raise TadError(f"{where}: {kind} has no '{name}'; {plugins.nearest(name, list(rows))}")

    @classmethod
    def read(cls, path: Path = Path("config.yaml"), *, changes: Settings | None = None) -> "Config":
        """Read the configuration from a YAML file; paths in it are relative to the file's folder.

        Args:
            path: the file.
            changes: values that override those of the file, as with Snakemake's --config.
        """
        values = read_yaml(Path(path))
        changed = merged(values, changes or {})
        return cls(changed, source=str(path), root=Path(path).parent, written=values)

    def table_of(self, run: str) -> str:
        """Return the stage that writes a run's annotation table: `check` if its videos are decoded, else `annotate`."""
        made_by = {self.feature_set(part).made_by for part in self.parts(self.run(run).features)}
        return "check" if made_by & {"extract", "index", "encode"} else "annotate"

    def table_file(self, run: str) -> Path:
        """Return the path of the annotation table that the results of a run were computed with.

        Results from before stage `check` existed use the table of `annotate`.
        """
        stages, dataset = (self.table_of(run), "annotate"), self.run(run).dataset
        paths = [path_of(stage, root=self.root, dataset=dataset) for stage in stages]
        return next((path for path in paths if path.is_file()), paths[0])

    # ── specs ──

    def recipe(self, features: str, dataset: str) -> Settings:
        """Return the fields of the recipe of a feature set for a dataset."""
        row = self.feature_set(features)
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
        """Return the settings of a stage for a run, or for a dataset and, for some stages, a feature set."""
        kind, name = ("features", features) if features else ("datasets", dataset)
        source = f"{self.source_of(kind, name)} {kind}.{name}"
        if stage == "pretrain":
            source += ".pretrain"
        if run:
            self.check(run.partition("/")[0])
            source = f"{self.source_of('runs', run)} runs.{run}"
            row = self.run(run)
            dataset, features = row.dataset, row.features
        settings = STAGES[stage].spec_class()
        return parse(settings, settings.resolve(self, Names(run, dataset, features)), source)

    def detector(self, run: str) -> Settings:
        """Return the name and the resolved settings of a run's detector."""
        return {"name": self.detector_name(run), "settings": self.resolve_run(run).sections["settings"]}

    def detector_settings(self, run: str) -> DetectorSettings:
        """Return the settings of a run's detector as an object, which also has the detector's capabilities."""
        settings = self.resolve_run(run).specs["settings"]
        assert isinstance(settings, DetectorSettings)
        return settings

    def frames(self, features: str) -> Settings:
        """Return the fields `frames` and `start` of a training on a feature set.

        They are the modality of the frames, and the backbone whose published weights initialise a detector on frames;
        both are empty for stored features.
        """
        row = self.feature_set(features)
        begins = row.frames is not None and row.weights != "pretrain"
        return {"frames": row.frames.modality if row.frames else "", "start": "i3d" if begins else ""}

    def backbone(self, features: str, dataset: str) -> Plugin:
        """Return the backbone of a feature set with its settings for a dataset."""
        if frames := self.feature_set(features).frames:  # it initialises detectors on frames
            return Plugin(name="i3d", settings=plugins.defaults("backbones", "i3d") | {"streams": frames.modality})
        return Plugin.model_validate(self.recipe(features, dataset)["backbone"])

    def external_scores(self, run: str) -> str:
        """Return the source of the video-level class scores that a run combines with its detections.

        It is a file as named in config.yaml, `own` for the workflow's own classifier, or empty for none.
        """
        return os.path.expanduser(str(self.run(run).external.get("source", "")))
