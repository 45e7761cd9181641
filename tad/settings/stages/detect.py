"""Settings of detect, resolved from the rows of config.yaml."""

from pydantic import Field

from tad.settings.adapters import AdaptersSpec, adapters_of
from tad.settings.base import Names, Plugin, Settings, Spec, StageSpec
from tad.settings.config import Config
from tad.settings.frames import Frames
from tad.settings.fuse import fused_spec
from tad.settings.sections import DetectSpec as DetectSpec


class FusedSpec(Spec):
    """The other run of `detect.fuse`, and its model."""

    run: str
    features: str
    detector: Plugin
    resize: int = 0
    frames: Frames = ""


class DetectStageSpec(StageSpec):
    """Settings passed to `tad detect`."""

    run: str
    dataset: str
    features: str
    detector: Plugin
    detect: DetectSpec
    split: str = "test"
    resize: int = 0
    frames: Frames = ""
    exclude: dict[str, str] = {}
    adapters: AdaptersSpec | None = Field(
        default=None, exclude_if=lambda value: value is None, description="adapters in a frozen encoder of frames"
    )
    fused: FusedSpec | None = None

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        sections = config.resolve_run(names.run).sections
        return {
            "run": names.run,
            "dataset": names.dataset,
            "features": names.features,
            "detector": config.detector(names.run),
            "detect": sections["detect"],
            "resize": sections["train"]["resize"],
            "exclude": config.run(names.run).exclude,
            "frames": config.frames(names.features)["frames"],
            "adapters": adapters_of(config, names.run),
            "fused": fused_spec(config, names.run),
        }
