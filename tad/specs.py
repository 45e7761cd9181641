"""Settings of each stage: data only, closed (an unknown key is an error), frozen, importable without torch.

A stage receives its whole settings as one of these, as JSON text; that text is what Snakemake compares, so a stage
cannot read a setting whose change would go unnoticed.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.clip_specs import ClipSpec as ClipSpec
from tad.clip_specs import ConvertSpec as ConvertSpec
from tad.distill import DistillSpec as DistillSpec
from tad.distill import TeacherSpec as TeacherSpec
from tad.frame_specs import FrameSpec as FrameSpec
from tad.frame_specs import IndexSpec as IndexSpec
from tad.labels import LabelsSpec
from tad.spec_base import Count as Count
from tad.spec_base import Fraction as Fraction
from tad.spec_base import Plugin as Plugin
from tad.spec_base import Positive as Positive
from tad.spec_base import Settings as Settings
from tad.spec_base import Spec as Spec
from tad.spec_base import explain as explain


class AnnotateSpec(Spec):
    """Official or own annotations → one checked table."""

    dataset: str
    format: Plugin
    exclude: dict[str, str] = Field(default={}, description="video id → why it is left out")
    on_invalid: Literal["error", "drop"] = Field(
        default="error", description="instances that cannot be right: stop, or drop them and list them"
    )


class ProbeSpec(Spec):
    """Videos → manifest."""

    dataset: str
    reader: Literal["pyav", "decord", "torchcodec"] = Field(
        default="pyav", description="used wherever it is right for the file; elsewhere pyav is"
    )
    stall_seconds: Positive = Field(default=60.0, description="a file whose decoding stands still this long is damaged")
    max_pixels: Count = Field(default=8192 * 8192, description="a header that promises more is refused before decoding")


class NetworkSpec(Spec):
    """How a backbone's network is computed. All of it changes features: low bits, or with bfloat16 the third digit."""

    engine: Literal["torch", "openvino"] = Field(
        default="torch", description="openvino: two to three times as fast on a CPU, and on nothing else"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the network's arithmetic; weights, frames and features stay as they are"
    )
    channels_last: bool = Field(default=False, description="torch: channels innermost in memory, faster in bfloat16")
    compile: bool = Field(default=False, description="torch: the network compiled for its shape (minutes, once)")

    @model_validator(mode="after")
    def _for_torch(self) -> Self:
        if self.engine == "openvino" and (self.channels_last or self.compile):
            raise ValueError("channels_last and compile are for engine torch; openvino chooses both by itself")
        return self


class RecipeSpec(Spec):
    """Everything that decides a feature's value; its digest is the identity of a feature set."""

    backbone: Plugin
    clip: ClipSpec
    network: NetworkSpec = NetworkSpec()
    dtype: Literal["float16", "float32"] = "float16"
    on_damaged: Literal["exclude", "error"] = Field(
        default="exclude", description="damaged videos: left out and listed with their cause, or the run stops"
    )
    pretrained_on: str = Field(default="", description="data set (and part of its labels) of pretrain")


class PretrainSpec(Spec):
    """Clip encoder from the train split: TSP's two heads (action class, temporal region)."""

    backbone: Plugin
    clip: ClipSpec
    epochs: Count = 8
    warmup_epochs: float = Field(default=2.0, ge=0)
    milestones: tuple[int, ...] = (4, 6)
    decay: Fraction = 0.01
    batch_size: Count = 32
    clips_per_segment: Count = 5
    lr_backbone: float = Field(default=1e-4, ge=0)
    lr_stem: float = Field(default=0.0, ge=0)
    lr_heads: Positive = 2e-3
    momentum: float = 0.9
    weight_decay: float = 0.005
    global_feature: Literal["max", "mean", "none"] = "max"
    flip: float = Field(
        default=0.5, ge=0, le=1, description="share of clips that are mirrored; 0 where left is not right"
    )
    shift: int = Field(
        default=0, ge=0, description="pixels by which training clips are moved at most; edges are repeated"
    )
    short_segments: Literal["drop", "extend"] = Field(
        default="drop", description="instances shorter than a clip: left out, or seen by clips that contain them"
    )
    shortest_gap: float = Field(
        default=1.0, ge=1, description="clips that fit into the shortest gap between actions that shows background"
    )
    hold_out: float = Field(
        default=0.0, ge=0, lt=1, description="share of train videos kept aside to select the epoch; 0: last epoch"
    )
    share: Fraction = Field(
        default=1.0, description="of each class's train videos, whose labels it sees: those that a run's `labels` draws"
    )
    share_seed: int = Field(default=0, ge=0, description="of this draw; `labels.seed` of the run")
    seed: int = 0


class ExtractSpec(RecipeSpec):
    """Frames of one shard → features of its videos."""

    dataset: str
    stall_seconds: Positive = Field(
        default=60.0, description="a video whose decoding stands still this long is left out, as damaged ones are"
    )
    reader_mb: Count = Field(
        default=1536, description="MiB that decoding a video may take, besides some of its frames; else it is left out"
    )


class MergeSpec(Spec):
    """Shards → one index."""

    dataset: str
    features: str
    on_damaged: Literal["exclude", "error"] = "exclude"


class JoinSpec(Spec):
    """Feature sets of the same videos → one index with the channels of all."""

    dataset: str
    features: str
    parts: tuple[str, ...] = Field(min_length=2, description="feature sets; channels are in this order")
    may_miss: tuple[str, ...] = Field(default=(), description="videos that runs exclude: they need no features")


class TrainSpec(Spec):
    """The recipe of `train`; defaults live in the detector's YAML, section `train`."""

    epochs: Count
    warmup_epochs: int = Field(ge=0)
    pretext_epochs: int = Field(
        default=0, ge=0, description="epochs before all others in which the detector learns its task without labels"
    )
    batch_size: Count
    lr: Positive
    eta_min: float = Field(ge=0)
    weight_decay: float = Field(ge=0)
    optimizer: Literal["adamw", "adam"] = Field(
        default="adamw", description="adam: weight decay is added to the gradient, as the older papers have it"
    )
    milestones: tuple[int, ...] = Field(
        default=(), description="epochs after which the learning rate falls, in place of the cosine"
    )
    decay: Fraction = Field(default=0.1, description="factor by which it falls at a milestone")
    clip_grad: float = Field(ge=0, description="L2 norm; 0: no clipping")
    ema_decay: float = Field(ge=0, lt=1)
    max_length: Count = Field(description="snippets of a training window")
    resize: int = Field(ge=0, description="snippets to which every video is interpolated; 0: its own length")
    trunc_threshold: Fraction = Field(description="share of an instance that must lie in the window for it to count")
    crop_ratio: tuple[Fraction, Fraction] = Field(description="random crop of shorter videos, share of their length")
    trunc_margin: float = Field(
        ge=0, description="half clips added to the window when overlaps are measured (ActionFormer: 1)"
    )
    window_stride: int = Field(
        default=0, ge=0, description="snippets between windows that slide over a video; 0: a random one per epoch"
    )
    window_rule: Literal["part", "whole"] = Field(
        default="part", description="windows that slide are used if they hold an instance, whole or by trunc_threshold"
    )
    class_agnostic: bool = Field(description="all labels become one: proposals")
    selection: Literal["last", "held-out", "test"] = Field(
        description="which epoch's EMA weights are kept; `test` peeks at the test split and map.json says so"
    )
    hold_out: float = Field(ge=0, lt=1, description="share of the train videos kept aside for selection held-out")
    precision: Literal["float32", "bfloat16"]
    compile: bool = Field(description="networks as graphs compiled for the window's shape; pays with bfloat16")


class TrainStageSpec(Spec):
    """What `tad train` receives."""

    run: str
    dataset: str
    features: str
    detector: Plugin
    train: TrainSpec
    seed: int
    exclude: dict[str, str] = {}
    distill: DistillSpec | None = None
    labels: LabelsSpec | None = Field(default=None, description="which train videos have labels; none: all of them")

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
                "labels.teacher ema teaches by averaged weights, and train.ema_decay 0 averages none; set ema_decay"
                " (0.99), or labels.teacher: self"
            )
        return self


class DetectSpec(Spec):
    """Candidates before suppression; section `detect` of the detector's YAML."""

    score_threshold: float = Field(ge=0, lt=1, description="candidates must score more than this")
    topk: Count = Field(description="candidates kept per level")
    min_length: float = Field(ge=0, description="grid cells; shorter candidates are dropped")
    batch_size: Count = 1
    window_stride: int = Field(
        default=0, ge=0, description="snippets between windows of train.max_length that a video is cut into; 0: whole"
    )
    fuse: str = Field(default="", description="another run, whose network's raw outputs are averaged with this one's")
    fuse_borders: Literal["offsets", "geometric"] = Field(
        default="offsets", description="geometric: each location's borders are the geometric means of the decoded ones"
    )

    @model_validator(mode="after")
    def _borders_of_two(self) -> Self:
        if self.fuse_borders != "offsets" and not self.fuse:
            raise ValueError(f"fuse_borders {self.fuse_borders} goes with fuse, the run to fuse with")
        return self


class FusedSpec(Spec):
    """The other run, with `detect.fuse`: what its model is."""

    run: str
    features: str
    detector: Plugin
    resize: int = 0


class DetectStageSpec(Spec):
    """What `tad detect` receives."""

    run: str
    dataset: str
    features: str
    detector: Plugin
    detect: DetectSpec
    split: str = "test"
    resize: int = 0
    exclude: dict[str, str] = {}
    fused: FusedSpec | None = None


class NmsSpec(Spec):
    """`suppress`; section `nms` of the detector's YAML."""

    method: Literal["hard", "gaussian", "linear", "vanilla", "matrix_gaussian", "matrix_linear", "none"]
    sigma: Positive = Field(description="width of the Gaussian decay exp(-tiou²/sigma)")
    tiou: Fraction = Field(description="overlap from which hard NMS suppresses and linear or vanilla decay begins")
    min_score: float = Field(ge=0, description="segments whose score falls below are removed")
    per_class: bool = Field(description="suppress each class by itself, or all classes together")
    topk: Count = Field(description="detections kept per video")
    voting: float = Field(
        ge=0, le=1, description="tIoU from which segments vote for a kept one's borders; 0: no voting"
    )
    voting_weight: Literal["score", "score*tiou"]


class ExternalSpec(Spec):
    """Class scores of whole videos, combined with the suppressed detections."""

    source: str = Field(min_length=1, description="`own`: the workflow trains a classifier (classify); else a file")
    topk: Count = Field(default=2, description="classes of a video that every segment is repeated for, with replace")
    combine: Literal["sqrt", "product"] = Field(default="sqrt", description="of detection score and class score")
    labels: Literal["replace", "keep"] = Field(
        default="replace", description="the detector's labels: replaced by the video's best classes, or kept"
    )
    detections: Count = Field(default=200, description="best segments of a video that are repeated, with replace")
    softmax: bool = Field(default=False, description="the file holds logits")
    factor: Positive = Field(default=1.0, description="class scores are multiplied by it")


class ClassifySpec(Spec):
    """The video-level classifier."""

    epochs: Count = 30
    batch_size: Count = 32
    lr: Positive = 1e-3
    weight_decay: float = Field(default=0.01, ge=0)
    hidden: Count = Field(default=256, description="width of the hidden layer")
    dropout: float = Field(default=0.5, ge=0, lt=1)
    best_share: Fraction = Field(default=0.125, description="share of a video's snippets that speak for a class")
    max_snippets: Count = Field(default=512, description="snippets of a video that are looked at, evenly spaced")


class ClassifyStageSpec(Spec):
    """What `tad classify` receives."""

    run: str
    dataset: str
    features: str
    classify: ClassifySpec
    seed: int
    split: str = "test"
    exclude: dict[str, str] = {}


class SuppressStageSpec(Spec):
    """What `tad suppress` receives."""

    run: str
    nms: NmsSpec
    external: ExternalSpec | None = None


class EvalSpec(Spec):
    """`evaluate`."""

    protocol: str = Field(description="named set of conventions and videos, see tad.metrics")
    tiou: tuple[Fraction, ...]
    on_missing: Literal["error", "count"] = Field(
        default="count", description="ground-truth videos without detections: stop, or count their instances as missed"
    )
    measures: tuple[Literal["proposals", "frames", "segmentation"], ...] = Field(
        default=(),
        description="besides mAP: AR@AN and AUC; frame mAP of dense labels; F1@k, edit score and frame accuracy",
    )
    frame_rate: Positive = Field(default=10.0, description="frames per second of the measures on frames")
    frame_score: float = Field(
        default=0.0, ge=0, description="detections that score no more label no frame; not to be tuned on the test split"
    )


class EvaluateStageSpec(Spec):
    """What `tad evaluate` receives."""

    run: str
    dataset: str
    split: str = "test"
    eval: EvalSpec


class SummariseStageSpec(EvaluateStageSpec):
    """What `tad summarise` receives."""

    seeds: tuple[int, ...] = Field(min_length=2, description="of the trainings <run>/seed-0, <run>/seed-1, …")


OF_STAGE: dict[str, type[Spec]] = {
    "annotate": AnnotateSpec,
    "probe": ProbeSpec,
    "pretrain": PretrainSpec,
    "extract": ExtractSpec,
    "merge": MergeSpec,
    "index": IndexSpec,
    "convert": ConvertSpec,
    "join": JoinSpec,
    "train": TrainStageSpec,
    "detect": DetectStageSpec,
    "classify": ClassifyStageSpec,
    "suppress": SuppressStageSpec,
    "evaluate": EvaluateStageSpec,
    "summarise": SummariseStageSpec,
}
