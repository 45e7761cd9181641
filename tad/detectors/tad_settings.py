"""Settings of the project's own detector: those of MSE, with its published network as the default."""

from pydantic import Field

from tad.detectors import mse_settings
from tad.detectors._settings import Face


class Settings(mse_settings.Settings):
    """The detector `tad`: MSE's network; its suppression (tad.yaml) scores detections by agreement."""

    face: Face = Field(
        default="parity",
        description="parity: MSE's network as published, which scored higher than the corrected one on 50Salads;"
        " corrected: apply the corrections",
    )
