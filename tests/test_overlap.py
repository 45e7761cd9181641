"""Overlapping clips that share what they can: bit-equal rows, and only where that was asked for and holds."""

from typing import Any

import pytest
import torch
from backbone_tools import build
from torch import Tensor, nn

from tad.backbones._contract import BackboneBase
from tad.extraction.batches import Encoder, Preparer
from tad.extraction.overlap import RUN, runs
from tad.settings.stages import ClipSpec, ExtractSpec, NetworkSpec, Plugin
from tad.video.clips import clip_frames, count_clips

CPU = torch.device("cpu")


def spec(length: int, stride: int, tail: str = "drop", **changes: Any) -> ExtractSpec:
    clip = ClipSpec(length=length, stride=stride, policy="native", rate=0, tail=tail)  # type: ignore[arg-type]
    return ExtractSpec(dataset="d", backbone=Plugin(name="x"), dtype="float32", clip=clip, **changes)


def video(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 20, 28, 3), dtype=torch.uint8, generator=generator)


def rows(net: Any, settings: ExtractSpec, videos: dict[str, Tensor], *, at_once: int = 7) -> dict[str, Tensor]:
    """What the extraction makes of videos whose frames arrive in turns, a few of each."""
    encoder = Encoder(net, spec=settings, device=CPU)
    steps = {name: Preparer(net, CPU) for name in videos}
    for name, frames in videos.items():
        encoder.begin(name, frames=len(frames))
    longest = max(len(frames) for frames in videos.values())
    with torch.inference_mode():
        for begin in range(0, longest, at_once):
            for name, frames in videos.items():
                if begin < len(frames):
                    encoder.push(name, steps[name](frames[begin : begin + at_once].numpy()))
        for name in videos:
            rest = steps[name].finish()
            if rest is not None:
                encoder.push(name, rest)
            encoder.end(name)
        return {stream.video_id: torch.from_numpy(stream.rows.features()) for stream in encoder.finished(last=True)}


def alone(net: Any, settings: ExtractSpec, frames: Tensor) -> Tensor:
    """Every clip by itself."""
    clip = settings.clip
    timing: dict[str, Any] = {"length": clip.length, "stride": clip.stride, "tail": clip.tail}
    with torch.inference_mode():
        small = net.shrink(frames)
        count = count_clips(len(frames), **timing)
        return torch.cat([net(small[clip_frames(k, frames=len(frames), **timing)][None]) for k in range(count)])


@pytest.mark.parametrize(
    ("name", "changes", "length", "stride", "frames"),
    [
        ("tsp", {"depth": 18, "frame_size": [18, 20], "crop": 16}, 16, 1, 16 + RUN),  # a run and a clip
        ("r2plus1d_18", {"resize": [18, 20], "crop": 16}, 16, 2, 16 + 2 * (RUN - 1) + 1),  # and one for the last frame
        ("tsp", {"depth": 34, "frame_size": [18, 20], "crop": 16}, 8, 1, 8 + RUN),  # too short to share every block
    ],
)
def test_rows_are_those_of_clips_by_themselves(
    name: str, changes: dict[str, Any], length: int, stride: int, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = build(name, **changes)
    for layer in ("layer2", "layer3", "layer4"):  # computed for each clip in any case; left out for the test's speed
        setattr(getattr(net, "net", net), layer, nn.Identity())
    shared: list[Tensor] = []
    together = net.overlapping

    def watched(x: Tensor, **timing: int) -> Tensor:
        shared.append(together(x, **timing))
        return shared[-1]

    monkeypatch.setattr(net, "overlapping", watched)
    settings = spec(length, stride, "align")
    videos = {"long": video(frames), "short": video(5, seed=1), "few": video(length + 1, seed=2)}
    found = rows(net, settings, videos)
    assert len(shared) == 1
    assert torch.equal(shared[0], found["long"][:RUN])  # the rows that a second run would have taken unchecked
    for video_id, given in videos.items():
        assert torch.equal(found[video_id], alone(net, settings, given))


class Sum(BackboneBase):
    """Sums of clips; together they come out `off` higher."""

    shares = True

    def __init__(self, off: float) -> None:
        super().__init__()
        self.off, self.asked = off, 0

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        return frames_NHWC

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        return clips_BTHWC.double().sum(dim=(2, 3, 4)).float()[:, :3]

    def overlapping(self, frames_NHWC: Tensor, *, length: int, stride: int) -> Tensor:
        self.asked += 1
        count = (len(frames_NHWC) - length) // stride + 1
        return torch.cat([self(frames_NHWC[k * stride : k * stride + length][None]) for k in range(count)]) + self.off


@pytest.mark.parametrize(("off", "asked"), [(0.0, 3), (1.0, 1)])
def test_rows_that_would_differ_are_never_taken(off: float, asked: int) -> None:
    net, settings, frames = Sum(off), spec(8, 1), video(8 + 3 * RUN)
    assert torch.equal(rows(net, settings, {"v": frames})["v"], alone(net, settings, frames))
    assert net.asked == asked  # unequal once, it is left alone


def test_dropped_video_leaves_the_others_alone() -> None:
    net, settings = Sum(0.0), spec(8, 1)
    encoder = Encoder(net, spec=settings, device=CPU)
    for name in ("gone", "kept"):
        encoder.begin(name, frames=12)
        encoder.push(name, video(12))
    encoder.drop("gone")
    encoder.end("kept")
    [kept] = encoder.finished(last=True)
    assert kept.video_id == "kept"
    assert torch.equal(torch.from_numpy(kept.rows.features()), alone(net, settings, video(12)))


def test_waiting_clips_of_a_dropped_video_go_and_the_others_stay() -> None:
    net, settings = Sum(0.0), spec(8, 1)
    encoder = Encoder(net, spec=settings, device=CPU, batch=64)  # never full: all clips wait for the end
    for name in ("gone", "kept"):
        encoder.begin(name, frames=12)
        encoder.push(name, video(12, seed=len(name) + (name == "gone")))
    encoder.drop("gone")
    encoder.end("kept")
    [kept] = encoder.finished(last=True)
    assert kept.video_id == "kept"
    expected = alone(net, settings, video(12, seed=4))
    assert torch.allclose(torch.from_numpy(kept.rows.features()), expected)


def test_where_clips_are_computed_together() -> None:
    net = Sum(0.0)
    assert runs(net, spec(16, 2), CPU) is not None
    assert runs(net, spec(16, 4), CPU) is None  # gains too little
    assert runs(BackboneBase(), spec(16, 1), CPU) is None
    assert runs(net, spec(16, 1, network=NetworkSpec(channels_last=True)), CPU) is None
    assert runs(net, spec(16, 1), torch.device("cuda")) is None
