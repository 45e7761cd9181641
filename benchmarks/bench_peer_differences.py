"""Attribute the differences between our features and those of the published extractors, step by step → Markdown rows.

    OMP_NUM_THREADS=1 python benchmarks/bench_peer_differences.py PEERS VIDEO.mp4 [--clips 2]

PEERS and the random weights, which both sides share, are as in bench_extract_peers.py. The first clips of the video, 16
frames each without overlap (TSP: every second frame, so the video should have 30 per second), run through the unchanged
peer, then with one of our steps in place of the peer's (the network, the frames, the resizing, the storage in float16),
then with all of ours. A difference is the largest of any value, relative to the range of the features. For pixels, it
is the largest in grey levels and the share of values that differ at all.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from bench_extract import case
from bench_extract_peers import CASES, peer_i3d, peer_r2plus1d_18, peer_tsp, read_video

from tad.backbones._frames import center_crop
from tad.backbones._weights import load_weights
from tad.video.reader import PyavReader

LENGTH = 16
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


def apart(theirs: Tensor, ours: Tensor) -> float:
    """Return the largest difference relative to the range of theirs."""
    return float((theirs - ours).abs().max() / (theirs.max() - theirs.min()))


def told(what: str, theirs: Tensor, ours: Tensor) -> None:
    print(f"| | {what} | {apart(theirs, ours):.1e} |", flush=True)


def pixels(what: str, theirs: Tensor, ours: Tensor) -> None:
    off = (theirs.float() - ours.float()).abs()
    print(f"| | {what} | {float(off.max()):.0f} levels, {float((off > 0).float().mean()):.1%} of values |", flush=True)


def halved(feats: Tensor) -> Tensor:
    """Round to float16, as the cache does."""
    return feats.half().float()


def own(name: str, weights: Path) -> Any:
    _, model = case(name, "torch", 0, plain=True)
    return load_weights(weights, model)


def frames_of(video: Path, count: int) -> Tensor:
    """Return (N, H, W, 3) uint8 frames from our reader."""
    with PyavReader(video) as reader:
        return torch.from_numpy(np.stack([frame.image for frame in islice(reader, count)]))


def cut(frames: Tensor, clips: int) -> Tensor:
    """Cut into consecutive (B, T, …) clips."""
    return frames[: clips * LENGTH].unflatten(0, (clips, LENGTH))


def torchvision_like(name: str, video: Path, clips: int, weights: Path, network: Callable[[Tensor], Tensor]) -> None:
    """Compare R(2+1)D of either extractor: resized in float32 after division by 255, then normalised, then cropped."""
    step = 2 if name == "tsp" else 1
    seen = read_video(str(video), pts_unit="sec")[0][: clips * LENGTH * step]
    frames = frames_of(video, clips * LENGTH * step)
    pixels("decoded frames", seen, frames)
    seen, frames = cut(seen[::step], clips), cut(frames[::step], clips)
    x = seen.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    x = F.interpolate(x, size=(128, 171), mode="bilinear", align_corners=False)
    x = (x - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    x = center_crop(x, (112, 112)).unflatten(0, (clips, LENGTH)).transpose(1, 2)
    theirs, model = network(x), own(name, weights)
    told("network alone: the very same tensor", theirs, model.features(x))
    told("storage in float16 alone", theirs, halved(theirs))
    if name == "r2plus1d_18":
        model.resampling = "float"
        told("all but rounding after resizing and float16", theirs, model(frames))
        model.resampling = "uint8"
        told("rounding after resizing alone (torchvision's preset)", model.features(x), model(frames))
    told("all but float16", theirs, model(frames))
    told("all", theirs, halved(model(frames)))


def inception(video: Path, clips: int, weights: Path, network: Callable[[Tensor], Tensor]) -> None:
    """Compare I3D of video_features: OpenCV's decoding, Pillow's resizing, another epsilon in the batch norms."""
    import cv2
    from models.i3d.extract_i3d import ResizeImproved
    from PIL import Image

    capture, shown = cv2.VideoCapture(str(video)), []
    for _ in range(clips * LENGTH):
        shown.append(torch.from_numpy(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)))
    frames, model = frames_of(video, clips * LENGTH), own("i3d", weights)
    pixels("decoded frames (OpenCV, PyAV)", torch.stack(shown), frames)
    resize = ResizeImproved(256)

    def pillow(images: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(np.array(resize(Image.fromarray(f.numpy())))) for f in images])

    def scaled(small: Tensor) -> Tensor:
        top, left = ((size - 224) // 2 for size in small.shape[1:3])
        x = small[:, top : top + 224, left : left + 224].float() * 2 / 255 - 1
        return cut(x, clips).permute(0, 4, 1, 2, 3).contiguous()

    def features(x: Tensor) -> Tensor:
        feats: Tensor = model.rgb.features(x).mean(dim=2)
        return feats

    def same_epsilon(epsilon: float) -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = epsilon

    small = pillow(torch.stack(shown))
    pixels("resized frames (Pillow, torch's uint8)", small, model.shrink(torch.stack(shown)))
    x = scaled(small)
    theirs = torch.cat([network(clip[None]) for clip in x])
    told("network alone: the very same tensor", theirs, features(x))
    same_epsilon(1e-5)
    told("network alone, with their epsilon 1e-5 in ours", theirs, features(x))
    told("their epsilon; frames by PyAV", theirs, features(scaled(pillow(frames))))
    told("their epsilon; resizing by torch", theirs, features(scaled(model.shrink(torch.stack(shown)))))
    told("their epsilon; our frames, resizing, crop and scale", theirs, model(cut(frames, clips)))
    same_epsilon(1e-3)
    told("storage in float16 alone", theirs, halved(theirs))
    told("all but float16", theirs, model(cut(frames, clips)))
    told("all", theirs, halved(model(cut(frames, clips))))


def side(a: argparse.Namespace) -> None:
    """Run one case. The peer's classes change what is imported, so each case has its own process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    video, weights = a.video.resolve(), Path(a.work) / "weights.pth"
    with torch.inference_mode():
        if a.side == "i3d":
            run = peer_i3d(a.peers.resolve(), [video], weights)
            model = held(run, "extractor").name2module["model"]["rgb"]
            inception(video, a.clips, weights, lambda x: model(x, features=True))
        elif a.side == "tsp":
            model = held(peer_tsp(a.peers.resolve(), [video], weights), "model")
            torchvision_like("tsp", video, a.clips, weights, model.features)
        else:
            run = peer_r2plus1d_18(a.peers.resolve(), [video], weights)
            model = held(run, "extractor").name2module["model"]
            torchvision_like("r2plus1d_18", video, a.clips, weights, model)


def held(run: Callable[[], Any], name: str) -> Any:
    """Return the features that a peer's extraction stores under this name."""
    code: Any = run
    return dict(zip(code.__code__.co_freevars, (cell.cell_contents for cell in code.__closure__), strict=True))[name]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="R(2+1)D-18, one clip: does it still run?")
    a = parser.parse_args()
    if a.quick:
        a.cases, a.clips = ["r2plus1d_18"], 1
    if a.side:
        return side(a)
    print("| extractor | ours in place of theirs | largest difference |\n|---|---|---:|")
    for name in a.cases:
        print(f"| {CASES[name]} | | |", flush=True)
        with tempfile.TemporaryDirectory() as work:
            command = [sys.executable, __file__, str(a.peers), str(a.video), "--clips", str(a.clips)]
            subprocess.run([*command, "--side", name, "--work", work], check=True)


if __name__ == "__main__":
    main()
