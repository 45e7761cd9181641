"""Verdicts about videos in numbers, their use, and the offset of late pictures in the grids of features."""

import logging
from pathlib import Path
from typing import Any

import numbered
import numpy as np
import pytest
import torch
import video_tools as vt
from hypothesis import example, given
from hypothesis import strategies as st

from tad.backbones._contract import BackboneBase
from tad.core.files import read_json
from tad.core.grid import Grid
from tad.features.store import FeatureReader
from tad.settings.stages import ClipSpec, ExtractSpec, ProbeSpec
from tad.stages.extract import extract
from tad.stages.probe import probe
from tad.video.base import Header
from tad.video.health import contradictions, judge
from tad.video.probing import Decoder, examine, is_variable, rate_of
from tad.video.pyav_reader import Tally
from tad.video.reader import open_video
from tad.video.structure import BROKEN, ENDS, PARTIAL
from tad.video.wholeness import lost_samples

HEADER = Header(64, 48, 100, 25.0, "h264", "yuv420p", False, 1.0, "mov,mp4", 4.0, 0, 1)
TIMES = np.arange(100) / 25


@given(st.integers(0, 200), st.integers(0, 50), st.integers(0, 50), st.sampled_from(["", ENDS, PARTIAL, BROKEN]))
@example(95, 0, 5, "")  # the limit itself
@example(20, 1, 0, ENDS)
def test_the_verdict_follows_the_share(frames: int, flagged: int, lost: int, cut: str) -> None:
    flagged = min(flagged, frames)
    health = judge(frames, Tally(flagged=flagged, lost=lost), missing=0, cut=cut, problems=[], most=0.05)
    share = (flagged + lost) / (frames + lost) if frames + lost else 1.0
    assert health.share == pytest.approx(share)
    assert (health.status == "ok") == (frames > 0 and share == 0 and not cut)
    if frames and share > 0.05:
        assert health.status == "damaged"
    if frames > 1 and 0 < share <= 0.05:  # how much is lost of a file that only ends early, nobody knows
        assert health.status == ("damaged" if cut == ENDS and not lost else "flawed")
    assert bool(health.cause) == (health.status != "ok")


@pytest.mark.parametrize(("tally", "times", "header", "wanted"), [
    (Tally(end=4.0), TIMES, {}, ""),
    (Tally(end=4.0), np.minimum(TIMES, 3.0), {}, "frames have the time of the frame before"),
    (Tally(end=4.0), TIMES, {"frames": 150}, "the header states 150 frames, 100 can be decoded"),
    (Tally(end=4.0), TIMES, {"frames": 101}, ""),
    (Tally(end=4.0), TIMES, {"duration": 9.0}, "the header states 9.00 s, the last frame ends after 4.00 s"),
    (Tally(end=4.0), TIMES, {"duration": 9.0, "audio": True}, ""),  # that of the sound
    (Tally(end=3.5), TIMES, {"duration": 4.0}, "the header states 4.00 s, the last frame ends after 3.50 s"),
    (Tally(end=3.7), TIMES, {"duration": 4.0}, ""), (Tally(end=29.1), TIMES, {"duration": 30.0}, ""),
    (Tally(end=0.92), TIMES, {"duration": 1.0}, ""),  # two frames
    (Tally(end=4.0), TIMES, {"duration": 104.0, "begin": 100.0, "container": "matroska,webm"}, ""),
    (Tally(end=4.0), TIMES, {"duration": 110.0, "begin": 100.0}, "states 10.00 s, the last frame ends after 4.00 s"),
    (Tally(end=9.0), TIMES, {"duration": 4.0, "audio": True}, "states 4.00 s, the last frame ends after 9.00 s"),
    (Tally(end=4.0, untimed=40), TIMES, {}, "40 of 100 frames have no time"),
])  # fmt: skip
def test_contradictions_are_named(tally: Tally, times: np.ndarray, header: dict[str, Any], wanted: str) -> None:
    told = Header(**{name: getattr(HEADER, name) for name in HEADER.__slots__} | header)
    problems = contradictions(times, told, tally, edits=False)
    assert [wanted in problem for problem in problems] == ([True] if wanted else [])


@given(st.integers(2, 40_000), st.floats(-2e-3, 2e-3), st.sampled_from([24.0, 25.0, 30000 / 1001, 60.0]))
def test_a_headers_rate_is_kept_within_half_a_frame(frames: int, off: float, rate: float) -> None:
    times = np.arange(frames) / (rate * (1 + off))
    kept = rate_of(times, rate)
    drift = abs((frames - 1) / kept - times[-1]) * rate
    assert drift <= 0.51
    if kept != rate:
        assert abs((frames - 1) / rate - times[-1]) * rate * (1 + off) > 0.49 or abs(off) > 9.9e-4


@given(st.integers(3, 400), st.sampled_from([1, 24000 / 1001, 25, 60000 / 1001, 120, 240, 480, 999]),
       st.sampled_from([np.round, np.floor]))  # fmt: skip
def test_a_clock_of_milliseconds_makes_no_variable_rate(frames: int, rate: float, rounding: Any) -> None:
    times = np.arange(frames) / rate
    assert not is_variable(rounding(1000 * times) / 1000)
    if frames >= 10:  # a pause, and every second gap twice as long
        assert is_variable(np.append(times[:-1], times[-1] + 0.5 + 9 / rate))
        if rate != 480:  # there the gaps lie as far from even ones as the clock can tell
            assert is_variable(np.cumsum(np.tile([1 / rate, 2 / rate], frames))) == (rate < 480)


EDITS: dict[str, tuple[list[tuple[int, int, float]], str, str, list[int]]] = {  # frames that are to be shown
    "the whole": ([(2000, 0, 1)], "ok", "", [*range(50)]),
    "a late start": ([(3000, -1, 1), (2000, 0, 1)], "ok", "", [*range(50)]),
    "two parts": ([(1000, 0, 1), (400, 20480, 1)], "ok", "", [*range(25), *range(40, 50)]),
    "in another order": ([(1000, 12800, 1), (1000, 0, 1)], "ok", "", [*range(25, 50), *range(25)]),
    "a part twice": ([(1000, 0, 1), (1000, 0, 1)], "ok", "", [*range(25)] * 2),
    "a pause": ([(1000, 0, 1), (1000, -1, 1), (1000, 12800, 1)], "flawed", "its edit list has a pause within", []),
    "a held picture": ([(1000, 0, 1), (1000, 12800, 0)], "flawed", "changes the speed or holds", []),
    "fast": ([(1000, 0, 2)], "flawed", "changes the speed or holds a picture", []),
    "no length": ([(0, 0, 1)], "damaged", "its edit list has the length 0, so decoders show nothing; remux it", []),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered.encode(tmp_path_factory.mktemp("edits") / "plain.mp4", range(50), codec="mpeg4", keyframes=5)


@pytest.fixture(scope="module")
def decoder() -> Any:
    with Decoder(stall_seconds=60, max_pixels=10**8) as one:
        yield one


@pytest.mark.parametrize("name", EDITS)
def test_what_decoders_do_not_follow_in_an_edit_list_is_said(
    plain: Path, tmp_path: Path, decoder: Decoder, name: str
) -> None:
    edits, status, cause, shown = EDITS[name]
    path = vt.with_edits(plain, tmp_path / "v.mp4", edits)
    entry = examine(path, decoder, spec=ProbeSpec(dataset="d"))
    assert (entry["status"], cause in entry["cause"]) == (status, True)
    if shown:
        with open_video(path) as video:
            assert [numbered.read(frame.image) for frame in video] == shown


def test_bytes_after_the_last_box_are_no_damage(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    path = vt.encode(folder / "plain.mp4", 30)
    for number, tail in enumerate((bytes(4000), b"made by a camera\n" * 90, np.random.default_rng(0).bytes(3000))):
        (folder / f"{number}.mp4").write_bytes(path.read_bytes() + tail)
    whole = vt.encode(tmp_path / "whole.mkv", 30).read_bytes()
    (folder / "cues.mkv").write_bytes(whole[: whole.rindex(b"\x1c\x53\xbb\x6b") + 6])  # the index cut off
    for entry in read_json(probe(folder, tmp_path / "m.json", spec=ProbeSpec(dataset="d")))["videos"].values():
        assert (entry["status"], entry["cause"], entry["frames"]) == ("ok", "", 30), entry["path"]


def test_a_stream_cut_within_a_group_loses_its_first_pictures_alone(tmp_path: Path) -> None:
    """Those that remain keep their numbers, and their times count from what the file still holds."""
    whole = numbered.encode(tmp_path / "whole.ts", range(100), keyframes=25)
    data = whole.read_bytes()
    cut = len(data) * 3 // 10 // 188 * 188
    (tmp_path / "v").mkdir()
    (tmp_path / "v/cut.ts").write_bytes(data[cut:])
    entry = read_json(probe(tmp_path / "v", tmp_path / "m.json", spec=ProbeSpec(dataset="d")))["videos"]["cut"]
    assert entry["status"] == "flawed"
    assert entry["lost_at_start"] > 0
    assert (entry["flagged_frames"], entry["lost_frames"]) == (0, 0)
    assert "starts within a group of pictures" in entry["cause"]
    assert 40 < entry["frames"] < 75
    assert entry["start"] == pytest.approx(entry["lost_at_start"] / 25, abs=0.13)


class Colours(BackboneBase):
    """A backbone without weights: mean colours."""

    dim = 3

    def forward(self, clips_BTHWC: torch.Tensor) -> torch.Tensor:
        return clips_BTHWC.float().mean(dim=(1, 2, 3))


def features(folder: Path, clip: ClipSpec, **settings: Any) -> Path:
    manifest = probe(folder / "v", folder / "m.json", spec=ProbeSpec(dataset="d", **settings))
    spec = ExtractSpec(dataset="d", backbone={"name": "r2plus1d_small"}, clip=clip, dtype="float32")
    kept = folder / f"kept_{clip.policy}_{settings}"
    return extract(
        manifest, folder / "v", None, folder / "f.h5", spec=spec, cache=kept, device="cpu", workers=1, backbone=Colours
    )  # fmt: skip


@pytest.mark.parametrize(("policy", "rate"), [("native", 0.0), ("resample", 12.5), ("ffmpeg_cfr", 12.5)])
def test_rows_of_a_late_picture_lie_where_players_show_them(tmp_path: Path, policy: str, rate: float) -> None:
    """The rows whose clips hold a flash are those whose time on the file's time line is the flash's."""
    late, flash = 60, 70  # frames of 25 a second
    (tmp_path / "v").mkdir()
    numbers = [0 if place != flash else (1 << 16) - 1 for place in range(late, late + 40)]
    drawn = numbered.draw
    try:
        numbered.draw = lambda number, **size: drawn(numbers[number], **size)
        path = numbered.encode(tmp_path / "v/a.mkv", range(late, late + 40), sound=3.0)
    finally:
        numbered.draw = drawn
    assert path.is_file()
    clip = ClipSpec(length=4, stride=1, policy=policy, rate=rate)  # type: ignore[arg-type]
    with FeatureReader(features(tmp_path, clip)) as reader:
        rows, grid = reader.stored("a"), reader.grid("a")
    bright = np.flatnonzero(rows.mean(axis=1) > 20)
    centre = grid.to_seconds(float(bright.mean()))
    assert centre == pytest.approx((flash + 0.5) / 25, abs=0.09)
    assert grid.offset == pytest.approx(0.0 if policy == "ffmpeg_cfr" else late / 25, abs=0.05)
    assert grid.duration == pytest.approx((late + 40) / 25, abs=0.05)


@given(st.floats(0, 50), st.integers(1, 40), st.integers(1, 16), st.integers(1, 60))
def test_an_offset_moves_every_grid_and_nothing_else(offset: float, length: int, clip: int, wanted: int) -> None:
    plain = Grid.of_clips(clip_length=clip, stride=4, rate=25, length=length, duration=99)
    moved = Grid.of_clips(clip_length=clip, stride=4, rate=25, length=length, duration=99, offset=offset)
    for name, arguments in (("spread", (wanted,)), ("thinned", (3,)), ("window", (0, length))):
        one, other = getattr(plain, name)(*arguments), getattr(moved, name)(*arguments)
        assert (other.start - offset, other.step) == pytest.approx((one.start, one.step), abs=1e-9)
        assert (other.offset, other.length) == (offset, one.length)


def test_flawed_videos_are_used_and_counted_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A transport stream whose last packet is not whole."""
    (tmp_path / "v").mkdir()
    whole = vt.encode(tmp_path / "whole.ts", 60)
    (tmp_path / "v/a.ts").write_bytes(whole.read_bytes()[:-100])
    vt.encode(tmp_path / "v/b.mp4", 30)
    assert lost_samples(tmp_path / "v/a.ts") == PARTIAL
    clip = ClipSpec(length=4, stride=4, policy="native", rate=0)
    with caplog.at_level(logging.WARNING), FeatureReader(features(tmp_path, clip)) as reader:
        assert reader.video_ids == ["a", "b"]
    assert "1 of 2 videos are flawed but used; worst: a, " in caplog.text
    with FeatureReader(features(tmp_path, clip, on_flawed="exclude")) as reader:
        assert reader.video_ids == ["b"]
        assert list(reader.excluded) == ["a"]
        assert reader.excluded["a"].startswith("its last packet is not whole")
