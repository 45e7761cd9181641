"""Evaluation of temporal action detection: mAP and recall from ground truth and detections; works without torch."""

from tad.metrics.evaluation import Evaluation, evaluate
from tad.metrics.protocols import Protocol, protocol

__all__ = ["Evaluation", "Protocol", "evaluate", "protocol"]
