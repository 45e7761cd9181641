"""SPOT: a class and a mask of its instance for every snippet, learnt from few labels and from videos without any.

Nag, Zhu, Song, Xiang: Semi-Supervised Temporal Action Detection with Proposal-Free Masking, ECCV 2022.
"""

from tad.layers.mask_detector import MaskDetector


class Detector(MaskDetector):
    """SPOT with the losses of its released code (`face` parity) or repaired (corrected); settings: see spot.yaml."""
