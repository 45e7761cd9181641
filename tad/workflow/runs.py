"""Input functions of the rules for runs: training, detection, fusion, class scores and evaluation."""

from collections.abc import Callable
from pathlib import Path

from tad.core.errors import MissingError, TadError
from tad.provenance import stamps
from tad.settings.config import Config
from tad.settings.fuse import fused_with
from tad.settings.labels import missing_split, split_file
from tad.settings.lessons import teachers_of
from tad.settings.paths import path_of
from tad.weights.published import located, tokenizer_beside
from tad.workflow.missing import missing_of_run, require, require_scores

# The epoch rule that tad.training.io.published writes; importing it would import torch.
IMPORTED = "published checkpoint"


class Wildcards:
    """The wildcards of a job, as Snakemake passes them to input functions; or with these values, for another job.

    A rule has only some of them.
    """

    dataset: str
    features: str
    run: str
    shard: str

    def __init__(self, **values: str) -> None:
        self.__dict__.update(values)


class RunInputs:
    """The part of `tad.workflow.rules.Workflow` that is about runs."""

    config: Config
    content: Callable[..., str]
    weights: Callable[[Wildcards], str]
    weights_content: Callable[[Wildcards], str]

    def start_weights(self, wildcards: Wildcards) -> list[str]:
        """Return the user-supplied weights that initialise a run on frames, or embed its texts; empty without them."""
        row = self.config.run(wildcards.run)
        entry = self.config.file.features[row.features]
        if self.config.detector_settings(wildcards.run).prompted:
            return [str(located(entry.weights, self.config.backbone(row.features, row.dataset)))]
        return [entry.weights] if entry.made_by == "index" and entry.weights != "pretrain" else []

    def start_content(self, wildcards: Wildcards) -> str:
        """Return a content key of the weights of `start_weights`; empty without any."""
        row, weights = self.config.run(wildcards.run), self.start_weights(wildcards)
        if not weights:
            return ""
        content = self.weights_content(Wildcards(dataset=row.dataset, features=row.features))
        if self.config.detector_settings(wildcards.run).prompted:
            backbone = self.config.backbone(row.features, row.dataset)
            content += self.content(tokenizer_beside(Path(weights[0]), backbone)[1])
        return content

    def encoder_weights(self, wildcards: Wildcards) -> list[str]:
        """Return the weights of the encoder of a run's adapters; empty without adapters."""
        row = self.config.run(wildcards.run)
        if row.adapters is None:
            return []
        return [self.weights(Wildcards(dataset=row.dataset, features=row.adapters.encoder))]

    def encoder_content(self, wildcards: Wildcards) -> str:
        """Return a content key of the weights of `encoder_weights`; empty without any."""
        row = self.config.run(wildcards.run)
        if row.adapters is None:
            return ""
        return self.weights_content(Wildcards(dataset=row.dataset, features=row.adapters.encoder))

    def features_of(self, wildcards: Wildcards) -> str:
        """Return the feature index that a run reads."""
        row = self.config.run(wildcards.run)
        require(self.config, row.dataset, row.features)
        return str(path_of("features", dataset=row.dataset, features=row.features))

    def fused_models(self, wildcards: Wildcards) -> list[str]:
        """Return the model of the run whose raw outputs are averaged with this run's; empty without fusion."""
        other = fused_with(self.config, wildcards.run)
        return [str(path_of("train", run=other))] if other else []

    def fused_features(self, wildcards: Wildcards) -> list[str]:
        """Return the feature index that the fused run reads; empty without fusion."""
        other = fused_with(self.config, wildcards.run)
        return [self.features_of(Wildcards(run=other))] if other else []

    def final(self, wildcards: Wildcards) -> bool:
        """Return whether the run's model is final, i.e. stays up to date even if its inputs are newer.

        Final models are published checkpoints, and students whose teachers' inputs are missing.

        Raises:
            TadError: the model file was not written by `tad`.
        """
        model = path_of("train", run=wildcards.run)
        if not model.is_file():
            return False
        return stamps.read_stamp(model).get("epoch_rule") == IMPORTED or self._untaught(wildcards.run)

    def _untaught(self, run: str) -> bool:
        teachers = teachers_of(self.config, run).values()
        return any(missing_of_run(self.config, teacher.partition("/")[0]) for teacher in teachers)

    def _teachers(self, run: str) -> list[str]:
        """Return the teachers' trainings; empty if the run is already trained and inputs of its teachers are missing.

        Raises:
            TadError: the run is not trained yet, and inputs of a teacher are missing.
        """
        base, teachers = run.partition("/")[0], list(teachers_of(self.config, run).values())
        if path_of("train", run=run).is_file() and self._untaught(run):
            return []
        for teacher in teachers:
            if needs := missing_of_run(self.config, teacher.partition("/")[0]):
                raise MissingError(f"run {base} is distilled from run {teacher}: {'; '.join(needs)}")
        return teachers

    def teachers(self, wildcards: Wildcards) -> list[str]:
        """Return the models of a run's teachers, which are trained first."""
        return [str(path_of("train", run=teacher)) for teacher in self._teachers(wildcards.run)]

    def teacher_features(self, wildcards: Wildcards) -> list[str]:
        """Return the feature index of each teacher of a run."""
        return [self.features_of(Wildcards(run=teacher)) for teacher in self._teachers(wildcards.run)]

    def video_scores(self, wildcards: Wildcards) -> list[str]:
        """Return the video-level class scores to combine with a run's detections: none, the run's own, or a file."""
        require_scores(self.config, wildcards.run)
        source = self.config.external_scores(wildcards.run)
        if source == "own":
            return [str(path_of("classify", run=wildcards.run))]
        return [source] if source else []

    def video_scores_content(self, wildcards: Wildcards) -> str:
        """Return a content key of a file of class scores; empty without one or for scores made by the workflow."""
        source = self.config.external_scores(wildcards.run)
        return "" if source in ("", "own") else self.content(self.config.root / source)

    def labels_content(self, wildcards: Wildcards) -> str:
        """Return a content key of the file that lists a run's labelled train videos; empty without one."""
        labels = self.config.run(wildcards.run).labels
        if needs := missing_split(self.config.root, wildcards.run, labels):
            raise TadError(needs[0])
        file = split_file(labels)
        return self.content(self.config.root / file) if file else ""

    def seed_scores(self, wildcards: Wildcards) -> list[str]:
        """Return the score files of a run, one per seed."""
        return [str(path_of("evaluate", run=name)) for name in self.config.trainings(wildcards.run)]

    def seed_detections(self, wildcards: Wildcards) -> list[str]:
        """Return the detection files of a run, one per seed."""
        return [str(path_of("suppress", run=name)) for name in self.config.trainings(wildcards.run)]

    def annotations_of(self, wildcards: Wildcards) -> str:
        """Return the annotation table that a run reads."""
        row = self.config.run(wildcards.run)
        require(self.config, row.dataset, row.features)
        return str(path_of(self.config.table_of(wildcards.run), dataset=row.dataset))
