"""Score thresholds: with a guaranteed precision, or with the best F1.

The guarantee: of all detections with at least this score in new videos, at least the stated share is right, with the
stated confidence. It is calibrated on held-out videos, which new videos have to resemble (exchangeability). The
threshold is chosen by tests from high to low scores that stop at the first failure, so that the confidence covers the
choice (Angelopoulos, Bates, Candès, Jordan, Lei: Learn then Test, 2021; fixed sequences with several starts). A
threshold passes if two tests reject that its precision is too low: a t test over videos, whose detections depend on one
another, and a binomial test over detections, which is sharper where few errors are possible. The t test is exact only
for many videos; tests/test_threshold.py measures the coverage on real detections with 10 to 212 videos.
"""

# V videos, G thresholds of the grid

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.core.errors import TadError
from tad.metrics.evaluation import Evaluation

Counts = NDArray[np.float64]
GRID = np.round(np.arange(100, 0, -1) / 100, 2)
"""(G,) candidates, fixed in advance and descending; scores are probabilities."""
STARTS = (1, 4)  # the sequences begin where this many times the detections that any test needs are shown
FEWEST = 5  # videos


@dataclass(frozen=True)
class Threshold:
    """A threshold with its precision and recall on held-out videos.

    Attributes:
        score: detections with at least this score are shown.
        shown, right: number of detections at least as high, and of those that match an instance.
        instances: number of instances.
        videos: number of videos.
    """

    score: float
    shown: int
    right: int
    instances: int
    videos: int

    @property
    def precision(self) -> float:
        """Share of correct detections on the held-out videos."""
        return self.right / max(self.shown, 1)

    @property
    def recall(self) -> float:
        """Share of found instances on the held-out videos."""
        return self.right / max(self.instances, 1)


@cache
def t_quantile(level: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution, for a level above 0.5."""
    log_constant = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2

    def below(x: float) -> float:
        grid = np.linspace(0, x, 4001)
        density = np.exp(log_constant - (freedom + 1) / 2 * np.log1p(grid**2 / freedom))
        return 0.5 + float(((density[1:] + density[:-1]) / 2 * np.diff(grid)).sum())

    low, high = 0.0, 2.0
    while below(high) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < level else (low, middle)
    return high


@cache
def binomial_tail(errors: int, shown: int, share: float) -> float:
    """Return the probability of at most `errors` errors among `shown` detections if each is wrong with `share`."""
    k = np.arange(errors + 1)
    log_choose = [math.lgamma(shown + 1) - math.lgamma(x + 1) - math.lgamma(shown - x + 1) for x in k.tolist()]
    return min(1.0, float(np.exp(np.array(log_choose) + k * math.log(share) + (shown - k) * math.log1p(-share)).sum()))


def shown_and_right(result: Evaluation, h: int) -> tuple[Counts, Counts]:
    """Return the number of detections, and of correct ones at threshold `h` of tIoU, per video and score (V, G).

    Raises:
        TadError: scores are not probabilities.
    """
    scores, videos = result.detail.scores, len(result.matches.video_ids)
    if len(scores) and not 0 <= scores.min() <= scores.max() <= 1:
        raise TadError(f"scores from {scores.min():g} to {scores.max():g} are not probabilities; set --score instead")
    right = result.detail.taken[h] >= 0
    counts = [
        np.stack(
            [np.bincount(result.matches.video[(scores >= t) & mask], minlength=videos) for t in GRID.tolist()], axis=1
        )
        for mask in (np.ones(len(scores), np.bool_), right)
    ]
    return counts[0].astype(np.float64), counts[1].astype(np.float64)


def guaranteed(shown_VG: Counts, right_VG: Counts, *, precision: float, confidence: float) -> int | None:
    """Return the index into `GRID` of the lowest score that meets the guarantee; None if no score can be shown to.

    Args:
        shown_VG, right_VG: see `shown_and_right`.
        precision: the guaranteed share of right detections.
        confidence: the probability, over the choice of the held-out videos, that the guarantee holds.
    """
    videos = len(shown_VG)
    if videos < FEWEST:
        return None
    wrong_VG, allowed = shown_VG - right_VG, 1 - precision
    excess_VG = wrong_VG - allowed * shown_VG  # its expectation is at most 0 where the guarantee holds
    mean_G, deviation_G = excess_VG.mean(axis=0), excess_VG.std(axis=0, ddof=1)
    shown_G, wrong_G = shown_VG.sum(axis=0), wrong_VG.sum(axis=0)
    risk = (1 - confidence) / len(STARTS)
    quantile = t_quantile(round(1 - risk, 12), videos - 1)
    needed = math.log(risk) / math.log(precision)  # with fewer detections not even a faultless sample passes
    best: int | None = None
    for start in STARTS:
        for g in np.flatnonzero(shown_G >= start * needed).tolist():
            by_video = mean_G[g] + quantile * deviation_G[g] / math.sqrt(videos) <= 0
            if not by_video or binomial_tail(int(wrong_G[g]), int(shown_G[g]), round(allowed, 12)) > risk:
                break
            best = g if best is None else max(best, g)
    return best


@dataclass(frozen=True)
class HeldOut:
    """Detections on held-out videos by score: all that thresholds are chosen by.

    Attributes:
        shown_VG, right_VG: see `shown_and_right`.
        instances: number of instances.
        at: when a detection is right: "at tIoU 0.5", or for moments "within" a time.
        why: why there are no such detections, in which case the others are empty; otherwise empty.
    """

    shown_VG: Counts
    right_VG: Counts
    instances: int = 0
    at: str = ""
    why: str = ""

    @classmethod
    def seen(cls, result: Evaluation, h: int) -> "HeldOut":
        """Count the detections of an evaluation at threshold `h` of tIoU.

        Raises:
            TadError: scores are not probabilities.
        """
        at = f"{'within' if result.near else 'at tIoU'} {result.names[h]}"
        return cls(*shown_and_right(result, h), sum(result.instances), at)

    @classmethod
    def none(cls, why: str) -> "HeldOut":
        """Return that there are no such detections."""
        return cls(np.zeros((0, len(GRID))), np.zeros((0, len(GRID))), why=why)

    def document(self) -> dict[str, Any]:
        """Return the JSON form, which holds no name of a video."""
        if self.why:
            return {"why": self.why}
        counts = {"shown": self.shown_VG.astype(int).tolist(), "right": self.right_VG.astype(int).tolist()}
        return {"at": self.at, "instances": self.instances, **counts}

    @classmethod
    def of(cls, document: dict[str, Any]) -> "HeldOut":
        """Read the JSON form."""
        if "why" in document:
            return cls.none(str(document["why"]))
        shown, right = (np.array(document[key], np.float64).reshape(-1, len(GRID)) for key in ("shown", "right"))
        return cls(shown, right, int(document["instances"]), str(document["at"]))

    def _threshold(self, g: int) -> Threshold:
        shown, right = int(self.shown_VG[:, g].sum()), int(self.right_VG[:, g].sum())
        return Threshold(float(GRID[g]), shown, right, self.instances, len(self.shown_VG))

    def with_precision(self, *, precision: float, confidence: float) -> Threshold:
        """Return the lowest threshold that meets the guarantee; see the function `with_precision`."""
        _check(precision, confidence)
        if self.why:
            raise TadError(self.why)
        g = guaranteed(self.shown_VG, self.right_VG, precision=precision, confidence=confidence)
        if g is None:
            raise _refusal(self.shown_VG, self.right_VG, precision, confidence)
        return self._threshold(g)

    def with_best_f1(self) -> Threshold:
        """Return the threshold with the best F1; see the function `with_best_f1`."""
        if self.why:
            raise TadError(self.why)
        if not self.right_VG.any():
            raise TadError(f"no detection on {len(self.right_VG)} held-out videos is right {self.at}; give --score")
        counts_G = self.shown_VG.sum(axis=0) + self.instances
        return self._threshold(int((2 * self.right_VG.sum(axis=0) / np.maximum(counts_G, 1)).argmax()))


def with_precision(result: Evaluation, h: int, *, precision: float, confidence: float) -> Threshold:
    """Return the lowest threshold that meets the guarantee.

    Args:
        result: an evaluation on held-out videos. h: index of the tIoU threshold at which a detection is correct.
        precision, confidence: see `guaranteed`.

    Raises:
        TadError: a value outside (0, 1), or no threshold can be shown to meet it; the message says what was
            seen and what would help.
    """
    _check(precision, confidence)
    return HeldOut.seen(result, h).with_precision(precision=precision, confidence=confidence)


def _check(precision: float, confidence: float) -> None:
    for name, value in (("--precision", precision), ("--confidence", confidence)):
        if not 0 < value < 1:
            raise TadError(f"{name} {value:g}: give a number between 0 and 1, such as 0.9")


def _refusal(shown_VG: Counts, right_VG: Counts, precision: float, confidence: float) -> TadError:
    """Return the error that no threshold can be shown to meet the guarantee, with what was seen."""
    shown_G: Any = shown_VG.sum(axis=0)
    share_G = np.where(shown_G >= 10, right_VG.sum(axis=0) / np.maximum(shown_G, 1), 0.0)
    seen = (
        f"at most {100 * share_G.max():.0f} % were right" if share_G.any() else "too few detections score 0.01 or more"
    )
    return TadError(
        f"--precision {precision:g}: no threshold keeps it with {100 * confidence:g} % confidence on {len(shown_VG)}"
        f" held-out videos ({seen} of ten or more detections above a threshold); lower --precision or --confidence, or"
        " annotate more test videos"
    )


def with_best_f1(result: Evaluation, h: int) -> Threshold:
    """Return the threshold with the best F1 on the evaluated videos; nothing is guaranteed for new ones.

    Raises:
        TadError: scores are not probabilities, or no detection is right.
    """
    return HeldOut.seen(result, h).with_best_f1()
