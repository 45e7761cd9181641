"""Optical flow: known motion, levels, RAFT against torchvision, one computation per pair, two-stream I3D over it."""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import video_tools as vt
from torch import Tensor

from tad.backbones import _flow as flow
from tad.backbones._contract import BackboneBase
from tad.backbones._frames import resize_lanczos, resize_uint8
from tad.backbones._weights import load_weights
from tad.core.errors import TadError
from tad.core.optional import torchvision
from tad.features.store import FeatureReader
from tad.settings import plugins
from tad.settings.stages import ClipSpec, ExtractSpec, ProbeSpec
from tad.stages.extract import extract
from tad.stages.probe import probe
from tad.video.clips import ClipBuffer
from tad.video.reader import open_video
from tad.weights.published import wanted

needs_opencv = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="the extra `flow` is not installed")


def texture(height: int = 96, width: int = 128, seed: int = 0) -> Tensor:
    """(H, W, 3) uint8 smooth noise that can be tracked."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, height // 6, width // 6))).float()
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return fine[0].clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


@needs_opencv
@pytest.mark.parametrize("name", ["tvl1", "dis"])
@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-4, 3), (0, 0)])
def test_known_motion(name: str, right: int, down: int) -> None:
    """x grows to the right and y downwards: a picture that moves right by 3 pixels has a flow of (3, 0)."""
    first = texture()
    second = torch.roll(first, (down, right), dims=(0, 1))
    field = flow.method(name)(first, second)
    assert field.shape == (96, 128, 2)
    assert field.dtype == torch.float32
    inner = field[16:-16, 16:-16].reshape(-1, 2)
    torch.testing.assert_close(inner.median(dim=0).values, torch.tensor([right, down]).float(), atol=0.25, rtol=0)


def test_levels_are_the_authors_linear_map() -> None:
    levels = flow.quantise(torch.tensor([-30.0, -20, -0.1, 0, 0.1, 10, 20, 30]), bound=20)
    assert levels.tolist() == [0, 0, 127, 128, 128, 191, 255, 255]
    assert levels.dtype == torch.uint8
    every = flow.quantise(torch.linspace(-20, 20, 100_001), bound=20)
    assert every.unique().tolist() == list(range(256))  # 256 buckets, all of one width but the two at the ends
    assert torch.bincount(every.int())[1:-1].float().std() < 1
    assert 0.0039 < 2 * flow.STILL / 255 - 1 < 0.004


@pytest.mark.parametrize("size", [(128, 136), (96, 133), (250, 131)])
def test_raft_is_torchvisions(size: tuple[int, int]) -> None:
    """Random weights: the same field as the model of the package gives for the padded pair."""
    torch.manual_seed(1)
    method = flow.method("raft_small").eval()
    first, second = texture(*size), texture(*size, seed=3)
    with torch.inference_mode():
        field = method(first, second)
        height, width = (max(-(-n // 8) * 8, 128) for n in size)
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        rows = (torch.arange(height) - top).clamp(0, size[0] - 1)
        columns = (torch.arange(width) - left).clamp(0, size[1] - 1)
        pair = [f[rows][:, columns].permute(2, 0, 1)[None].contiguous() / 127.5 - 1 for f in (first, second)]
        wanted = method.network(*pair)[-1][0, :, top : top + size[0], left : left + size[1]].permute(1, 2, 0)
    assert field.shape == (*size, 2)
    torch.testing.assert_close(field, wanted, rtol=0, atol=0)
    assert flow.quantise(field, bound=20).shape == (*size, 2)


@pytest.mark.parametrize("name", ["raft_large", "raft_small"])
def test_raft_weights_come_from_a_file_beside_the_streams(name: str, tmp_path: Path) -> None:
    """A folder with the flow stream's file and RAFT's, as torchvision publishes it, fills the backbone."""
    torchvision()
    published = getattr(importlib.import_module("torchvision.models.optical_flow"), name)()
    net = backbone(streams="flow", flow_method=name)
    own = {key.removeprefix("flow."): value for key, value in net.state_dict().items() if key.startswith("flow.")}
    torch.save(published.state_dict(), tmp_path / f"{name}.pth")
    torch.save(own, tmp_path / "flow_imagenet.pt")
    loaded = load_weights(tmp_path, net).state_dict()
    for key, value in published.state_dict().items():
        assert torch.equal(loaded[f"motion.network.{key}"], value), key
    load_weights(tmp_path, backbone(streams="flow", flow_method=name))
    listed = [entry.name for entry in wanted("i3d", {"streams": "flow", "flow_method": name, "classes": 400})]
    assert [entry.split("_C_T")[0] for entry in listed] == ["flow_imagenet.pt", name]
    (tmp_path / f"{name}.pth").unlink()
    with pytest.raises(TadError, match=r"missing: motion\.network"):
        load_weights(tmp_path, backbone(streams="flow", flow_method=name))


@pytest.mark.parametrize("name", ["tvl1", "dis"])
def test_absent_opencv_is_one_line_that_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(TadError, match=r"pip install opencv-contrib-python-headless.*to rgb") as error:
        backbone(streams="both", flow_method=name)
    assert "\n" not in str(error.value)
    assert backbone(streams="rgb", flow_method=name).dim == 1024  # needs none
    with pytest.raises(TadError, match="one of tvl1, dis, raft_large, raft_small"):
        flow.method("farneback")


def backbone(**changes: object) -> torch.nn.Module:
    settings = plugins.defaults("backbones", "i3d")
    return plugins.build("backbones", "i3d", {**settings, "short": 224, **changes}).eval()


class Counted:
    """A method whose field into a frame is a hundredth of its first pixel's change; it counts its calls."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int, int]] = []

    def __call__(self, first_HW3: Tensor, second_HW3: Tensor) -> Tensor:
        a, b = (int(frame[0, 0, 0]) for frame in (first_HW3, second_HW3))
        self.pairs.append((a, b))
        return torch.full((*first_HW3.shape[:2], 2), (b - a) / 1.0)


def frames(count: int) -> Tensor:
    """Frame k is grey of level 3·k."""
    return (3 * torch.arange(count, dtype=torch.uint8)).view(-1, 1, 1, 1).expand(-1, 224, 224, 3).contiguous()


def counting(**changes: object) -> tuple[torch.nn.Module, Counted]:
    net = backbone(flow_method="dis", **changes) if importlib.util.find_spec("cv2") else backbone(**changes)
    net.motion = Counted()
    return net, net.motion


def clips_of(net: torch.nn.Module, portions: Sequence[Tensor], *, length: int, stride: int) -> Iterator[Tensor]:
    """Clips of steps, cut as the extraction cuts them."""
    steps, buffer = net.stream(), ClipBuffer(length=length, stride=stride)
    for portion in portions:
        for step in steps(portion):
            clip = buffer.push(step)
            if clip is not None:
                yield torch.stack(clip)


@pytest.mark.parametrize("streams", ["flow", "both"])
@pytest.mark.parametrize("portions", [[40], [1] * 40, [7, 20, 13]])
def test_overlapping_clips_compute_each_pair_once(streams: str, portions: list[int]) -> None:
    """40 frames, clips of 17 every 4 frames: 39 pairs, in order, although 6 clips hold 96; two videos side by side."""
    net, counted = counting(streams=streams)
    pushed = torch.split(frames(40), portions)
    videos = [clips_of(net, pushed, length=17, stride=4) for _ in range(2)]
    clips = [clip for pair in zip(*videos, strict=True) for clip in pair]
    assert len(clips) == 12
    assert len(counted.pairs) == 78
    assert sorted(set(counted.pairs)) == [(3 * k, 3 * k + 3) for k in range(39)]
    assert clips[0].shape == (17, 224, 224, {"flow": 2, "both": 5}[streams])
    assert clips[0].dtype == torch.uint8  # nothing but 8-bit levels is kept
    assert clips[1][1:, 0, 0, -2:].unique().tolist() == [147]  # 3 pixels: rint((3 + 20) · 6.375)


def test_a_portions_memory_may_be_used_again() -> None:
    net, counted = counting(streams="flow")
    steps, memory = net.stream(), frames(2)
    steps(memory)
    memory.fill_(100)
    steps(frames(1) + 9)
    assert counted.pairs == [(0, 3), (3, 9)]


def test_steps_and_frames_give_the_same_features() -> None:
    """A clip of frames, its flow computed for it alone, against clips cut from the stream of a video."""
    torch.manual_seed(0)
    net, _ = counting(streams="both", stream_length=9)
    moving = torch.stack([texture(224, 224, seed=k // 3) for k in range(14)])
    with torch.inference_mode():
        rows = torch.cat([net(clip[None]) for clip in clips_of(net, [moving[:5], moving[5:]], length=10, stride=4)])
        naive = torch.cat([net(moving[None, s : s + 10]) for s in (0, 4)])
    assert rows.shape == (2, 2048)
    assert torch.equal(rows, naive)
    assert not torch.equal(rows[0, 1024:], rows[1, 1024:])


class Streaming(BackboneBase):
    """A backbone whose rows are the mean flow of its clips; the pairs that it was asked for go to a file."""

    def __init__(self, log: str) -> None:
        super().__init__()
        self.dim, self.log = 2, log

    def stream(self) -> Callable[[Tensor], Tensor]:
        def motion(first_HW3: Tensor, second_HW3: Tensor) -> Tensor:
            with open(self.log, "a") as file:
                file.write("pair\n")
            return torch.full((*first_HW3.shape[:2], 2), (second_HW3.float() - first_HW3.float()).mean().item())

        return flow.FlowSteps(motion, bound=20)

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        return clips_BTHWC[:, 1:].float().mean(dim=(1, 2, 3))


def test_the_extraction_computes_each_pair_of_a_video_once(tmp_path: Path) -> None:
    """Two videos of 21 frames, 2 readers: 20 pairs each although the clips hold 2 · 4 · 11, and the rows of a loop."""
    for name in "ab":
        vt.encode(tmp_path / f"v/{name}.mp4", 21)
    probe(tmp_path / "v", tmp_path / "m.json", spec=ProbeSpec(dataset="d"))
    clip = ClipSpec(length=12, stride=3, policy="native", rate=0)
    spec = ExtractSpec(dataset="d", backbone={"name": "i3d", "settings": {"log": str(tmp_path / "log")}}, clip=clip)
    extract(
        tmp_path / "m.json", tmp_path / "v", None, tmp_path / "f.h5",
        spec=spec, cache=tmp_path / "kept", device="cpu", workers=2, backbone=Streaming,
    )  # fmt: skip
    assert len((tmp_path / "log").read_text().split()) == 40
    net = Streaming(str(tmp_path / "log"))
    with open_video(tmp_path / "v/a.mp4") as video, FeatureReader(tmp_path / "f.h5") as reader:
        whole = torch.from_numpy(np.stack([frame.image for frame in video]))
        rows = torch.stack([net(net.stream()(whole[s : s + 12])[None])[0] for s in (0, 3, 6, 9)])
        assert np.array_equal(reader.stored("a"), rows.numpy().astype(np.float16))
        assert len(np.unique(reader.stored("a")[:, 0])) > 1


def test_a_short_clip_repeats_its_last_field() -> None:
    net, _ = counting(streams="flow", stream_length=4)
    clips = frames(4)[None].clone()
    levels = (net._flow_input(net._steps(clips))[:, 0, :, 0, 0] + 1) * 127.5
    torch.testing.assert_close(levels, torch.tensor([[147.0] * 4]))
    assert net._steps(clips)[0, 0].unique().tolist() == [flow.STILL]


class Seen:
    """A method that notes the sizes of the frames that it is given; its field is twice the column's number mod 8."""

    def __init__(self) -> None:
        self.sizes: set[tuple[int, ...]] = set()

    def __call__(self, first_HW3: Tensor, second_HW3: Tensor) -> Tensor:
        self.sizes.add(tuple(first_HW3.shape))
        columns = 2.0 * (torch.arange(first_HW3.shape[1]) % 8)
        return columns.view(1, -1, 1).expand(*first_HW3.shape[:2], 2).contiguous()


@pytest.mark.parametrize("streams", ["rgb", "flow", "both"])
def test_the_view_resize_squeezes_frames_and_flow_of_340_by_256(streams: str) -> None:
    """As published: frames become 340 x 256, their flow is computed, and the pictures of both are squeezed."""
    net, _ = counting(streams=streams, view="resize", short=256, columns=340)
    net.motion = Seen()
    moving = torch.stack([texture(180, 320, seed=k) for k in range(3)])
    steps = net.stream()(moving)
    assert steps.shape == (3, 224, 224, {"rgb": 3, "flow": 2, "both": 5}[streams])
    frames_NHWC = resize_uint8(moving, (256, 340))
    assert net.motion.sizes == (set() if streams == "rgb" else {(256, 340, 3)})
    if streams != "flow":
        assert torch.equal(steps[..., :3], resize_lanczos(frames_NHWC, (224, 224)))
    if streams != "rgb":
        levels = flow.quantise(Seen()(frames_NHWC[0], frames_NHWC[1]), bound=20.0)[None]
        assert torch.equal(steps[1:2, ..., -2:], resize_lanczos(levels, (224, 224)))
        assert len(steps[1, ..., -1].unique()) > 8  # squeezed pictures have levels between those of the field
    assert torch.equal(net._steps(steps[None]), steps[None])  # and are not squeezed again


def test_mirrored_flow_keeps_its_sign_as_published() -> None:
    net, _ = counting(streams="flow", view="ten_crop")
    x_BCTHW = torch.arange(340.0).expand(1, 2, 1, 256, 340)
    views = net._views(x_BCTHW)
    assert len(views) == 10
    assert torch.equal(views[5], views[0].flip(-1))  # a picture's mirror: the x motion is not negated


def test_every_method_is_said_to_match_or_not() -> None:
    assert set(flow.NOTES) == {"tvl1", "dis", "raft_large", "raft_small"}
    assert [name for name, note in flow.NOTES.items() if "does not match" not in note] == ["tvl1"]


def test_unmatched_methods_are_said_while_extracting(caplog: pytest.LogCaptureFixture) -> None:
    make: Callable[[str], object] = lambda name: backbone(streams="flow", flow_method=name)  # noqa: E731
    make("raft_small")
    assert "does not match published" in caplog.text
    caplog.clear()
    if importlib.util.find_spec("cv2"):
        make("tvl1")
    assert "match" not in caplog.text
