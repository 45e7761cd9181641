"""Settings of SPOT; the defaults are those of its released code for ActivityNet-1.3."""

from tad.detectors._spot.settings import MaskSettings


class Settings(MaskSettings):
    """SPOT (published with 10 % of the labels and an external classifier: 32.1 average mAP on ActivityNet-1.3)."""
