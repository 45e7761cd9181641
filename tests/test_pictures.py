"""The right picture: which stream, which way up, which colours; three readers that agree are no proof of any."""

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import video_tools as vt
from hypothesis import given
from hypothesis import strategies as st

from tad.settings.stages import ProbeSpec
from tad.video.orientation import of_matrix
from tad.video.probing import Decoder, examine
from tad.video.reader import READERS, av, open_video

NO_TORCHCODEC = "torchcodec is not installed, or finds no shared libraries of FFmpeg"

ONE = 1 << 16
CORNERS = {"top left": (0, 0), "top right": (0, -1), "bottom left": (-1, 0), "bottom right": (-1, -1)}


@pytest.fixture(scope="module")
def decoder() -> Any:
    with Decoder(stall_seconds=60.0, max_pixels=1 << 26) as decoder:
        yield decoder


def matrix(a: int, b: int, c: int, d: int) -> bytes:
    return struct.pack("=9i", a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)


# (a, b, c, d) → the corner of the screen in which the stored picture's upper left one is shown
MATRICES = {
    (1, 0, 0, 1): "top left", (-1, 0, 0, 1): "top right", (1, 0, 0, -1): "bottom left", (-1, 0, 0, -1): "bottom right",
    (0, 1, 1, 0): "top left", (0, 1, -1, 0): "top right", (0, -1, 1, 0): "bottom left", (0, -1, -1, 0): "bottom right",
}  # fmt: skip


@given(st.sampled_from(sorted(MATRICES)), st.integers(2, 7), st.integers(2, 7))
def test_every_pixel_goes_where_the_matrix_sends_it(
    numbers: tuple[int, int, int, int], width: int, height: int
) -> None:
    a, b, c, d = numbers
    image = np.arange(width * height).reshape(height, width, 1)
    upright = of_matrix(matrix(a, b, c, d)).upright(image)
    y, x = np.mgrid[:height, :width]
    right, down = a * x + c * y, b * x + d * y
    wanted = np.zeros((down.max() - down.min() + 1, right.max() - right.min() + 1, 1), int)
    wanted[down - down.min(), right - right.min(), 0] = image[..., 0]
    assert np.array_equal(upright, wanted)


def test_odd_angles_and_no_matrices_leave_the_picture() -> None:
    turned = of_matrix(struct.pack("=9i", 46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30))
    assert (turned.rotation, turned.mirrored, turned.odd) == (0, False, pytest.approx(315.0))
    for data in (b"", bytes(36), matrix(1, 1, 1, 1)):
        assert of_matrix(data) == of_matrix(b"")


def with_matrix(source: Path, path: Path, numbers: tuple[int, int, int, int]) -> Path:
    """An mp4 whose track header holds another matrix."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * ONE for value in numbers)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("reader", [name for name in READERS if name != "torchcodec"] + ["torchcodec"])
def test_mirrored_files_are_shown_mirrored_by_every_reader(tmp_path: Path, decoder: Decoder, reader: str) -> None:
    if not vt.usable(reader):
        pytest.skip(NO_TORCHCODEC)
    source = vt.encode(tmp_path / "plain.mp4", 8)
    for number, (numbers, corner) in enumerate(MATRICES.items()):
        path = with_matrix(source, tmp_path / f"{number}.mp4", numbers)
        entry = examine(path, decoder, spec=ProbeSpec(dataset="d", reader=reader))
        assert entry["status"] == "ok"
        a, b, c, d = numbers
        assert entry["mirrored"] == (a * d - b * c < 0)
        with open_video(path, reader=entry["reader"]) as video:
            image = next(iter(video)).image
        assert image.shape == ((48, 64, 3) if a else (64, 48, 3))
        red = {name: image[y, x].astype(int) for name, (y, x) in CORNERS.items()}
        assert max(red, key=lambda name: red[name][0] - red[name][1:].mean()) == corner, numbers


def two_streams(path: Path, *, default: int | None) -> Path:
    """A small stream of one picture a second before a larger one of 25."""
    with av.open(str(path), "w") as container:
        streams = []
        for number, (width, rate) in enumerate(((32, 1), (64, 25))):
            stream = container.add_stream("mpeg4", rate=rate)
            stream.width, stream.height, stream.pix_fmt = width, width * 3 // 4, "yuv420p"
            stream.codec_context.thread_count = 1
            if default is not None:
                flag = av.stream.Disposition.default
                stream.disposition = flag if number == default else av.stream.Disposition(0)
            streams.append(stream)
        for stream, rate in zip(streams, (1, 25), strict=True):
            for k in range(2 * rate):
                frame = av.VideoFrame.from_ndarray(vt.picture(k, width=stream.width, height=stream.height), "rgb24")
                frame.pts, frame.time_base = k, Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("default", "stream"), [(1, 1), (0, 0)])
def test_the_default_stream_is_read_and_several_are_said(
    tmp_path: Path, decoder: Decoder, default: int, stream: int
) -> None:
    entry = examine(two_streams(tmp_path / "a.mkv", default=default), decoder, spec=ProbeSpec(dataset="d"))
    assert (entry["streams"], entry["stream"]) == (2, stream)
    assert (entry["frames"], entry["rate"], entry["width"]) == ((50, 25.0, 64) if stream else (2, 1.0, 32))
    assert any("holds 2 video streams" in note for note in entry["notes"])


def test_of_equal_streams_the_one_with_most_pixels_is_read(tmp_path: Path, decoder: Decoder) -> None:
    entry = examine(two_streams(tmp_path / "a.avi", default=None), decoder, spec=ProbeSpec(dataset="d"))
    assert (entry["streams"], entry["stream"], entry["frames"]) == (2, 1, 50)


def full_range(path: Path) -> Path:
    """Patches of strong colours in the full range of BT.709, which a reader can take for the narrow one."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        stream.codec_context.thread_count = 1
        stream.codec_context.color_range, stream.codec_context.colorspace = 2, 1
        image = np.zeros((64, 64, 3), np.uint8)
        for k, colour in enumerate(((230, 30, 30), (30, 230, 30), (30, 30, 230), (128, 128, 128))):
            image[:, 16 * k : 16 * k + 16] = colour
        for k in range(10):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv420p10le", dst_colorspace=1, dst_color_range=2)
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_reader_with_other_colours_is_set_aside(tmp_path: Path, decoder: Decoder) -> None:
    """PyAV's colours are the drawn ones; torchcodec's are read only where they are the same within three levels."""
    if not vt.usable("torchcodec"):
        pytest.skip(NO_TORCHCODEC)
    path = full_range(tmp_path / "a.mp4")
    entry = examine(path, decoder, spec=ProbeSpec(dataset="d", reader="torchcodec"))
    with open_video(path, reader=entry["reader"]) as video:
        image = next(iter(video)).image.astype(int)
    for k, colour in enumerate(((230, 30, 30), (30, 230, 30), (30, 30, 230), (128, 128, 128))):
        assert np.abs(image[32, 16 * k + 8] - colour).max() <= 4, (entry["reader"], k)
    with open_video(path, reader="torchcodec") as video:
        other = next(iter(video)).image.astype(int)
    same = np.abs(other - image).max() <= 3
    assert (entry["reader"] == "torchcodec") == same
    assert same or "other colours (by up to" in entry["reader_cause"]


def test_shared_colours(shared: Path, decoder: Decoder) -> None:
    if not vt.usable("torchcodec"):
        pytest.skip(NO_TORCHCODEC)
    for name in ("colour_vp9_709pc.webm", "colour_709_pc10.mp4"):
        spec = ProbeSpec(dataset="d", reader="torchcodec")
        entry = examine(shared / "cases/video" / name, decoder, spec=spec)
        assert entry["reader"] == "pyav"
        assert "torchcodec gives other colours (by up to" in entry["reader_cause"]
