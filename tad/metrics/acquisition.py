"""Acquisition values of active learning: what labels of a video, or of a minute of it, would teach a detector.

The detections of several trainings (seeds) in an unlabelled video are grouped into hypotheses: detections of a class
that overlap, or moments of a class that are near one another. A hypothesis has a score from each training, 0 where a
training detects nothing there. Its value is the sum of two entropies in bits, times the rarity of its class:

- doubt: the entropy of the mean score, highest at 0.5;
- disagreement: the mutual information of the hypothesis and the training (BALD; Houlsby, Huszár, Ghahramani, Lengyel:
  Bayesian Active Learning for Classification and Preference Learning, 2011). It is 0 for a single training.

A video's value is the sum over its hypotheses per minute of video, as labelling takes time in proportion.
"""

# S trainings (seeds), N hypotheses of a video

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 0.2  # a hypothesis needs a detection with at least this score; the many weaker ones say little each
OVERLAP = 0.5  # tIoU from which detections of two trainings are of the same hypothesis
SPAN = 60.0  # seconds of a ranked part of a video

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Hypothesis:
    """An action that some trainings detect: its segment and label, and what labelling it would teach.

    Attributes:
        start, end: seconds, of the detection with the highest score.
        label: the class.
        score: mean score of all trainings.
        doubt, disagreement: bits, see above.
        rarity: factor of the class, see `rarities`.
    """

    start: float
    end: float
    label: str
    score: float
    doubt: float
    disagreement: float
    rarity: float

    @property
    def value(self) -> float:
        """Rarity times the sum of doubt and disagreement."""
        return self.rarity * (self.doubt + self.disagreement)


@dataclass(frozen=True)
class Part:
    """A ranked video, or a ranked part of one, with sums over its hypotheses.

    Attributes:
        video: id of the video.
        start, end: seconds.
        value: sum of the hypotheses' values per minute.
        doubt, disagreement: sums in bits per minute.
        hypotheses: the number of them.
        rarest: the label with the highest rarity among them; empty without any.
    """

    video: str
    start: float
    end: float
    value: float
    doubt: float
    disagreement: float
    hypotheses: int
    rarest: str


def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of a yes-or-no question with probability `p` of yes, in bits."""
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(-p * np.log2(p) - (1 - p) * np.log2(1 - p), np.float64)


def rarities(labels: Sequence[str], counts: Mapping[str, int]) -> dict[str, float]:
    """Return a factor for each class: the square root of the mean number of labelled instances over the class's own.

    Both numbers are increased by one, so a class without any instance has a finite factor.
    """
    mean = sum(counts.get(label, 0) for label in labels) / max(len(labels), 1)
    return {label: math.sqrt((mean + 1) / (counts.get(label, 0) + 1)) for label in labels}


def _overlaps(row: NDArray[np.float64], segments_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the tIoU of a segment with others."""
    shared = np.minimum(row[1], segments_N2[:, 1]) - np.maximum(row[0], segments_N2[:, 0])
    shared = np.maximum(shared, 0.0)
    union = (row[1] - row[0]) + (segments_N2[:, 1] - segments_N2[:, 0]) - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float64)


def _same(row: NDArray[np.float64], segments_N2: NDArray[np.float64], reach: float) -> NDArray[np.bool_]:
    """Return which segments are of the same action as `row`: those that overlap it, or moments within `reach` of it."""
    long_N = segments_N2[:, 1] > segments_N2[:, 0]
    if row[1] > row[0]:
        return np.asarray(long_N & (_overlaps(row, segments_N2) >= OVERLAP))
    return np.asarray(~long_N & (np.abs(segments_N2[:, 0] - row[0]) <= reach))


def hypotheses(trainings: Sequence[Rows], rarity: Mapping[str, float], *, reach: float = 0.0) -> list[Hypothesis]:
    """Group the detections of several trainings in a video.

    Args:
        trainings: of each training, rows with label, score and segment (start, end), as in results files. Scores
            outside [0, 1] are clipped.
        rarity: factor of each class; 1 for others.
        reach: seconds up to which moments of two trainings are the same.
    """
    found: list[Hypothesis] = []
    for label in sorted({row["label"] for rows in trainings for row in rows}):
        own = [(s, row) for s, rows in enumerate(trainings) for row in rows if row["label"] == label]
        score_N = np.clip(np.array([row["score"] for _, row in own], np.float64), 0.0, 1.0)
        segment_N2 = np.array([row["segment"] for _, row in own], np.float64).reshape(-1, 2)
        training_N = np.array([s for s, _ in own])
        free_N = np.ones(len(own), np.bool_)
        for n in np.argsort(-score_N, kind="stable").tolist():
            if score_N[n] < LEAST:
                break
            if not free_N[n]:
                continue
            near_N = _same(segment_N2[n], segment_N2, reach) & free_N
            near_N[n] = True
            score_S = np.zeros(len(trainings))
            for s in range(len(trainings)):
                here = near_N & (training_N == s)
                if here.any():
                    score_S[s] = score_N[here].max()
            free_N &= ~near_N
            mean = np.array([score_S.mean()])
            doubt = float(entropy(mean)[0])
            told = max(doubt - float(entropy(score_S).mean()), 0.0)
            start, end = segment_N2[n].tolist()
            found.append(Hypothesis(start, end, label, float(mean[0]), doubt, told, rarity.get(label, 1.0)))
    return found


def _part(video: str, start: float, end: float, within: Sequence[Hypothesis]) -> Part:
    minutes = max(end - start, 1.0) / 60.0
    value, doubt, disagreement = (
        sum(float(getattr(one, name)) for one in within) / minutes for name in ("value", "doubt", "disagreement")
    )
    rarest = max(within, key=lambda one: (one.rarity, one.value)).label if within else ""
    return Part(video, start, end, value, doubt, disagreement, len(within), rarest)


def rank_videos(found: Mapping[str, Sequence[Hypothesis]], durations: Mapping[str, float]) -> list[Part]:
    """Return the videos, those first whose labels teach most per minute; ties by name."""
    parts = [_part(video, 0.0, durations[video], own) for video, own in found.items()]
    return sorted(parts, key=lambda part: (-part.value, part.video))


def rank_spans(
    found: Mapping[str, Sequence[Hypothesis]], durations: Mapping[str, float], *, seconds: float = SPAN
) -> list[Part]:
    """Return parts of all videos of about `seconds` each, the most valuable first.

    A hypothesis belongs to the part that contains its middle. The parts of a video are equally long.
    """
    parts: list[Part] = []
    for video, own in found.items():
        count = max(round(durations[video] / seconds), 1)
        size = max(durations[video], 1e-6) / count
        within: list[list[Hypothesis]] = [[] for _ in range(count)]
        for one in own:
            within[min(max(int((one.start + one.end) / 2 / size), 0), count - 1)].append(one)
        parts += [_part(video, k * size, (k + 1) * size, some) for k, some in enumerate(within)]
    return sorted(parts, key=lambda part: (-part.value, part.video, part.start))
