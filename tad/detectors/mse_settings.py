"""Settings of MSE; the defaults are those of the paper for THUMOS14 and two-stream I3D features."""

from pydantic import Field

from tad.detectors._points.settings import AttentionSettings, TridentSettings


class Settings(TridentSettings, AttentionSettings):
    """MSE (published: 70.5 average mAP on THUMOS14)."""

    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout of the attention's output")
