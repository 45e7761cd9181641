"""Settings of semi-supervised training (`labels` of a run): which videos have labels, and how the others are used."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tad.settings.base import Fraction, Positive, Settings, Spec


class LabelsSpec(Spec):
    """The settings `labels` of a run; a detector's YAML may change the defaults under `labels`."""

    share: Fraction = Field(
        default=1.0, description="share of each class's train videos that have labels, drawn by seed; 10% or 0.1"
    )
    seed: int = Field(default=0, ge=0, description="seed of the draw; the same for every training of a run")
    file: str = Field(
        default="", description="published split instead of share: CSV with the columns video and subset (training, …)"
    )
    on_absent: Literal["error", "ignore"] = Field(
        default="error", description="if the file lists videos outside the train split: stop, or ignore them"
    )
    others: Literal["pseudo", "unused"] = Field(
        default="pseudo",
        description="videos without labels: train on pseudo-labels from the detector, or not",
    )
    teacher: Literal["ema", "self"] = Field(
        default="ema", description="source of pseudo-labels: the EMA weights, or the current weights"
    )
    confidence: Fraction = Field(default=0.6, description="minimum score of a pseudo-label (exclusive)")
    doubt: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="score above which other detections are ignored rather than background; 0: all are background",
    )
    mask: Fraction = Field(
        default=0.7,
        ge=0.5,
        description="detectors with masks: probability from which a snippet is in the mask; up to 1 - mask: outside",
    )
    weight: Positive = Field(default=1.0, description="weight of the loss on pseudo-labels")
    ramp: Fraction = Field(default=0.4, description="share of the training over which this weight ramps up")
    batch_size: int = Field(default=0, ge=0, description="unlabelled videos per step; 0: as many as labelled videos")
    weak: float = Field(
        default=0.0, ge=0, description="weak augmentation: noise on the teacher's input, in standard deviations"
    )
    strong: float = Field(
        default=0.0, ge=0, lt=1, description="strong augmentation: share of channels dropped from the student's input"
    )

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
            raise ValueError("the file defines which videos have labels; remove share and seed")
        return self


Given = str | float | Settings


def label_settings(given: Given, detector: Mapping[str, Any]) -> Settings:
    """Return the field `labels` of the settings of train; empty if the run has no such settings.

    `given` is a share or settings; they override those under `labels` in the detector's YAML.
    """
    if not given:
        return {}
    return {"labels": {**detector.get("labels", {}), **(given if isinstance(given, dict) else {"share": given})}}


def split_file(given: Given) -> str:
    """Return the path of the split file, which lists the videos that have labels; empty for none."""
    return os.path.expanduser(str(given.get("file", ""))) if isinstance(given, dict) else ""


def missing_split(root: Path, run: str, given: Given) -> list[str]:
    """Return an instruction to provide the split file, if it is missing."""
    file = split_file(given)
    if not file or (root / file).is_file():
        return []
    return [f"put the split of labels of run {run} at {file} (labels.file; a CSV with the columns video and subset)"]


def labels_seen(dataset: str, pretrain: Settings) -> str:
    """Describe the labels that the workflow's own training of a backbone uses."""
    if pretrain["share"] == 1:
        return dataset
    return f"{dataset}: {pretrain['share']:g} of each class, seed {pretrain['share_seed']}"
