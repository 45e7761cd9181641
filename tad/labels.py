"""`labels` of a run → which train videos have labels, and what the others teach; torch-free."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tad.spec_base import Fraction, Positive, Settings, Spec


class LabelsSpec(Spec):
    """`labels` of a run; a detector's YAML may have defaults of its own under `labels`."""

    share: Fraction = Field(default=1.0, description="of each class's train videos, drawn by seed; 10% or 0.1")
    seed: int = Field(default=0, ge=0, description="of the draw; the same for every training of a run")
    file: str = Field(
        default="", description="published split in place of share: CSV with the columns video and subset (training, …)"
    )
    on_absent: Literal["error", "ignore"] = Field(
        default="error", description="videos of the file that are not in the train split: stop, or go without them"
    )
    others: Literal["pseudo", "unused"] = Field(
        default="pseudo", description="videos without labels: taught by the detector's own detections, or left out"
    )
    teacher: Literal["ema", "self"] = Field(
        default="ema", description="whose detections they are: of the averaged weights, or of the present ones"
    )
    confidence: Fraction = Field(default=0.6, description="score above which a detection, or a snippet's class, counts")
    doubt: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="score above which others are no background either; 0: all else is background",
    )
    mask: Fraction = Field(
        default=0.7,
        ge=0.5,
        description="detectors with masks: probability from which an entry is in one; up to 1 - mask: out of it",
    )
    weight: Positive = Field(default=1.0, description="of their loss beside that of the labels")
    ramp: Fraction = Field(default=0.4, description="share of the training in which this weight rises to its value")
    batch_size: int = Field(default=0, ge=0, description="of them in a step; 0: as many as videos with labels")
    weak: float = Field(default=0.0, ge=0, description="noise on what the teacher sees, in deviations of a channel")
    strong: float = Field(default=0.0, ge=0, lt=1, description="share of channels that the learner does not see")

    @field_validator("share", mode="before")
    @classmethod
    def _percent(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        number = value.removesuffix("%").strip()
        if number == value or not number.replace(".", "", 1).isdigit():
            raise ValueError("write a share as 10% or 0.1")
        return float(number) / 100

    @model_validator(mode="after")
    def _doubt_is_less(self) -> Self:
        if "doubt" in self.model_fields_set and self.doubt > self.confidence:
            raise ValueError(f"doubt {self.doubt:g} must not exceed confidence {self.confidence:g}")
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.file and {"share", "seed"} & self.model_fields_set:
            raise ValueError("the file says which videos have labels: leave out share and seed")
        return self


Given = str | float | Settings


def label_settings(given: Given, detector: Settings) -> Settings:
    """Field `labels` of what `tad train` receives, if a run has any: a share by itself, or settings.

    They are laid over those under `labels` of the detector's document.
    """
    if not given:
        return {}
    return {"labels": {**detector.get("labels", {}), **(given if isinstance(given, dict) else {"share": given})}}


def split_file(given: Given) -> str:
    """The file that says which videos have labels; empty for none."""
    return str(given.get("file", "")) if isinstance(given, dict) else ""


def missing_split(root: Path, run: str, given: Given) -> list[str]:
    """The sentence about that file, if it is not there."""
    file = split_file(given)
    if not file or (root / file).is_file():
        return []
    return [f"put the split of labels of run {run} at {file} (labels.file; a CSV with the columns video and subset)"]


def labels_seen(dataset: str, pretrain: Settings) -> str:
    """Whose labels a backbone sees that the workflow trains."""
    if pretrain["share"] == 1:
        return dataset
    return f"{dataset}: {pretrain['share']:g} of each class, seed {pretrain['share_seed']}"
