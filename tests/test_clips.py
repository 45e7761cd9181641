"""Which frames make a clip, against plain slicing."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tad.video.clips import ClipBuffer, clip_frames, count_clips, resample, resample_indices


def fed(frames: int, length: int, stride: int, tail: str = "drop") -> list[list[int]]:
    buffer: ClipBuffer[int] = ClipBuffer(length=length, stride=stride, tail=tail)
    clips = [clip for clip in (buffer.push(k) for k in range(frames)) if clip is not None]
    rest = buffer.finish()
    return clips if rest is None else [*clips, rest]


@given(st.integers(0, 120), st.integers(1, 20), st.integers(1, 40))
def test_buffer_gives_the_same_clips_as_slicing(frames: int, length: int, stride: int) -> None:
    count = count_clips(frames, length=length, stride=stride)
    wanted = [clip_frames(k, frames=frames, length=length, stride=stride) for k in range(count)]
    assert fed(frames, length, stride) == wanted
    whole = [list(range(s, s + length)) for s in range(0, frames - length + 1, stride)]
    if frames >= length:
        assert wanted == whole


@pytest.mark.parametrize(("frames", "length", "stride", "rows"), [
    (5090, 16, 4, 1269), (2545, 16, 16, 159), (2545, 16, 1, 2530),
    (16, 16, 4, 1), (15, 16, 4, 1), (1, 16, 4, 1), (0, 16, 4, 0),
])  # fmt: skip
def test_published_row_counts(frames: int, length: int, stride: int, rows: int) -> None:
    assert count_clips(frames, length=length, stride=stride) == rows


@given(st.integers(0, 120), st.integers(1, 20), st.integers(1, 40))
def test_an_aligned_tail_is_one_clip_more_that_ends_with_the_video(frames: int, length: int, stride: int) -> None:
    plain, aligned = fed(frames, length, stride), fed(frames, length, stride, "align")
    settings = {"length": length, "stride": stride, "tail": "align"}
    assert aligned == [clip_frames(k, frames=frames, **settings) for k in range(count_clips(frames, **settings))]
    assert aligned[: len(plain)] == plain
    if frames >= length and plain[-1][-1] != frames - 1:
        assert aligned[len(plain) :] == [list(range(frames - length, frames))]
        # the grid puts the row at a whole stride, later than its content, by less than a stride
        assert 0 < len(plain) * stride - aligned[-1][0] < stride
    else:
        assert aligned == plain


def test_rows_of_epic_kitchens_have_an_aligned_tail() -> None:
    """P01_01: 1652.15 s at 30 frames per second, clips 32/16; the published file has 3097 rows."""
    frames = int(1652.15 * 30)
    assert count_clips(frames, length=32, stride=16) == 3096
    assert count_clips(frames, length=32, stride=16, tail="align") == 3097


def test_short_video_repeats_its_last_frame() -> None:
    assert fed(3, 5, 2) == [[0, 1, 2, 2, 2]]
    assert fed(0, 5, 2) == []


@given(st.integers(1, 300), st.integers(1, 6), st.sampled_from([15.0, 24.0, 25.0, 30.0, 30000 / 1001, 60.0]))
def test_integer_ratio_is_slicing(frames: int, ratio: int, native: float) -> None:
    exact = np.arange(frames) / native
    for times in (exact, exact.astype(np.float32).astype(float), np.round(exact, 3)):
        picked = resample_indices(times.tolist(), rate=native / ratio, native_rate=native)
        assert picked == list(range(0, frames, ratio))


def test_upsampling_repeats_and_rate_of_its_own_is_identity() -> None:
    times = [k / 15 for k in range(4)]
    assert resample_indices(times, rate=30, native_rate=15) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert resample_indices(times, rate=15, native_rate=15) == [0, 1, 2, 3]


def test_times_count_and_not_indices() -> None:
    times = [0.0, 0.1, 0.2, 1.0, 1.1]  # a still second, then motion
    assert resample_indices(times, rate=10, native_rate=10) == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4]


@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=60), st.floats(2, 60))
def test_resampled_frames_follow_the_times(gaps: list[float], rate: float) -> None:
    times = [0.0, *itertools.accumulate(gaps)]
    native = (len(times) - 1) / times[-1]
    picked = resample_indices(times, rate=rate, native_rate=native)
    assert picked == sorted(picked)
    assert picked[0] == max(k for k, t in enumerate(times) if t <= 0.49 / native)
    for k, index in enumerate(picked):
        assert times[index] <= k / rate + 0.5 / native + 1e-9
        assert index == len(times) - 1 or times[index + 1] >= k / rate + 0.489 / native


def test_resample_takes_one_pass() -> None:
    seen = []

    def source():
        for k in range(10):
            seen.append(k)
            yield k / 10, k

    stream = resample(source(), rate=10, native_rate=10)
    assert next(stream) == 0
    assert len(seen) == 2  # nothing is read ahead but the frame that ends the first one's display
