"""Clips by seeking: frame for frame those of one pass, for every kind of file and policy."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import video_tools as vt

from tad.core.errors import TadError
from tad.video import seeking
from tad.video.seeking import Cursor, Noted, Source

FILES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "plain.mp4": (lambda p: vt.encode(p, 90), True),
    "varying.mp4": (lambda p: vt.encode(p, 60, times_ms=vt.varying(60)), True),
    "turned.mp4": (lambda p: vt.encode(p, 60, rotation=90), True),
    "later.mkv": (lambda p: vt.encode(p, 60, times_ms=[1000 + 40 * k for k in range(60)], sound=True), True),
    "cut.mp4": (lambda p: vt.cut(vt.encode(p.with_name("whole.mp4"), 90), p, start=1.2), True),
    "hevc.mp4": (lambda p: vt.encode(p, 60, codec="libx265"), True),
    "no_times.avi": (lambda p: vt.encode(p, 60, codec="mpeg4"), False),
}  # fmt: skip
PLACES = [(20, 8), (28, 8), (35, 4), (3, 8), (0, 1), (40, 8), (41, 7), (12, 16)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("policy", "rate"), [("native", 0.0), ("resample", 37.0), ("ffmpeg_cfr", 12.5)])
def test_clips_are_those_of_one_pass(
    tmp_path: Path, name: str, policy: str, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, seekable = FILES[name]
    make(tmp_path / name)
    noted = Noted(Source(tmp_path / name, "pyav", policy=policy, rate=rate, native_rate=30.0))
    images = list(noted.images())
    assert len(images) == len(noted.times)
    assert all(a <= b for a, b in pairwise(noted.times))
    assert (noted.opening is not None) == seekable
    if seekable:  # the file need not be read from its beginning
        monkeypatch.setattr(seeking.Source, "images", None)
    cursor = Cursor()
    for start, length in PLACES:
        wanted = images[start : start + length]
        found = cursor.clip(noted, start, len(wanted)) if wanted else []
        assert len(found) == len(wanted)
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)), (start, length)


def test_other_readers_and_changed_files(tmp_path: Path) -> None:
    vt.encode(tmp_path / "a.mp4", 30)
    noted = Noted(Source(tmp_path / "a.mp4", "decord", policy="native", rate=0.0, native_rate=30.0))
    images = list(noted.images())
    assert noted.opening is None
    assert np.array_equal(Cursor().clip(noted, 20, 4), images[20:24])
    vt.encode(tmp_path / "a.mp4", 22)
    with pytest.raises(TadError, match=r"a\.mp4: fewer frames than before; run probe again"):
        Cursor().clip(noted, 20, 4)
