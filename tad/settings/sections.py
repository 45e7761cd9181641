"""Common sections of runs and backbones, with their defaults: train, detect, nms, eval and pretrain.

Defaults are defined only here; a component's YAML contains what its paper changes, config.yaml what a run changes.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tad.settings.base import Count, Fraction, Positive, Spec

THREADS = 2  # more cost CPU time for small detectors, and two trainings can share four cores
Tolerance = Annotated[str, Field(pattern=r"^\d+(\.\d+)?[fs]$")]
SAME_BYTES = (
    "CPU threads; results on a CPU are bit-equal only for equal numbers, so it does not follow the machine. More are"
    " faster for large networks"
)


class PretrainRecipe(Spec):
    """The section `pretrain`: how a backbone is trained.

    The defaults are those of TSP, which starts from weights pretrained on action recognition.
    """

    epochs: Count = 8
    warmup_epochs: float = Field(default=2.0, ge=0)
    milestones: tuple[int, ...] = (4, 6)
    decay: Fraction = 0.01
    batch_size: Count = 32
    clips_per_segment: Count = 5
    lr_backbone: float = Field(default=1e-4, ge=0)
    lr_stem: float = Field(default=0.0, ge=0)
    lr_heads: Positive = 2e-3
    optimizer: Literal["sgd", "adamw"] = Field(
        default="sgd",
        description="sgd, as TSP trains; adamw for transformers, which SGD does not train from scratch",
    )
    momentum: float = Field(default=0.9, description="momentum of SGD")
    weight_decay: float = 0.005
    global_feature: Literal["max", "mean", "none"] = "max"
    flip: float = Field(
        default=0.5, ge=0, le=1, description="probability of a horizontal flip; 0 if left and right matter"
    )
    shift: int = Field(
        default=0, ge=0, description="maximum random shift of training clips in pixels, with edges repeated"
    )
    short_segments: Literal["drop", "extend"] = Field(
        default="drop", description="instances shorter than a clip: drop, or use clips that contain them"
    )
    shortest_gap: float = Field(
        default=1.0, ge=1, description="minimum length of a gap between actions, in clips, to be used as background"
    )
    hold_out: float = Field(
        default=0.0, ge=0, lt=1, description="share of train videos held out to select the epoch; 0: last epoch"
    )
    share: Fraction = Field(
        default=1.0, description="share of each class's train videos with labels, drawn as in a run's `labels`"
    )
    share_seed: int = Field(default=0, ge=0, description="seed of this draw; use the run's `labels.seed`")
    seed: int = 0
    threads: Count = Field(default=THREADS, description=SAME_BYTES)


class TrainSpec(Spec):
    """The section `train`: the training recipe. A detector's YAML contains what its paper changes."""

    epochs: Count = Field(default=30, description="epochs after the warm-up")
    warmup_epochs: int = Field(default=0, ge=0, description="epochs of linear learning-rate warm-up")
    stop_epoch: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda value: value == 0,
        description="epochs, warm-up included, after which training stops before its schedule ends; 0: at its end",
    )
    pretext_epochs: int = Field(
        default=0, ge=0, description="initial epochs on the detector's pretext task, without labels"
    )
    batch_size: Count = 2
    lr: Positive = Field(default=1e-4, description="learning rate")
    eta_min: float = Field(default=1e-8, ge=0, description="final learning rate of the cosine; lr: constant rate")
    weight_decay: float = Field(default=0.025, ge=0)
    optimizer: Literal["adamw", "adam"] = Field(
        default="adamw", description="adam: weight decay is added to the gradient, as in older papers"
    )
    milestones: tuple[int, ...] = Field(
        default=(), description="epochs after which the learning rate drops, instead of the cosine schedule"
    )
    decay: Fraction = Field(default=0.1, description="factor of the learning rate at each milestone")
    clip_grad: float = Field(default=1.0, ge=0, description="maximum L2 norm of the gradient; 0: no clipping")
    ema_decay: float = Field(default=0.999, ge=0, lt=1, description="decay of the EMA weights; 0: no EMA")
    max_length: Count = Field(
        default=2304, description="snippets per training window; about the length of the longest videos"
    )
    resize: int = Field(default=0, ge=0, description="snippets that every video is interpolated to; 0: no resizing")
    trunc_threshold: Fraction = Field(
        default=0.5, description="minimum share of an instance inside the window for it to be used"
    )
    crop_ratio: tuple[Fraction, Fraction] = Field(
        default=(0.9, 1.0), description="random crop of videos shorter than a window: range of the share to keep"
    )
    stretch: float = Field(
        default=1.0,
        ge=1,
        le=4,
        exclude_if=lambda value: value == 1,
        description="augmentation: windows of features are made up to this many times longer or shorter by"
        " interpolation, as if the video were slower or faster (docs/methods/tad.md); 1: never",
    )
    trunc_margin: float = Field(
        default=0.0,
        ge=-1,
        description="half clips added to the window to measure overlaps (ActionFormer: 1; AFSD on frames: -1)",
    )
    window_stride: int = Field(
        default=0, ge=0, description="stride of sliding windows in snippets; 0: one random window per epoch"
    )
    window_rule: Literal["part", "whole"] = Field(
        default="part",
        description="a sliding window is used if it contains an instance: whole, or at least trunc_threshold of it",
    )
    class_agnostic: bool = Field(default=False, description="merge all labels into one, to train a proposal generator")
    selection: Literal["last", "held-out", "test"] = Field(
        default="last",
        description="epoch whose EMA weights are kept; `test` uses the test split, which map.json records",
    )
    hold_out: float = Field(
        default=0.1, ge=0, lt=1, description="share of the train videos held out for selection held-out"
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32",
        description="bfloat16: about three times as fast on hardware that supports it; auto: bfloat16 there, else "
        "float32, so that the weights depend on the machine (the model says which was used)",
    )
    threads: Count = Field(default=THREADS, description=SAME_BYTES)
    compile: bool = Field(
        default=False,
        description="compile networks for the window's shape: takes minutes once (needs g++ on a CPU), then is cached "
        "in ~/.cache/tad; pays off with bfloat16",
    )

    @model_validator(mode="after")
    def _random_windows_stretch(self) -> Self:
        if self.stretch > 1 and self.window_stride:
            raise ValueError(
                f"stretch: {self.stretch:g}: sliding windows have a fixed length; set window_stride: 0, or stretch: 1"
            )
        return self


class DetectSpec(Spec):
    """The section `detect`: candidates before suppression."""

    score_threshold: float = Field(default=0.001, ge=0, lt=1, description="minimum score of candidates (exclusive)")
    topk: Count = Field(default=2000, description="candidates kept per level")
    min_length: float = Field(default=0.0, ge=0, description="minimum length of candidates in grid cells")
    batch_size: Count = Field(default=1, description="affects memory and speed only, not results")
    window_stride: int = Field(
        default=0, ge=0, description="stride of windows of train.max_length snippets; 0: the whole video at once"
    )
    threads: Count = Field(default=THREADS, description=SAME_BYTES)
    fuse: str = Field(default="", description="another run whose raw network outputs are averaged with this run's")
    fuse_borders: Literal["offsets", "geometric"] = Field(
        default="offsets", description="geometric: use the geometric mean of the decoded boundaries at each location"
    )

    @model_validator(mode="after")
    def _borders_of_two(self) -> Self:
        if self.fuse_borders != "offsets" and not self.fuse:
            raise ValueError(f"fuse_borders {self.fuse_borders} needs fuse, the run to fuse with")
        return self


class NmsSpec(Spec):
    """The section `nms`: non-maximum suppression, of segments by overlap or of moments by distance."""

    kind: Literal["segments", "moments"] = Field(
        default="segments", description="moments: by distance in time, with method hard, soft or none"
    )
    method: Literal["hard", "gaussian", "linear", "vanilla", "matrix_gaussian", "matrix_linear", "none", "soft"] = (
        "gaussian"
    )
    window: Positive = Field(
        default=1.0,
        description="of moments, in grid cells (for features of every frame: frames): hard suppression removes others"
        " up to this distance, soft multiplies the scores of nearer ones by (distance/window)²",
    )
    sigma: Positive = Field(default=0.5, description="width of the Gaussian decay exp(-tiou²/sigma)")
    tiou: Fraction = Field(
        default=0.1,
        description="tIoU from which hard NMS suppresses and linear or vanilla decay applies; unused with gaussian",
    )
    min_score: float = Field(
        default=0.001,
        ge=0,
        description="segments whose decayed score is lower are removed, except the first pick (of each class, with"
        " per_class). hard: candidates with scores up to this are removed before the first pick; none, matrix_*: all"
        " lower scores are removed",
    )
    per_class: bool = Field(default=True, description="suppress each class separately, or all classes together")
    topk: Count = Field(default=2000, description="detections kept per video")
    voting: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="minimum tIoU for segments to vote on the boundaries of a detection; 0: no voting. With per_class"
        " only segments of its class vote; published code never votes then, whatever its settings say",
    )
    voting_weight: Literal["score", "score*tiou"] = "score"
    agreement: bool = Field(
        default=False,
        exclude_if=lambda value: not value,
        description="multiply each detection's score by its mean tIoU with the candidates that it overlaps (with"
        " per_class, of its class), weighted by their scores: how far they agree on its borders (docs/methods/tad.md)",
    )

    @model_validator(mode="after")
    def _method_of_kind(self) -> Self:
        methods = ("hard", "soft", "none")
        if self.kind == "moments" and self.method not in methods:
            raise ValueError(f"method: {self.method}: moments are suppressed by {', '.join(methods)}; choose one")
        if self.kind == "segments" and self.method == "soft":
            raise ValueError("method: soft: is for kind moments; choose gaussian, or set kind")
        if self.kind == "moments" and self.agreement:
            raise ValueError("agreement: true: moments do not overlap; set false")
        return self


class EvalSpec(Spec):
    """The section `eval`: evaluation. A data set's YAML contains its protocol."""

    protocol: str = Field(default="activitynet", description="evaluation protocol, see tad/metrics/protocols.yaml")
    tiou: tuple[Fraction, ...] = Field(
        default=(0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95), description="tIoU thresholds of mAP"
    )
    tolerances: tuple[Tolerance, ...] = Field(
        default=(),
        description="for protocols of moments, in place of tiou: distances in frames (2f) or seconds (0.5s); empty:"
        " those of the protocol",
    )
    moment: Literal["", "start", "middle", "end"] = Field(
        default="",
        description="for protocols of moments: the time of a segment that is scored; empty: segments are refused",
    )
    on_missing: Literal["error", "count"] = Field(
        default="count", description="annotated videos without detections: stop, or count their instances as missed"
    )
    measures: tuple[Literal["proposals", "frames", "segmentation", "unseen"], ...] = Field(
        default=(),
        description="measures besides mAP: proposals: AR@AN and AUC; frames: per-frame mAP of dense labels; "
        "segmentation: F1@k, edit score and frame accuracy; unseen: mAP of unseen classes over splits of the classes",
    )
    unseen_splits: dict[str, tuple[tuple[str, ...], ...]] = Field(
        default={},
        description="measure unseen: name of a protocol → the unseen classes of each of its splits; by default ten "
        "random splits each of 50/50 and 75/25 (seen/unseen)",
    )
    frame_rate: Positive = Field(default=10.0, description="frames per second of the measures on frames")
    frame_score: float | None = Field(
        default=None,
        ge=0,
        description="segmentation: minimum score (exclusive, a probability) of detections that label frames; do not "
        "tune it on the test split",
    )
    background: tuple[str, ...] = Field(
        default=(), description="labels of segmentation data that mean background (GTEA: background; Breakfast: SIL)"
    )
