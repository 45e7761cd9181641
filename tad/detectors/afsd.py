"""AFSD: every point of a pyramid says class and borders, which features pooled around these borders refine.

Lin et al.: Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021.
"""

from tad.layers.saliency_detector import SaliencyDetector


class Detector(SaliencyDetector):
    """AFSD on features: as in its published port (`face` parity) or repaired (corrected); settings: see afsd.yaml."""
