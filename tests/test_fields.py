"""Second fields in streams of the usual encoders: parameter sets of all profiles are read, and no packet is one."""

from pathlib import Path

import pytest
import video_tools as vt
from hypothesis import given
from hypothesis import strategies as st

from tad.settings.stages import ProbeSpec
from tad.video.fields import SecondFields, _Bits
from tad.video.probing import Decoder, examine
from tad.video.reader import av


class Packet(bytes):
    is_keyframe = True


@pytest.mark.parametrize("suffix", ["avi", "mp4", "ts"])
@pytest.mark.parametrize(
    ("options", "pix_fmt", "interlaced"),
    [
        ("", "yuv420p", False), ("interlaced=1", "yuv420p", True), ("cqm=jvt", "yuv420p", False),
        ("interlaced=1:cqm=jvt", "yuv444p", True), ("tff=1:bframes=3", "yuv422p10le", True),
    ],
)  # fmt: skip
def test_frames_of_x264_are_no_fields(
    tmp_path: Path, suffix: str, options: str, pix_fmt: str, interlaced: bool
) -> None:
    path = vt.encode(tmp_path / f"a.{suffix}", 20, pix_fmt=pix_fmt, options={"x264-params": options}, rate=25)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        fields = SecondFields(bytes(stream.codec_context.extradata or b""))
        assert [fields.is_second(packet) for packet in container.demux(stream) if packet.size] == [False] * 20
        assert [one.fields for one in fields._sequences.values()] == [interlaced]
    with Decoder(stall_seconds=60.0, max_pixels=1 << 26) as decoder:
        entry = examine(path, decoder, spec=ProbeSpec(dataset="d"))
    assert (entry["status"], entry["frames"], entry["lost_frames"]) == ("ok", 20, 0), entry["cause"]


@given(
    st.lists(st.one_of(st.tuples(st.just("ue"), st.integers(0, 70000)), st.tuples(st.just("se"), st.integers(-9, 9))))
)
def test_numbers_of_a_header(numbers: list[tuple[str, int]]) -> None:
    codes = [value if kind == "ue" else (2 * value - 1 if value > 0 else -2 * value) for kind, value in numbers]
    text = "".join("0" * ((code + 1).bit_length() - 1) + f"{code + 1:b}" for code in codes) + "1"
    text += "0" * (-len(text) % 8)
    bits = _Bits(b"\x67" + int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\0\0", b"\0\0\3"))
    assert [getattr(bits, kind)() for kind, _ in numbers] == [value for _, value in numbers]


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_any_bytes_are_read_without_an_error(data: bytes, extradata: bytes) -> None:
    fields = SecondFields(extradata)
    for kind in (0x67, 0x68, 0x65):
        fields.is_second(Packet(b"\0\0\1" + bytes([kind]) + data))
    assert SecondFields(b"\1" + extradata).is_second(Packet(data)) is False
