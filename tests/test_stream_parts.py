"""Parts of `tad stream` on their own: sources that hold no video, damaged packets, suppression, lines."""

import contextlib
import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import video_tools as vt

from tad.commands.stream_emission import Instance, results_of
from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.detectors._points.online import Found
from tad.nms.online import OnlineSuppression
from tad.video.live import BrokenError, LiveReader, source_of


@pytest.mark.skipif(os.path.exists("/dev/video0"), reason="there is a camera")
def test_no_camera() -> None:
    with pytest.raises(TadError, match=r"/dev/video0: no such camera; plug one in"):
        source_of("camera")


def test_pipes_that_hold_no_video() -> None:
    source = source_of("-")
    with pytest.raises(BrokenError, match=r"stdin: cannot be opened .* such as MPEG-TS or Matroska"):
        LiveReader(source, io.BytesIO(b"<html></html>" * 50))
    with pytest.raises(BrokenError, match="stdin: "):
        LiveReader(source, io.BytesIO(b""))


def test_an_interrupt_that_a_library_swallows_ends_the_pipe(tmp_path: Path) -> None:
    content = vt.encode(tmp_path / "v.ts", 120, rate=30, keyframes=12).read_bytes()
    before = signal.getsignal(signal.SIGINT)
    frames = []
    with LiveReader(source_of("-"), io.BytesIO(content)) as reader:
        handler = signal.getsignal(signal.SIGINT)
        assert callable(handler)
        assert handler is not before

        def read() -> None:
            for frame in reader:
                frames.append(frame)
                if len(frames) == 10:
                    with contextlib.suppress(KeyboardInterrupt):
                        handler(signal.SIGINT, None)

        with pytest.raises(KeyboardInterrupt):
            read()
    assert len(frames) == 10
    assert signal.getsignal(signal.SIGINT) is before


def test_damaged_packets_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A stream goes on where a packet was lost, and says so once."""
    content = bytearray(vt.encode(tmp_path / "v.ts", 120, rate=30, keyframes=12).read_bytes())
    rng = np.random.default_rng(0)
    for place in range(len(content) // 3, len(content) // 2, 188):  # the payload of transport packets
        content[place + 30 : place + 180] = rng.integers(0, 256, 150, dtype=np.uint8).tobytes()
    with LiveReader(source_of("-"), io.BytesIO(bytes(content))) as reader:
        frames = list(reader)
    assert 40 < len(frames) <= 120
    assert frames[-1].time > 3.5
    assert sum("damaged packets are skipped" in record.getMessage() for record in caplog.records) <= 1


def test_suppression_of_what_follows() -> None:
    """What was emitted stands; a later and better candidate gives way; memory is bounded."""
    online = OnlineSuppression(tiou=0.3, memory=2)
    first, better = Found(10, 2.0, 8.0, 0.5, 0), Found(11, 2.0, 8.5, 0.9, 0)
    other, apart = Found(11, 2.0, 8.0, 0.4, 1), Found(12, 8.0, 12.0, 0.3, 0)
    assert online.push([first]) == [first]
    assert online.push([better, other]) == [other]
    assert online.push([apart, Found(12, 7.0, 12.0, 0.2, 0)]) == [apart]
    assert online.push([Found(20, 30.0, 40.0, 0.2, 0)]) != []
    assert online.push([better]) == [better]  # the first one is forgotten


def test_lines_and_results() -> None:
    one = Instance("Küche", "a b", 1.23456, 2.0, 0.98765, 2.5)
    assert (
        one.line()
        == '{"video": "Küche", "label": "a b", "segment": [1.235, 2.0], "score": 0.988, "emitted": 2.5, "latency": 0.5}'
    )
    assert results_of([one], ["Küche", "other"]) == {
        "Küche": [{"label": "a b", "score": 0.98765, "segment": [1.23456, 2.0]}], "other": [],
    }  # fmt: skip
    assert Grid(1.0, 0.5, 4, 3.0).to_seconds(2) == 2.0
