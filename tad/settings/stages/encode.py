"""Settings of encode, resolved from the rows of config.yaml."""

from typing import Literal

from pydantic import Field

from tad.core.errors import TadError
from tad.settings.adapters import AdaptersSpec, adapters_of
from tad.settings.base import Count, Names, Plugin, Settings, StageSpec
from tad.settings.config import Config
from tad.settings.frames import Frames


class EncodeSpec(StageSpec):
    """Settings of encode: frames of videos → features, by the encoder of a run with adapters."""

    dataset: str
    features: str
    run: str = Field(description="training with adapters")
    trained_on: str = Field(description="data set of the run")
    frame_set: str = Field(description="feature set of the frames")
    detector: Plugin = Field(description="the run's detector, with which the adapters were trained")
    adapters: AdaptersSpec
    window_stride: Count = Field(
        description="frames between windows; each row comes from the window it is most central in"
    )
    frames: Frames = "rgb"
    dtype: Literal["float16", "float32"] = "float16"

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        row = config.feature_set(names.features)
        base = row.run.partition("/")[0]
        adapters = adapters_of(config, base)
        if adapters is None:
            raise TadError(
                f"{config.where('features', names.features)}.run: {row.run} has no adapters; name one that has"
            )
        training = row.run if "/" in row.run else config.trainings(base)[0]
        return {
            "dataset": names.dataset,
            "features": names.features,
            "run": training,
            "trained_on": config.run(base).dataset,
            "frame_set": config.run(base).features,
            "detector": config.detector(base),
            "adapters": adapters,
            "window_stride": config.resolve_run(base).sections["detect"]["window_stride"],
            "dtype": row.dtype,
        }
