"""Settings that the detectors of moments share."""

from pydantic import Field

from tad.settings.base import Count, Positive
from tad.settings.components import DetectorSettings, Odd


class MomentSettings(DetectorSettings):
    """Settings of a network that classifies every position and predicts how far its moment is away."""

    moments = True
    exclusive = True

    embed_dim: Count = Field(default=256, multiple_of=16, description="width of the network, a multiple of 16")
    mlp_dim: Count = Field(default=512, description="hidden width of the MLPs")
    levels: int = Field(default=2, ge=0, le=6, description="times that the encoder halves the sequence")
    kernel: Odd = Field(default=9, ge=1, description="positions of the window branches (T-DEED: 5 to 11)")
    factor: Positive = Field(default=4.0, description="width of the second window: (kernel + 1) · factor, made odd")
    position_code: bool = Field(default=True, description="add a learned code of the position within the window")
    reach: float = Field(
        default=2.0, ge=0, description="positions up to this far from a moment are labelled with it (T-DEED: 1 to 4)"
    )
    class_weight: Positive = Field(default=5.0, description="weight of classes in the cross-entropy; background has 1")
    displacement_weight: float = Field(default=1.0, ge=0, description="weight of the squared error of displacements")
    mixup: float = Field(
        default=0.2,
        ge=0,
        description="windows are mixed with their shifted selves, in shares of Beta(mixup, mixup); 0: off",
    )
