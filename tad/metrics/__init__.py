"""Scores of temporal action detection, usable alone and without torch: ground truth and detections → mAP and recall."""

from tad.metrics.evaluation import Evaluation, evaluate
from tad.metrics.protocols import Protocol, protocol

__all__ = ["Evaluation", "Protocol", "evaluate", "protocol"]
