"""Settings of features made of keypoints (pose estimates)."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from tad.settings.base import Positive, Spec

PER_POINT, PER_BODY = 5, 3  # channels; see tad.features.keypoints


class KeypointSpec(Spec):
    """How files of keypoints become features; see docs/features.md."""

    points: Annotated[tuple[str, ...], Field(min_length=2)] = Field(
        description="names of the points to use, in the order of the channels"
    )
    individuals: tuple[str, ...] = Field(
        default=(), description="names of the individuals to use; empty: the only one in each file"
    )
    centre: tuple[str, ...] = Field(
        default=(), description="points whose mean is the centre of the body; empty: all points"
    )
    length: Annotated[tuple[str, ...], Field(max_length=2)] = Field(
        default=(),
        description="two points whose distance (median over the video) is the body length; empty: the largest distance "
        "between any two points (median over the frames that show most points)",
    )
    confidence: float = Field(
        default=0.3, ge=0, description="points with a lower confidence count as missing and are interpolated"
    )
    speed_over: Positive = Field(default=0.2, description="seconds over which speeds are measured")
    suffix: str = Field(
        default="", description="end of the file names after the video id, such as _filtered; other files are ignored"
    )

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for key in ("points", "individuals"):
            names = getattr(self, key)
            if len(set(names)) < len(names):
                raise ValueError(f"{key}: {list(names)}: name each once")
        for key in ("centre", "length"):
            if unknown := [name for name in getattr(self, key) if name not in self.points]:
                raise ValueError(f"{key}: {unknown[0]}: must be one of points ({', '.join(self.points)})")
        if len(set(self.length)) not in (0, 2):
            raise ValueError(f"length: {list(self.length)}: give two different points, or none")
        return self

    @property
    def width(self) -> int:
        """The number of channels."""
        count = max(len(self.individuals), 1)
        return count * (len(self.points) * PER_POINT + PER_BODY) + count * (count - 1) // 2
