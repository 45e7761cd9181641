"""Settings of probe, resolved from the rows of config.yaml."""

from typing import Literal

from pydantic import Field

from tad.settings.base import Count, Fraction, Names, Positive, Settings, StageSpec
from tad.settings.config import Config


class ProbeSpec(StageSpec):
    """Settings of probe: videos → manifest."""

    dataset: str
    reader: Literal["pyav", "decord", "torchcodec"] = Field(
        default="pyav", description="decoder, where it reads the file correctly; else pyav"
    )
    stall_seconds: Positive = Field(default=60.0, description="a file whose decoding stalls for this long is damaged")
    max_pixels: Count = Field(default=8192 * 8192, description="files whose header states more are rejected undecoded")

    most_flawed: Fraction = Field(
        default=0.05,
        description="largest share of frames lost or flagged by the decoder; a video with more is damaged",
    )
    on_flawed: Literal["keep", "exclude"] = Field(
        default="keep", description="videos with a few such frames: use and count them, or exclude and list them"
    )

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        row = config.dataset(names.dataset)
        return {"dataset": names.dataset, "reader": row.reader, "on_flawed": row.on_flawed}
