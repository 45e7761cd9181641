"""Settings that several families of detectors share: the generative gate, corrections, pyramids of points."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.settings.base import Count, Positive, Spec
from tad.settings.components import DetectorSettings
from tad.settings.sections import DetectSpec, TrainSpec

Face = Literal["parity", "corrected"]


class GateSettings(Spec):
    """Settings of the generative attention gate and its conditional VAE (docs/methods/gaf.md)."""

    hidden: Count = Field(default=512, description="hidden width of the attention network")
    lr: Positive = Field(default=1e-3, description="learning rate of the VAE")
    kl_weight: float = Field(default=0.1, ge=0, description="weight of the VAE's KL divergence from its prior")
    background_weight: float = Field(
        default=1.0, ge=0, description="weight of the loss that makes suppressed features background"
    )
    reconstruction_weight: float = Field(
        default=0.5, ge=0, description="weight of the reconstruction error of features generated from the attention"
    )
    ramp_epochs: int = Field(
        default=0, ge=0, description="epochs until reconstruction_weight reaches its full value; 0: the whole training"
    )


class GatedSettings(DetectorSettings):
    """Settings of a detector whose features can pass through a generative gate."""

    gate: Literal["none", "generative"] = Field(
        default="none", description="generative: features are weighted by an attention that a VAE regularises"
    )
    gate_settings: GateSettings = GateSettings()

    @property
    def gated(self) -> bool:
        """Whether features pass through a generative attention gate."""
        return self.gate == "generative"


class FaceSettings(GatedSettings):
    """Settings of a detector that can reproduce its published code or run with corrections of its defects.

    A subclass redefines the field `corrections` with the names that it supports.
    """

    face: Face = Field(
        default="corrected",
        description="parity: reproduce the published code, defects included; corrected: apply the corrections",
    )
    corrections: tuple[str, ...] = ()


class PyramidSettings(GatedSettings):
    """Settings of a detector that predicts from the points of a feature pyramid."""

    regression_ranges: tuple[tuple[int | float, int | float], ...] = Field(
        min_length=1,
        description="per level: smallest and largest distance from a point to the farther border of its instance",
    )

    @property
    def levels(self) -> int:
        """Number of levels of the pyramid."""
        return len(self.regression_ranges)

    @property
    def last_stride(self) -> int:
        """Snippets between neighbouring points of the last level."""
        return int(2 ** (self.levels - 1))

    def per_level(self, name: str) -> None:
        """Check that a list has one entry per level.

        Raises:
            ValueError: the numbers differ.
        """
        values = list(getattr(self, name))
        if len(values) != self.levels:
            raise ValueError(f"{name}: {values}: needs one entry per level of regression_ranges ({self.levels})")

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        for low, high in self.regression_ranges:
            if not 0 <= low < high:
                raise ValueError(f"regression_ranges: [{low}, {high}]: needs 0 <= smallest < largest")
        return self

    def check(self, *, train: TrainSpec, detect: DetectSpec) -> None:
        """Check also that the length of training windows is a multiple of the last level's stride."""
        super().check(train=train, detect=detect)
        if train.max_length % self.last_stride:
            raise ValueError(
                f"train.max_length: {train.max_length}: must be a multiple of {self.last_stride}, the stride of the"
                f" last of {self.levels} levels (regression_ranges)"
            )

    def units(self) -> dict[str, object]:
        """Return what the unit of distances depends on: the number of levels."""
        return {"levels": self.levels}
