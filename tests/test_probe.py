"""What probe finds out: real clips with lying headers, small encoded ones, and what can be wrong with a file."""

import itertools
import logging
import os
import re
import signal
from collections.abc import Iterator
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import video_tools as vt

from tad.commands.cli import main
from tad.core import notices
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.provenance.stamps import read_stamp
from tad.settings.stages import ProbeSpec
from tad.stages import probe as stage
from tad.stages.probe import probe
from tad.video import probing
from tad.video.listing import shard_of

SPEC = ProbeSpec(dataset="d", reader="decord")  # the reader that is most often wrong; the default is PyAV

# counted with PyAV 18.1: frames, what the header says, varying rate
REAL = {
    "flipping_a_pancake": (310, 0), "R6llTwEh07w": (303, 303), "RATRACE_wave_f_nm_np1_fr_goo_37": (72, 73),
    "SOX5yA1l24A": (332, 332), "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0": (74, 75),
    "TrumanShow_wave_f_nm_np1_fr_med_26": (48, 49), "WUzgd7C1pWA": (327, 327),
    "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6": (83, 84), "v_SoccerJuggling_g23_c01": (240, 240),
    "v_SoccerJuggling_g24_c01": (251, 251), "v_GGSY1Qvo990": (355, 355), "v_ZNVhz7ctTq0": (420, 420),
}  # fmt: skip


def entries(path: Path) -> dict:
    return read_json(path)["videos"]


def test_real_clips(shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos = entries(probe(shared / "data/videos", tmp_path / "m.json", spec=SPEC))
    assert {v: (e["frames"], e["header_frames"]) for v, e in videos.items()} == REAL
    assert all(e["status"] == "ok" and not e["vfr"] and e["rotation"] == 0 for e in videos.values())
    lying = {v for v, (frames, header) in REAL.items() if header not in (0, frames)}
    # decord repeats the last frame until the header is satisfied
    assert {v for v, e in videos.items() if e["reader"] == "pyav"} == lying
    assert all("frames where" in videos[v]["reader_cause"] for v in lying)
    assert sum("header states" in r.getMessage() for r in caplog.records) == len(lying)
    assert videos["v_GGSY1Qvo990"]["rate"] == pytest.approx(19.62)
    assert videos["v_ZNVhz7ctTq0"]["duration"] == pytest.approx(14.0)
    assert videos["v_SoccerJuggling_g23_c01"]["rate"] == 30000 / 1001


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos")
    good = vt.encode(path / "good.mp4", 90)
    vt.encode(path / "varying.mp4", 45, times_ms=vt.varying(45))
    vt.encode(path / "turned.mp4", 20, rotation=90)
    vt.encode(path / "upside.mp4", 20, rotation=180)
    vt.encode(path / "one.mp4", 1)
    vt.cut(good, path / "cut.mp4", start=1.2)
    vt.truncate(vt.moov_first(good, path / "front.mp4"), path / "trunc.mp4")
    vt.truncate(good, path / "headless.mp4")
    vt.truncate(vt.encode(path / "whole.mkv", 90), path / "half.mkv")
    vt.audio_only(path / "sound.mp4")
    vt.text(path / "page.mp4")
    vt.empty(path / "void.mp4")
    (path / "absent.mp4").symlink_to("removed.mp4")
    return path


@pytest.fixture(scope="module")
def manifest(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("out") / "00-of-01.json"
    return entries(probe(folder, out, spec=SPEC))


def test_good_video(manifest: dict) -> None:
    entry = manifest["good"]
    wanted = {
        "path": "good.mp4", "frames": 90, "rate": 30.0, "duration": 3.0, "width": 64, "height": 48, "rotation": 0,
        "vfr": False, "edit_list": False, "codec": "h264", "pix_fmt": "yuv420p", "audio": False, "reader": "decord",
        "reader_cause": "", "status": "ok", "cause": "",
    }  # fmt: skip
    assert {key: entry[key] for key in wanted} == wanted
    assert len(entry["sha256"]) == 64
    assert entry["bytes"] > 0


def test_varying_rate_rotation_and_edit_list(manifest: dict) -> None:
    assert manifest["varying"]["vfr"]
    assert manifest["varying"]["rate"] == pytest.approx(44 / (vt.varying(45)[-1] / 1000))
    assert manifest["varying"]["reader"] == "decord"
    assert (manifest["turned"]["rotation"], manifest["upside"]["rotation"]) == (90, 180)
    assert manifest["turned"]["reader"] == "pyav"  # decord gives skewed frames of four channels
    assert (manifest["turned"]["width"], manifest["turned"]["height"]) == (64, 48)
    assert manifest["upside"]["reader"] == "decord"
    assert manifest["cut"]["edit_list"]
    assert manifest["cut"]["reader"] == "pyav"
    assert manifest["cut"]["reader_cause"].startswith("edit list: decord gives")
    assert manifest["cut"]["frames"] == 54


def test_pixels_that_are_not_square_are_kept_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "v"
    vt.encode(folder / "wide.mp4", 3, pixel_aspect=Fraction(4, 3))
    vt.encode(folder / "square.mp4", 3)
    found = entries(probe(folder, tmp_path / "m.json", spec=ProbeSpec(dataset="d")))
    assert (found["wide"]["width"], found["wide"]["height"], found["wide"]["status"]) == (64, 48, "ok")
    said = [record.getMessage() for record in caplog.records if "as wide as high" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("wide.mp4: pixels are 1.333 times as wide as high; they are used as they are")


def test_one_frame_is_a_video(manifest: dict) -> None:
    assert (manifest["one"]["status"], manifest["one"]["frames"], manifest["one"]["rate"]) == ("ok", 1, 30.0)


@pytest.mark.parametrize(("video", "cause"), [
    ("trunc", r"truncated: \d+ frames"), ("half", r"truncated: \d+ frames"), ("headless", "truncated: 0 frames"),
    ("sound", "no video stream"), ("page", "text, not a video"), ("void", "empty file"), ("absent", "missing"),
])  # fmt: skip
def test_damage_has_a_cause(manifest: dict, video: str, cause: str) -> None:
    entry = manifest[video]
    assert entry["status"] == "damaged"
    assert re.search(cause, entry["cause"])
    assert set(entry) == set(manifest["good"])
    assert (entry["salvaged_frames"] > 20) == (video in ("trunc", "half"))
    assert entry["frames"] == 0


def test_same_inputs_same_bytes_and_shards_partition(folder: Path, tmp_path: Path, manifest: dict) -> None:
    small = tmp_path / "videos"
    small.mkdir()
    for name in ("good.mp4", "one.mp4", "void.mp4"):
        (small / name).write_bytes((folder / name).read_bytes())
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    probe(small, first, spec=SPEC)
    probe(small, second, spec=SPEC)
    assert first.read_bytes() == second.read_bytes()
    assert read_stamp(first)["stage"] == "probe"
    parts = [entries(probe(small, tmp_path / f"{k}.json", spec=SPEC, shard=(k, 3))) for k in range(3)]
    assert {v for part in parts for v in part} == {"good", "one", "void"}
    assert all(shard_of(v, 3) == k for k, part in enumerate(parts) for v in part)
    assert all(part[v] == manifest[v] for part in parts for v in part)


def test_unchanged_videos_are_not_decoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder, out, kept = tmp_path / "v", tmp_path / "m.json", tmp_path / "kept/m.json"

    def run(spec: ProbeSpec = SPEC) -> str:
        caplog.clear()
        probe(folder, out, spec=spec, cache=kept)
        assert out.read_bytes() == kept.read_bytes()
        return next(r.getMessage() for r in caplog.records if "videos decoded" in r.getMessage())

    vt.encode(folder / "a.mp4", 20)
    vt.encode(folder / "b.mp4", 21)
    assert run() == "2 videos decoded, 0 cached"
    first = out.read_bytes()
    out.unlink()
    assert run() == "0 videos decoded, 2 cached"
    assert out.read_bytes() == first
    vt.encode(folder / "c.mp4", 22)
    stat = (folder / "b.mp4").stat()
    vt.encode(folder / "b.mp4", 25)
    os.utime(folder / "b.mp4", (0, stat.st_mtime))  # dates tell nothing
    (folder / "a.mp4").rename(folder / "moved.mp4")
    assert run() == "2 videos decoded, 1 cached"
    assert {v: e["frames"] for v, e in entries(out).items()} == {"moved": 20, "b": 25, "c": 22}
    assert entries(out)["moved"]["path"] == "moved.mp4"
    assert run(ProbeSpec(dataset="d", reader="pyav")) == "3 videos decoded, 0 cached"
    kept.write_text("{ half a file")
    assert run(ProbeSpec(dataset="d", reader="pyav")) == "3 videos decoded, 0 cached"


def test_pyav_is_the_default_and_taken_as_told(tmp_path: Path) -> None:
    vt.encode(tmp_path / "v/a.mp4", 12)
    entry = entries(probe(tmp_path / "v", tmp_path / "m.json", spec=ProbeSpec(dataset="d")))["a"]
    assert (entry["reader"], entry["reader_cause"]) == ("pyav", "")


def test_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    vt.encode(tmp_path / "v/a.mp4", 12)
    entry = entries(probe(tmp_path / "v", tmp_path / "m.json", spec=ProbeSpec(dataset="d", max_pixels=1000)))["a"]
    assert entry["status"] == "damaged"
    assert "64x48 pixels, more than 1000" in entry["cause"]


class CrashAfterSend:
    """A connection whose other end, stopped before it can read, crashes once the request is on its way."""

    number = signal.SIGSEGV

    def __init__(self, connection: Connection, pid: int) -> None:
        self._connection, self._pid = connection, pid
        os.kill(pid, signal.SIGSTOP)

    def send(self, request: object) -> None:
        self._connection.send(request)
        os.kill(self._pid, self.number)
        os.kill(self._pid, signal.SIGCONT)

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


def test_crash_and_stall_of_a_decoder_are_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped stands still; one that is killed crashed. The next video gets a new process."""
    path = vt.encode(tmp_path / "a.mp4", 20)
    with probing.Decoder(stall_seconds=2.0, max_pixels=1 << 30) as decoder:
        assert decoder.scan(path, "pyav").frames == 20
        os.kill(decoder._process.pid, signal.SIGSTOP)
        assert "stood still for 2 s" in decoder.scan(path, "pyav").cause
        assert decoder.scan(path, "pyav").cause == ""
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "_connection", CrashAfterSend(decoder._connection, decoder._process.pid))
            assert "crashed (SIGSEGV)" in decoder.scan(path, "decord").cause
        scan = decoder.scan(path, "decord")
        assert (scan.cause, scan.frames) == ("", 20)


def test_a_decoder_that_ended_while_it_waited_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The video that comes next is not to blame: it is scanned by a new process."""
    path = vt.encode(tmp_path / "a.mp4", 20)
    with probing.Decoder(stall_seconds=30, max_pixels=1 << 30) as decoder:
        assert decoder.scan(path, "pyav").frames == 20
        os.kill(decoder._process.pid, signal.SIGKILL)
        decoder._process.join()
        scan = decoder.scan(path, "pyav")
        assert (scan.cause, scan.frames) == ("", 20)
    assert "had ended (SIGKILL); a.mp4 gets a new one" in caplog.text


class KillAfterSend(CrashAfterSend):
    """The same with SIGKILL, as when a whole stage is killed and its decoding process gets the signal first."""

    number = signal.SIGKILL


def test_a_killed_decoder_is_no_verdict_about_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise probe would cache `damaged`. A decoder that is killed again (for lack of memory) is one."""
    path = vt.encode(tmp_path / "a.mp4", 20)
    with probing.Decoder(stall_seconds=30, max_pixels=1 << 30) as decoder:
        decoder.scan(path, "pyav")
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "_connection", KillAfterSend(decoder._connection, decoder._process.pid))
            scan = decoder.scan(path, "pyav")
        assert (scan.cause, scan.frames) == ("", 20)
        assert "crashed (SIGKILL) after frame 0); a.mp4 is decoded again" in caplog.text
        killed = probing.Scan(scan.times[:0], scan.marks[:0], (), {}, "pyav crashed (SIGKILL) after frame 0")
        monkeypatch.setattr(decoder, "_attempt", lambda path, reader: (killed, True))
        assert decoder.scan(path, "pyav") is killed


def test_decord_alone_at_fault_means_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only decord crashing, showing other frames or needing too much memory leaves the video usable."""
    path = vt.encode(tmp_path / "a.mp4", 20)
    cut = vt.cut(vt.encode(tmp_path / "b.mp4", 40), tmp_path / "c.mp4", start=0.4)
    other = probing.scan(cut, "pyav", max_pixels=1 << 30)
    with probing.Decoder(stall_seconds=30, max_pixels=1 << 30) as decoder:
        real = decoder.scan
        for wrong, cause in (
            (probing.Scan(other.times, other.marks, other.shape, {}, "decord crashed (SIGSEGV)"), "crashed"),
            (probing.Scan(other.times[:20], other.marks[:20], other.shape, {}, ""), "other frames"),
            (probing.Scan(other.times[:19], other.marks[:19], other.shape, {}, ""), "19 frames where 20"),
            (probing.Scan(other.times[:20] * 2, other.marks[:20], other.shape, {}, ""), "times are off"),
        ):
            monkeypatch.setattr(decoder, "scan", lambda p, r, wrong=wrong: wrong if r == "decord" else real(p, r))
            entry = probing.examine(path, decoder, spec=SPEC)
            assert (entry["status"], entry["reader"]) == ("ok", "pyav")
            assert cause in entry["reader_cause"]
        monkeypatch.setattr(decoder, "scan", real)
        monkeypatch.setattr(probing, "AHEAD_BYTES", 1000)
        assert "GiB ahead" in probing.examine(path, decoder, spec=SPEC)["reader_cause"]


def test_users_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(TadError, match="no such folder"):
        probe(tmp_path / "none", tmp_path / "m.json", spec=SPEC)
    assert not (tmp_path / "m.json").exists()


def test_killed_work_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        vt.encode(tmp_path / f"v/{name}.mp4", 12 + ord(name) % 2)
    real, calls = stage.examine, []

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(stage, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(stage, "examine", dies)
    kept = tmp_path / "kept.json"
    with pytest.raises(KeyboardInterrupt):
        probe(tmp_path / "v", tmp_path / "m.json", spec=SPEC, cache=kept)
    assert not (tmp_path / "m.json").exists()
    probe(tmp_path / "v", tmp_path / "m.json", spec=SPEC, cache=kept)
    assert len(calls) == 3  # one before the kill, one that was killed, and that one again
    assert kept.read_bytes() == (tmp_path / "m.json").read_bytes()


def test_videos_that_an_interrupted_run_has_not_reached_stay_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k, name in enumerate("bc"):
        vt.encode(tmp_path / f"v/{name}.mp4", 12 + k)
    kept = tmp_path / "kept.json"
    probe(tmp_path / "v", tmp_path / "m.json", spec=SPEC, cache=kept)
    vt.encode(tmp_path / "v/a.mp4", 15)
    real, calls = stage.examine, []

    def counted(path: Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        calls.append(path.name)
        return real(path, *args, **kwargs)

    def killed(items: Any, *_: Any) -> Iterator[Any]:
        yield from itertools.islice(items, 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(stage, "examine", counted)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "track", killed)
        with pytest.raises(KeyboardInterrupt):
            probe(tmp_path / "v", tmp_path / "m.json", spec=SPEC, cache=kept)
    probe(tmp_path / "v", tmp_path / "m.json", spec=SPEC, cache=kept)
    assert calls == ["a.mp4"]


def test_warnings_are_about_the_videos_that_are_there_now(tmp_path: Path) -> None:
    """Through the command line, whose journal keeps warnings between attempts of other stages."""
    vt.encode(tmp_path / "v/a.mp4", 12)
    vt.text(tmp_path / "v/b.mp4")
    out = tmp_path / "m.json"
    words = ["probe", str(tmp_path / "v"), "--shard", "0-of-1", "--spec", SPEC.model_dump_json(), "--out", str(out)]
    assert main(words) == 0
    assert any("b.mp4: damaged" in line for line in notices.read(out)[str(out)])
    assert main(words) == 0
    assert len(notices.read(out)[str(out)]) == 1, "from the cache"
    vt.encode(tmp_path / "v/b.mp4", 13)
    assert main(words) == 0
    assert notices.read(out) == {}
