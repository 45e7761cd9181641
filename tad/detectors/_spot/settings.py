"""Settings of detectors that predict a class and a mask for every snippet."""

from typing import Literal

from pydantic import Field

from tad.detectors._settings import FaceSettings
from tad.settings.base import Count


class MaskSettings(FaceSettings):
    """Settings of SPOT."""

    pretext = True
    whole_windows = True
    exclusive = True
    masks = True

    corrections: tuple[Literal["masked", "summed", "focal", "whole", "dice"], ...] = Field(
        default=("masked", "summed", "focal", "whole", "dice"),
        description="masked: padding is neither background nor attended to; summed: losses are sums over videos; "
        "focal: the focal weight applies to each snippet; whole: instances keep their first and last snippet; dice: "
        "the Dice loss has its factor 2",
    )
    width: int = Field(default=0, ge=0, description="width of the network; 0: width of the features, as published")
    heads: Count = Field(default=4, description="attention heads, each as wide as the network")
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    dropout: float = Field(default=0.3, ge=0, lt=1, description="dropout of the attention's output")
    use_position: bool = Field(
        default=False, description="add a position code, which the mask stream can use; published: none"
    )
    reconstruction_weight: float = Field(default=1.0, ge=0, description="weight of the feature reconstruction loss")
    contrast_weight: float = Field(default=1.0, ge=0, description="weight of the contrastive loss at borders")
    seeds: Count = Field(
        default=10, description="snippets whose masks become candidates; more where videos have many instances"
    )
    one_class: bool = Field(
        default=True,
        description="true: all candidates of a video have one class, as published; false: the class of their seed",
    )
