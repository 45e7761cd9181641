"""Settings that ActionFormer, TriDet and MSE share."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tad.detectors._settings import FaceSettings, PyramidSettings
from tad.settings.base import Count, Positive
from tad.settings.components import Odd

RANGES = ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000))


class PointSettings(PyramidSettings):
    """Settings of a detector that classifies every point of a pyramid and regresses borders from it."""

    embed_dim: Count = Field(default=512, description="width of the encoder; smaller for small data sets")
    embed_layers: int = Field(
        default=2, ge=0, description="number of convolutions that project the features to embed_dim"
    )
    embed_kernel: Odd = Field(default=3, ge=1, description="width of these convolutions (odd)")
    embed_norm: bool = Field(
        default=True, description="add a channel norm after each of these convolutions; without it they have a bias"
    )
    stream_dims: tuple[Count, ...] = Field(
        default=(),
        description="channels of each feature stream, in order; each stream then has its own projection before the "
        "embedding (Ego4D); empty: no projections",
    )
    stream_embed_dims: tuple[Count, ...] = Field(
        default=(), description="width of each stream's projection; the sum must be embed_dim"
    )
    use_position: bool = Field(
        default=False,
        description="add a sinusoidal position code; useful for videos of similar length (ActivityNet, HACS); purely "
        "convolutional encoders have none, as published",
    )
    stem_layers: int = Field(default=2, ge=0, description="number of blocks at full resolution")
    mlp_dim: Count = Field(default=768, description="hidden width of the blocks' MLP")
    droppath: float = Field(
        default=0.1, ge=0, lt=1, description="rate of stochastic depth; increase it to reduce overfitting"
    )
    neck: Literal["identity", "fpn"] = Field(
        default="identity",
        description="layers between encoder and heads; identity: norm of each level; fpn: add coarse levels to finer "
        "ones",
    )
    fpn_dim: Count | None = Field(default=None, description="width of the levels after neck fpn; null: embed_dim")
    neck_norm: bool = Field(
        default=True, description="use norms in the neck; without them the convolutions of neck fpn have a bias"
    )
    head_dim: Count = Field(default=512, description="width of the heads")
    head_layers: Count = Field(default=3, description="number of convolutions per head")
    head_kernel: Odd = Field(default=3, ge=1, description="width of the heads' convolutions (odd)")
    head_norm: bool = Field(
        default=True, description="add a channel norm between the heads' convolutions; without it they have a bias"
    )
    class_prior: float = Field(default=0.01, gt=0, lt=1, description="initial predicted probability of a class")
    regression_ranges: tuple[tuple[int | float, int | float], ...] = Field(
        default=RANGES,
        min_length=1,
        description="smallest and largest distance, in snippets, from a point to the farther border, for each level",
    )
    center_radius: float = Field(
        default=1.5,
        ge=0,
        description="points within this many strides of an instance's centre are positive; a very large value selects "
        "all points inside the instance",
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, le=1, description="label smoothing; 0.1 for many or noisy classes"
    )
    loss_weight: float = Field(default=1.0, ge=0, description="weight of the offset loss")
    living: bool = Field(
        default=True,
        description="keep heads that predict two distances alive: if one distance is 0 at every point of a video, its "
        "ReLU passes the gradient on, so that the distance can grow again. Where no distance dies, trainings are equal "
        "to the bit; false: as published",
    )
    init_loss_norm: Positive = Field(
        default=100.0, description="initial normaliser of the losses: typical number of positive points per batch"
    )
    input_noise: float = Field(default=0.0, ge=0, description="standard deviation of the noise on training features")
    buffer_factor: float = Field(
        default=6.0, ge=0, description="length limit of test sequences in multiples of train.max_length; 0: no limit"
    )

    @property
    def has_position_code(self) -> bool:
        """Whether the encoder adds a position code."""
        return self.use_position

    @property
    def delay(self) -> float:
        """Strides after the end of an instance within which its points lie; 0: its points lie inside it (offline)."""
        return 0.0

    @property
    def neck_dim(self) -> int:
        """Number of output channels of the neck."""
        return self.fpn_dim or self.embed_dim

    @model_validator(mode="after")
    def _streams_fit(self) -> Self:
        streams, widths = list(self.stream_dims), list(self.stream_embed_dims)
        if len(streams) != len(widths):
            raise ValueError(f"stream_embed_dims: {widths}: needs one entry per entry of stream_dims ({len(streams)})")
        if widths and sum(widths) != self.embed_dim:
            raise ValueError(
                f"stream_embed_dims: {widths}: these add up to {sum(widths)}, which must be embed_dim"
                f" ({self.embed_dim})"
            )
        return self

    @model_validator(mode="after")
    def _neck_fits(self) -> Self:
        if self.neck == "identity" and self.neck_dim != self.embed_dim:
            raise ValueError(
                f"fpn_dim: {self.fpn_dim}: without neck fpn the levels keep the width embed_dim ({self.embed_dim});"
                " set neck: fpn, or leave fpn_dim out"
            )
        return self


class CausalSettings(PointSettings):
    """Settings of a detector that can be restricted to the past, for `tad stream`."""

    causal: bool = Field(
        default=False,
        description="use the past only, as `tad stream` needs: convolutions, attention windows and pooling end with the"
        " current snippet, and an instance is predicted from the points after its end",
    )
    causal_delay: float = Field(
        default=2.0,
        ge=1,
        description="causal: an instance is predicted within this many strides of its level after its end; larger: more"
        " to learn from, but later",
    )

    @property
    def delay(self) -> float:
        """Strides after the end of an instance within which its points lie; 0: its points lie inside it (offline)."""
        return self.causal_delay if self.causal else 0.0

    def units(self) -> dict[str, object]:
        """Return what the unit of distances depends on, including the time from which they are measured."""
        return super().units() | ({"delay": self.delay} if self.causal else {})

    def refused_if_causal(self) -> dict[str, bool]:
        """Return which settings cannot be restricted to the past, with whether they are used."""
        return {
            "use_position: true": self.use_position,
            f"neck: {self.neck}": self.neck != "identity",
            f"gate: {self.gate}": self.gated,
        }

    @model_validator(mode="after")
    def _can_be_causal(self) -> Self:
        used = [name for name, chosen in self.refused_if_causal().items() if chosen]
        if self.causal and used:
            raise ValueError(f"causal: true: {used[0]} is not restricted to the past; remove it, or set causal: false")
        return self


class TridentSettings(PointSettings, FaceSettings):
    """Settings that TriDet and MSE share."""

    corrections: tuple[Literal["masked", "living", "detached"], ...] = Field(
        default=("living",),
        description="living: the convolution branches start with non-zero gradients; detached: no gradient through "
        "the tIoU that weights the class loss; masked: padding does not influence the outputs, so a video may have any "
        "length. The last two are off by default: masked reduced MSE's result on 50Salads by two points, and detached "
        "brought no improvement (benchmarks/reports/faces_*.md and masked_*.md)",
    )
    embed_dim: Count = Field(
        default=512, multiple_of=16, description="width of the encoder, a multiple of 16; smaller for small data sets"
    )
    kernel: Odd = Field(
        default=1,
        ge=1,
        description="width of the convolutions in downsampling blocks (odd); use wider ones if actions fill a video",
    )
    kernels: tuple[Annotated[Odd, Field(ge=1)], ...] = Field(
        default=(),
        description="kernel of each level; blocks of the first level always have kernel 1; empty: use the option "
        "kernel for all levels",
    )
    kernel_factor: Positive = Field(
        default=5.0, description="the width of their second convolution is about (kernel + 1) * kernel_factor"
    )
    init_conv_std: float = Field(
        default=0.0,
        ge=0,
        description="initial standard deviation of these convolutions' weights; with 0 and face parity they stay zero",
    )
    pooling: Literal["max", "avg"] = Field(
        default="max",
        description="downsampling in the blocks; max: maximum of three; avg: average of two, then a convolution",
    )
    trident: bool = Field(
        default=True,
        description="predict borders as expectations over bins, with start and end heads; false: predict two distances "
        "per point as in ActionFormer, and do not weight class losses by tIoU",
    )
    boundary_kernel: Odd = Field(default=3, ge=1, description="width of the start and end heads' convolutions (odd)")
    num_bins: Count = Field(default=16, description="largest distance to a border, in strides of the level")
    iou_weight_power: float = Field(
        default=0.2, ge=0, description="weight the class losses of positives by tIoU to this power; 0: no weighting"
    )
    input_noise: float = Field(default=0.0005, ge=0, description="standard deviation of the noise on training features")

    @property
    def mean_window(self) -> int:
        """Points whose mean replaces the mean over the whole video; 0: it is not replaced."""
        return 0

    @property
    def level_kernels(self) -> tuple[int, ...]:
        """Kernel of each level."""
        return self.kernels or (self.kernel,) * self.levels

    @model_validator(mode="after")
    def _kernels_fit(self) -> Self:
        if self.kernels:
            self.per_level("kernels")
        return self

    def units(self) -> dict[str, object]:
        """Return the settings that determine the unit of distances, including the number of bins, if there are any."""
        return {**super().units(), "num_bins": self.num_bins if self.trident else 0}


class AttentionSettings(PointSettings):
    """Settings of a detector with attention in its encoder."""

    num_heads: Count = Field(default=4, description="number of attention heads; must divide embed_dim")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim: {self.embed_dim}: must be a multiple of num_heads ({self.num_heads})")
        return self
