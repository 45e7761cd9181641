"""Settings of TriDet; the defaults are those of the paper for THUMOS14 and two-stream I3D features."""

from typing import Literal

from pydantic import Field

from tad.detectors._points.settings import CausalSettings, TridentSettings
from tad.settings.base import Count


class Settings(TridentSettings, CausalSettings):
    """TriDet (published: 69.3 average mAP on THUMOS14)."""

    encoder: Literal["granular", "conv"] = Field(
        default="granular",
        description="granular: blocks of depth-wise convolutions (SGP); conv: residual blocks of plain convolutions",
    )

    causal_window: Count = Field(
        default=64,
        description="causal: points of a level whose mean replaces the mean over the whole video, in the instant branch"
        " and in the statistics of the group norm",
    )

    def refused_if_causal(self) -> dict[str, bool]:
        """Return which settings cannot be restricted to the past, with whether they are used."""
        return super().refused_if_causal() | {f"encoder: {self.encoder}": self.encoder != "granular"}

    @property
    def mean_window(self) -> int:
        """Points whose mean replaces the mean over the whole video; 0: it is not replaced."""
        return self.causal_window if self.causal else 0

    @property
    def has_position_code(self) -> bool:
        """The published encoder of plain convolutions has none."""
        return self.use_position and self.encoder == "granular"
