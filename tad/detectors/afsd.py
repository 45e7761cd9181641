"""AFSD: every point of a pyramid predicts class and borders, refined by features pooled around these borders.

Lin et al.: Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021.
"""

from tad.detectors._afsd.detector import SaliencyDetector


class Detector(SaliencyDetector):
    """AFSD on features, as in its published port (`face` parity) or corrected. Settings: see afsd_settings.py."""
