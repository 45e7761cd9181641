"""Settings of the demo, whose videos and annotations the workflow renders."""

from pydantic import Field

from tad.settings.base import Count, Spec
from tad.settings.components import FormatSettings


class Render(Spec):
    """Arguments of workflow_scripts/render_demo.py."""

    videos: Count = Field(
        default=30, description="number of videos, two thirds for training; fewer are faster, but make the mAP noisy"
    )
    seed: int = Field(default=0, ge=0, description="random seed; another seed gives another data set of the same kind")


class Settings(FormatSettings):
    """Five actions of a drawn figure that differ only in motion; the format has no settings."""

    render = Render
