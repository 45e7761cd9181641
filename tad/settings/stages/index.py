"""Settings of index, resolved from the rows of config.yaml."""

from typing import Literal

from tad.settings.base import Names, Settings, StageSpec
from tad.settings.config import Config
from tad.settings.frames import FrameSpec


class IndexSpec(StageSpec):
    """Settings of index: manifests → index of frames."""

    dataset: str
    features: str
    frames: FrameSpec
    on_damaged: Literal["exclude", "error"] = "exclude"

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        row = config.feature_set(names.features)
        named = {"dataset": names.dataset, "features": names.features}
        return {**named, "frames": row.frames, "on_damaged": row.on_damaged}
