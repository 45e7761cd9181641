"""Settings of AFSD trained end to end on frames; the defaults are those of the paper for THUMOS14."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.detectors._afsd.settings import SaliencySettings
from tad.settings.base import Count, Positive
from tad.settings.sections import DetectSpec, TrainSpec

Correction = Literal[
    "masked", "detached", "background", "scaled", "padded", "summed", "turned", "he", "normalised", "target", "averaged"
]
Tap = Literal["Mixed_4f", "Mixed_5c"]
FIRST_STRIDE = {"Mixed_4f": 4, "Mixed_5c": 8}  # frames per position of a map of I3D


class Settings(SaliencySettings):
    """AFSD on frames (published: 43.2 average mAP with RGB alone on 210 test videos, 52.0 with flow)."""

    corrections: tuple[Correction, ...] = Field(
        default=(
            "masked", "detached", "background", "scaled", "padded", "summed", "turned", "he", "normalised", "target",
            "averaged",
        ),
        description="as for afsd and gaf, and padded: padding is grey in training too (published: black); summed: "
        "with i3d top_heavy, kernels without temporal extent start from the sums over time (published: at random); "
        "turned: flipped windows of flow have their horizontal motion negated; he: I3D without weights gets He "
        "initialisation, which keeps the scale of signals despite frozen norms",
    )  # fmt: skip
    height: Count = Field(default=112, description="height of the input frames in pixels")
    width: Count = Field(default=112, description="width of the input frames in pixels")
    crop: Count = Field(default=96, description="side of the square crop that the network sees, in pixels")
    flip: float = Field(
        default=0.5, ge=0, le=1, description="fraction of training windows that are flipped horizontally"
    )
    i3d: Literal["full", "top_heavy"] = Field(
        default="full",
        description="top_heavy: the stages up to Mixed_4c process each frame separately (docs/methods/gaf.md)",
    )
    i3d_rate: Positive = Field(default=1.0, description="learning rate of I3D in multiples of the recipe's")
    taps: tuple[Tap, ...] = Field(
        default=("Mixed_4f", "Mixed_5c"),
        description="feature maps of I3D that form the first levels; [Mixed_5c] for ActivityNet",
    )

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        if self.crop > min(self.height, self.width):
            raise ValueError(f"crop: {self.crop}: must lie within {self.height} x {self.width}")
        if self.taps not in (("Mixed_4f", "Mixed_5c"), ("Mixed_5c",)):
            raise ValueError(f"taps: {list(self.taps)}: write [Mixed_4f, Mixed_5c] or [Mixed_5c]")
        return self

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames that the detector reads."""
        return self.height, self.width

    def check(self, *, train: TrainSpec, detect: DetectSpec) -> None:
        """Check also that a window is a whole number of positions on the last level, each several frames long."""
        super().check(train=train, detect=detect)
        frames = FIRST_STRIDE[self.taps[0]] * self.last_stride
        if train.max_length % frames:
            raise ValueError(
                f"train.max_length: {train.max_length}: must be a multiple of {frames}, the frames of a position on the"
                " last level"
            )
