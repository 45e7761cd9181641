"""What the page says: the costs of errors, precision over recall, sentences, and scores of any range."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import page_tools as tools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tad.annotations.table import Instance, Table, Video
from tad.core.errors import StorageError
from tad.metrics import evaluate
from tad.metrics.diagnosis import Diagnosis
from tad.page import write
from tad.page.contents import _opening, middle
from tad.page.costs import MISSED, POINTS, _cost, curves, missed, worst
from tad.page.sentences import sentences
from tad.provenance.stamps import read_stamp


def area(right: Any, instances: int) -> float:
    """AP without the precision envelope."""
    hits = np.cumsum(right)
    return float((right * hits / np.arange(1, len(right) + 1)).sum() / instances)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 20))
def test_a_cost_is_what_ap_gains_without_the_detection(right: list[bool], instances: int) -> None:
    mask = np.array(right, np.bool_)
    for d, cost in enumerate(_cost(mask, instances).tolist()):
        gain = 0.0 if mask[d] else area(np.delete(mask, d), instances) - area(mask, instances)
        assert cost == pytest.approx(gain, abs=1e-12)


def diagnosed(truth: Any, found: Any) -> Diagnosis:
    return Diagnosis(evaluate(truth, found, tiou=[0.5]), durations=dict.fromkeys(truth, 20.0))


TRUTH = {"u": [(0.0, 2.0, "a"), (4.0, 6.0, "a"), (8.0, 9.0, "b")], "w": [(1.0, 3.0, "a")]}
ENTRIES = {
    "u": [
        {"label": "a", "score": 0.9, "segment": [10.0, 12.0]},
        {"label": "a", "score": 0.8, "segment": [0.0, 2.0]},
        {"label": "a", "score": 0.1, "segment": [14.0, 15.0]},
    ],
    "w": [{"label": "a", "score": 0.5, "segment": [1.0, 3.0]}],
}


def test_errors_have_kinds_places_and_costs() -> None:
    diagnosis = diagnosed(TRUTH, ENTRIES)
    (error,) = worst(diagnosis, 0)  # the last detection is below all matches and costs nothing
    assert (error.kind, error.start, error.end, error.score) == ("background", 10.0, 12.0, 0.9)
    assert error.cost == pytest.approx((1 - 1 / 2 + 1 - 2 / 3) / 3 / 2, abs=1e-6)  # over 3 instances and 2 classes
    lost = {(e.start, e.cost) for e in missed(diagnosis, 0)}
    assert lost == {(4.0, round(1 / 6, 6)), (8.0, 0.5)}
    assert {e.kind for e in missed(diagnosis, 0)} == {MISSED}


@pytest.mark.parametrize(
    ("scores", "top", "opens"),
    [
        ((0.06, 0.05), 1.0, 0.05),  # the score of both right detections, not a share of the range, which shows none
        ((6.0, 5.0), 10.0, 3.0),  # no probabilities
    ],
)
def test_the_slider_opens_where_detections_are_right(scores: tuple[float, float], top: float, opens: float) -> None:
    found = {
        "u": [{"label": "a", "score": s, "segment": [t, t + 2.0]} for s, t in zip(scores, (0.0, 4.0), strict=True)]
    }
    assert _opening(evaluate(TRUTH, found, tiou=[0.5]), 0, 0.0, top) == opens


def test_curves_are_the_best_precision_at_each_recall() -> None:
    a, b = curves(diagnosed(TRUTH, ENTRIES), 0)
    assert len(a) == POINTS
    assert a[0] == a[12] == pytest.approx(0.6667)  # two of three instances, after three detections
    assert a[14] == 0.0
    assert b == [0.0] * POINTS


def said(truth: Any, found: Any) -> list[str]:
    diagnosis = diagnosed(truth, found)
    return sentences(diagnosis, diagnosis.document("quantiles"))


def test_sentences_are_true_of_what_they_describe() -> None:
    text = "\n".join(said(TRUTH, ENTRIES))
    assert "The most costly kind of error is background" in text
    assert "50.0 % of the instances are matched by no detection" in text
    assert "The class with most missed instances is b (100.0 %)." in text


def test_sentences_say_that_nothing_is_missed() -> None:
    exact = {v: [{"label": k, "score": 0.9, "segment": [s, e]} for s, e, k in rows] for v, rows in TRUTH.items()}
    assert "Every instance is matched by a detection at every threshold." in said(TRUTH, exact)


def test_sentences_without_matches_and_without_detections() -> None:
    nothing: dict[str, Any] = {"u": [], "w": []}
    assert said(TRUTH, nothing)[:2] == [
        "There are no detections.", "100.0 % of the instances are matched by no detection (mean over the thresholds).",
    ]  # fmt: skip
    wrong = {"u": [{"label": "a", "score": 0.9, "segment": [15.0, 16.0]}], "w": []}
    assert said(TRUTH, wrong)[0] == "No detection matches an instance."
    raw = {"u": [{"label": "a", "score": 9.0, "segment": [0.0, 2.0]}], "w": []}
    assert said(TRUTH, raw)[-1] == "Scores from 9 to 9 are not probabilities."


def test_borders_are_described_with_their_direction() -> None:
    truth = {f"v{k}": [(5.0, 7.0, "a")] for k in range(8)}
    late = {v: [{"label": "a", "score": 0.9, "segment": [6.3, 7.1]}] for v in truth}
    assert (
        "Localization errors miss starts by 1.30 s and ends by 0.10 s (medians); starts tend to be late, by 1.30 s."
        in (said(truth, late))
    )


def test_scores_of_any_range_are_shown(tmp_path: Path) -> None:
    table = Table("toys", ("a",), {"u": Video("test", 20.0, (Instance(0.0, 2.0, "a"),))})
    entries = [{"label": "a", "score": s, "segment": [0.0, 2.0 + s / 10]} for s in (12.0, 3.0, -4.0)]
    page = tools.make_page(tmp_path, table, {"x": {"u": entries}}, media=False)
    text = (page / "data" / "index.js").read_text()
    assert '"low":-4.0' in text
    assert '"top":12.0' in text


@pytest.mark.parametrize(
    ("tiou", "at"), [((0.3, 0.5, 0.7), 1), ((0.5, 0.55, 0.6), 0), ((0.1, 0.2, 0.3), 1), ((0.9,), 0)]
)
def test_a_page_opens_at_the_usual_threshold(tiou: tuple[float, ...], at: int) -> None:
    assert middle(tiou) == at


def plain_page(out: Path, title: str) -> Path:
    return write.write_page(out, title, {"videos": [], "labels": []}, [], [], media={}, stamp={"identity": title})


def test_there_is_never_half_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are on the disk before their folder is renamed; an earlier page is there until then, or again."""
    out, real, forced = tmp_path / "page", os.fsync, set()

    def fsync(handle: int) -> None:
        real(handle)
        forced.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    plain_page(out, "first")
    assert {path.stat().st_ino for path in (out, *out.rglob("*"), tmp_path)} <= forced
    replace = os.replace

    def fails_for_the_new_one(source: Path, target: Path) -> None:
        if "former" not in f"{source}{target}" and Path(target) == out:
            assert not out.exists()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails_for_the_new_one)
        with pytest.raises(StorageError, match="page: the disk reported"):
            plain_page(out, "second")
    assert read_stamp(out)["identity"] == "first"
    plain_page(out, "second")
    assert read_stamp(out)["identity"] == "second"
    assert list(tmp_path.iterdir()) == [out]
