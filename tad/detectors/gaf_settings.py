"""Settings of GAF on features; the published results come from networks trained on frames (see afsd_frames)."""

from typing import Literal

from pydantic import Field

from tad.detectors._afsd.settings import SaliencyFeatureSettings

Correction = Literal["masked", "aligned", "detached", "background", "scaled", "normalised", "target", "averaged"]


class Settings(SaliencyFeatureSettings):
    """AFSD with a generative attention gate and GAF's losses."""

    kin = ("afsd",)

    gate: Literal["none", "generative"] = Field(
        default="generative",
        description="generative: features are weighted by an attention that a VAE regularises; none: AFSD",
    )
    corrections: tuple[Correction, ...] = Field(
        default=("masked", "aligned", "detached", "background", "scaled", "normalised", "target", "averaged"),
        description="as for afsd, and normalised: the attention is divided by its mean over a video, not by its sum "
        "over the batch; target: generated features are compared with the true features; averaged: the background loss "
        "is a mean over points",
    )
