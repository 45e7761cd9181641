"""Settings of DiGIT; the defaults are a small network for data sets of some hundred videos."""

from typing import Self

from pydantic import Field, model_validator

from tad.settings.base import Count, Fraction, Positive
from tad.settings.components import DetectorSettings, Odd
from tad.settings.sections import DetectSpec, TrainSpec


class Settings(DetectorSettings):
    """DiGIT (published: 72.1 average mAP on THUMOS14 without suppression, on features of InternVideo2-6B)."""

    embed_dim: Count = Field(default=256, multiple_of=2, description="channels (published: 512; HACS: 256)")
    mlp_dim: Count = Field(default=512, description="hidden channels of encoder and decoder layers (published: 2048)")
    embed_kernel: Odd = Field(default=3, ge=1, description="snippets that the embedding of the features sees (odd)")
    kernel: Odd = Field(default=11, ge=1, description="width of the encoder's convolutions in snippets (odd)")
    dilations: Count = Field(default=2, description="convolutions of an encoder layer, with dilation 1, 2, …")
    depthwise: bool = Field(default=True, description="each channel is convolved by itself (published on THUMOS14: no)")
    encoder_layers: Count = Field(default=4, description="layers of the encoder (published: 6)")
    decoder_layers: Count = Field(default=4, description="layers of the decoder (published: 6)")
    levels: Count = Field(default=6, le=10, description="levels of the pyramid, each half as long as the one before")
    heads: Count = Field(default=8, description="heads of the decoder's attention")
    points: Count = Field(default=4, description="places that a head sees in each level")
    border_layers: Count = Field(default=3, description="layers of the head that moves the borders")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout of the layers (published: none)")
    query_share: Fraction = Field(default=0.5, description="share of all levels' points that become queries")
    max_queries: Count = Field(
        default=300,
        description="most queries of a video, which are its most detections, with `one_class: false` of each class",
    )
    one_class: bool = Field(default=True, description="a query has its best class only, as published, or all of them")
    fps: Positive = Field(
        default=30.0,
        description="frames per second that times are computed with inside the network, whatever the videos' are",
    )
    stride: Positive = Field(default=4.0, description="frames between snippets that go with `fps`")
    base_scale: Positive = Field(
        default=32.0, description="length of the first level's first segments, in these frames; it doubles per level"
    )
    class_prior: float = Field(default=0.01, gt=0, lt=1, description="first score of every class")
    class_weight: Positive = Field(default=2.0, description="weight of the class loss")
    iou_weight: Positive = Field(default=2.0, description="weight of the loss of the borders")
    length_weight: float = Field(
        default=0.0, ge=0, description="weight of the smooth L1 loss of the logarithm of the length (published: none)"
    )
    diou: bool = Field(default=False, description="the loss of the borders counts the distance of the centres too")
    match_class: float = Field(default=2.0, ge=0, description="weight of the class in the assignment of instances")
    match_iou: Positive = Field(default=2.0, description="weight of the overlap in it")
    match_length: float = Field(default=0.0, ge=0, description="weight of the logarithm of the length in it")
    input_noise: float = Field(default=0.0, ge=0, description="deviation of noise that training adds to the features")

    @property
    def seconds(self) -> float:
        """Time between snippets inside the network."""
        return self.stride / self.fps

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.embed_dim % self.heads:
            raise ValueError(f"embed_dim: {self.embed_dim}: must be a multiple of heads ({self.heads})")
        if self.mlp_dim % self.dilations:
            raise ValueError(f"mlp_dim: {self.mlp_dim}: must be a multiple of dilations ({self.dilations})")
        if self.heads * self.points % 4:
            raise ValueError(
                f"points: {self.points}: heads times points must be a multiple of 4, but {self.heads} heads have"
                f" {self.heads * self.points}; half of them see each border, on both of its sides"
            )
        return self

    def check(self, *, train: TrainSpec, detect: DetectSpec) -> None:
        """Check also that outputs are not averaged with those of another network."""
        super().check(train=train, detect=detect)
        if detect.fuse:
            raise ValueError(
                f"detect.fuse: '{detect.fuse}': the queries of two networks do not correspond; leave it out"
            )
