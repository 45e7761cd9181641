"""The small encoder on optical flow: its clips are the same in pretraining, on demand and in extraction."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import video_tools as vt
from backbone_tools import build

from tad.backbones._flow import STILL, method, quantise
from tad.core.errors import TadError
from tad.core.files import canonical, sha256, write_json
from tad.extraction.batches import Preparer
from tad.features.store import FeatureReader
from tad.provenance.stamps import stamp
from tad.settings import plugins
from tad.settings.stages import ClipSpec, ExtractSpec
from tad.stages.extract import extract
from tad.training.io.tensors import write_tensors
from tad.training.tsp import clips as tsp_clips
from tad.training.tsp.frames import OnDemand, decode, decoded_bytes, source_of

FLOW = {"modality": "flow", "subtract": "none", "height": 24, "width": 32, "widths": [4, 4, 4, 8]}
CLIP = ClipSpec(length=8, stride=4, policy="resample", rate=15.0)
FRAMES, RATE, SIZE = 70, 30, (24, 32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("moving")
    found = {}
    for name, frames in (("a", FRAMES), ("short", 9)):
        path = vt.encode(folder / f"{name}.mp4", frames, rate=RATE)
        facts = {"width": 64, "height": 48, "sha256": sha256(path), "bytes": path.stat().st_size}
        found[name] = ({}, vt.probed(path.name, frames=frames, rate=RATE, **facts))
    return folder, found


def test_clips_are_the_same_from_all_places(videos: Any, tmp_path: Path) -> None:
    """To the last level: kept frames, frames decoded on demand, and what extraction makes of them in other portions."""
    folder, entries = videos
    net = build("r2plus1d_small", **FLOW)
    where = {"backbone": net, "clip": CLIP}
    kept, asked = decode(entries, folder, scratch=tmp_path, **where), OnDemand(entries, folder, **where)
    store_NHWC = kept.store_NHWC[:]
    assert store_NHWC.shape == (sum(kept.count), *SIZE, 2)
    assert decoded_bytes(entries, **where) == pytest.approx(store_NHWC.nbytes, rel=0.05)
    starts = [(0, 1.2), (0, 0.0), (0, 0.4), (0, 0.4), (1, 0.0), (0, 99.0)]
    for video, start in starts:
        clip_THWC = kept.clip(video, start, 8)
        assert (clip_THWC.shape, clip_THWC.dtype) == ((8, *SIZE, 2), np.uint8)
        np.testing.assert_array_equal(asked.clip(video, start, 8), clip_THWC)
    preparer = Preparer(net, torch.device("cpu"))
    images = list(source_of(folder, entries["a"][1], CLIP).images())
    steps = [preparer(np.stack(images[k : k + 6])).numpy() for k in range(0, len(images), 6)]
    np.testing.assert_array_equal(np.concatenate(steps), store_NHWC[: kept.count[0]])
    assert (store_NHWC[0] == STILL).all()
    assert (store_NHWC[kept.count[0]] == STILL).all()
    small = net.shrink(torch.from_numpy(np.stack(images[4:6])))
    np.testing.assert_array_equal(store_NHWC[5], quantise(method("dis")(*small), bound=4.0).numpy())
    assert store_NHWC[5].std() > 1


def test_extraction_gives_the_rows_of_these_clips(videos: Any, tmp_path: Path) -> None:
    folder, entries = videos
    torch.manual_seed(0)
    net = build("r2plus1d_small", **FLOW)
    weights = tmp_path / "backbone.safetensors"
    write_tensors(weights, net.state_dict(), {"tad_stamp": canonical(stamp("pretrain", {}, {}))})
    probed = stamp("probe", {"dataset": "toy"}, {})
    manifest = write_json(tmp_path / "m.json", {"stamp": probed, "videos": {v: e for v, (_, e) in entries.items()}})
    settings = plugins.defaults("backbones", "r2plus1d_small") | FLOW
    plugin = {"name": "r2plus1d_small", "settings": settings}
    spec = ExtractSpec.model_validate({"dataset": "toy", "backbone": plugin, "clip": CLIP, "dtype": "float32"})
    where = {"spec": spec, "cache": tmp_path / "kept", "device": "cpu", "workers": 1}
    out = extract(manifest, folder, weights, tmp_path / "00-of-01.h5", **where)
    frames = decode(entries, folder, backbone=net, clip=CLIP, scratch=tmp_path)
    with FeatureReader(out) as reader, torch.inference_mode():
        for video, name in enumerate(entries):
            rows_TC = reader.stored(name)
            for row, start in ((0, 0.0), (len(rows_TC) - 1, (len(rows_TC) - 1) * 4 / 15)):
                clip_THWC = frames.clip(video, start, 8)
                wanted_C = net.encode(torch.from_numpy(clip_THWC.copy())[None])[0].numpy()
                np.testing.assert_allclose(rows_TC[row], wanted_C, rtol=1e-5, atol=1e-6)


def test_a_mirrored_clip_moves_the_other_way() -> None:
    """As the flow of mirrored pictures does, but for what the method itself does otherwise in a mirror."""
    pictures = torch.from_numpy(np.stack([vt.picture(k, width=SIZE[1], height=SIZE[0]) for k in range(4)]))
    net = build("r2plus1d_small", **FLOW)
    clip_THWC, other_THWC = (net.stream()(some)[1:].numpy() for some in (pictures, pictures.flip(2)))
    turned = tsp_clips.Augment(SIZE, 1.0, 0)(clip_THWC, np.random.default_rng(0))
    np.testing.assert_array_equal(turned[..., 0], 255 - clip_THWC[:, :, ::-1, 0])
    np.testing.assert_array_equal(turned[..., 1], clip_THWC[:, :, ::-1, 1])
    away, unturned = (np.abs(x[..., 0] - other_THWC[..., 0].astype(float)).mean() for x in (turned, 255.0 - turned))
    assert away < 0.5 * unturned
    whole = tsp_clips.Augment(SIZE, 0.0, 0)
    np.testing.assert_array_equal(whole(clip_THWC, np.random.default_rng(0)), clip_THWC)


def test_plain_frames_are_a_video_of_their_own() -> None:
    net = build("r2plus1d_small", **FLOW)
    clips = torch.from_numpy(np.stack([vt.picture(k, width=64, height=48) for k in range(8)]))[None]
    with torch.inference_mode():
        torch.testing.assert_close(net(clips), net.encode(net.stream()(clips[0])[None]))
        assert net(clips).shape == (1, 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modality": "flwo"}, r"backbone r2plus1d_small: modality: Input should be 'rgb' or 'flow'"),
        ({"flow_method": "raft_large"}, r"flow_method: Input should be 'dis' or 'tvl1'"),
        ({"flow_bound": 0.0}, r"flow_bound: Input should be greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TadError, match=said):
        build("r2plus1d_small", **changes)
