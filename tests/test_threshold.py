"""A threshold with a promise: the promise is kept as often as it says, on real detections."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tad.annotations.table import read_table
from tad.core.errors import TadError
from tad.datasets._any import read_checked
from tad.metrics import Evaluation, evaluate, protocol
from tad.metrics import threshold as t
from tad.metrics.files import read_detections, score_detections, score_file
from tad.settings.stages import EvalSpec

RESAMPLES = 1000


@pytest.mark.parametrize(
    ("level", "freedom", "value"),
    [(0.95, 1, 6.3138), (0.95, 9, 1.8331), (0.9, 9, 1.3830), (0.975, 30, 2.0423), (0.95, 211, 1.6521)],
)
def test_quantiles_of_t_are_those_of_the_tables(level: float, freedom: int, value: float) -> None:
    assert t.t_quantile(level, freedom) == pytest.approx(value, abs=2e-4)


def test_the_binomial_tail_is_the_sum_of_its_terms() -> None:
    assert t.binomial_tail(0, 20, 0.1) == pytest.approx(0.9**20)
    assert t.binomial_tail(1, 3, 0.5) == pytest.approx(0.5)
    assert t.binomial_tail(7, 7, 0.3) == pytest.approx(1)


def coverage(shown: Any, right: Any, videos: int, precision: float, confidence: float) -> tuple[float, float]:
    """The share of resamples whose threshold keeps the promise on the population, and the share without a threshold.

    The population is all videos, and a sample of held-out videos is drawn from it with replacement.
    """
    draw = np.random.default_rng(0)
    real = right.sum(axis=0) / np.maximum(shown.sum(axis=0), 1)
    kept = none = 0
    for _ in range(RESAMPLES):
        rows = draw.integers(0, len(shown), videos)
        g = t.guaranteed(shown[rows], right[rows], precision=precision, confidence=confidence)
        none += g is None
        kept += g is None or real[g] >= precision
    return kept / RESAMPLES, none / RESAMPLES


@pytest.fixture(scope="module")
def thumos(shared: Path) -> Evaluation:
    path = shared / "data/detections/actionformer_thumos14_test_detections.json"
    rules = protocol("thumos14-212")
    table = read_checked(shared / "data/annotations/thumos14.json", counted=rules.counted, on_invalid="", splits={})
    settings = EvalSpec(protocol="thumos14-212", tiou=(0.3, 0.5, 0.7), on_missing="count")
    return score_detections(read_detections(path), path, table, split="test", settings=settings).result


@pytest.mark.parametrize(("precision", "confidence"), [(0.9, 0.9), (0.8, 0.9), (0.8, 0.8)])
@pytest.mark.parametrize("videos", [10, 40, 212])
def test_the_promise_is_kept_on_resampled_real_detections(
    thumos: Evaluation, videos: int, precision: float, confidence: float
) -> None:
    kept, none = coverage(*t.shown_and_right(thumos, 1), videos, precision, confidence)
    assert kept >= confidence
    if videos == 212:
        assert none < 0.2  # with enough videos the promise can be given


def test_without_the_tests_the_promise_would_be_broken(thumos: Evaluation) -> None:
    """The measure can fail: the lowest score whose sample has the precision keeps the promise about half the time."""
    shown, right = t.shown_and_right(thumos, 1)
    real, draw, kept = right.sum(axis=0) / shown.sum(axis=0).clip(1), np.random.default_rng(0), 0
    for _ in range(RESAMPLES):
        rows = draw.integers(0, len(shown), 40)
        sample = right[rows].sum(axis=0) / shown[rows].sum(axis=0).clip(1)
        kept += bool(real[np.flatnonzero(sample >= 0.9)[-1]] >= 0.9)
    assert kept / RESAMPLES < 0.7


def test_the_threshold_of_the_whole_sample(thumos: Evaluation) -> None:
    found = t.with_precision(thumos, 1, precision=0.8, confidence=0.9)
    assert found.precision >= 0.8
    assert found.videos == 212
    lower = t.with_precision(thumos, 1, precision=0.7, confidence=0.9)
    assert lower.score < found.score
    assert lower.recall > found.recall
    f1 = t.with_best_f1(thumos, 1)
    scores = thumos.detail.scores
    right = thumos.detail.taken[1] >= 0
    best = max(2 * (right & (scores >= s)).sum() / ((scores >= s).sum() + sum(thumos.instances)) for s in t.GRID)
    assert 2 * f1.right / (f1.shown + f1.instances) == pytest.approx(best)


def small(scores: list[float], right: list[bool], videos: int = 6) -> Evaluation:
    truth = {f"v{v}": [(0.0, 1.0, "a")] for v in range(videos)}
    found = {
        f"v{v}": [
            {"label": "a", "score": s, "segment": [0.0, 1.0] if ok else [5.0, 6.0]}
            for s, ok in zip(scores, right, strict=True)
        ]
        for v in range(videos)
    }
    return evaluate(truth, found, tiou=[0.5])


def test_what_cannot_be_promised_is_an_error() -> None:
    with pytest.raises(TadError, match=r"no threshold keeps it with 90 % confidence on 6 held-out videos"):
        t.with_precision(small([0.9, 0.8], [True, False]), 0, precision=0.9, confidence=0.9)
    with pytest.raises(TadError, match=r"--precision 90: give a number between 0 and 1"):
        t.with_precision(small([0.9], [True]), 0, precision=90, confidence=0.9)
    with pytest.raises(TadError, match=r"scores from 0.5 to 9 are not probabilities; set --score"):
        t.with_best_f1(small([9.0, 0.5], [True, False]), 0)
    assert t.with_best_f1(small([0.9, 0.8], [True, False]), 0).score > 0.8
    with pytest.raises(TadError, match=r"no detection on 6 held-out videos is right at tIoU"):
        t.with_best_f1(small([0.9, 0.8], [False, False]), 0)


ROOT = Path(__file__).parents[1]
SALADS = """
device: cpu
include: [zoo/salads.yaml]
runs:
  half: { dataset: salads, features: salads_scores, detector: actionformer, train: { epochs: 12, warmup_epochs: 2 } }
"""


@pytest.mark.wide
def test_the_promise_is_kept_on_50salads(shared: Path, tmp_path: Path) -> None:
    """A detector trained on every second recording; the others are the population. Minutes of training."""
    source, data = shared / "data/features/50salads", tmp_path / "data/50salads"
    data.mkdir(parents=True)
    for path in source.glob("*.npy"):
        (data / path.name).symlink_to(path)
    document = json.loads((source / "annotations.json").read_text())
    for number, video_id in enumerate(sorted(document["database"])):
        document["database"][video_id]["subset"] = "Test" if number % 2 else "Train"
    (data / "annotations.json").write_text(json.dumps(document))
    (tmp_path / "zoo").mkdir()
    shutil.copy(ROOT / "zoo/salads.yaml", tmp_path / "zoo")
    (tmp_path / "config.yaml").write_text(SALADS)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    made = subprocess.run(
        [*command, "results/half/map.json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-2000:]
    table = read_table(tmp_path / "results/annotations/salads.json")
    settings = EvalSpec(tiou=(0.3, 0.5, 0.7))
    scored = score_file(tmp_path / "results/half/detections.json", table, run="half", split="test", settings=settings)
    shown, right = t.shown_and_right(scored.result, 1)
    for videos in (10, 25, 50):
        for precision in (0.8, 0.7):
            kept, none = coverage(shown, right, videos, precision, 0.9)
            assert kept >= 0.9
    assert none < 0.5
