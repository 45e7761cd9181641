"""SPOT: predicts a class and an instance mask for every snippet; trained with few labels and unlabelled videos.

Nag, Zhu, Song, Xiang: Semi-Supervised Temporal Action Detection with Proposal-Free Masking, ECCV 2022.
"""

from tad.detectors._spot.detector import MaskDetector


class Detector(MaskDetector):
    """SPOT with the losses of its released code (`face` parity) or corrected. For the settings see spot_settings.py."""
