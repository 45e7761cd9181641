"""GAF: AFSD with a generative attention over its features, regularised by a conditional VAE.

Generative Model-Based Feature Attention Module for Video Action Analysis, arXiv:2508.13565; the VAE and its schedule
are those of DGAM (Shi et al.: Weakly-Supervised Action Localization by Generative Attention Modeling, CVPR 2020).
"""

from tad.detectors._afsd.detector import SaliencyDetector


class Detector(SaliencyDetector):
    """GAF on features, as published (`face` parity) or corrected. For the settings see gaf_settings.py."""
