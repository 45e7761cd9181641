"""Times as players show them: every container's kind of time against what was drawn, against ffmpeg's own output, and
against a model of the rule."""

import json
import re
import shutil
import subprocess
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import field_pictures
import numbered
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbered import RATE

from tad.settings.stages import ProbeSpec
from tad.video.clock import ChunkPlaces, Continued
from tad.video.probing import Decoder, examine
from tad.video.reader import open_video
from tad.video.sampling import sampled

SPEC = ProbeSpec(dataset="d")
STORED = json.loads((Path(__file__).parent / "ffmpeg_fps5.json").read_text())
few = settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def decoder() -> Any:
    with Decoder(stall_seconds=60.0, max_pixels=1 << 26) as decoder:
        yield decoder


def shown(path: Path) -> dict[int, float]:
    """Number of each frame → its time on the file's time line."""
    with open_video(path) as video:
        return {numbered.read(frame.image): frame.start + frame.time for frame in video}


def slots(path: Path, entry: dict[str, Any], rate: float = 5.0) -> list[int]:
    """The numbers that `ffmpeg_cfr` picks."""
    with open_video(path) as video:
        picked = sampled(video, policy="ffmpeg_cfr", rate=rate, native_rate=entry["rate"], start=entry["start"])
        return [numbered.read(image) for image in picked]


def program(path: Path) -> list[int]:
    """The numbers that the ffmpeg program puts out with `-vf fps=5`, into a format of constant rate."""
    size = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path, "-an", "-vf", "fps=5", "-frames:v", "1", "-f", "image2pipe", "-c:v",
         "pgm", "-"], check=True, capture_output=True,
    ).stdout.split(b"\n")[1]  # fmt: skip
    width, height = (int(part) for part in size.split())
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path, "-an", "-vf", "fps=5", "-f", "rawvideo", "-pix_fmt", "gray", "-"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    return [numbered.read(image) for image in np.frombuffer(raw, np.uint8).reshape(-1, height, width)]


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def kinds(folder: Path) -> dict[str, Path]:
    """A file of each kind."""
    gap = [*range(30), *range(70, 100)]
    paths = {
        "late mp4": numbered.encode(folder / "late.mp4", range(75, 135), sound=4.0),
        "late mkv": numbered.encode(folder / "late.mkv", range(75, 135), sound=4.0),
        "gap avi": numbered.encode(folder / "gap.avi", gap, codec="mpeg4"),
        "gap mjpeg": numbered.encode(folder / "mjpeg.avi", gap, codec="mjpeg"),
        "gap mp4": numbered.encode(folder / "gap.mp4", gap),
        "nut": numbered.encode(folder / "a.nut", range(40), codec="mpeg4"),
        "flv": numbered.encode(folder / "a.flv", range(40), codec="flv"),
        "wmv": numbered.encode(folder / "a.wmv", range(40), codec="wmv2"),
        "still end": numbered.encode(folder / "still.mkv", range(30), codec="mpeg4", length=120),
    }
    for kind, codec in (("mpg", "mpeg2video"), ("ts", "libx264")):
        one = numbered.encode(folder / f"one.{kind}", range(50), codec=codec)
        two = numbered.encode(folder / f"two.{kind}", range(50), codec=codec, first=50)
        paths[f"joined {kind}"] = joined(folder / f"joined.{kind}", one, two)
    return paths


def test_the_policy_gives_what_the_program_gives(tmp_path: Path, decoder: Decoder) -> None:
    """Files of our own; where the program is absent, what follows from the frames' times and the filter's rule."""
    for name, path in kinds(tmp_path).items():
        entry = examine(path, decoder, spec=SPEC)
        found = slots(path, entry)
        assert entry["status"] == "ok", (name, entry["cause"])
        if shutil.which("ffmpeg"):
            assert found == program(path), name
        assert len(found) == round(entry["duration"] * 5), name


def test_shared_cases_give_what_the_program_gives(shared: Path, decoder: Decoder) -> None:
    """Frame for frame on all files of cases/video; ffmpeg 5.1's output is stored beside this test."""
    compared = 0
    for name, wanted in STORED.items():
        path = shared / "cases/video" / name
        entry = examine(path, decoder, spec=SPEC)
        assert entry["status"] == "ok", (name, entry["cause"])
        found = slots(path, entry)
        if isinstance(wanted, int) or name.startswith("colour"):  # without numbers in it, or with colours that vary
            wanted = wanted if isinstance(wanted, int) else len(wanted)
            assert len(found) == wanted, name
        else:
            assert found == wanted, name
            compared += 1
    assert compared > 30


# file of cases/video → part of its manifest entry
RIGHT = {
    "late_video.mp4": {"start": 3.0, "duration": 7.0, "rate": 25.0}, "flash_late.mp4": {"start": 3.0, "duration": 11.0},
    "gap.avi": {"duration": 6.0, "times": "chunks", "vfr": True}, "gap_mjpeg.avi": {"duration": 6.0, "vfr": True},
    "twice.mpg": {"rate": 25.0, "duration": 4.0, "clock_restarts": 1},
    "twice.ts": {"rate": 25.0, "duration": 4.0, "clock_restarts": 1},
    "flash_preview_first.mkv": {"streams": 2, "stream": 1, "frames": 200, "rate": 25.0},
    "two_tracks.mp4": {"streams": 2, "stream": 1, "frames": 100, "width": 128},
    "still_end.mp4": {"duration": 10.0}, "still_end.mkv": {"duration": 10.0},
    "trailer.mp4": {"frames": 100, "duration": 4.0}, "trailer_text.mp4": {"frames": 100},
    "d.ogv": {"frames": 50}, "b.flv": {"frames": 50}, "c.wmv": {"frames": 50}, "e.3gp": {"frames": 50},
    "matrix_flip_horizontal.mp4": {"mirrored": True, "rotation": 0},
}  # fmt: skip


def test_shared_cases_are_right(shared: Path, decoder: Decoder) -> None:
    for name, wanted in RIGHT.items():
        entry = examine(shared / "cases/video" / name, decoder, spec=SPEC)
        assert {key: entry[key] for key in wanted} == wanted, name
    drift = examine(shared / "cases/video/drift.mkv", decoder, spec=SPEC)
    assert drift["rate"] == pytest.approx(29.975, abs=1e-3)  # its header says 30
    times = shown(shared / "cases/video/gap.avi")
    assert (times[49], times[50]) == (1.96, 4.0)


@few
@given(st.integers(0, 90), st.integers(5, 40), st.sampled_from(["mp4", "mkv", "mov"]))
def test_a_late_picture_keeps_its_place(tmp_path: Path, decoder: Decoder, late: int, frames: int, suffix: str) -> None:
    path = numbered.encode(tmp_path / f"a.{suffix}", range(late, late + frames), sound=1.0)
    entry = examine(path, decoder, spec=SPEC)
    assert entry["start"] == pytest.approx(late / RATE, abs=0.051)  # the sound's codec begins up to that earlier
    assert entry["duration"] - entry["start"] == pytest.approx(frames / RATE, abs=2e-3)
    assert entry["rate"] == RATE
    found = shown(path)
    assert [found[k] - found[0] for k in range(frames)] == pytest.approx([k / RATE for k in range(frames)], abs=1e-3)


@few
@given(st.lists(st.integers(1, 12), min_size=8, max_size=30), st.sampled_from(["mpeg4", "mjpeg"]))
def test_empty_chunks_of_avi_take_time(tmp_path: Path, decoder: Decoder, gaps: list[int], codec: str) -> None:
    places = list(accumulate([0, *gaps]))
    path = numbered.encode(tmp_path / "a.avi", places, codec=codec)
    assert shown(path) == pytest.approx({k: place / RATE for k, place in enumerate(places)})
    entry = examine(path, decoder, spec=SPEC)
    assert (entry["times"], entry["duration"]) == ("chunks", pytest.approx((places[-1] + 1) / RATE))
    assert entry["status"] == "ok"


def program_times(path: Path) -> list[float]:
    """The times in seconds at which the ffmpeg program shows each frame."""
    command = ["ffmpeg", "-hide_banner", "-nostats", "-i", path, "-an", "-vf", "showinfo", "-f", "null", "-"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(time) for time in re.findall(r"pts_time:([0-9.]+)", done.stderr)]


def check_joined(folder: Path, decoder: Decoder, lengths: list[int], kind: tuple[str, str]) -> None:
    """Each part of joined recordings has the times that it has alone, after the end of the part before it.

    The parts are read, and not taken to have a frame every 0.04 s: FFmpeg's writer of program streams stores the time
    of the next frame where a picture's headers are split between two packets, and from there all players show the
    frames of that part 0.04 s later.
    """
    suffix, codec = kind
    firsts = [0, *accumulate(lengths)]
    parts = [
        numbered.encode(folder / f"{k}.{suffix}", range(count), codec=codec, first=firsts[k])
        for k, count in enumerate(lengths)
    ]
    path = joined(folder / f"joined.{suffix}", *parts)
    entry = examine(path, decoder, spec=SPEC)
    begins = [0.0, *accumulate(examine(part, decoder, spec=SPEC)["duration"] for part in parts)]
    wanted = [begin + time for begin, part in zip(begins, parts, strict=False) for time in shown(part).values()]
    found = shown(path)
    assert list(found) == list(range(sum(lengths)))
    assert list(found.values()) == pytest.approx(wanted, abs=1e-3)
    assert entry["clock_restarts"] == len(lengths) - 1
    assert (entry["rate"] == RATE) == np.allclose(np.diff(wanted), 1 / RATE, atol=1e-3)
    assert entry["duration"] == pytest.approx(begins[-1], abs=1e-3)
    if shutil.which("ffmpeg"):
        assert list(found.values()) == pytest.approx(program_times(path), abs=1e-3)


@few
@given(
    st.sampled_from(["avi", "mp4", "mkv", "ts"]), st.sets(st.integers(0, 19)),
    st.lists(st.integers(1, 6), min_size=19, max_size=19),
)  # fmt: skip
def test_two_fields_in_two_packets_are_one_frame(
    tmp_path: Path, decoder: Decoder, suffix: str, whole: set[int], gaps: list[int]
) -> None:
    """Top and bottom field follow one another in the file; some frames have both in one packet; AVI may have gaps."""
    places = [2 * place for place in accumulate([0, *gaps])] if suffix == "avi" else range(0, 40, 2)
    pictures = [numbered.draw(k)[:, :, 0] for k in range(20)]
    path = field_pictures.write(tmp_path / f"a.{suffix}", pictures, rate=RATE, places=places, whole=whole)
    entry = examine(path, decoder, spec=SPEC)
    assert (entry["status"], entry["frames"], entry["lost_frames"]) == ("ok", 20, 0), entry["cause"]
    assert shown(path) == pytest.approx({k: place / (2 * RATE) for k, place in enumerate(places)}, abs=1e-3)
    if 19 not in whole:
        assert entry["duration"] == pytest.approx(places[-1] / (2 * RATE) + 1 / RATE, abs=1e-3)


@few
@given(
    st.lists(st.integers(20, 50), min_size=2, max_size=3), st.sampled_from([("mpg", "mpeg2video"), ("ts", "libx264")])
)
def test_recordings_joined_follow_one_another(
    tmp_path: Path, decoder: Decoder, lengths: list[int], kind: tuple[str, str]
) -> None:
    check_joined(tmp_path, decoder, lengths, kind)


def test_a_part_with_a_late_time_stamp_keeps_it(tmp_path: Path, decoder: Decoder) -> None:
    """The second part stores 0.04 s too much for its last frames; see `check_joined`."""
    check_joined(tmp_path, decoder, [37, 38], ("mpg", "mpeg2video"))
    times = list(shown(tmp_path / "1.mpg").values())
    assert np.diff(times) == pytest.approx([0.04] * 34 + [0.08] + [0.04] * 2)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**33), st.integers(3, 60)), min_size=1, max_size=5), st.integers(900, 6000)
)  # fmt: skip
def test_a_clock_that_starts_anew_is_continued(parts: list[tuple[int, int]], step: int) -> None:
    """Packets of parts that begin anywhere are `step` apart, unless a jump is no larger than a pause may be."""
    clock = Continued(Fraction(1, 90000), Fraction(step))
    times: list[int] = []
    for first, count in parts:
        times += [first + k * step + clock.packet(first + k * step, step) for k in range(count)]
    for before, after in pairwise(times):
        assert after - before == step or -9000 <= after - before <= 900_000 + step
    assert clock.restarts <= len(parts) - 1


@pytest.mark.parametrize("first", [0, 90_000, 90_000_000])
def test_a_clock_that_starts_anew_goes_on_by_one_frame(first: int) -> None:
    clock = Continued(Fraction(1, 90000), Fraction(3600))
    given = [*range(9_000_000, 9_018_000, 3600), *range(first, first + 18_000, 3600)]
    times = [ticks + clock.packet(ticks, 3600) for ticks in given]
    assert {after - before for before, after in pairwise(times)} == {3600}
    assert clock.restarts == 1


@settings(deadline=None)
@given(st.data())
def test_places_are_shared_out_in_the_order_of_display(data: st.DataObject) -> None:
    """Whatever the decoder's order and gaps: without a lost packet, picture k in order of display has place k."""
    gaps = data.draw(st.lists(st.integers(1, 9), min_size=4, max_size=60))
    places, reorder = list(accumulate(gaps)), data.draw(st.sampled_from([0, 2]))
    order = list(range(len(places)))
    if reorder:  # I P B I P B as stored is shown with B before P
        order = [k + (1 if k % 3 == 1 else -1 if k % 3 == 2 else 0) for k in order if k < len(order) // 3 * 3]
    handed, given_out = ChunkPlaces(2), []
    for number in range(len(order)):
        handed.packet(number, places[number], 100)
        if number >= reorder:
            given_out.append(handed.take(order[number - reorder]))
    given_out += [handed.take(number) for number in order[len(given_out) :]]
    assert given_out == places[: len(order)]


def test_a_packet_without_a_picture_costs_its_place() -> None:
    handed = ChunkPlaces(2)
    given_out = []
    for number in range(12):
        handed.packet(number, 10 * number, 100)
        if number != 4:
            given_out.append(handed.take(number))
    assert given_out[:4] == [0, 10, 20, 30]
    assert given_out[-3:] == [90, 100, 110]
    assert handed.take(12) is None
