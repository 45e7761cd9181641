"""Settings of end-to-end training with adapters in a frozen video transformer (`adapters:` of a run)."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from tad.core.errors import TadError
from tad.settings.base import Count, Fraction, Plugin, Positive, Settings, Spec
from tad.settings.sections import DetectSpec, TrainSpec

if TYPE_CHECKING:
    from tad.settings.config import Config


class AdaptersRow(Spec):
    """AdaTAD: whole windows of frames pass through a frozen video transformer with small adapters.

    Only the adapters and the detector learn. The defaults are those of the paper for THUMOS14.
    """

    encoder: str = Field(
        min_length=1, description="feature set whose backbone, weights and clip length are the frozen encoder"
    )
    blocks: Literal["all", "last_half", "none"] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default="all",
        description="blocks of the encoder with an adapter: all, last_half, a list of numbers from 0, or none: the "
        "frozen encoder alone, the baseline of a comparison",
    )
    side: bool = Field(
        default=False,
        description="put the adapters beside the blocks: no gradient passes through the encoder, which needs less "
        "memory and time (AdaTAD† in the paper)",
    )
    hidden: Fraction = Field(default=0.25, description="width of the adapters as a share of the encoder's")
    lr: Positive = Field(default=1e-4, description="learning rate of the adapters; the detector has train.lr")
    weight_decay: float = Field(default=0.05, ge=0, description="weight decay of the adapters")
    drop_path: float = Field(
        default=0.1, ge=0, lt=1, description="rate of stochastic depth in the encoder's last block while training"
    )
    frames_per_position: Count = Field(
        default=1, description="frames per snippet that the detector sees; a divisor of train.max_length"
    )
    scale: tuple[Fraction, Fraction] = Field(
        default=(0.08, 1.0), description="share of the frame's area that a random crop covers while training, resized"
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="fraction of training windows that are mirrored")
    jitter: float = Field(
        default=0.5, ge=0, lt=1, description="largest random change of brightness, contrast and saturation"
    )
    checkpointing: bool = Field(
        default=True,
        description="recompute the encoder's blocks in the backward pass: more time, a fraction of the memory, and "
        "the same gradients",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.side and self.blocks in ("none", ()):
            raise ValueError("side: true: needs blocks; choose all, last_half or a list")
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: {list(self.scale)}: the first number must not be larger than the second")
        return self


class AdaptersSpec(AdaptersRow):
    """The settings of adapters that a stage receives: with the encoder's backbone, and the size of the frames."""

    backbone: Plugin
    clip: Count = Field(description="frames of a clip of the encoder")
    height: Count = Field(description="rows of the frames that are read")
    width: Count = Field(description="columns of the frames that are read")


def adapters_of(config: "Config", run: str) -> Settings | None:
    """Return the fields of `AdaptersSpec` for a run; None without adapters.

    Raises:
        TadError: the run cannot have adapters with its other settings; the message names the row and the setting.
    """
    row, where = config.run(run), config.where("runs", run)
    if row.adapters is None:
        return None
    entry = config.file.features.get(row.adapters.encoder)
    if entry is None or entry.made_by != "extract":
        known = sorted(config.made_by("extract"))
        raise TadError(
            f"{where}.adapters.encoder: '{row.adapters.encoder}' is no feature set with a backbone; known:"
            f" {', '.join(known) or 'none'}"
        )
    recipe = config.recipe(row.adapters.encoder, row.dataset)
    frames = config.feature_set(row.features).frames
    if problem := _problem(config, run):
        raise TadError(f"{where}.{problem}")
    assert frames is not None
    crop = int(recipe["backbone"]["settings"].get("crop", 0))
    if crop > min(frames.height, frames.width):
        raise TadError(
            f"{where}.features: frames of {frames.height} x {frames.width}, but the encoder sees {crop} x {crop}; set"
            f" height and width of features.{row.features} to at least {crop}"
        )
    return {
        **row.adapters.model_dump(mode="json"), "backbone": recipe["backbone"], "clip": recipe["clip"]["length"],
        "height": frames.height, "width": frames.width,
    }  # fmt: skip


def _problem(config: "Config", run: str) -> str:
    """Return what a run with adapters lacks, as `<key>: <what is wrong>`; empty if nothing."""
    row, sections = config.run(run), config.resolve_run(run).sections
    assert row.adapters is not None
    features, train, detect = config.feature_set(row.features), sections["train"], sections["detect"]
    clip = config.recipe(row.adapters.encoder, row.dataset)["clip"]["length"]
    length, each = train["max_length"], row.adapters.frames_per_position
    if features.frames is None or features.frames.modality != "rgb":
        return f"features: {row.features}: adapters read RGB frames; name a feature set with `frames`"
    if features.weights != "pretrain":
        return f"features: {row.features}: has weights, but the encoder's are those of adapters.encoder; remove them"
    if config.detector_settings(run).frame_size != (0, 0):
        return f"detector: {config.detector_name(run)}: is made for frames; choose a detector on features"
    if row.distill is not None:
        return "adapters: cannot be combined with distill; extract the adapted features and distill with these"
    if detect["fuse"] or train["compile"]:
        return "adapters: cannot be combined with detect.fuse or train.compile; remove it"
    if length % clip or length % each:
        return f"train.max_length: {length}: must be a multiple of {clip} (the encoder's clip) and of {each}"
    if problem := _positions_problem(config, run, length // each):
        return problem
    if train["resize"]:
        return f"train.resize: {train['resize']}: frames are not resized in time; set `most` of the frames instead"
    if not detect["window_stride"]:
        return f"detect.window_stride: 0: the encoder sees one window at a time; set {length // 2} (half of max_length)"
    return ""


def _positions_problem(config: "Config", run: str, positions: int) -> str:
    """Return why the detector refuses windows of this many positions; empty if it accepts them."""
    specs = config.resolve_run(run).specs
    train, detect = specs["train"], specs["detect"]
    assert isinstance(train, TrainSpec)
    assert isinstance(detect, DetectSpec)
    try:
        config.detector_settings(run).check(train=train.model_copy(update={"max_length": positions}), detect=detect)
    except ValueError as error:
        return f"{error} (snippets of the detector: train.max_length / adapters.frames_per_position)"
    return ""


def encoders_of(config: "Config", run: str) -> list[str]:
    """Return the feature sets whose backbones a run needs: its own, and the one that adapters are put into."""
    row = config.run(run)
    parts = [part for part in config.parts(row.features) if config.feature_set(part).made_by != "index"]
    return [*parts, row.adapters.encoder] if row.adapters else parts
