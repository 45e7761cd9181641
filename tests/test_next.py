"""What to label next: values of possible actions, the order of videos and minutes, and the files of `tad next`."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tad.annotations.table import Instance, Table, Video, write_table
from tad.commands import next_labels as module
from tad.commands.apply_outputs import Applied
from tad.commands.next_labels import next_labels
from tad.core.errors import TadError
from tad.core.files import write_json
from tad.metrics.acquisition import hypotheses, rank_spans, rank_videos, rarities
from tad.metrics.threshold import HeldOut
from tad.provenance.stamps import stamp
from tad.settings.config import Config


def row(label: str, score: float, start: float, end: float) -> dict[str, Any]:
    return {"label": label, "score": score, "segment": [start, end]}


def test_doubt_and_disagreement_are_entropies() -> None:
    both_half, one_sure, both_sure = ([row("a", p, 0.0, 10.0)] if p else [] for p in (0.5, 1.0, 1.0))
    (half,) = hypotheses([both_half, both_half], {})
    assert (half.doubt, half.disagreement) == pytest.approx((1.0, 0.0))
    (split,) = hypotheses([one_sure, []], {})
    assert (split.score, split.doubt, split.disagreement) == pytest.approx((0.5, 1.0, 1.0))
    (sure,) = hypotheses([both_sure, both_sure], {})
    assert sure.value == pytest.approx(0.0, abs=1e-9)


def test_detections_of_one_action_are_one_hypothesis() -> None:
    first = [row("a", 0.9, 0.0, 10.0), row("a", 0.6, 1.0, 10.0), row("b", 0.4, 0.0, 10.0), row("a", 0.1, 50.0, 60.0)]
    second = [row("a", 0.7, 0.0, 9.0), row("a", 0.3, 20.0, 30.0)]
    found = hypotheses([first, second], {"b": 2.0})
    assert [(one.label, one.start, round(one.score, 3)) for one in found] == [
        ("a", 0.0, 0.8),
        ("a", 20.0, 0.15),
        ("b", 0.0, 0.2),
    ]
    assert found[2].value == 2 * (found[2].doubt + found[2].disagreement)


def test_moments_of_one_event_are_one_hypothesis() -> None:
    """Points in time do not overlap; those at most `reach` seconds apart are the same."""
    first, second = [row("a", 0.9, 5.0, 5.0), row("a", 0.8, 9.0, 9.0)], [row("a", 0.7, 5.3, 5.3)]
    found = hypotheses([first, second], {}, reach=0.5)
    assert [(one.start, round(one.score, 3)) for one in found] == [(5.0, 0.8), (9.0, 0.4)]
    alone = hypotheses([first, second], {})
    assert [(one.start, round(one.score, 3)) for one in alone] == [(5.0, 0.45), (9.0, 0.4), (5.3, 0.35)]
    assert hypotheses([[row("a", 0.9, 5.0, 5.0)]] * 3, {})[0].score == pytest.approx(0.9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(2, 10)), max_size=5),
             min_size=1, max_size=3),
    st.sampled_from([0.0, 1.0, 2.5]),
)  # fmt: skip
def test_every_strong_detection_is_in_one_hypothesis(case: list[list[tuple[int, int, int]]], reach: float) -> None:
    """No hypothesis scores less than its own best detection says, whatever the lengths."""
    trainings = [[row("a", p / 10, a / 2, (a + n) / 2) for a, n, p in rows] for rows in case]
    found = hypotheses(trainings, {}, reach=reach)
    best = max((one["score"] for rows in trainings for one in rows), default=0.0)
    assert bool(found) == (best >= 0.2)
    if found:
        assert found[0].score >= best / len(trainings) - 1e-12
    assert all(0.2 / len(trainings) - 1e-12 <= one.score <= 1 for one in found)


def test_rare_classes_count_more() -> None:
    factors = rarities(("a", "b", "c"), {"a": 8, "b": 1})
    assert factors["a"] < 1 < factors["b"] < factors["c"] == 2.0


def test_values_are_per_minute_and_parts_hold_the_middles() -> None:
    found = {
        "long": hypotheses([[row("a", 0.5, 100.0, 110.0)]], {}),
        "short": hypotheses([[row("a", 0.5, 1.0, 5.0)]], {}),
        "sure": hypotheses([[row("a", 1.0, 1.0, 5.0)]], {}),
    }
    durations = {"long": 120.0, "short": 30.0, "sure": 30.0}
    assert [(part.video, part.value) for part in rank_videos(found, durations)[:2]] == [("short", 2.0), ("long", 0.5)]
    spans = rank_spans(found, durations)
    assert [(s.video, s.start, s.end, s.value) for s in spans[:2]] == [
        ("short", 0.0, 30.0, 2.0),
        ("long", 60.0, 120.0, 1.0),
    ]
    assert len(spans) == 4


class Training:
    """A training whose detections are given, in the place of one that decodes videos."""

    def __init__(self, applied: Applied, results: dict[str, Any]) -> None:
        self.applied, self.results, self.work = applied, results, applied.work

    def held_out(self) -> HeldOut:
        return HeldOut.none("no score")

    def detect(self, videos: list[Path], out: Path) -> Applied:
        shown = {path.stem: self.results[path.stem] for path in videos}
        made = {"stamp": stamp("suppress", {"run": "toy"}, {}), "labels": ["a", "b"], "results": shown, "excluded": {}}
        return replace(self.applied, detections=write_json(out, made))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("known", "dull", "good"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / f"{name}.mp4").touch()
    rows = {
        "datasets": {"toy": {"format": "csv", "annotations": "labels.csv", "videos": "videos"}},
        "features": {
            "f": {"source": "x", "dim": 4, "clip": {"length": 16, "stride": 4, "policy": "native", "rate": 0}}
        },
        "runs": {"toy": {"dataset": "toy", "features": "f", "detector": "mse", "seeds": 2}},
    }
    write_json(tmp_path / "config.yaml", rows, seal=False)
    table = Table("toy", ("a", "b"), {"known": Video("train", 60.0, (Instance(1.0, 2.0, "a"),))})
    config = Config.read(tmp_path / "config.yaml")
    write_table(table, config.table_file("toy/seed-0"), stamp("annotate", {"dataset": "toy"}, {}))
    model = write_json(tmp_path / "model.json", {"stamp": stamp("train", {"run": "toy"}, {})})
    durations: dict[str, float | None] = {"dull": 60.0, "good": 60.0, "known": 60.0}
    applied = Applied(config, "toy", model, ["a", "b"], model, {}, durations, tmp_path / "work")
    sure = row("a", 0.99, 1.0, 9.0)
    trainings = [
        Training(applied, {"dull": [sure], "good": [row("b", 0.8, 30.0, 40.0)]}),
        Training(applied, {"dull": [sure], "good": []}),
    ]
    monkeypatch.setattr(module, "trained_runs", lambda *_: trainings)
    return tmp_path


def test_rankings_and_drafts_are_written(folder: Path) -> None:
    lines = list(next_labels("toy", out=folder / "next", top=1, config=folder / "config.yaml"))
    assert lines[0] == "2 videos ranked by bits per minute of labelling; 2 trainings are compared"
    assert lines[1].startswith("1. good: ")
    assert "in 1 possible actions, rarest class b, most from 0 to 60 s" in lines[1]
    assert lines[-1].startswith("next: open ")
    ranked = list(csv.DictReader((folder / "next/videos.csv").open()))
    assert [(r["rank"], r["video"]) for r in ranked] == [("1", "good"), ("2", "dull")]
    assert len(list(csv.DictReader((folder / "next/minutes.csv").open()))) == 2
    labels = list(csv.DictReader((folder / "next/labels.csv").open()))
    assert [(r["video"], r["label"]) for r in labels] == [("good", "b")]
    page = folder / "next" / "page" / "data"
    assert '"known":true' in (page / "index.js").read_text()
    assert '["known","train",60.0,[[1.0,2.0,0]]]' in (page / "labels.js").read_text()


def test_without_unlabelled_videos_more_are_asked_for(folder: Path) -> None:
    for name in ("dull", "good"):
        (folder / "videos" / f"{name}.mp4").unlink()
    with pytest.raises(TadError, match="every video in it has labels; name videos or folders after the run"):
        list(next_labels("toy", out=folder / "next", config=folder / "config.yaml"))
    with pytest.raises(TadError, match="--top 0: give a number of videos"):
        list(next_labels("toy", out=folder / "next", top=0, config=folder / "config.yaml"))
