"""Settings of custom annotations in ActivityNet's JSON layout (docs/datasets.md)."""

from pydantic import Field

from tad.datasets._settings import OwnSettings


class Settings(OwnSettings):
    """Any JSON file in ActivityNet's layout."""

    ambiguous: str = Field(
        default="",
        description='label of segments that are neither action nor background (THUMOS14: Ambiguous); "": none',
    )
