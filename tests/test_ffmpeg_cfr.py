"""The rate policy `ffmpeg_cfr` against ffmpeg's own `fps` filter: the library's, and the program's if there is one."""

import shutil
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import video_tools as vt
from hypothesis import given, settings
from hypothesis import strategies as st

from tad.core.errors import TadError
from tad.settings.stages import ClipSpec
from tad.video.clips import ffmpeg_cfr, ffmpeg_slot
from tad.video.reader import av, open_video
from tad.video.ring import Job, read_frames
from tad.video.sampling import sampled

NTSC = Fraction(30000, 1001)


def filtered(ticks: Sequence[int], durations: Sequence[int], time_base: Fraction, rate: str) -> list[int]:
    """The indices that the library's filter gives for frames with these times."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=16, height=16, format="gray", time_base=time_base)
    wanted, sink = graph.add("fps", f"fps={rate}"), graph.add("buffersink")
    source.link_to(wanted)
    wanted.link_to(sink)
    graph.configure()
    found: list[int] = []
    for index in range(len(ticks) + 1):
        frame = None
        if index < len(ticks):
            picture = np.zeros((16, 16), np.uint8)
            picture[0, :2] = index % 256, index // 256
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            frame.pts, frame.duration, frame.time_base = ticks[index], durations[index], time_base
        graph.push(frame)
        while True:
            try:
                picture = graph.pull().to_ndarray()
            except (av.error.BlockingIOError, av.error.EOFError):
                break
            found.append(int(picture[0, 0]) + 256 * int(picture[0, 1]))
    return found


def ours(ticks: Sequence[int], durations: Sequence[int], time_base: Fraction, rate: float) -> list[int]:
    timed = ((float(t * time_base), float(d * time_base), k) for k, (t, d) in enumerate(zip(ticks, durations)))  # noqa: B905
    return list(ffmpeg_cfr(timed, rate=rate))


@pytest.mark.parametrize(("step", "base", "rate", "first"), [
    (1001, 30000, 15, 0), (512, 15360, 25, 0), (512, 12800, 30, 0), (512, 15360, 15, 0), (512, 15360, 15, 7 * 512),
    (512, 15360, 25, 700), (40, 1000, 12, 5000), (1001, 24000, 30, 0), (1, 25, 25, 3), (1001, 60000, 29.97, 0),
])  # fmt: skip
def test_constant_rates_are_the_filters_frame_for_frame(step: int, base: int, rate: float, first: int) -> None:
    """Two minutes and more; 30 → 15 and 29.97 → 15 are full of ties, an odd start turns them round."""
    ticks, durations = [first + step * k for k in range(4000)], [step] * 4000
    found = filtered(ticks, durations, Fraction(1, base), str(rate))
    before = ffmpeg_slot(first / base, rate)
    assert ours(ticks, durations, Fraction(1, base), rate) == [found[0]] * before + found


def test_halves_are_rounded_up() -> None:
    """30 → 15: frame 1 lies between slots 0 and 1 and goes to 1; frame 2 follows it there and is the one shown."""
    exact = Fraction(1, 30)
    assert ours(range(8), [1] * 8, exact, 15) == [0, 2, 4, 6]
    # an odd start: slots 4, 4, 5, 5, ...; slots 0 to 3 are filled
    assert ours(range(7, 15), [1] * 8, exact, 15) == [1, 1, 1, 1, 1, 3, 5, 7]
    assert ours(range(6), [1] * 6, exact, 25) == [0, 1, 2, 4, 5]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 400), min_size=2, max_size=80), st.integers(0, 3000), st.integers(1, 200),
    st.sampled_from([15, 24, 25, 30, 29.97, 10, 60]), st.sampled_from([1000, 90000, 12800, 30000]),
)  # fmt: skip
def test_varying_rates_are_the_filters(gaps: list[int], first: int, last: int, rate: float, base: int) -> None:
    ticks = (first + np.cumsum([0, *gaps])).tolist()
    durations = [*gaps, last]
    found = filtered(ticks, durations, Fraction(1, base), str(rate)) or [len(ticks) - 1]
    before = ffmpeg_slot(first / base, rate)  # slots that a file has before the first frame's own
    assert ours(ticks, durations, Fraction(1, base), rate) == [found[0]] * before + found


def test_a_video_too_short_for_a_slot_gives_its_frame() -> None:
    assert filtered([0], [512], Fraction(1, 15360), "5") == []
    assert ours([0], [512], Fraction(1, 15360), 5) == [0]
    assert list(ffmpeg_cfr([], rate=5)) == []


def videos(folder: Path) -> dict[str, Path]:
    times = vt.varying(60)
    return {
        "cfr": vt.encode(folder / "cfr.mp4", 90),
        "ntsc": vt.encode(folder / "ntsc.mp4", 90, rate=NTSC),
        "milliseconds": vt.encode(folder / "ms.mkv", 90, rate=NTSC),
        "varying": vt.encode(folder / "varying.mp4", 60, times_ms=times),
        "late": vt.encode(folder / "late.mkv", 60, times_ms=[t + 5000 for t in times]),
        "after sound": vt.encode(folder / "sound.mkv", 60, times_ms=[t + 747 for t in times], sound=True),
        "avi": vt.encode(folder / "a.avi", 60, codec="mpeg4"),
    }


def program(path: Path, *options: str) -> list[str]:
    """The md5 of each picture that the ffmpeg program puts out."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:v", *options]
    command += ["-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "framemd5", "-"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split(",")[-1].strip() for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")
@pytest.mark.parametrize("rate", [15, 25, 30, 12.5])
def test_files_give_what_the_program_gives(tmp_path: Path, rate: float) -> None:
    for name, path in videos(tmp_path).items():
        plain = program(path)
        assert len(set(plain)) == len(plain)
        wanted = [plain.index(md5) for md5 in program(path, "-filter:v", f"fps={rate}")]
        with open_video(path) as video:
            timed = ((f.start + f.time, f.duration, f.number) for f in video)
            found = list(ffmpeg_cfr(timed, rate=rate))
        if name == "after sound":  # without an encoder, the program fills no slots before the first frame's
            found = found[ffmpeg_slot(0.747, rate) :]
        if name == "varying":  # an mp4: ffmpeg 5 gives its last frame no time, later ones what the file says
            assert len(found) - len(wanted) in (0, 1)
            found = found[: len(wanted)]
        assert found == wanted, name


def test_the_policy_reaches_the_frames_that_are_read(tmp_path: Path) -> None:
    path = vt.encode(tmp_path / "a.mp4", 31)
    job = Job("a", path, reader="pyav", policy="ffmpeg_cfr", rate=25.0, native_rate=30.0, frames=31, frame_bytes=9216)
    with open_video(path) as video:
        images = [frame.image for frame in video]
    wanted = ours([512 * k for k in range(31)], [512] * 31, Fraction(1, 15360), 25)
    assert len(wanted) == 26
    assert np.array_equal(np.stack(list(read_frames(job))), np.stack([images[k] for k in wanted]))
    assert ClipSpec(length=4, stride=2, policy="ffmpeg_cfr", rate=25).policy == "ffmpeg_cfr"
    with pytest.raises(ValueError, match=r"clip\.rate must be 0"):
        ClipSpec(length=4, stride=2, policy="ffmpeg_cfr", rate=0)
    with pytest.raises(TadError, match="set reader: pyav"):
        sampled([], policy="ffmpeg_cfr", rate=25, native_rate=30, reader="decord")
