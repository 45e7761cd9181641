"""The two faces of a detector: `parity` reproduces the published code, `corrected` repairs its defects."""

from tad.detectors._settings import FaceSettings


def corrections_of(settings: FaceSettings) -> frozenset[str]:
    """Return the active corrections: none with face parity, otherwise those that the settings name."""
    return frozenset(settings.corrections if settings.face == "corrected" else ())
