"""Every kind of damaged or unusual file: what probe says of it, and that each reader gives the right frames or is set
aside with the cause. Which kinds: those that real collections hold."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import video_tools as vt

from tad.backbones._contract import BackboneBase
from tad.core.files import read_json
from tad.features.store import FeatureReader
from tad.settings.stages import ClipSpec, ExtractSpec, ProbeSpec
from tad.stages.extract import extract
from tad.stages.probe import probe
from tad.video.clips import ffmpeg_cfr
from tad.video.reader import READERS, VideoError, av, open_video

LEVELS = 12.0  # mean difference that a lossy encoding of a small picture leaves


def moov_first_cut(path: Path) -> None:
    vt.truncate(vt.moov_first(vt.encode(path.with_name("_a.mp4"), 90), path.with_name("_b.mp4")), path)


def zeros_in_the_middle(path: Path) -> None:
    data = bytearray(vt.moov_first(vt.encode(path.with_name("_a.mp4"), 90), path.with_name("_b.mp4")).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 1500] = bytes(1500)
    path.write_bytes(data)


def picture_file(path: Path) -> None:
    with av.open(str(path.with_name("_p.jpg")), "w", format="image2") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(vt.picture(0, width=64, height=48), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    shutil.move(path.with_name("_p.jpg"), path)


def huge_header(path: Path) -> None:
    """An AVI of raw pictures whose header promises 9000 x 9000 of them."""
    data = vt.encode(path, 3, codec="rawvideo").read_bytes()
    head = data.index(b"strf") + 8
    side = (9000).to_bytes(4, "little")
    path.write_bytes(data[: head + 4] + side + side + data[head + 12 :])


def without_times(path: Path) -> None:
    """A raw H.264 stream: packets, but no container that says when to show them."""
    with av.open(str(vt.encode(path.with_name("_a.mp4"), 20))) as have, av.open(str(path), "w", format="h264") as out:
        stream = have.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in have.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)


ALONE = """
import sys
from pathlib import Path
from types import SimpleNamespace as Space
sys.modules["decord"] = Space(logging=Space(set_level=print, QUIET=""))
sys.path.insert(0, sys.argv[1])
import video_tools
video_tools.encode(Path(sys.argv[2]), 20, codec="libvpx-vp9")
"""


def vp9(path: Path) -> None:
    """Encoded in a process without decord, which brings a libvpx of its own that PyAV's encoder cannot work with."""
    subprocess.run([sys.executable, "-c", ALONE, str(Path(__file__).parent), str(path)], check=True)


def later(path: Path, **settings: Any) -> None:
    vt.encode(path, 20, times_ms=[1000 + 40 * k for k in range(20)], **settings)


FINE: dict[str, tuple[Callable[[Path], object], int, dict[str, Any]]] = {
    "plain.mp4": (lambda p: vt.encode(p, 20), 20, {"codec": "h264", "pix_fmt": "yuv420p"}),
    "odd_size.mkv": (lambda p: vt.encode(p, 20, width=65, height=49, codec="mpeg4"), 20, {"width": 65, "height": 49}),
    "odd_444.mp4": (lambda p: vt.encode(p, 20, width=65, height=49, pix_fmt="yuv444p"), 20, {"pix_fmt": "yuv444p"}),
    "ten_bit.mp4": (lambda p: vt.encode(p, 20, pix_fmt="yuv420p10le"), 20, {"pix_fmt": "yuv420p10le"}),
    "hevc.mp4": (lambda p: vt.encode(p, 20, codec="libx265"), 20, {"codec": "hevc"}),
    "hevc_ten_bit.mp4": (lambda p: vt.encode(p, 20, codec="libx265", pix_fmt="yuv420p10le"), 20, {"codec": "hevc"}),
    "av1.mp4": (lambda p: vt.encode(p, 20, codec="libsvtav1"), 20, {"codec": "av1"}),
    "av1.webm": (lambda p: vt.encode(p, 20, codec="libsvtav1"), 20, {"codec": "av1"}),
    "vp9.webm": (vp9, 20, {"codec": "vp9"}),
    "turned_90.mp4": (lambda p: vt.encode(p, 20, rotation=90), 20, {"rotation": 90}),
    "turned_180.mp4": (lambda p: vt.encode(p, 20, rotation=180), 20, {"rotation": 180}),
    "turned_270.mp4": (lambda p: vt.encode(p, 20, rotation=270), 20, {"rotation": 270}),
    "varying.mp4": (lambda p: vt.encode(p, 20, times_ms=vt.varying(20)), 20, {"vfr": True}),
    "later.mkv": (later, 20, {"rate": 25.0, "vfr": False}),
    "later.mp4": (later, 20, {"rate": 25.0}),
    "after_sound.mkv": (lambda p: later(p, sound=True), 20, {"audio": True, "rate": 25.0}),
    "no_times.avi": (lambda p: vt.encode(p, 20, codec="mpeg4"), 20, {"codec": "mpeg4", "rate": 30.0}),
    "raw_stream.mp4": (without_times, 20, {"codec": "h264"}),
    "one.mp4": (lambda p: vt.encode(p, 1), 1, {"frames": 1}),
}  # fmt: skip
CUT: dict[str, tuple[Callable[[Path], object], str, tuple[int, int]]] = {
    "truncated.mp4": (moov_first_cut, r"truncated: \d+ frames", (20, 89)),
    "truncated.mkv": (lambda p: vt.truncate(vt.encode(p, 90), p), r"truncated: \d+ frames", (20, 89)),
    "truncated.avi": (lambda p: vt.truncate(vt.encode(p, 90, codec="mpeg4"), p), r"truncated: \d+ frames", (20, 89)),
    "no_moov.mp4": (lambda p: vt.truncate(vt.encode(p, 60), p), "truncated: 0 frames", (0, 0)),
    "zeros.mp4": (zeros_in_the_middle, "decoding fails", (20, 80)),
    "sound.mp4": (vt.audio_only, "no video stream", (0, 0)),
    "zero_bytes.mp4": (vt.empty, r"empty file \(0 bytes\)", (0, 0)),
    "page.mp4": (vt.text, "text, not a video", (0, 0)),
    "noise.mp4": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(20000)), "cannot be opened", (0, 0)),
    "picture.mp4": (picture_file, "is a picture, not a video", (0, 0)),
    "huge.avi": (huge_header, "header states 9000x9000 pixels, more than", (0, 0)),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch, path = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("videos")
    for name, (make, *_) in (FINE | CUT).items():
        make(scratch / name)
        stem, dot, end = name.rpartition(".")
        shutil.move(scratch / name, path / f"{stem}_{end}{dot}{end}")  # one id each
    return path


@pytest.fixture(scope="module", params=list(READERS))
def manifest(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not vt.usable(request.param):
        pytest.skip(f"{request.param} is not installed")
    out = tmp_path_factory.mktemp("out") / "m.json"
    return {"reader": request.param, **read_json(probe(folder, out, spec=ProbeSpec(dataset="d", reader=request.param)))}


def entry_of(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    stem, _, end = name.rpartition(".")
    return manifest["videos"][f"{stem}_{end}"]


@pytest.mark.parametrize("name", list(FINE))
def test_unusual_files_are_read_right(folder: Path, manifest: dict[str, Any], name: str) -> None:
    """The reader that the manifest names gives every frame, upright, at its time; another one was set aside aloud."""
    _, count, facts = FINE[name]
    entry = entry_of(manifest, name)
    assert (entry["status"], entry["cause"]) == ("ok", "")
    assert (entry["frames"], entry["salvaged_frames"]) == (count, count)
    assert {key: entry[key] for key in facts} == facts
    assert (entry["reader"] == manifest["reader"]) == (entry["reader_cause"] == "")
    assert "/" not in entry["reader_cause"]
    with open_video(folder / entry["path"], reader=entry["reader"]) as video:
        frames = list(video)
    assert [frame.number for frame in frames] == list(range(count))
    assert frames[0].time == 0.0
    width, height = (entry["width"], entry["height"])
    for frame in frames:
        drawn = np.rot90(vt.picture(frame.number, width=width, height=height), entry["rotation"] // 90)
        assert frame.image.shape == drawn.shape
        assert np.abs(frame.image.astype(int) - drawn).mean() < 2 * LEVELS
    if name.startswith(("later", "after")):
        assert np.allclose([frame.time for frame in frames], np.arange(count) / 25, atol=1e-3)


@pytest.mark.parametrize("name", list(CUT))
def test_damaged_files_are_set_aside_with_cause_and_count(folder: Path, manifest: dict[str, Any], name: str) -> None:
    _, cause, (least, most) = CUT[name]
    entry = entry_of(manifest, name)
    assert entry["status"] == "damaged"
    assert re.search(cause, entry["cause"])
    assert least <= entry["salvaged_frames"] <= most
    assert entry["frames"] == 0
    assert "\n" not in entry["cause"]
    assert str(folder) not in entry["cause"]
    right = 0
    with suppress(VideoError), open_video(folder / entry["path"]) as video:
        for frame in () if name == "huge.avi" else video:
            drawn = vt.picture(round(30 * (frame.start + frame.time)), width=64, height=48)
            right += not frame.flagged
            assert frame.flagged or np.abs(frame.image.astype(int) - drawn).mean() < 2 * LEVELS
    assert right == entry["salvaged_frames"]  # what counts as salvaged are right frames, at their times


def test_the_same_manifest_whenever_it_is_made(folder: Path, manifest: dict[str, Any], tmp_path: Path) -> None:
    """Causes hold no addresses, dates, random numbers or places."""
    spec = ProbeSpec(dataset="d", reader=manifest["reader"])
    again = read_json(probe(folder, tmp_path / "m.json", spec=spec))
    assert again["videos"] == manifest["videos"]


def extracted(folder: Path, clip: ClipSpec) -> Path:
    """The features of the videos in `folder`/v: mean colours of their clips."""
    manifest = probe(folder / "v", folder / "m.json", spec=ProbeSpec(dataset="d"))
    spec = ExtractSpec(dataset="d", backbone={"name": "r2plus1d_small"}, clip=clip, dtype="float32")
    return extract(
        manifest, folder / "v", None, folder / "f.h5",
        spec=spec, cache=folder / "k", device="cpu", workers=1, backbone=Colours,
    )  # fmt: skip


class Colours(BackboneBase):
    """A backbone without weights: mean colours."""

    dim = 3

    def forward(self, clips_BTHWC: torch.Tensor) -> torch.Tensor:
        return clips_BTHWC.float().mean(dim=(1, 2, 3))


def test_names_with_spaces_go_through(tmp_path: Path) -> None:
    """An id that annotations may have is one that a file may have."""
    name = "my video (1) é 100%"
    vt.encode(tmp_path / f"v/{name}.mp4", 20)
    out = extracted(tmp_path, ClipSpec(length=8, stride=4, policy="native", rate=0))
    assert list(read_json(tmp_path / "m.json")["videos"]) == [name]
    with FeatureReader(out) as reader:
        assert reader.video_ids == [name]
        assert reader.stored(name).shape == (4, 3)


def test_rate_policy_and_tail_reach_the_features(tmp_path: Path) -> None:
    """31 frames, 30 → 25 as ffmpeg does it: 26; clips of 8 every 5 frames: 4, and one more that ends with the video."""
    path = vt.encode(tmp_path / "v/a.mp4", 31)
    clip = ClipSpec(length=8, stride=5, policy="ffmpeg_cfr", rate=25, tail="align")
    with open_video(path) as video:
        timed = [(f.time, f.duration, f.image.astype(np.float32).mean(axis=(0, 1))) for f in video]
    colours = np.stack(list(ffmpeg_cfr(timed, rate=25)))
    assert len(colours) == 26
    with FeatureReader(extracted(tmp_path, clip)) as reader:
        rows, grid = reader.stored("a"), reader.grid("a")
    wanted = np.stack([colours[first : first + 8].mean(axis=0) for first in (0, 5, 10, 15, 18)])
    np.testing.assert_allclose(rows, wanted, rtol=1e-5)
    assert (grid.start, grid.step, grid.length) == (4 / 25, 5 / 25, 5)


def test_readers_open_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    """The packet numbers of one reader stay its own when another reader, half-way through a file, frees its packets."""
    path = vt.encode(tmp_path / "a.mp4", 40)
    with open_video(path) as one:
        frames = iter(one)
        shown = [next(frames)]
        for _ in range(3):
            with open_video(path) as other:
                halfway = iter(other)
                shown.append(next(frames))
                next(halfway)
                del halfway
        shown.extend(frames)
        assert (one.tally.lost, one.tally.before, one.tally.flagged) == (0, 0, 0)
    assert [frame.number for frame in shown] == list(range(40))
