"""Settings of suppress, resolved from the rows of config.yaml."""

from typing import Literal

from pydantic import Field

from tad.settings.base import Count, Names, Positive, Settings, Spec, StageSpec
from tad.settings.config import Config
from tad.settings.sections import NmsSpec as NmsSpec


class ExternalSpec(Spec):
    """Video-level class scores to combine with the suppressed detections."""

    source: str = Field(min_length=1, description="`own` (a classifier trained by classify) or a file")
    topk: Count = Field(default=2, description="with replace: number of video classes given to each segment")
    combine: Literal["sqrt", "product"] = Field(default="sqrt", description="of detection score and video class score")
    labels: Literal["replace", "keep"] = Field(
        default="replace", description="replace the detector's labels by the video's best classes, or keep them"
    )
    detections: Count = Field(default=200, description="with replace: number of best segments per video")
    softmax: bool = Field(default=False, description="whether the file contains logits, which need a softmax")
    factor: Positive = Field(default=1.0, description="factor by which class scores are multiplied")


class SuppressStageSpec(StageSpec):
    """Settings passed to `tad suppress`."""

    run: str
    nms: NmsSpec
    external: ExternalSpec | None = None

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        row = config.run(names.run)
        external = {"external": row.external} if row.external else {}
        return {"run": names.run, "nms": config.resolve_run(names.run).sections["nms"], **external}
