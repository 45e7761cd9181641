"""Video-level class scores from elsewhere, or from `classify` → one vector per video, with the names of its numbers."""

# V videos, K classes

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.errors import TadError
from tad.feature_files import unpickle
from tad.files import read_json

Array = NDArray[np.float64]
PREFIX = "v_"  # ActivityNet's and HACS' files go by ids without it, their videos by ids with it
# UntrimmedNet's array has one row per THUMOS'14 test video, by its number, and a column per class of the whole
# challenge (101), of which these twenty (from 1) are those of detection.
THUMOS14_COLUMNS: Mapping[str, int] = MappingProxyType(
    {
        "BaseballPitch": 7,
        "BasketballDunk": 9,
        "Billiards": 12,
        "CleanAndJerk": 21,
        "CliffDiving": 22,
        "CricketBowling": 23,
        "CricketShot": 24,
        "Diving": 26,
        "FrisbeeCatch": 31,
        "GolfSwing": 33,
        "HammerThrow": 36,
        "HighJump": 40,
        "JavelinThrow": 45,
        "LongJump": 51,
        "PoleVault": 68,
        "Shotput": 79,
        "SoccerPenalty": 85,
        "TennisSwing": 92,
        "ThrowDiscus": 93,
        "VolleyballSpiking": 97,
    }
)
THUMOS14_CLASSES = 101
TEST_VIDEO = "video_test_{:07d}"


@dataclass(frozen=True)
class VideoScores:
    """Scores by video id, each (K,) in the order of `labels`; `stamp` is empty where `tad` did not make them."""

    labels: tuple[str, ...]
    scores: dict[str, Array]
    stamp: dict[str, Any]

    def of(self, video_id: str) -> Array | None:
        """The scores of a video, whose id may have ActivityNet's `v_` or lack it."""
        found = self.scores.get(video_id)
        if found is None:
            found = self.scores.get(video_id.removeprefix(PREFIX))
        return self.scores.get(PREFIX + video_id) if found is None else found

    def probabilities(self, *, softmax: bool, factor: float) -> "VideoScores":
        """The same, through a softmax if they are logits, times a factor."""
        changed = {}
        for video_id, scores_K in self.scores.items():
            if softmax:
                exponent_K = np.exp(scores_K - scores_K.max())
                scores_K = exponent_K / exponent_K.sum()
            changed[video_id] = scores_K * factor
        return VideoScores(self.labels, changed, self.stamp)


def _vector(value: Any, count: int, where: str) -> Array:
    """(K,) from a list, or from a list of one list (TCANet's)."""
    try:
        scores = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise TadError(f"{where}: {value!r:.40} is no list of numbers") from None
    if scores.ndim == 2 and scores.shape[0] == 1:
        scores = scores[0]
    if scores.shape != (count,):
        raise TadError(f"{where}: {scores.shape} numbers for {count} classes; is this the file of this dataset?")
    if not np.isfinite(scores).all():
        raise TadError(f"{where}: scores hold NaN or infinity; get the file again")
    return scores


def _from_json(path: Path) -> VideoScores:
    value = read_json(path)
    results = value.get("results") if isinstance(value, dict) else None
    names = next((value[key] for key in ("class", "classes", "labels") if key in value), None) if results else None
    if not isinstance(results, dict) or not isinstance(names, list):
        raise TadError(
            f"{path}: not video-level scores (expected 'results': {{video: [score per class]}} and 'class': [names])"
        )
    if len(set(map(str, names))) != len(names):
        raise TadError(f"{path}: a class is named twice; correct the list")
    scores = {str(v): _vector(row, len(names), f"{path}: video '{v}'") for v, row in results.items()}
    return VideoScores(tuple(map(str, names)), scores, dict(value.get("stamp") or {}))


def _from_pickle(path: Path, names: Sequence[str]) -> VideoScores:
    try:
        with open(path, "rb") as handle:
            value = unpickle(handle)
    except Exception as error:  # a pickle can fail in any way
        raise TadError(f"{path}: not a pickle of plain arrays ({error!s:.100}); get the file again") from None
    if not isinstance(value, dict) or not value:
        raise TadError(f"{path}: holds a {type(value).__name__}, expected {{video: scores}}")
    scores = {str(v): _vector(row, len(names), f"{path}: video '{v}'") for v, row in value.items()}
    return VideoScores(tuple(names), scores, {})


def _from_array(path: Path) -> VideoScores:
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise TadError(f"{path}: not a plain .npy array ({error!s:.100}); get the file again") from None
    if table.ndim != 2 or table.shape[1] != THUMOS14_CLASSES:
        raise TadError(
            f"{path}: shape {table.shape}: an .npy must be UntrimmedNet's, one row per THUMOS14 test video and"
            f" {THUMOS14_CLASSES} columns; for other sets write JSON with 'results' and 'class'"
        )
    columns = [column - 1 for column in THUMOS14_COLUMNS.values()]
    scores = {
        TEST_VIDEO.format(k + 1): _vector(row[columns], len(columns), f"{path}: row {k}") for k, row in enumerate(table)
    }
    return VideoScores(tuple(THUMOS14_COLUMNS), scores, {})


def read_video_scores(path: Path, names: Sequence[str]) -> VideoScores:
    """Scores from JSON (CUHK's and TCANet's files, or made by classify), a pickle of {video: array}, or
    UntrimmedNet's array.

    Args:
        names: what the numbers of a pickle mean, which does not say so: the detector's classes.

    Raises:
        TadError: no such file, another layout, not as many numbers as classes, numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise TadError(f"{path}: no such file; external.source names video-level scores, or `own`")
    if path.suffix in (".pkl", ".pickle"):
        return _from_pickle(path, names)
    return _from_array(path) if path.suffix == ".npy" else _from_json(path)
