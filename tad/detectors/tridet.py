"""TriDet: a pyramid of depth-wise convolutions over snippet features, with borders as distributions over bins.

Shi, Zhong, Cao, Ma, Li, Tao: TriDet: Temporal Action Detection with Relative Boundary Modeling, CVPR 2023.
"""

from tad.layers.trident import TridentDetector


class Detector(TridentDetector):
    """TriDet as published (`face` parity) or with its defects repaired (corrected); settings: see tridet.yaml."""
