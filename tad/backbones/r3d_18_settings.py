"""Settings of torchvision's R3D-18 with Kinetics-400 weights."""

from tad.backbones._settings import SmallFrameSettings


class Settings(SmallFrameSettings):
    """Settings of R3D-18: 512-dimensional features; the weights were tested at 15 frames per second."""
