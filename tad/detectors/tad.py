"""The project's own detector: MSE's network and training, and detections scored by agreement (docs/methods/tad.md)."""

from tad.detectors.mse import Detector as Detector
