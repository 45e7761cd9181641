"""Video-level class scores, from external files or from classify: one vector per video."""

# V videos, K classes

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.core.arrays import read_npy
from tad.core.errors import DAMAGE, TadError, cause_of
from tad.core.files import read_json
from tad.core.strict_json import type_name
from tad.core.unpickle import unpickle

Array = NDArray[np.float64]
PREFIX = "v_"  # score files of ActivityNet and HACS use ids without it, their videos ids with it
# UntrimmedNet's array has one row per THUMOS'14 test video, by its number, and one column for each of the challenge's
# 101 classes; these are the columns (from 1) of the twenty detection classes.
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
    """Scores by video id, each (K,) in the order of `labels`; `stamp` is empty for files that `tad` did not make."""

    labels: tuple[str, ...]
    scores: dict[str, Array]
    stamp: dict[str, Any]

    def of(self, video_id: str) -> Array | None:
        """Return the scores of a video, with or without ActivityNet's prefix `v_`; None if there are none."""
        scores_K = self.scores.get(video_id)
        if scores_K is None:
            scores_K = self.scores.get(video_id.removeprefix(PREFIX))
        return self.scores.get(PREFIX + video_id) if scores_K is None else scores_K

    def probabilities(self, *, softmax: bool, factor: float) -> "VideoScores":
        """Return the scores multiplied by a factor, after a softmax if they are logits."""
        converted = {}
        for video_id, scores_K in self.scores.items():
            if softmax:
                exponent_K = np.exp(scores_K - scores_K.max())
                scores_K = exponent_K / exponent_K.sum()
            converted[video_id] = scores_K * factor
        return VideoScores(self.labels, converted, self.stamp)


def _vector(value: Any, count: int, where: str) -> Array:
    """Return a vector (K,) from a list, or from a list of one list (TCANet's format)."""
    try:
        scores = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise TadError(f"{where}: {value!r:.40} is not a list of numbers") from None
    if scores.ndim == 2 and scores.shape[0] == 1:
        scores = scores[0]
    if scores.shape != (count,):
        raise TadError(f"{where}: scores have shape {scores.shape}, expected ({count},); use the file of this dataset")
    if not np.isfinite(scores).all():
        raise TadError(f"{where}: scores contain NaN or infinity; download the file again")
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
        raise TadError(f"{path}: a class is listed twice; correct the list")
    scores = {str(v): _vector(row, len(names), f"{path}: video '{v}'") for v, row in results.items()}
    stamped = value.get("stamp") or {}
    if not isinstance(stamped, dict):
        raise TadError(f"{path}: 'stamp' is {stamped!r:.40}, not an object; remove the entry")
    return VideoScores(tuple(map(str, names)), scores, stamped)


def _from_pickle(path: Path, names: Sequence[str]) -> VideoScores:
    try:
        with open(path, "rb") as handle:
            value = unpickle(handle)
    except DAMAGE as error:
        raise TadError(f"{path}: not a pickle of plain arrays ({cause_of(error)}); download the file again") from None
    if not isinstance(value, dict) or not value:
        raise TadError(f"{path}: contains {type_name(value)}, expected {{video: scores}}")
    strange = next((v for v in value if not isinstance(v, str | bytes | int)), None)
    if strange is not None:
        raise TadError(f"{path}: a key is {type_name(strange)}, expected the ids of videos")
    scores = {str(v): _vector(row, len(names), f"{path}: video '{v!s:.80}'") for v, row in value.items()}
    return VideoScores(tuple(names), scores, {})


def _from_array(path: Path) -> VideoScores:
    try:
        table = read_npy(path)
    except DAMAGE as error:
        raise TadError(f"{path}: not a plain .npy array ({cause_of(error)}); download the file again") from None
    if table.dtype.kind not in "fiu":
        raise TadError(f"{path}: holds {table.dtype}, not numbers; download the file again")
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
    """Read scores from JSON (CUHK, TCANet or classify), a pickle of {video: array}, or UntrimmedNet's array.

    Args:
        path: the file.
        names: the detector's classes, which are those of a pickle's scores; a pickle has no names.

    Raises:
        TadError: the file does not exist or has another layout, or scores are not finite or do not match the classes.
    """
    path = Path(path)
    if not path.is_file():
        raise TadError(f"{path}: no such file; set external.source to a file of video-level scores, or to `own`")
    if path.suffix in (".pkl", ".pickle"):
        return _from_pickle(path, names)
    return _from_array(path) if path.suffix == ".npy" else _from_json(path)
