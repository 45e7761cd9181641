"""Damage as the decoder meets it: 122 broken files, of which none passes as whole, and whole ones, of which none is
lost."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harm
import pytest
import video_tools as vt

from tad.settings.stages import ProbeSpec
from tad.video.probing import Decoder, examine
from tad.video.reader import VideoError, open_video

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
