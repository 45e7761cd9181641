"""Settings of the spotting of moments on frames; the defaults are those of T-DEED."""

from typing import Literal

from pydantic import Field

from tad.detectors._moments.settings import MomentSettings
from tad.settings.base import Count, Positive


class Settings(MomentSettings):
    """RegNet-Y with gate-shift modules and T-DEED's temporal network, trained end to end."""

    encoder: Literal["regnety_002", "regnety_008"] = Field(
        default="regnety_002", description="RegNet-Y of 200 or 800 million operations per frame of 224 pixels"
    )
    shift: bool = Field(default=True, description="gate-shift modules before the first convolution of each block")
    height: Count = Field(default=224, description="height of the input frames in pixels")
    width: Count = Field(default=398, description="width of the input frames in pixels")
    flip: float = Field(default=0.5, ge=0, le=1, description="share of training windows that are flipped horizontally")
    jitter: float = Field(
        default=0.25, ge=0, le=1, description="share of training windows whose brightness and contrast are changed"
    )
    mirrored: bool = Field(
        default=False, description="detect on frames and flipped frames and average the outputs, as T-DEED does"
    )
    encoder_rate: Positive = Field(default=1.0, description="learning rate of the encoder in multiples of the recipe's")
    embed_dim: Count = Field(
        default=368,
        multiple_of=16,
        description="width of the temporal network; T-DEED: that of the encoder, 368 or 768",
    )

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames that the detector reads."""
        return self.height, self.width

    @property
    def initial_weights(self) -> tuple[str, dict[str, object]]:
        """The encoder as timm names it; its file has the names of this package's parameters."""
        return "timm_image", {"model": f"{self.encoder}.pycls_in1k"}
