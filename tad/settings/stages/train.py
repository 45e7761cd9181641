"""Settings of train, resolved from the rows of config.yaml."""

from typing import Self

from pydantic import Field, model_validator

from tad.core.errors import TadError
from tad.settings import plugins
from tad.settings.adapters import AdaptersSpec, adapters_of
from tad.settings.base import Names, Plugin, Settings, Spec, StageSpec
from tad.settings.config import Config
from tad.settings.distill import DistillSpec
from tad.settings.frames import Frames
from tad.settings.labels import LabelsSpec, label_settings
from tad.settings.lessons import distillation_of
from tad.settings.sections import TrainSpec as TrainSpec


class TextsSpec(Spec):
    """The texts of a prompted detector, and the backbone that embeds them."""

    backbone: Plugin
    phrases: dict[str, tuple[str, ...]] = Field(default={}, description="class → its phrases, if not its name")


class TrainStageSpec(StageSpec):
    """Settings passed to `tad train`."""

    run: str
    dataset: str
    features: str
    detector: Plugin
    train: TrainSpec
    seed: int
    exclude: dict[str, str] = {}
    frames: Frames = ""
    start: str = Field(default="", description="backbone whose published weights initialise a detector on frames")
    adapters: AdaptersSpec | None = Field(
        default=None, exclude_if=lambda value: value is None, description="adapters in a frozen encoder of frames"
    )
    distill: DistillSpec | None = None
    texts: TextsSpec | None = Field(default=None, description="texts of a prompted detector, which is not trained")
    labels: LabelsSpec | None = Field(default=None, description="which train videos have labels; by default all")

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if self.distill and self.labels and self.labels.others == "pseudo":
            raise ValueError("labels.others pseudo does not go with distill; set labels.others: unused")
        return self

    @model_validator(mode="after")
    def _averages_to_teach(self) -> Self:
        taught = self.labels is not None and self.labels.others == "pseudo" and self.labels.teacher == "ema"
        if taught and self.train.ema_decay == 0:
            raise ValueError(
                "labels.teacher ema needs averaged weights, but train.ema_decay is 0; set ema_decay"
                " (0.99), or labels.teacher: self"
            )
        return self

    @model_validator(mode="after")
    def _features_stretch(self) -> Self:
        if self.train.stretch > 1 and self.frames:
            raise ValueError(
                f"train.stretch: {self.train.stretch:g}: features can be interpolated in time, frames cannot; set"
                " train.stretch: 1"
            )
        return self

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        row, detector = config.run(names.run), config.detector(names.run)
        recipe = config.resolve_run(names.run).sections["train"]
        _check_one_draw(config, names)
        return {
            "run": names.run,
            "dataset": names.dataset,
            "features": names.features,
            "detector": detector,
            "train": recipe,
            "seed": row.seed,
            "exclude": row.exclude,
            **config.frames(names.features),
            "texts": _texts(config, names),
            "adapters": adapters_of(config, names.run),
            "distill": distillation_of(config, names.run) if row.distill else None,
            **label_settings(row.labels, plugins.document("detectors", detector["name"])),
        }


def _texts(config: Config, names: Names) -> Settings | None:
    """Return the texts of a run's prompted detector; None for other detectors.

    Raises:
        TadError: its features are not those of an image-text encoder with weights, or its row trains.
    """
    if not config.detector_settings(names.run).prompted:
        return None
    row, entry = config.run(names.run), config.feature_set(names.features)
    where = config.where("runs", names.run)
    backbone = config.backbone(names.features, names.dataset) if entry.made_by == "extract" else None
    if backbone is None or backbone.name != "image_text":
        raise TadError(
            f"{where}.features: '{names.features}': detector {config.detector_name(names.run)} compares snippets with"
            " texts; give a feature set with backbone image_text, whose space both share"
        )
    if row.distill or row.labels:
        raise TadError(f"{where}: {'distill' if row.distill else 'labels'} needs a training, which this detector lacks")
    return {"backbone": backbone.model_dump(), "phrases": config.dataset(names.dataset).classes.text}


def _check_one_draw(config: Config, names: Names) -> None:
    """Check that a run and its encoder, if trained on a share of the labels, use the same labels.

    Raises:
        TadError: the encoder is trained on other labels or other videos than the run.
    """
    row, given = config.run(names.run), label_settings(config.run(names.run).labels, {}).get("labels")
    for part in config.parts(names.features):
        entry = config.feature_set(part)
        pretrain = config.resolve_features(part, names.dataset).sections.get("pretrain", {})
        if given is None or entry.weights != "pretrain" or pretrain.get("share", 1) == 1:
            continue
        where, labels = f"{config.where('runs', names.run)}.labels", LabelsSpec.model_validate(given)
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
                f"{config.where('runs', names.run)}.exclude: the run would draw its labels among other videos than the"
                f" encoder of features {part}; exclude them from dataset {names.dataset}"
            )
