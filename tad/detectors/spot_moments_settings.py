"""Settings of the spotting of moments on features."""

from pydantic import Field

from tad.detectors._moments.settings import MomentSettings
from tad.settings.components import Odd


class Settings(MomentSettings):
    """T-DEED's temporal network on features."""

    input_kernel: Odd = Field(default=3, ge=1, description="positions that the first layer sees")
