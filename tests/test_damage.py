"""Damage as the decoder meets it: 122 broken files, of which none passes as whole, and whole ones, of which none is
lost."""

import hashlib
import random
import struct
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import harm
import numbered
import pytest
import video_tools as vt

from tad.settings.stages import ProbeSpec
from tad.video.probing import Decoder, examine
from tad.video.reader import VideoError, av, open_video
from tad.video.structure import ASF_FILE, ENDS, lost_packets
from tad.video.wholeness import lost_samples

SPEC = ProbeSpec(dataset="d")
SOURCES = ("h264.mp4", "sound.mp4", "h264.mkv", "mpeg4.avi", "h264.ts", "mpeg2.mpg", "hevc.mp4", "mpeg4.mkv")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(stall_seconds=60.0, max_pixels=1 << 26) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Noisy pictures, 90 to 200 kB a file."""
    folder = tmp_path_factory.mktemp("whole")
    codecs = {"h264": "libx264", "sound": "libx264", "mpeg4": "mpeg4", "mpeg2": "mpeg2video", "hevc": "libx265"}
    paths = {}
    for name in SOURCES:
        codec = codecs[name.partition(".")[0]]
        paths[name] = vt.encode(
            folder / name, 60, width=96, height=64, rate=25, codec=codec, keyframes=15, noise=40.0,
            sound=name.startswith("sound"),
        )  # fmt: skip
    return paths


def pictures(path: Path) -> list[str]:
    """Every picture that can be decoded, with its time."""
    shown = []
    try:
        with open_video(path) as video:
            for frame in video:
                time = round(frame.start + frame.time, 4)
                shown.append(f"{time} {hashlib.md5(frame.image.tobytes()).hexdigest()}")
    except VideoError:
        shown.append("and an error")
    return shown


def test_no_whole_file_is_lost(whole: dict[str, Path], decoder: Decoder) -> None:
    for name, path in whole.items():
        entry = examine(path, decoder, spec=SPEC)
        assert (entry["status"], entry["cause"], entry["frames"]) == ("ok", "", 60), name
        assert (entry["flagged_frames"], entry["lost_frames"], entry["flawed_share"]) == (0, 0, 0.0)
        assert entry["duration"] == pytest.approx(2.4, abs=0.05), name  # mpg and ts: the first picture may come later


def test_no_broken_file_passes_as_whole(whole: dict[str, Path], decoder: Decoder, tmp_path: Path) -> None:
    """`ok` is only what decodes to exactly the pictures and times of the whole file."""
    fast = {name: vt.moov_first(path, tmp_path / name) for name, path in whole.items() if name.endswith(".mp4")}
    contents = {name: path.read_bytes() for name, path in whole.items()}
    right = {name: pictures(path) for name, path in whole.items()}
    assert all(pictures(path) == right[name] for name, path in fast.items() if name != "sound.mp4")
    counts: Counter[Any] = Counter()
    wrong = []
    for number, (kind, name, data) in enumerate(
        harm.broken(contents, {name: path.read_bytes() for name, path in fast.items() if name != "sound.mp4"})
    ):
        path = tmp_path / f"{number:03d}_{name}"
        path.write_bytes(data)
        entry = examine(path, decoder, spec=SPEC)
        counts[kind, entry["status"]] += 1
        assert entry["cause"] or entry["status"] == "ok"
        if entry["status"] == "ok" and pictures(path) != right[name]:
            wrong.append(f"{kind}: {path.name}")
            differ = [a != b for a, b in zip(pictures(path), right[name], strict=True)]
            assert sum(differ) == 1
        if entry["status"] == "damaged":
            assert (entry["frames"], entry["duration"]) == (0, 0.0)
        else:
            assert entry["flawed_share"] <= SPEC.most_flawed
    assert sum(counts.values()) == 122
    # HEVC's decoder does not notice when the data within a slice are others: of ten bytes in the first kilobyte, some
    # change one picture and no more, and nothing in the file tells
    assert [name for name in wrong if not (name.endswith("hevc.mp4") and name.startswith("10 header"))] == []
    assert len(wrong) <= 2


@pytest.mark.parametrize("place", [0.2, 0.35, 0.5, 0.65, 0.8])
def test_hashes_of_pictures_in_hevc_reveal_a_changed_byte(tmp_path: Path, decoder: Decoder, place: float) -> None:
    """The decoder itself notices none of these: the same file without hashes is `ok`."""
    for hashes, status in ((1, "flawed"), (0, "ok")):
        path = vt.encode(
            tmp_path / "a.mp4", 60, width=96, height=64, rate=25, codec="libx265", keyframes=5, noise=40.0,
            options={"x265-params": f"hash={hashes}:bframes=0:pools=none:frame-threads=1"},
        )  # fmt: skip
        assert examine(path, decoder, spec=SPEC)["status"] == "ok"
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= 0x55
        path.write_bytes(data)
        entry = examine(path, decoder, spec=SPEC.model_copy(update={"most_flawed": 0.2}))
        assert entry["status"] == status, entry["cause"]


@pytest.mark.parametrize(("box", "place", "value"), [(b"stsz", 12, 20), (b"stsz", 96, 0x7FFFFFFF), (b"stsc", 16, 20)])
def test_an_index_that_contradicts_its_own_count_is_damage(
    tmp_path: Path, decoder: Decoder, box: bytes, place: int, value: int
) -> None:
    """The times (stts) count 60 samples, the other tables are broken after 20: FFmpeg reads 20 without an error."""
    path = vt.encode(tmp_path / "a.mp4", 60)
    data = bytearray(path.read_bytes())
    at = data.index(box) + place
    data[at : at + 4] = value.to_bytes(4, "big")
    path.write_bytes(data)
    entry = examine(path, decoder, spec=SPEC)
    assert (entry["status"], entry["salvaged_frames"], entry["lost_frames"]) == ("damaged", 20, 40)
    assert "the header states 60 frames, 20 can be decoded" in entry["cause"]


# -- structure of files whose decoders go on somewhere behind what they cannot read ------------------------------------

KINDS = {
    "a.flv": ("libx264", {}), "a.ts": ("libx264", {}), "a.gif": ("gif", {}),
    "a.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def structured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("structured")
    contents = {}
    for name, (codec, options) in KINDS.items():
        with av.open(str(folder / name), "w", options=options) as container:
            stream = container.add_stream(codec, rate=25, options={"g": "10"})
            stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb8" if codec == "gif" else "yuv420p"
            stream.codec_context.thread_count = 1
            for number in range(40):
                picture = numbered.draw(number, width=96, height=64)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        contents[name] = (folder / name).read_bytes()
    return contents


def said(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return lost_samples(path) or "gaps" * lost_packets(path)


def test_whole_files_have_a_whole_structure(structured: dict[str, bytes], tmp_path: Path) -> None:
    ends = {"a.gif": bytes(300), "a.mp4": bytes(300)}  # room that a recorder has reserved
    for name, data in structured.items():
        assert not said(tmp_path / name, data), name
        assert not said(tmp_path / name, data + ends.get(name, b"")), name
    assert not said(tmp_path / "joined.ts", structured["a.ts"] * 3)  # recordings are joined like this


@pytest.mark.parametrize("name", ["a.flv", "a.mp4", "a.ts"])
def test_bytes_that_are_missing_or_too_many_are_noticed(
    structured: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    data, draw = structured[name], random.Random(0)
    for _ in range(30):
        at, size = int(draw.uniform(0.35, 0.85) * len(data)), draw.randint(13, 187)
        assert said(tmp_path / name, data[:at] + data[at + size :]), (at, size)
        assert said(tmp_path / name, data[:at] + b"\xa5" * size + data[at:]), (at, size)


def test_a_block_that_a_gif_cannot_have_is_noticed(structured: dict[str, bytes], tmp_path: Path) -> None:
    data = structured["a.gif"]
    at = data.index(b"\x21\xf9\x04", len(data) // 2)  # the control block before a picture
    assert said(tmp_path / "a.gif", data[:at] + b"\x55" + data[at + 1 :]) == f"its structure is broken at byte {at}"
    assert said(tmp_path / "a.gif", data[:-1]) == ENDS


def test_packets_of_windows_media_have_one_length(tmp_path: Path) -> None:
    """A file in its bare structure: an object of the file's properties, and packets that begin alike."""
    properties = ASF_FILE + struct.pack("<Q", 104) + bytes(68) + struct.pack("<III", 100, 100, 0)
    header = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + struct.pack("<QIH", 30 + len(properties), 1, 0x201)
    packets = (b"\x82\0\0" + bytes(range(97))) * 20
    begin = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c") + struct.pack("<Q", 50 + len(packets)) + bytes(26)
    assert not said(tmp_path / "a.wmv", header + properties + begin + packets)
    for cut in (130, 1000, 1850):
        changed = packets[:cut] + packets[cut + 7 :] + bytes(7)
        assert "broken at byte" in said(tmp_path / "a.wmv", header + properties + begin + changed), cut


def test_lost_packets_of_a_transport_stream_are_counted(structured: dict[str, bytes], tmp_path: Path) -> None:
    packets = [structured["a.ts"][k : k + 188] for k in range(0, len(structured["a.ts"]), 188)]
    part = [k for k, packet in enumerate(packets) if packet[1] & 31 == 1 and packet[2] == 0]  # of the pictures
    for lost, gaps in ((part[4:5], 1), (part[4:6], 1), ([part[4], part[20]], 2)):
        (tmp_path / "a.ts").write_bytes(b"".join(packet for k, packet in enumerate(packets) if k not in lost))
        assert lost_packets(tmp_path / "a.ts") == gaps


def test_a_recording_that_ends_within_a_tag_is_not_lost(
    structured: dict[str, bytes], decoder: Decoder, tmp_path: Path
) -> None:
    """Of an FLV whose last tag is cut only that is lost; its header tells whether it is more."""
    data = structured["a.flv"]
    (tmp_path / "cut.flv").write_bytes(data[:-30])
    entry = examine(tmp_path / "cut.flv", decoder, spec=SPEC)
    assert (entry["status"], entry["frames"] >= 38) == ("flawed", True), entry["cause"]
    (tmp_path / "half.flv").write_bytes(data[: len(data) // 2])
    assert examine(tmp_path / "half.flv", decoder, spec=SPEC)["status"] == "damaged"
