"""Settings of the training-free detector of text prompts."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from tad.settings.base import Fraction, Positive
from tad.settings.components import DetectorSettings, Odd


class Settings(DetectorSettings):
    """Similarity of snippets and class texts → segments; nothing is trained."""

    prompted: ClassVar[bool] = True

    templates: tuple[str, ...] = Field(
        default=("{}", "a video of {}", "a photo of a person doing {}"),
        min_length=1,
        description="texts around each phrase of a class, with {} where it goes; their embeddings are averaged",
    )
    smooth: Odd = Field(default=1, ge=1, description="snippets of the moving average of the similarities (odd)")
    scale: Literal["range", "none"] = Field(
        default="range",
        description="range: a class's similarities are stretched to 0..1 over each video; none: they stay cosines",
    )
    thresholds: tuple[float, ...] = Field(
        default=(0.5,), min_length=1, description="a segment is a run of snippets above one of these similarities"
    )
    margin: float = Field(
        default=0.25, ge=0, description="the surroundings on each side of a segment, in parts of its length"
    )
    temperature: Positive = Field(
        default=0.01, description="of the softmax over the classes of a video; CLIP's own is 0.01"
    )
    peak: Fraction = Field(
        default=0.1,
        description="share of a video's most similar snippets that its similarity to a class is the mean of",
    )
    gate: int = Field(
        default=2,
        ge=0,
        description="candidates are of this many most probable classes of each video; 0: of all classes, and scores "
        "have the similarity to the class in place of its probability, so that no class depends on the others",
    )

    @model_validator(mode="after")
    def _a_place_for_the_phrase(self) -> Self:
        for template in self.templates:
            if template.count("{}") != 1 or template.replace("{}", "").count("{"):
                raise ValueError(f"templates: {template!r}: write {{}} once, where the phrase goes")
        return self
