"""What `tad apply` writes: labels that read back, subtitles, chapters, a video and a page; thresholds, and hints."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import video_tools as vt
from browser_tools import Browser, needs_chromium
from hypothesis import given, settings
from hypothesis import strategies as st
from table_tools import read_as

from tad.annotations.table import Instance, Table, Video
from tad.commands import apply_outputs
from tad.commands.apply import _seconds
from tad.commands.apply_outputs import Applied, Cut, Request, write_all
from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.datasets._formats import table as formats
from tad.metrics import evaluate
from tad.metrics.threshold import HeldOut
from tad.page.overlay import write_overlay
from tad.page.proxies import ENCODERS, find_encoder, make_proxy
from tad.provenance.stamps import stamp
from tad.settings.config import Config
from tad.video.base import VideoError

LABELS = ["high jump", "run = fast; #1"]
FOUND: dict[str, list[dict[str, Any]]] = {
    "one": [
        {"label": "high jump", "score": 0.9, "segment": [0.5, 1.5]},
        {"label": "run = fast; #1", "score": 0.8, "segment": [1.0, 2.0]},
        {"label": "high jump", "score": 0.6, "segment": [1.25, 1.75]},
        {"label": "high jump", "score": 0.1, "segment": [2.5, 2.9]},
    ],
    "two": [{"label": "high jump", "score": 0.2, "segment": [0.0, 1.0]}],
}
NUMBERS = {"score": None, "precision": None, "confidence": 0.9}


@pytest.fixture
def applied(tmp_path: Path) -> Applied:
    """Detections in two small videos."""
    for name in FOUND:
        vt.encode(tmp_path / "videos" / f"{name}.mp4", 75, rate=25, width=96, height=72)
    found = write_json(
        tmp_path / "found.json",
        {"stamp": stamp("suppress", {"run": "toy"}, {}), "labels": LABELS, "results": FOUND,
         "excluded": {"three": "text, not a video"}},
    )  # fmt: skip
    model = tmp_path / "model.json"
    write_json(model, {"stamp": stamp("train", {"run": "toy"}, {})})
    config = Config(
        {
            "datasets": {"toy": {"format": "csv", "annotations": "toy.csv"}},
            "features": {
                "toy": {"source": "toy", "dim": 4, "clip": {"length": 16, "stride": 4, "policy": "native", "rate": 0}}
            },
            "runs": {"toy": {"dataset": "toy", "features": "toy", "detector": "mse"}},
        }
    )
    files = {name: tmp_path / "videos" / f"{name}.mp4" for name in FOUND}
    return Applied(config, "toy", model, LABELS, found, files, dict.fromkeys(FOUND, 3.0), tmp_path / "work")


def written(applied: Applied, to: str, out: Path, least: float = 0.5) -> list[str]:
    request = Request.checked(to, out, **{**NUMBERS, "score": least})  # type: ignore[arg-type]
    return list(write_all(applied, request, Cut(least, f"score at least {least:g}")))


def segments(table: Any, video_id: str) -> list[tuple[float, float, str]]:
    return sorted((i.start, i.end, i.label) for i in table.videos[video_id].instances)


ABOVE = sorted((*row["segment"], row["label"]) for row in FOUND["one"] if row["score"] >= 0.5)


def test_labels_are_read_as_a_data_set(applied: Applied, tmp_path: Path) -> None:
    written(applied, "csv", tmp_path / "labels.csv")
    table = read_as("csv", tmp_path / "labels.csv")
    assert segments(table, "one") == ABOVE
    assert segments(table, "two") == []
    assert {video.split for video in table.videos.values()} == {"train"}


@pytest.mark.parametrize("to", ["srt", "vtt", "eaf"])
def test_files_for_each_video_read_back(applied: Applied, tmp_path: Path, to: str) -> None:
    written(applied, to, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"one.{to}", f"two.{to}"]
    assert segments(formats.read(tmp_path / "out"), "one") == ABOVE


def test_boris_gets_what_it_can_hold(applied: Applied, tmp_path: Path) -> None:
    lines = written(applied, "boris", tmp_path / "project.boris")
    assert "boris: 1 detections that overlap a better one were left out, as the format cannot hold them" in lines
    assert segments(formats.read(tmp_path / "project.boris"), "one") == ABOVE[:2]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40), st.sampled_from("ab"), st.integers(1, 9)), max_size=8)
)
def test_what_is_apart_can_be_held(
    tmp_path_factory: pytest.TempPathFactory, case: list[tuple[int, int, str, int]]
) -> None:
    """Both formats store milliseconds, and what overlaps in these is left out; times are quarters of a millisecond."""
    instances = [Instance(a / 4000, (a + n) / 4000, label, score=p / 10) for a, n, label, p in case]
    path = tmp_path_factory.mktemp("out")
    held = apply_outputs._apart(instances, "boris")
    table = Table("toy", ("a", "b"), {"one": Video("train", 3.0, held)})
    formats.write(table, path / "one.boris", tool="boris")
    read_back = [i for video in formats.read(path / "one.boris", tool="boris").videos.values() for i in video.instances]
    assert len(read_back) == len(held)
    chapters = apply_outputs._apart(instances, "chapters")
    apply_outputs._write_chapters(Video("train", 3.0, chapters), path / "chapters.txt")
    lines = (path / "chapters.txt").read_text().splitlines()
    times = [int(line.partition("=")[2]) for line in lines if line.startswith(("START", "END"))]
    assert times == sorted(times)
    assert all(start < end for start, end in zip(times[::2], times[1::2], strict=True))
    best = max(instances, key=lambda i: i.score or 0.0, default=None)
    assert best is None or (best in held and best in chapters)


def test_chapters_are_read_by_ffmpeg(applied: Applied, tmp_path: Path) -> None:
    written(applied, "chapters", tmp_path / "out", least=0.05)
    with av.open(str(tmp_path / "out" / "one.txt"), format="ffmetadata") as container:
        chapters = container.chapters()
    found = [(c["start"] / 1000, c["end"] / 1000, c["metadata"]["title"]) for c in chapters]
    assert found == [(0.5, 1.5, "high jump"), (2.5, 2.9, "high jump")]  # chapters cannot overlap


def test_the_overlay_has_every_frame_and_shows_the_action(applied: Applied, tmp_path: Path) -> None:
    written(applied, "overlay", tmp_path / "out")
    with av.open(str(tmp_path / "out" / "one.mp4")) as container:
        frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert [time for time, _ in frames] == pytest.approx([k / 25 for k in range(75)], abs=1e-3)
    rows = frames[0][1].shape[0]
    assert rows > 72
    plain = write_plain(applied, tmp_path)
    changed = [
        np.abs(picture[:72].astype(int) - other.astype(int)).mean()
        for (_, picture), other in zip(frames, plain, strict=True)
    ]
    assert min(changed[13:49]) > 2 * max(changed[:12])  # an action is named from 0.5 to 2.0 s, and nothing before
    strip = frames[70][1][72:, 86:92]
    assert strip.max() > 150  # the playhead is near the end
    assert frames[5][1][72:, 86:92].max() < 150


def write_plain(applied: Applied, tmp_path: Path) -> list[np.ndarray]:
    """The frames of the same video, encoded alike with nothing drawn on them."""
    out = tmp_path / "plain.mp4"
    write_overlay(applied.files["one"], [], out, duration=3.0)
    with av.open(str(out)) as container:
        return [frame.to_ndarray(format="rgb24")[:72] for frame in container.decode(video=0)]


def test_several_formats_are_one_folder(applied: Applied, tmp_path: Path) -> None:
    written(applied, "json,csv, srt", tmp_path / "all")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["detections.json", "labels.csv", "srt"]
    document = read_json(tmp_path / "all" / "detections.json")
    assert document["results"]["two"] == []
    assert document["threshold"]["score"] == 0.5


def test_weak_scores_get_a_hint(applied: Applied, tmp_path: Path) -> None:
    lines = written(applied, "csv", tmp_path / "labels.csv")
    assert lines[0] == "detections with score at least 0.5"
    assert lines[1].startswith("one: 3 detections, first high jump 0.5-1.5 s (0.90)")
    assert lines[2].startswith("two: all 1 scores are weak (best 0.20, threshold 0.5): either no action")
    assert lines[2].endswith("look with --to page --score 0.1")  # at which something is shown
    assert lines[3] == "three: excluded: text, not a video"


BEFORE = Table("", ("high jump", "stand"), {"before": Video("test", 9.0, (Instance(1.5, 2.0, "stand"),))})


@needs_chromium
@pytest.mark.parametrize("known", [None, BEFORE])
def test_the_page_of_drafts_saves_what_was_accepted(applied: Applied, tmp_path: Path, known: Table | None) -> None:
    written(replace(applied, known=known), "page", tmp_path / "page")
    with Browser(tmp_path / "profile", tmp_path) as browser:
        browser.open(f"file://{tmp_path}/page/index.html")
        browser.wait("TAD.lanes.painted && document.getElementById('player').readyState >= 2")
        assert browser.run("TAD.labels.of('one').map((i) => i.d)") == [True, True, True]
        browser.run("document.getElementById('save').click()")
        browser.run("new Promise((done) => setTimeout(done, 100))")
        assert browser.run("TAD.lastSaved") is None  # nothing is certain yet
        browser.run("TAD.lanes.selected = TAD.lanes.list[0].items[1]")
        browser.key("Enter")
        browser.run("document.getElementById('save').click()")
        browser.wait("TAD.lastSaved")
        (tmp_path / "labels.csv").write_text(browser.run("TAD.lastSaved"))
        assert browser.messages == []
    table = read_as("csv", tmp_path / "labels.csv")
    assert set(table.videos) == ({"one", "before"} if known else {"one"})  # of the other nobody knows
    if known:  # the labels that exist already are in the file too
        assert (table.videos["before"].split, segments(table, "before")) == ("test", [(1.5, 2.0, "stand")])
    assert segments(table, "one") == [ABOVE[1]]
    assert table.videos["one"].split == "train"


@pytest.mark.parametrize(
    ("to", "out", "numbers", "message"),
    [
        ("svr", "x", {}, "--to svr: did you mean 'srt'"),
        ("", "x", {}, "--to: name a format: json, csv"),
        ("json", "x", {"score": 0.5, "precision": 0.9}, "--score 0.5 and --precision 0.9: give one of them"),
        ("json", "x", {"score": 50}, "--score 50: scores are probabilities; give a number from 0 to 1, such as 0.5"),
        ("csv", "x", {"score": float("nan")}, "--score nan: scores are probabilities; give a number from 0 to 1"),
        ("csv", "videos", {}, "videos: is a folder, but csv is one file; name a file"),
        ("srt", "found.json", {}, "found.json: exists; name a folder, or a file that ends in .srt"),
        ("page", "videos", {}, "videos: exists and is not an earlier page"),
        ("csv", "found.json/labels.csv", {}, "labels.csv: File exists; name a place where you can write"),
    ],
)
def test_what_cannot_be_written_is_said_at_once(
    applied: Applied, tmp_path: Path, to: str, out: str, numbers: dict[str, float], message: str
) -> None:
    with pytest.raises(TadError, match=message.replace("(", r"\(")):
        Request.checked(to, tmp_path / out, **{**NUMBERS, **numbers})  # type: ignore[arg-type]


def test_thresholds_say_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = {f"v{v}": [(float(k), k + 0.9, "a") for k in range(4)] for v in range(30)}
    found = {
        v: [{"label": "a", "score": 0.9 - 0.1 * k, "segment": [s, e]} for k, (s, e, _) in enumerate(rows)]
        + [{"label": "a", "score": 0.3, "segment": [50.0, 51.0]}]
        for v, rows in truth.items()
    }
    result = evaluate(truth, found, tiou=[0.5])
    monkeypatch.setattr(apply_outputs, "_held_out", lambda *_: result)
    config, model = Config({"datasets": {}, "features": {}, "runs": {}}), tmp_path / "m"
    promise = Request.checked("json", tmp_path / "x", score=None, precision=0.9, confidence=0.9)
    known = partial(apply_outputs.held_out, config, "toy", model)
    cut = promise.threshold(known)
    assert cut is not None
    assert 0.3 < cut.score <= 0.6
    assert "at least 90 % are right with 90 % confidence, in videos like the held-out ones (120 of 120" in cut.reason
    usual = Request.checked("csv", tmp_path / "x", **NUMBERS)  # type: ignore[arg-type]
    assert "the best F1 (120 of 120 right at tIoU 0.5" in str(usual.threshold(known))
    assert Request.checked("json", tmp_path / "x", **NUMBERS).threshold(known) is None  # type: ignore[arg-type]
    copied = HeldOut.of(known().document())  # as in a released run
    assert promise.threshold(lambda: copied) == cut
    absent = HeldOut.of(HeldOut.none("map.json: no such file").document())
    assert usual.threshold(lambda: absent) is not None
    with pytest.raises(TadError, match=r"map\.json: no such file"):
        promise.threshold(lambda: absent)


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("0.5m", 30), ("2", 2), ("1 h", 3600)])
def test_times_of_every(text: str, seconds: float) -> None:
    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["0s", "soon", "-1s", "5 days"])
def test_wrong_times_of_every(text: str) -> None:
    with pytest.raises(TadError, match=f"--every {text}: give a time such as 5s or 2m"):
        _seconds(text)


# ── copies of videos ──


@pytest.mark.parametrize("name", [name for name, *_ in ENCODERS])
def test_every_encoder_makes_a_copy_with_the_times_of_the_file(tmp_path: Path, name: str) -> None:
    try:
        encoder = find_encoder([name])
    except TadError as error:
        pytest.skip(str(error))
    source = vt.encode(tmp_path / "v.mp4", 20, times_ms=[k * 40 + (k % 3) * 5 for k in range(20)], width=98, height=74)
    out = tmp_path / f"copy{encoder.suffix}"
    made = make_proxy(source, out, height=48, encoder=encoder)
    with av.open(str(out)) as container:
        frames = [frame for frame in container.decode(video=0)]
    assert (frames[0].height, frames[0].width % 2) == (48, 0)
    wanted = [(k * 40 + (k % 3) * 5) / 1000 for k in range(20)]
    assert [float(frame.time) for frame in frames] == pytest.approx(wanted, abs=1.1e-3)
    assert made.rate == pytest.approx(19 / wanted[-1], abs=0.1)
    assert made.cause == ""


def test_a_fast_video_is_thinned_and_a_turned_one_is_upright(tmp_path: Path) -> None:
    source = vt.encode(tmp_path / "v.mp4", 60, rate=60, width=96, height=64, rotation=90)
    make_proxy(source, tmp_path / "c.mp4", height=240, encoder=find_encoder())
    with av.open(str(tmp_path / "c.mp4")) as container:
        frames = [frame for frame in container.decode(video=0)]
    assert len(frames) == 30
    assert (frames[0].width, frames[0].height) == (64, 96)


def test_what_is_no_video_has_no_copy(tmp_path: Path) -> None:
    with pytest.raises(VideoError):
        make_proxy(vt.text(tmp_path / "v.mp4"), tmp_path / "c.mp4", height=48, encoder=find_encoder())
    assert not list(tmp_path.glob("c.mp4*"))
