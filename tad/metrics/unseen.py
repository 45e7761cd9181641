"""Open-vocabulary protocols: mAP over unseen classes alone, mean and deviation over random splits of the classes."""

# S splits, K classes, H thresholds

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tad.core.errors import TadError
from tad.metrics.columns import hint, label_text
from tad.metrics.evaluation import Evaluation

SHARES = {"50/50": 0.5, "75/25": 0.25}  # of unseen classes; the names are seen / unseen
SPLITS = 10


def drawn_splits(labels: Sequence[str], share: float, *, splits: int = SPLITS, seed: int = 0) -> list[list[str]]:
    """Draw the unseen classes of each split: `share` of the sorted labels, at least one, without replacement."""
    names, count = sorted(labels), max(round(share * len(labels)), 1)
    return [sorted(np.random.default_rng([seed, k]).permutation(names)[:count].tolist()) for k in range(splits)]


def _scores(evaluation: Evaluation, unseen: Sequence[str], name: str) -> np.ndarray:
    """Return the mAP (H) over some classes of an evaluation.

    Raises:
        TadError: a class without instances, that is not annotated, or that is named twice.
    """
    columns: list[int] = []
    for label in map(label_text, unseen):
        if label not in evaluation.labels:
            known = list(evaluation.labels)
            raise TadError(f"eval.unseen_splits: {name}: no class '{label}' has instances; {hint(label, known)}")
        if (column := list(evaluation.labels).index(label)) in columns:
            raise TadError(f"eval.unseen_splits: {name}: class '{label}' is named twice in a split; keep one")
        columns.append(column)
    if not columns:
        raise TadError(f"eval.unseen_splits: {name}: a split without unseen classes; name at least one")
    scores_H: np.ndarray = evaluation.ap[:, columns].mean(axis=1)
    return scores_H


def unseen_measures(
    evaluation: Evaluation, given: Mapping[str, Sequence[Sequence[str]]], *, seed: int = 0
) -> dict[str, Any]:
    """Return mean and standard deviation over the splits of each protocol, and the unseen classes of each split.

    A class's AP depends on its own instances and detections alone, so the mAP of a split is that of an evaluation of
    its unseen classes by themselves (tests/test_unseen.py).

    Args:
        evaluation: of all classes.
        given: protocol → unseen classes of each split; empty: `SPLITS` random splits of each protocol of `SHARES`.
        seed: of the random splits.

    Raises:
        TadError: a given split names a class that has no instances.
    """
    tiou = [f"{t:g}" for t in evaluation.tiou]
    drawn = {name: drawn_splits(evaluation.labels, share, seed=seed) for name, share in SHARES.items()}
    measures: dict[str, Any] = {}
    for name, splits in (given or drawn).items():
        scores_SH = np.array([_scores(evaluation, unseen, name) for unseen in splits]).reshape(len(splits), -1)
        averages_S = scores_SH.mean(axis=1)
        spread = int(len(splits) > 1)  # of a sample; a single split has deviation 0
        measures[name] = {
            "average_mAP": float(averages_S.mean()),
            "mAP": dict(zip(tiou, scores_SH.mean(axis=0).tolist(), strict=True)),
            "std": {
                "average_mAP": float(averages_S.std(ddof=spread)),
                "mAP": dict(zip(tiou, scores_SH.std(axis=0, ddof=spread).tolist(), strict=True)),
            },
            "splits": {
                str(k): {"unseen": list(unseen), "average_mAP": float(average)}
                for k, (unseen, average) in enumerate(zip(splits, averages_S, strict=True))
            },
            "drawn": not given,
        }
    return measures
