"""Models of the rows of config.yaml: datasets, features and runs. `Config` resolves them."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tad.settings.adapters import AdaptersRow
from tad.settings.base import Settings, Spec, UserPath
from tad.settings.clips import NetworkSpec
from tad.settings.distill import DistillRow
from tad.settings.frames import FrameSpec
from tad.settings.keypoints import KeypointSpec


class ClassesRow(Spec):
    """Facts about the classes of a data set besides their names."""

    text: dict[str, tuple[str, ...]] = Field(
        default={},
        description="class → phrases that describe it, for detectors of text prompts; by default its name, with spaces "
        "for underscores and between words written together",
    )


class DatasetRow(Spec):
    """The row `datasets.<name>`: where the files are and how they are read."""

    format: str = Field(default="", description="module of tad/datasets; the row's own name by default")
    videos: UserPath = Field(default="", description="folder with the video files")
    annotations: UserPath = Field(default="", description="file or folder with the annotations")
    settings: Settings = Field(default={}, description="settings of the format")
    classes: ClassesRow = ClassesRow()
    exclude: dict[str, str] = Field(default={}, description="video id → reason for its exclusion")
    on_invalid: Literal["error", "drop", "clip"] = "error"
    kind: Literal["segments", "moments"] = Field(
        default="segments", description="segments have a start and an end, moments a single time"
    )
    moment: Literal["", "start", "middle", "end"] = Field(
        default="", description="with kind moments: the time of a segment that is its moment; empty: none is a segment"
    )
    reader: Literal["pyav", "decord", "torchcodec"] = "pyav"
    on_flawed: Literal["keep", "exclude"] = Field(
        default="keep", description="what to do with videos that have a few damaged frames"
    )
    shards: int | None = Field(
        default=None,
        ge=1,
        le=9999,
        description="number of manifest and feature shards; a change redistributes all videos. Default: the existing"
        " number, else one per 32 videos, at most 16; for large files one per hour of decoding, at most 128",
    )
    eval: Settings = {}
    render: Settings = Field(default={}, description="settings of the renderer, for generated datasets")

    @model_validator(mode="after")
    def _moment_of_moments(self) -> Self:
        if self.moment and self.kind != "moments":
            raise ValueError(f"moment: {self.moment} needs `kind: moments`; set it, or remove `moment`")
        if self.kind == "moments" and self.settings.get("points"):
            raise ValueError("settings.points makes segments of moments; remove it, or `kind: moments`")
        return self


class FeatureRow(Spec):
    """The row `features.<name>`: a feature set, shared by the runs of a dataset.

    It is computed by a backbone (or by a named recipe of backbone and clips), imported (`source`), joined from other
    feature sets (`join`), or consists of frames (`frames`).
    """

    backbone: str | dict[str, Any] = ""
    recipe: str | dict[str, Any] = Field(default="", description="file of tad/settings/recipes, instead of `backbone`")
    clip: Settings = {}
    network: NetworkSpec = NetworkSpec()
    dtype: Literal["float16", "float32"] = "float16"
    on_damaged: Literal["exclude", "error"] = "exclude"
    weights: UserPath = Field(
        default="pretrain",
        description="`pretrain`: the workflow trains the backbone; `package`: the file that an installed Python package"
        " holds; or a path",
    )
    pretrain: Settings = {}
    source: UserPath = Field(default="", description="folder or file of published features, used instead of videos")
    dim: int = Field(default=0, ge=0, description="with source: number of channels")
    prefix: str = Field(default="", description="with source: prefix of file names before the video id")
    suffix: str = Field(
        default="", description="with source: suffix of file names after the video id, without .npy, .pt, …"
    )
    layout: Literal["TC", "CT"] = Field(default="TC", description="with source: (snippets, channels) or its transpose")
    tolerance: float = Field(
        default=0.05, ge=0, lt=1, description="with source: allowed relative difference in the number of rows"
    )
    timing: Literal["clips", "spread"] = Field(
        default="clips", description="with source; spread: rows are spaced evenly over each video, in any number"
    )
    every: int = Field(default=1, ge=1, description="with source: use only every n-th row")
    channels: tuple[int, ...] = Field(
        default=(), description="with source: range of channels to use, the end excluded; empty: all"
    )
    keypoints: KeypointSpec | None = Field(
        default=None, description="with source: it holds keypoints (DeepLabCut, SLEAP, CSV), not features"
    )
    frames: FrameSpec | None = Field(default=None, description="frames, decoded during training, instead of features")
    join: tuple[str, ...] = Field(
        default=(), description="two or more other feature sets, whose channels are concatenated"
    )
    published: str = Field(default="", description="with source: where to download it")
    run: str = Field(default="", description="run with adapters, whose encoder computes the features from its frames")

    @field_validator("join", mode="before")
    @classmethod
    def _a_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"write a list of feature sets: [{value}, …]")
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = [one for one in (self.backbone, self.recipe, self.source, self.frames, self.join, self.run) if one]
        if len(origins) != 1:
            raise ValueError(
                "needs exactly one of `backbone` or `recipe` (features of your videos), `source` (published features), "
                "`join` (joined feature sets), `run` (a run with adapters) and `frames` (no features)"
            )
        if self.run and (more := self.model_fields_set - {"run", "dtype"}):
            raise ValueError(f"{', '.join(sorted(more))} cannot be combined with `run`; the run's settings apply")
        if self.join and (more := self.model_fields_set - {"join"}):
            raise ValueError(f"{', '.join(sorted(more))} cannot be combined with `join`; set it in the joined rows")
        if self.recipe and self.weights == "pretrain":
            raise ValueError("a `recipe` needs `weights`: the published file, or the folder that holds it")
        own = {
            "prefix",
            "suffix",
            "layout",
            "tolerance",
            "timing",
            "every",
            "channels",
            "dim",
            "published",
            "keypoints",
        }
        own &= self.model_fields_set
        foreign = {"on_damaged", "weights", "pretrain", "network"} & self.model_fields_set
        if self.frames:
            own |= {"clip", "network", "dtype", "pretrain"} & self.model_fields_set
        wrong, kind = (foreign, "backbone") if self.source else (own, "source")
        if wrong:
            raise ValueError(f"{', '.join(sorted(wrong))} needs `{kind}`")
        if self.source and not (self.stored_dim and self.clip):
            raise ValueError("a `source` needs `dim` (channels) and `clip` (length, stride, policy, rate)")
        if self.keypoints and (wrong := {"dim", "layout", "timing", "suffix"} & self.model_fields_set):
            raise ValueError(f"{', '.join(sorted(wrong))} cannot be combined with `keypoints`; remove it")
        dim = self.stored_dim
        if self.channels and not (len(self.channels) == 2 and 0 <= self.channels[0] < self.channels[1] <= dim):
            raise ValueError(f"channels {list(self.channels)}: give [first, last], 0 ≤ first < last ≤ dim {dim}")
        return self

    @property
    def stored_dim(self) -> int:
        """With source: the number of channels in its files, or that keypoints give; 0 for other features."""
        return self.keypoints.width if self.keypoints else self.dim

    @property
    def width(self) -> int:
        """With source: the number of channels used; 0 for other features."""
        return self.channels[1] - self.channels[0] if self.channels else self.stored_dim

    @property
    def made_by(self) -> str:
        """The stage that makes the index of these features, or `extract`, which makes their shards."""
        kinds = {"convert": self.source, "index": self.frames, "join": self.join, "encode": self.run}
        return next((stage for stage, given in kinds.items() if given), "extract")


class PublishedScore(Spec):
    """The score that others report for the same data, features and detector; no stage reads it."""

    average_mAP: float | None = Field(default=None, ge=0, le=100, description="in percent")
    mAP: dict[str, float] = Field(default={}, description="tIoU → mAP in percent, if no average is published")
    source: str = Field(min_length=1, description="where the score is published")
    note: str = Field(default="", description="differences from this run, or how the score was chosen")

    @model_validator(mode="after")
    def _a_number(self) -> Self:
        if (self.average_mAP is None) == (not self.mAP):
            raise ValueError("give either average_mAP, or mAP by tIoU if no average is published")
        return self


class RunRow(Spec):
    """The row `runs.<name>`: dataset × features × detector → results/<name>/map.json."""

    dataset: str
    features: str
    detector: str | dict[str, Any]
    train: Settings = {}
    adapters: AdaptersRow | None = Field(
        default=None, description="end-to-end training on frames through adapters in a frozen encoder (AdaTAD)"
    )
    distill: DistillRow | None = Field(default=None, description="knowledge distillation from other runs, its teachers")
    labels: str | float | Settings = Field(
        default="", description="semi-supervised training: the share of labelled videos, such as 10%, or settings"
    )
    detect: Settings = {}
    nms: Settings = {}
    external: Settings = Field(default={}, description="video-level class scores: source, topk, combine, …")
    classify: Settings = Field(default={}, description="the video classifier for `external: {source: own}`")
    eval: Settings = {}
    page: Settings = Field(default={}, description="the run's page: runs beside it, copies of videos")
    seed: int = Field(default=0, ge=0)
    seeds: int = Field(default=1, ge=1, le=99, description="trainings with seed, seed + 1, …; map.json has their mean")
    exclude: dict[str, str] = {}
    published: PublishedScore | None = None


class IncludedFile(Spec):
    """A file named in `include`, which contains only rows."""

    datasets: dict[str, DatasetRow] = {}
    features: dict[str, FeatureRow] = {}
    runs: dict[str, RunRow] = {}


class ConfigFile(IncludedFile):
    """The whole of config.yaml, with the rows of included files."""

    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="device; the outputs record the one used"
    )
    include: tuple[str, ...] = Field(
        default=(), description="files with more rows, such as zoo/*.yaml, relative to the folder of this file"
    )
