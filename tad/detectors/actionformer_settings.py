"""Settings of ActionFormer; the defaults are those of the paper for THUMOS14 and two-stream I3D features."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tad.detectors._points.settings import AttentionSettings, CausalSettings
from tad.settings.base import Count
from tad.settings.components import Odd

Masking = Literal["none", "published", "masked"]


class Settings(AttentionSettings, CausalSettings):
    """ActionFormer (published: 66.8 average mAP on THUMOS14)."""

    windows: tuple[Annotated[Odd, Field(ge=-1)], ...] = Field(
        default=(19,) * 6, description="attention window in snippets, per level (odd); -1: the whole sequence"
    )
    encoder: Literal["transformer", "conv", "conv_dw"] = Field(
        default="transformer",
        description="conv: convolutions in place of attention; conv_dw: depth-wise separable convolutions",
    )
    use_relative_position: bool = Field(
        default=False,
        description="add a learned code of the key's place in the window to the logits of local attention",
    )
    temporal_se: Masking = Field(
        default="none",
        description="squeeze-and-excitation over time before the norms of the levels; published: over windows of "
        "train.max_length with their padding; masked: padding does not influence the result",
    )
    hallucinate: Masking = Field(
        default="none",
        description="features are RGB, and flow features are predicted from them; published: on the padding too; "
        "masked: padding stays zero",
    )
    mlp_dim: Count = Field(default=2048, description="hidden width of the blocks' MLP (published: 4 * embed_dim)")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in the blocks; 0.1 on Ego4D")

    @property
    def has_position_code(self) -> bool:
        """Published encoders of convolutions alone have none."""
        return self.use_position and self.encoder == "transformer"

    def refused_if_causal(self) -> dict[str, bool]:
        """Return which settings cannot be restricted to the past, with whether they are used."""
        return super().refused_if_causal() | {
            f"windows: {list(self.windows)}": min(self.windows) <= 1,
            f"encoder: {self.encoder}": self.encoder != "transformer",
            "use_relative_position: true": self.use_relative_position,
            f"temporal_se: {self.temporal_se}": self.temporal_se != "none",
            f"hallucinate: {self.hallucinate}": self.hallucinate != "none",
        }

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        self.per_level("windows")
        return self

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.use_relative_position and (self.encoder != "transformer" or max(self.windows) <= 1):
            raise ValueError(
                "use_relative_position: true: only local attention has such a code; set encoder: transformer and a"
                " window above 1, or leave it out"
            )
        if self.neck == "fpn" and self.temporal_se != "none":
            raise ValueError("neck: 'fpn': there is no squeeze-and-excitation in it; set temporal_se: none")
        return self
