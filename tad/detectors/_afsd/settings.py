"""Settings that AFSD, GAF and AFSD on frames share."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.detectors._settings import FaceSettings, GateSettings, PyramidSettings
from tad.settings.base import Count

ANY_LENGTH = ((0, 100000),) * 6


class SaliencyGate(GateSettings):
    """Settings of the gate, with GAF's weights for THUMOS14 as defaults."""

    background_weight: float = Field(
        default=35.0, ge=0, description="weight of the loss that classifies suppressed features as background"
    )


class SaliencySettings(PyramidSettings, FaceSettings):
    """Settings of a detector whose coarse segments are refined by features pooled around their borders."""

    geometric = True
    whole_windows = True
    exclusive = True

    embed_dim: Count = Field(
        default=512, multiple_of=64, description="width of the network, a multiple of 64; smaller for small data sets"
    )
    strides: tuple[float, ...] = Field(
        default=(1.0,) * 6, description="distance, in frames, that an output of 0 represents, for each level"
    )
    regression_ranges: tuple[tuple[int | float, int | float], ...] = Field(
        default=ANY_LENGTH,
        min_length=1,
        description="smallest and largest distance, in frames, from a point to the farther border, for each level; by "
        "default every level regresses instances of any length",
    )
    piou: float = Field(default=0.5, ge=0, le=1, description="minimum tIoU of a coarse segment that is refined")
    adaptive_piou: bool = Field(
        default=False, description="lower piou to the best tIoU in a window, so that at least one point is refined"
    )
    smooth_l1: bool = Field(default=False, description="use the smooth L1 loss for the refinement offsets; false: L1")
    loss_weight: float = Field(default=10.0, ge=0, description="weight of the coarse and refined distance losses")
    class_weight: float = Field(
        default=1.0, ge=0, description="weight of the coarse and refined class losses and of the quality loss"
    )
    normaliser: Literal["video", "batch"] = Field(
        default="video",
        description="divisor of sums over points; video: number of positive or refined points of each video, followed "
        "by the mean over the batch; batch: their number in the whole batch, as in the paper's code for THUMOS14",
    )
    head_init: Literal["narrow", "glorot"] = Field(
        default="narrow",
        description="initialisation of both heads; narrow: N(0, 0.01²), as in GAF and in AFSD for ActivityNet; glorot: "
        "as in AFSD for THUMOS14 frames",
    )
    consistency_weight: float = Field(
        default=0.1, ge=0, description="weight of the boundary consistency loss; 0: off, which halves the training time"
    )
    consistency_share: float = Field(
        default=1.0,
        ge=0,
        description="length of background inserted into an action, as a fraction of the video's shortest instance",
    )
    gate_settings: SaliencyGate = SaliencyGate()

    @model_validator(mode="after")
    def _strides_fit(self) -> Self:
        self.per_level("strides")
        return self


class SaliencyFeatureSettings(SaliencySettings):
    """Settings of an AFSD-like detector that uses features."""

    upsample: Count = Field(
        default=4,
        description="frames per snippet, the resolution of the frame-level features and the unit of distances",
    )

    def units(self) -> dict[str, object]:
        """Return the settings that determine the unit of distances, including `upsample` and correction `aligned`."""
        aligned = self.face == "corrected" and "aligned" in self.corrections
        return {"upsample": self.upsample, **super().units(), "correction aligned": aligned}
