"""GAF: AFSD whose features pass a generative attention, which a conditional VAE judges.

Generative Model-Based Feature Attention Module for Video Action Analysis, arXiv:2508.13565; the VAE and its schedule
are those of DGAM (Shi et al.: Weakly-Supervised Action Localization by Generative Attention Modeling, CVPR 2020).
"""

from tad.layers.saliency_detector import SaliencyDetector


class Detector(SaliencyDetector):
    """GAF on features: with the published sums and targets (`face` parity) or the intended ones; settings: gaf.yaml."""
