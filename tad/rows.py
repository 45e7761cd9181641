"""The rows of config.yaml as checked data: datasets, features and runs; what they mean together is `tad.config`'s."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tad.distill import DistillRow
from tad.specs import FrameSpec, NetworkSpec, Settings, Spec


class DatasetRow(Spec):
    """`datasets.<name>`: where the files lie and how they are read."""

    format: str = Field(default="", description="module of tad/datasets; the row's own name by default")
    videos: str = Field(default="", description="folder with the video files")
    annotations: str = Field(default="", description="file or folder with the annotations")
    settings: Settings = Field(default={}, description="settings of the format")
    exclude: dict[str, str] = Field(default={}, description="video id → why it is left out")
    on_invalid: Literal["error", "drop"] = "error"
    reader: Literal["pyav", "decord", "torchcodec"] = "pyav"
    shards: int = Field(
        default=16, ge=1, le=99, description="manifest and feature shards; changing it moves every video"
    )
    eval: Settings = {}
    render: Settings = Field(default={}, description="what the renderer is told, for datasets that the workflow makes")


class FeatureRow(Spec):
    """`features.<name>`: a backbone and its clips, or a named recipe of both, shared by the runs of a dataset; or
    published features, with `source`; or other rows of both kinds side by side, with `join`."""

    backbone: str | dict[str, Any] = ""
    recipe: str | dict[str, Any] = Field(default="", description="file of tad/recipes, in place of `backbone`")
    clip: Settings = {}
    network: NetworkSpec = NetworkSpec()
    dtype: Literal["float16", "float32"] = "float16"
    on_damaged: Literal["exclude", "error"] = "exclude"
    weights: str = Field(default="pretrain", description="`pretrain`: trained by the workflow; else file or folder")
    pretrain: Settings = {}
    source: str = Field(default="", description="folder or file of published features, used in place of videos")
    dim: int = Field(default=0, ge=0, description="with source: channels")
    prefix: str = Field(default="", description="with source: what names begin with before the video's id")
    layout: Literal["TC", "CT"] = Field(default="TC", description="with source: (snippets, channels) or its transpose")
    tolerance: float = Field(default=0.05, ge=0, lt=1, description="with source: by which numbers of rows may differ")
    timing: Literal["clips", "spread"] = Field(
        default="clips", description="with source; spread: rows lie evenly over each video, however many there are"
    )
    every: int = Field(default=1, ge=1, description="with source: the first of every so many rows is taken")
    channels: tuple[int, ...] = Field(
        default=(), description="with source: first and last (not included) of the channels that are taken; empty: all"
    )
    frames: FrameSpec | None = Field(default=None, description="no features: frames, decoded while training on them")
    join: tuple[str, ...] = Field(
        default=(), description="other feature sets, two or more: their channels one after the other"
    )
    published: str = Field(default="", description="with source: where it is published, for who does not have it")

    @field_validator("join", mode="before")
    @classmethod
    def _a_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"write a list of feature sets: [{value}, …]")
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.backbone) + bool(self.recipe) + bool(self.source) + bool(self.frames) + bool(self.join) != 1:
            raise ValueError(
                "needs either a `backbone` or a `recipe` (features of your videos), a `source` (published features), "
                "`join` (other feature sets side by side) or `frames` (no features)"
            )
        if self.join and (more := self.model_fields_set - {"join"}):
            raise ValueError(f"{', '.join(sorted(more))} does not go with `join`; set it in the rows that are joined")
        if self.recipe and self.weights == "pretrain":
            raise ValueError("a `recipe` needs `weights`: the published file, or the folder that holds it")
        own = {"prefix", "layout", "tolerance", "timing", "every", "channels", "dim", "published"}
        own &= self.model_fields_set
        foreign = {"on_damaged", "weights", "pretrain", "network"} & self.model_fields_set
        if self.frames:
            own |= {"clip", "network", "dtype", "pretrain"} & self.model_fields_set
        wrong, kind = (foreign, "backbone") if self.source else (own, "source")
        if wrong:
            raise ValueError(f"{', '.join(sorted(wrong))} goes with `{kind}` only")
        if self.source and not (self.dim and self.clip):
            raise ValueError("a `source` needs `dim` (channels) and `clip` (length, stride, policy, rate)")
        if self.channels and not (len(self.channels) == 2 and 0 <= self.channels[0] < self.channels[1] <= self.dim):
            raise ValueError(f"channels {list(self.channels)}: give [first, last], 0 ≤ first < last ≤ dim {self.dim}")
        return self

    @property
    def width(self) -> int:
        """With source: the channels that are taken; 0 for other features."""
        return self.channels[1] - self.channels[0] if self.channels else self.dim

    @property
    def made_by(self) -> str:
        """The stage that makes the index of these features; of own ones, what makes their shards."""
        kinds = {"convert": self.source, "index": self.frames, "join": self.join}
        return next((stage for stage, given in kinds.items() if given), "extract")


class RunRow(Spec):
    """`runs.<name>`: dataset × features × detector → results/<name>/map.json."""

    dataset: str
    features: str
    detector: str | dict[str, Any]
    train: Settings = {}
    distill: DistillRow | None = Field(default=None, description="what it learns from other runs, its teachers")
    labels: str | float | Settings = Field(default="", description="which train videos have labels: 10%, or settings")
    detect: Settings = {}
    nms: Settings = {}
    external: Settings = Field(default={}, description="class scores of whole videos: source, topk, combine, …")
    classify: Settings = Field(default={}, description="the classifier behind `external: {source: own}`")
    eval: Settings = {}
    seed: int = Field(default=0, ge=0)
    seeds: int = Field(default=1, ge=1, le=99, description="trainings, with seed, seed + 1, …; map.json is their mean")
    exclude: dict[str, str] = {}


class ConfigFile(Spec):
    """The whole of config.yaml."""

    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="what was used is in the artefacts"
    )
    datasets: dict[str, DatasetRow] = {}
    features: dict[str, FeatureRow] = {}
    runs: dict[str, RunRow] = {}
