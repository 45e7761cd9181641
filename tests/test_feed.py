"""Reading processes: frames through shared memory, and what stands still, crashes or grows costs its video alone."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import video_tools as vt

from tad.core.errors import TadError
from tad.video.feed import Chunk, Ended, Feed, Limits
from tad.video.reader import open_video
from tad.video.ring import MOST_FRAMES, SLOTS, WAITS, Job

FRAMES = {"a": 90, "b": 37, "c": 12}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, frames in FRAMES.items():
        vt.encode(folder / f"{name}.mp4", frames)
    return folder


def job(path: Path, frames: int, **changes: int) -> Job:
    sizes = {"frames": frames, "frame_bytes": 64 * 48 * 3} | changes
    return Job(path.stem, path, "pyav", policy="native", rate=0.0, native_rate=30.0, **sizes)


def jobs(videos: Path) -> list[Job]:
    return [job(videos / f"{name}.mp4", frames) for name, frames in FRAMES.items()]


def test_frames_are_those_of_the_reader(videos: Path) -> None:
    found: dict[str, list[np.ndarray]] = {name: [] for name in FRAMES}
    ended: list[str] = []
    for item in Feed(jobs(videos), workers=2):
        if isinstance(item, Ended):
            assert not item.cause
            ended.append(item.video_id)
        else:
            assert len(item.frames) <= MOST_FRAMES
            found[item.video_id].append(item.frames.copy())
    assert sorted(ended) == sorted(FRAMES)
    for name, chunks in found.items():
        with open_video(videos / f"{name}.mp4", reader="pyav") as video:
            wanted = np.stack([frame.image for frame in video])
        assert np.array_equal(np.concatenate(chunks), wanted)


def test_more_frames_than_the_ring_holds(tmp_path: Path) -> None:
    vt.encode(tmp_path / "big.mp4", 70, width=640, height=480)  # nine frames a slot
    feed = Feed([job(tmp_path / "big.mp4", 70, frame_bytes=640 * 480 * 3)], workers=1)
    chunks = [item.frames.shape[0] for item in feed if isinstance(item, Chunk)]
    assert sum(chunks) == 70
    assert len(chunks) > SLOTS


def test_a_slow_consumer_is_at_one_video_at_a_time(videos: Path) -> None:
    seen: list[str] = []
    feed = Feed(jobs(videos), workers=3)
    for item in feed:
        while not seen and not all(worker.ring.progress[WAITS] for worker in feed._workers):
            time.sleep(0.01)  # until all three have sent all that they have
        if not seen or seen[-1] != item.video_id:
            seen.append(item.video_id)
    assert seen[seen.index("a") :] == ["a", "b", "c"]
    assert seen.index("a") <= 1


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A file whose reader waits for ever."""
    path = tmp_path / "stuck.mp4"
    os.mkfifo(path)
    return path


def test_a_reader_that_stands_still_costs_its_video(videos: Path, pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tad.video.feed.START_SECONDS", 12.0)  # what a process may take to start
    feed = Feed([job(pipe, 5), *jobs(videos)], workers=1, limits=Limits(stall_seconds=4.0))
    ends = {item.video_id: item.cause for item in feed if isinstance(item, Ended)}
    assert ends == {"stuck": "pyav stood still for 4 s after frame 0", "a": "", "b": "", "c": ""}


def test_waiting_for_the_consumer_is_no_stall(videos: Path) -> None:
    ends = []
    for item in Feed(jobs(videos), workers=3, limits=Limits(stall_seconds=3.0)):
        time.sleep(0.7)  # seven times
        ends += [item.cause] if isinstance(item, Ended) else []
    assert ends == ["", "", ""]


def test_a_reader_that_crashes_costs_its_video(videos: Path) -> None:
    feed = Feed(jobs(videos)[:2], workers=1)
    ends: dict[str, str] = {}
    for item in feed:
        if isinstance(item, Chunk) and item.video_id == "a" and feed._workers[0].process.is_alive():
            os.kill(feed._workers[0].process.pid, signal.SIGSEGV)
            feed._workers[0].process.join()
        if isinstance(item, Ended):
            ends[item.video_id] = item.cause
    assert ends["a"].startswith("pyav crashed (SIGSEGV) after frame ")
    assert ends["b"] == ""


def test_a_reader_that_takes_too_much_memory_costs_its_video(videos: Path) -> None:
    feed = Feed(jobs(videos), workers=2, limits=Limits(memory=1 << 20))
    ends = {item.video_id: item.cause for item in feed if isinstance(item, Ended)}
    assert set(ends) == set(FRAMES)
    assert all(cause.startswith("decoding with pyav took more than 1 MiB") for cause in ends.values())


def test_a_damaged_file_costs_itself_and_a_changed_one_stops(videos: Path, tmp_path: Path) -> None:
    vt.truncate(vt.moov_first(videos / "a.mp4", tmp_path / "x.mp4"), tmp_path / "cut.mp4")
    ends = [item for item in Feed([job(tmp_path / "cut.mp4", 90), *jobs(videos)[2:]], workers=1)]
    causes = {item.video_id: item.cause for item in ends if isinstance(item, Ended)}
    assert causes["c"] == ""
    assert "decoding fails" in causes["cut"]
    with pytest.raises(TadError, match=r"c\.mp4: 12 frames, but its manifest states 13; run probe again"):
        list(Feed([job(videos / "c.mp4", 13)], workers=1))
    with pytest.raises(TadError, match=r"frames of 2048x2048, larger than its manifest states"):
        list(Feed([job(vt.encode(tmp_path / "large.mp4", 3, width=2048, height=2048), 3)], workers=1))


def test_readers_end_with_the_feed(videos: Path) -> None:
    feed = Feed(jobs(videos), workers=2)
    items = iter(feed)
    next(items)
    processes = [worker.process for worker in feed._workers]
    items.close()
    assert [process.is_alive() for process in processes] == [False, False]
