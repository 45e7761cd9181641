"""Reading videos: decord against PyAV on small encoded files, listings, containers."""

import importlib
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import video_tools as vt

from tad.annotations.checks import check
from tad.annotations.table import Instance, Table, Video
from tad.core.errors import TadError
from tad.video.containers import has_edit_list
from tad.video.listing import list_videos, near_misses, parse_shard, shard_of
from tad.video.reader import PyavReader, VideoError, open_video
from tad.video.wholeness import lost_samples


def frames_of(path: Path, reader: str) -> list:
    with open_video(path, reader=reader) as video:
        return list(video)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_readers_agree_bit_for_bit(tmp_path: Path, name: str) -> None:
    path = vt.encode(tmp_path / name, 40)
    first, second = frames_of(path, "decord"), frames_of(path, "pyav")
    assert [f.number for f in first] == [f.number for f in second] == list(range(40))
    assert np.allclose([f.time for f in first], [f.time for f in second], atol=1e-5)
    assert np.allclose([f.time for f in second], np.arange(40) / 30, atol=6e-4)  # mkv counts milliseconds
    for a, b in zip(first, second, strict=True):
        assert a.image.dtype == np.uint8
        assert np.array_equal(a.image, b.image)
    assert np.abs(second[7].image.astype(int) - vt.picture(7, width=64, height=48)).mean() < 30


def test_varying_rate_keeps_its_times(tmp_path: Path) -> None:
    times = vt.varying(30)
    path = vt.encode(tmp_path / "v.mp4", 30, times_ms=times)
    for reader in ("decord", "pyav"):
        assert np.allclose([f.time for f in frames_of(path, reader)], np.array(times) / 1000, atol=1e-5)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, rotation: int) -> None:
    """The tag is degrees counterclockwise; its effect on a picture is that of turning the plain file's frames."""
    plain = frames_of(vt.encode(tmp_path / "p.mp4", 5), "pyav")
    path = vt.encode(tmp_path / "r.mp4", 5, rotation=rotation)
    for a, b in zip(frames_of(path, "pyav"), plain, strict=True):
        assert np.array_equal(a.image, np.rot90(b.image, rotation // 90))
    if rotation == 180:  # the one that decord does right
        assert np.array_equal(frames_of(path, "decord")[3].image, frames_of(path, "pyav")[3].image)


def test_edit_list_is_honoured_by_pyav(tmp_path: Path) -> None:
    source = vt.encode(tmp_path / "a.mp4", 90)
    path = vt.cut(source, tmp_path / "c.mp4", start=1.2)
    assert has_edit_list(path)
    assert not has_edit_list(source)  # its single entry only makes up for B-frames
    whole, part = frames_of(source, "pyav"), frames_of(path, "pyav")
    assert len(part) == 54
    assert np.array_equal(part[0].image, whole[36].image)
    assert part[0].time == 0.0


def test_truncated_files_are_seen(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.avi"):
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        path = vt.encode(tmp_path / name, 60, codec=codec)
        assert not lost_samples(path)
        assert "ends within its samples" in lost_samples(vt.truncate(path, tmp_path / f"t_{name}"))


def test_truncated_gives_its_first_frames(tmp_path: Path) -> None:
    path = vt.truncate(vt.moov_first(vt.encode(tmp_path / "a.mp4", 90), tmp_path / "f.mp4"), tmp_path / "t.mp4")
    with PyavReader(path) as video:
        frames = list(video)
        count, beyond = video.promised(path.stat().st_size)
        right = [frame for frame in frames if not frame.flagged]
    assert 20 < len(right) < 90
    assert (count, count - video.tally.read) == (90, 90 - video.tally.read)
    assert beyond >= 90 - len(frames)
    for frame in right:
        assert np.abs(frame.image.astype(int) - vt.picture(frame.number, width=64, height=48)).mean() < 30


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    for make in (vt.text, vt.empty, vt.audio_only):
        path = make(tmp_path / f"{make.__name__}.mp4")
        for reader in ("decord", "pyav"):
            with pytest.raises(VideoError) as error:
                frames_of(path, reader)
            assert str(path) in str(error.value)
            assert "\n" not in str(error.value)
    with pytest.raises(TadError, match="one of decord, pyav, torchcodec"):
        open_video(tmp_path / "x.mp4", reader="gif")


def test_memory_of_pyav_stays_small_and_decord_comes_first() -> None:
    program = (
        "import sys, tad.video.reader as r; names = list(sys.modules); "
        "assert names.index('decord') < names.index('av'); assert 'torch' not in names"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_listing(tmp_path: Path) -> None:
    for name in ("b.mp4", "sub/a.MKV", "sub/deeper/c-1_x.y.webm", ".hidden/d.mp4", ".e.mp4", "notes.txt", "mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(TadError, match="no such folder"):
        list_videos(tmp_path / "absent")
    assert list_videos(tmp_path) == {"a": "sub/a.MKV", "b": "b.mp4", "c-1_x.y": "sub/deeper/c-1_x.y.webm"}
    (tmp_path / "sub/b.avi").touch()
    with pytest.raises(TadError, match=r"sub/b\.avi: same video id as b\.mp4"):
        list_videos(tmp_path)
    (tmp_path / "sub/b.avi").rename(tmp_path / "my video.mp4")
    assert list_videos(tmp_path)["my video"] == "my video.mp4"


@pytest.mark.parametrize("extension", ["mts", "m2ts", "ts", "wmv", "flv", "3gp", "ogv", "mpg", "vob", "gif", "WMV"])
def test_extensions_that_are_read(tmp_path: Path, extension: str) -> None:
    (tmp_path / f"a.{extension}").touch()
    assert list_videos(tmp_path) == {"a": f"a.{extension}"}


def test_a_gif_beside_a_video_is_its_preview(tmp_path: Path) -> None:
    for name in ("a.gif", "b.GIF", "b.mp4"):
        (tmp_path / name).touch()
    assert list_videos(tmp_path) == {"a": "a.gif", "b": "b.mp4"}


def test_both_unicode_forms_are_one_id(tmp_path: Path) -> None:
    (tmp_path / f"{unicodedata.normalize('NFD', 'café')}.mp4").touch()
    assert list(list_videos(tmp_path)) == [unicodedata.normalize("NFC", "café")]


@pytest.mark.parametrize(("file", "video_id", "why"), [
    ("a.xyz", "a", "'a.xyz' exists, but the extension .xyz is not supported"),
    ("sub/a", "a", "'sub/a' exists, but it has no extension"),
    ("Jump.mp4", "jump", "'Jump.mp4' exists, whose name differs in case; rename it"),
    ("\ufb01n.mp4", "fin", "'\ufb01n.mp4' exists, whose name differs in the form of its letters"),
])  # fmt: skip
def test_files_of_nearly_the_name_are_named(tmp_path: Path, file: str, video_id: str, why: str) -> None:
    (tmp_path / "v" / file).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / "v" / file).write_bytes(b"")
    assert list(near := near_misses(tmp_path / "v", [video_id, "other"])) == [video_id]
    assert near[video_id].startswith(why)


@pytest.mark.parametrize(
    "name", ["video_1", "-x", "a b", "100%", "ü", "a.b", "x..y", "x ", " x", "a\tb", "y" * 201, "\udcff"]
)
def test_files_and_annotations_agree_about_ids(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.mp4").touch()
    table = Table("d", ("run",), {name: Video("test", 9.0, (Instance(1.0, 2.0, "run"),))})
    try:
        check(table, source="a.json")
    except TadError as error:
        why = str(error).partition("the id ")[2].partition(";")[0]
        assert why
        with pytest.raises(TadError, match=rf"no video id: it {why}; rename the file") as caught:
            list_videos(tmp_path)
        str(caught.value).encode()  # fit for a log
    else:
        assert list_videos(tmp_path) == {name: f"{name}.mp4"}


def test_shards_are_a_partition_that_a_new_video_does_not_change() -> None:
    ids = [f"video_{k}" for k in range(1000)]
    counts = np.bincount([shard_of(v, 16) for v in ids], minlength=16)
    assert counts.sum() == 1000
    assert counts.min() > 30
    assert shard_of("video_test_0000004", 16) == shard_of("video_test_0000004", 16) < 16
    assert parse_shard("03-of-16") == (3, 16)
    for wrong in ("16-of-16", "3/16", "", "-1-of-4"):
        with pytest.raises(TadError, match="K-of-N"):
            parse_shard(wrong)


def test_listing_is_light_and_quick(tmp_path: Path) -> None:
    for k in range(20_000):
        (tmp_path / f"video_{k:05d}.mp4").touch()
    started = time.process_time()  # the machine may be at other work
    videos = list_videos(tmp_path)
    shards = [shard_of(v, 80) for v in videos]
    assert time.process_time() - started < 0.6  # 0.1 s on an idle core
    assert len(videos) == len(shards) == 20_000
    program = "import sys, tad.video.listing; assert not {'torch', 'numpy', 'av', 'decord'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_modules_import_alone() -> None:
    for name in ("listing", "reader", "clips", "containers", "probing", "sampling", "feed"):
        assert importlib.import_module(f"tad.video.{name}").__doc__
