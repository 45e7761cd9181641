"""Lanes: inputs that are computed side by side give the same bits, in order, and their errors arrive."""

import copy
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from backbone_tools import build
from test_overlap import rows, spec, video
from torch import Tensor

from tad.backbones._framewise import FRAMES, FrameEncoder
from tad.backbones._settings import PooledSettings
from tad.core.errors import TadError
from tad.core.lanes import INLINE, MOST, Lanes
from tad.extraction.batches import Encoder
from tad.extraction.engines import lanes_of, prepare
from tad.settings.stages import NetworkSpec
from tad.workflow.rules import Workflow

CPU = torch.device("cpu")


class EachFrame(FrameEncoder):
    """A small encoder of single frames."""

    def __init__(self) -> None:
        super().__init__("each", PooledSettings(pool=("mean", "change")), dim=6)
        self.linear = torch.nn.Linear(20 * 28 * 3, 6)

    def frame_values(self, frames_NHWC: Tensor) -> Tensor:
        """Return a linear map of all pixels; a batch has always the same size."""
        assert len(frames_NHWC) == FRAMES
        return self.linear(frames_NHWC.flatten(1).float() / 255)


def test_results_come_in_order_and_from_several_threads() -> None:
    seen = set()
    together = threading.Barrier(3, timeout=60)  # passed only if three are computed at the same time

    def compute(k: int) -> Tensor:
        together.wait()
        seen.add(threading.get_ident())
        time.sleep(0.01 * (3 - k % 3))
        return torch.tensor(k)

    with Lanes(3) as lanes:
        assert [int(value) for value in lanes.map(compute, range(9))] == list(range(9))
    assert len(seen) == 3
    assert threading.get_ident() not in seen
    [alone] = INLINE.map(lambda _: torch.tensor(threading.get_ident()), [0])
    assert int(alone) == threading.get_ident()


def test_a_lane_has_its_own_threads_and_no_gradients() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with lanes_of(spec(16, 4, network=NetworkSpec(threads=2)), CPU) as lanes:
            torch.set_num_threads(1)
            found = lanes.submit(lambda: (torch.get_num_threads(), torch.is_inference_mode_enabled())).result()
        assert found == (2, True)
    finally:
        torch.set_num_threads(before)


def test_a_lane_that_uses_lanes_does_not_wait_for_itself() -> None:
    with Lanes(2) as lanes:
        outer = [lanes.submit(lambda k: torch.stack(lanes.map(torch.tensor, range(k))), 3) for _ in range(4)]
        assert [future.result(timeout=60).tolist() for future in outer] == [[0, 1, 2]] * 4


def test_an_error_ends_the_others() -> None:
    started = []

    def compute(k: int) -> Tensor:
        started.append(k)
        if k == 1:
            raise TadError("x: broken")
        time.sleep(0.05)
        return torch.tensor(k)

    def work() -> None:
        with Lanes(2) as lanes:
            lanes.map(compute, range(50))

    with pytest.raises(TadError, match="x: broken"):
        work()
    assert len(started) < 50
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


@pytest.mark.parametrize(
    ("name", "changes", "length", "stride"),
    [
        ("r2plus1d_small", {}, 16, 4),
        ("each frame", {}, 8, 4),  # is encoded once
        ("r2plus1d_18", {"resize": [18, 20], "crop": 16}, 16, 2),  # overlapping clips share what they can
    ],
)
def test_rows_are_bit_equal_with_any_number_of_lanes(
    name: str, changes: dict[str, Any], length: int, stride: int
) -> None:
    net: Any = EachFrame() if name == "each frame" else build(name, **changes)
    settings = spec(length, stride, "align")
    if name == "r2plus1d_18":
        net.layer3 = net.layer4 = torch.nn.Identity()  # computed for each clip in any case
    videos = {"a": video(39), "b": video(5, seed=1), "c": video(21, seed=2)}
    wanted = rows(net, settings, videos)
    with Lanes(3, within=torch.inference_mode) as net.lanes:
        found = rows(net, settings, videos)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[video_id], wanted[video_id]) for video_id in videos)


def test_openvino_computes_in_lanes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before, network = torch.get_num_threads(), NetworkSpec(engine="openvino")
    torch.set_num_threads(1)
    try:
        videos = {"a": video(40), "b": video(30, seed=1)}
        net = build("r2plus1d_small")
        same = copy.deepcopy(net)
        wanted = rows(prepare(same, network, name="x", device=CPU), spec(16, 4), videos)
        with Lanes(3, within=torch.inference_mode) as net.lanes:
            found = rows(prepare(net, network, name="x", device=CPU), spec(16, 4), videos)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[video_id], wanted[video_id]) for video_id in videos)


def test_features_that_are_not_finite_are_named_with_their_video() -> None:
    net = build("r2plus1d_small")
    with Lanes(2, within=torch.inference_mode) as net.lanes, torch.inference_mode():
        encoder = Encoder(net, spec=spec(16, 4), device=CPU)
        encoder.begin("good", frames=16)
        encoder.push("good", net.shrink(video(16)))
        encoder.end("good")
        torch.nn.init.constant_(next(net.parameters()), float("nan"))
        encoder.begin("bad", frames=16)
        encoder.push("bad", net.shrink(video(16)))
        encoder.end("bad")
        with pytest.raises(TadError, match=r"^(good|bad): features contain NaN or infinity"):
            encoder.finished(last=True)


def test_number_of_lanes() -> None:
    before = torch.get_num_threads()
    try:
        for threads, network, count in (
            (1, NetworkSpec(), 1), (2, NetworkSpec(), 2), (5, NetworkSpec(threads=2), 2),
            (2, NetworkSpec(threads=4), 1), (64, NetworkSpec(), MOST), (4, NetworkSpec(compile=True), 1),
        ):  # fmt: skip
            torch.set_num_threads(threads)
            with lanes_of(spec(16, 4, network=network), CPU) as lanes:
                assert lanes.count == count, (threads, network)
        assert lanes_of(spec(16, 4), torch.device("cuda", 0)).count == 1
    finally:
        torch.set_num_threads(before)


def test_shards_share_the_cores(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "labels.csv").write_text("video,start,end,label,split\n")
    for shards, cores, wanted in ((1, 2, 2), (2, 2, 1), (4, 2, 1), (1, 64, MOST), (3, 8, 2)):
        rows = {"own": {"format": "csv", "videos": "videos", "annotations": "labels.csv", "shards": shards}}
        flow = Workflow(yaml.safe_load(yaml.safe_dump({"datasets": rows})), tmp_path)
        assert flow.share_of_cores(SimpleNamespace(dataset="own"), cores) == wanted
