"""Atomic files, content keys and the grid."""

import errno
import os
import stat
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tad.core import files
from tad.core.errors import StorageError, TadError
from tad.core.files import SAMPLE_BYTES, SAMPLES, SMALL_BYTES, HashCache, content_key, publish, read_json, write_json
from tad.core.grid import Grid


def test_publish_leaves_nothing_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")

    def fail_halfway() -> None:
        with publish(target) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1"),
        (b'{"a":\n1,}', "line 2"),
        (b'{"a": NaN}', "NaN"),
        (b"\xff\xfe", "UTF-8"),
        (None, "no such file"),
    ],
)
def test_bad_json_is_one_line_that_names_the_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TadError) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_content_key_follows_content_and_not_dates(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(bytes(3_000_000))
    first = content_key(path)
    os.utime(path, (1, 1))
    assert content_key(path) == first
    cache = HashCache(tmp_path / "hashes.json")
    assert cache.key(path) == first
    path.write_bytes(bytes(2_999_999) + b"x")
    os.utime(path, (1, 1))  # an older date than before does not hide the change
    assert cache.key(path) != first
    cache.save()
    assert HashCache(tmp_path / "hashes.json").key(path) == content_key(path)


def test_a_file_written_twice_within_a_tick_of_the_clock_is_not_taken_for_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal size, dates and inode, as on file systems that count whole seconds."""
    path, stored = tmp_path / "labels.csv", tmp_path / "hashes.json"
    facts = SimpleNamespace(st_size=4, st_mtime_ns=0, st_ctime_ns=0, st_ino=1)

    def key(content: str) -> str:
        path.write_text(content)
        cache = HashCache(stored)
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", lambda _: facts)
            found = cache.key(path)
        cache.save()
        return found

    facts.st_mtime_ns = facts.st_ctime_ns = time.time_ns() - 10**9
    assert key("jump") != key("leap")
    facts.st_mtime_ns = facts.st_ctime_ns = time.time_ns() - 60 * 10**9
    first = key("jump")
    with monkeypatch.context() as patch:
        patch.setattr(files, "content_key", lambda _: pytest.fail("read again"))
        assert key("jump") == first, "an older file is not read again"
    facts.st_mtime_ns = time.time_ns() + 3600 * 10**9
    assert key("jump") == first, "nor one whose date lies in the future"
    with monkeypatch.context() as patch:
        patch.setattr(files, "content_key", lambda _: pytest.fail("read again"))
        assert key("jump") == first


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_that_cannot_force_folders_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Some network and FUSE ones refuse it; the file has been renamed by then. A failing disk is an error."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    refused = pytest.raises(StorageError, match="input/output error") if number == errno.EIO else nullcontext()
    with refused:
        write_json(tmp_path / "a.json", 1)
    assert read_json(tmp_path / "a.json") == 1
    assert os.listdir(tmp_path) == ["a.json"]


@given(st.binary(min_size=1, max_size=4096), st.data())
def test_content_key_sees_every_byte_of_a_small_file(content: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(content) - 1))
    other = bytearray(content)
    other[at] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_bytes(content)
        first = content_key(path)
        path.write_bytes(bytes(other))
        assert content_key(path) != first
        path.write_bytes(content + b"\0")
        assert content_key(path) != first


@pytest.mark.parametrize("size", [17, 4096, 65_537, SMALL_BYTES - 1, SMALL_BYTES])
def test_content_key_reads_all_of_a_file_up_to_a_mebibyte(tmp_path: Path, size: int) -> None:
    path, keys = tmp_path / "x.csv", set()
    places = {0, 15, 16, size // 3, size // 2, size - 1} & set(range(size))
    for place in (None, *sorted(places)):
        content = bytearray(size)
        if place is not None:
            content[place] = 1
        path.write_bytes(content)
        keys.add(content_key(path))
    assert len(keys) == len(places) + 1


def test_content_key_of_a_large_file_reads_blocks_from_its_start_to_its_end(tmp_path: Path) -> None:
    path, keys, size = tmp_path / "v.mp4", set(), 9 << 20
    blocks = [round(k * (size - SAMPLE_BYTES) / (SAMPLES - 1)) for k in range(SAMPLES)]
    for place in (None, *(block + 2000 for block in blocks), size - 1, 0):
        content = bytearray(size)
        if place is not None:
            content[place] = 1
        path.write_bytes(content)
        keys.add(content_key(path))
    assert len(keys) == len(blocks) + 3


def test_a_broken_hash_cache_is_rebuilt(tmp_path: Path) -> None:
    (tmp_path / "hashes.json").write_text("{half")
    write_json(tmp_path / "a.json", {"x": 1})
    assert HashCache(tmp_path / "hashes.json").key(tmp_path / "a.json") == content_key(tmp_path / "a.json")


grids = st.builds(
    Grid.of_clips,
    clip_length=st.integers(1, 64),
    stride=st.integers(1, 64),
    rate=st.floats(1, 120),
    length=st.integers(1, 10_000),
    duration=st.floats(0, 10_000),
)


@given(grids, st.floats(-100, 10_000))
def test_seconds_to_cells_and_back(grid: Grid, seconds: float) -> None:
    assert grid.to_seconds(grid.to_grid(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(grids, st.data())
def test_a_window_keeps_the_seconds(grid: Grid, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, grid.length))
    window = grid.window(first, grid.length)
    assert window.to_seconds(2.5) == pytest.approx(grid.to_seconds(first + 2.5), rel=1e-12, abs=1e-9)


def test_thumos_cells() -> None:
    """Cell i of 16/4 features at 30 fps is the centre of its clip: (4 i + 8) / 30 s."""
    grid = Grid.of_clips(clip_length=16, stride=4, rate=30.0, length=100, duration=20.0)
    assert grid.to_seconds(np.arange(3.0)) == pytest.approx((4 * np.arange(3) + 8) / 30)
    assert grid.clamp(np.array([-1.0, 30.0])).tolist() == [0.0, 20.0]


def test_grids_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="step > 0"):
        Grid(0.0, 0.0, 10, 1.0)
    with pytest.raises(ValueError, match="does not lie"):
        Grid(0.0, 1.0, 10, 10.0).window(3, 11)
