"""Compare extraction with the published extractors: same videos, (random) weights, clips and device → Markdown rows.

    OMP_NUM_THREADS=1 python benchmarks/bench_extract_peers.py PEERS VIDEO… [--cases r2plus1d_18 i3d tsp]

PEERS contains checkouts of v-iashin/video_features (as `video_features`) and HumamAlwassel/TSP (as `TSP`). Their own
classes run unchanged, each side in its own process. Dependencies that no longer exist or are not installed are
replaced: `read_video`, which torchvision has removed (by one with PyAV that decodes only the requested frames, by exact
times), and the names of omegaconf and scipy that they import but do not use. The result is CPU seconds of all threads
and processes from files to features, without imports and model construction.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from bench_extract import CPU, case, lean_readers, started, total

from tad.core.optional import torchvision

CASES = {"r2plus1d_18": "video_features, R(2+1)D", "i3d": "video_features, I3D RGB", "tsp": "TSP, R(2+1)D-34"}
ENGINES = ("torch", "openvino")
Rows = list[np.ndarray]
starting: list[float] = []  # CPU seconds of importing the readers, once per extraction; excluded like other imports


def read_video(filename: str, start_pts: float = 0, end_pts: float | None = None, pts_unit: str = "sec") -> Any:
    """Return frames (N, H, W, 3) uint8 shown from `start_pts` to `end_pts` seconds; no sound."""
    import av

    with av.open(filename) as container:
        stream = container.streams.video[0]
        tick = stream.time_base
        first = round(Fraction(start_pts) / tick)
        last = None if end_pts is None else round(Fraction(end_pts) / tick)
        if first > 0:
            container.seek(first, stream=stream)
        frames = []
        for frame in container.decode(stream):
            if last is not None and frame.pts > last:
                break
            if frame.pts >= first:
                frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
    return torch.stack(frames), None, {}


def module(name: str, **values: Any) -> None:
    """Create a module with this name and these values."""
    sys.modules[name] = made = ModuleType(name)
    vars(made).update(values)


def enter(folder: Path, *, inside: str = "") -> None:
    """Make a checkout importable as its own scripts expect."""
    os.chdir(folder / inside)
    sys.path[:0] = [str(folder / inside), str(folder)]
    torchvision().io.read_video = read_video
    module("torchvision.io.video", read_video=read_video)
    module("omegaconf", DictConfig=dict)
    module("scipy", interpolate=None)
    module("omegaconf.dictconfig", DictConfig=dict)
    module("omegaconf.listconfig", ListConfig=list)


def settings(**changes: Any) -> Namespace:
    """Return the settings that video_features takes from its command line."""
    common = {"feature_type": "x", "on_extraction": "print", "tmp_path": "", "output_path": "", "keep_tmp_files": False}
    return Namespace(
        **common, device="cpu", extraction_fps=None, show_pred=False, stack_size=16, step_size=16, **changes
    )


def peer_r2plus1d_18(peers: Path, videos: list[Path], weights: Path) -> Callable[[], Rows]:
    enter(peers / "video_features")
    models = torchvision().models
    build = models.get_model
    models.get_model = lambda name, weights: build(name, weights=None)
    from models.r21d.extract_r21d import ExtractR21D

    extractor = ExtractR21D(settings(model_name="r2plus1d_18_16_kinetics"))
    torch.save(extractor.name2module["model"].state_dict(), weights)
    return lambda: [extractor.extract(str(video))["x"] for video in videos]


def peer_i3d(peers: Path, videos: list[Path], weights: Path) -> Callable[[], Rows]:
    enter(peers / "video_features")
    from models.i3d.extract_i3d import ExtractI3D
    from models.i3d.i3d_src.i3d_net import I3D

    file = Path("models/i3d/checkpoints/i3d_rgb.pt")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(I3D(num_classes=400, modality="rgb").state_dict(), file)
    weights.write_bytes(file.read_bytes())
    extractor = ExtractI3D(settings(streams="rgb", flow_type="raft"))
    return lambda: [extractor.extract(str(video))["rgb"] for video in videos]


def peer_tsp(peers: Path, videos: list[Path], weights: Path) -> Callable[[], Rows]:
    enter(peers / "TSP", inside="extract_features")
    import av
    import extract_features as tsp
    import models.model as network
    import pandas as pd

    build = network.r2plus1d_34
    network.r2plus1d_34 = lambda pretrained, progress: build(pretrained=False, progress=progress)
    model = tsp.Model(backbone="r2plus1d_34", num_classes=[1], num_heads=1, concat_gvf=False).eval()
    torch.save({"model": model.state_dict()}, weights)
    counts = []
    for video in videos:
        with av.open(str(video)) as container:
            counts.append(sum(1 for _ in container.decode(video=0)))
    table = pd.DataFrame({"filename": [str(v) for v in videos], "fps": 30.0, "video-frames": counts})
    out = weights.parent / "tsp"
    out.mkdir()
    transform = tsp.transforms.Compose(
        [
            tsp.T.ToFloatTensorInZeroOne(), tsp.T.Resize((128, 171)),
            tsp.T.Normalize(mean=[0.43216, 0.394666, 0.37645], std=[0.22803, 0.22145, 0.216989]),
            tsp.T.CenterCrop((112, 112)),
        ]
    )  # fmt: skip

    def run() -> Rows:
        dataset = tsp.EvalVideoDataset(table.copy(), "", 16, 15, 16, str(out), transforms=transform)
        tsp.evaluate(model, torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=False), CPU)
        return [np.load(out / f"{v.stem}.pkl", allow_pickle=True) for v in videos]

    return run


def ours(name: str, engine: str, videos: list[Path], weights: Path) -> Callable[[], Rows]:
    """Extract the same features with this package."""
    from tad.backbones._weights import load_weights
    from tad.core.files import read_json
    from tad.extraction.engines import prepare
    from tad.extraction.pipeline import encode, reading
    from tad.settings.stages import ProbeSpec
    from tad.stages.extract import _jobs
    from tad.stages.probe import probe

    folder = weights.parent / f"videos-{name}-{engine}"
    folder.mkdir()
    for video in videos:
        (folder / video.name).symlink_to(video)
    entries = read_json(probe(folder, folder / "m.json", spec=ProbeSpec(dataset="bench")))["videos"]
    spec, model = case(name, engine, 0, rate=15.0 if name == "tsp" else 0.0, plain=True)
    model = prepare(load_weights(weights, model), spec.network, name=name, device=CPU)
    jobs = _jobs(entries, list(entries), folder, spec)
    with torch.inference_mode():
        model(torch.zeros(1, 16, 360, 480, 3, dtype=torch.uint8))  # compiles, and fills caches

    def run() -> Rows:
        found: dict[str, np.ndarray] = {}
        with torch.inference_mode(), closing(reading(jobs, spec, 1)) as feed:
            feed.start()
            starting.append(started(feed))
            for stream in encode(jobs, feed, model, spec, CPU):
                found[stream.video_id] = stream.rows.features().astype(np.float32)
        return [found[video.stem] for video in videos]

    return run


def side(a: argparse.Namespace) -> None:
    """Run one side of a case in this process: write its features and print its CPU seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lean_readers()
    name, videos, work = a.side, [video.resolve() for video in a.videos], a.work
    weights = work / f"{name}.pth"
    if a.engine:
        run = ours(name, a.engine, videos, weights)
    else:
        run = {"r2plus1d_18": peer_r2plus1d_18, "i3d": peer_i3d, "tsp": peer_tsp}[name](
            a.peers.resolve(), videos, weights
        )
    spent = []
    for _ in range(a.repeats):
        before = total()
        rows = run()
        spent.append(total() - before - sum(starting))
        starting.clear()
    np.savez(work / f"{name}-{a.engine or 'peer'}.npz", *rows)
    print(json.dumps({"spent": min(spent), "rows": sum(map(len, rows))}))


def measured(name: str, a: argparse.Namespace, work: Path) -> None:
    """Measure the rows of one case."""
    peer = 0.0
    for engine in ("", *a.engines):
        command = [sys.executable, __file__, str(a.peers), *map(str, a.videos), "--side", name, "--work", str(work)]
        command += ["--engine", engine, "--repeats", str(a.repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        found = json.loads(done.stdout.splitlines()[-1])
        each = found["spent"] / found["rows"]
        if not engine:
            peer = each
            print(f"| {CASES[name]} | its own | {found['rows']} | {each:.3f} | 1.00 | |", flush=True)
            continue
        with np.load(work / f"{name}-peer.npz") as theirs, np.load(work / f"{name}-{engine}.npz") as own:
            pairs = [(theirs[key], own[key][: len(theirs[key])]) for key in theirs.files]
        apart = max(float(np.abs(p - o).max() / (p.max() - p.min())) for p, o in pairs)
        print(f"| | tad, {engine} | {found['rows']} | {each:.3f} | {peer / each:.2f} | {apart:.1e} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path)
    parser.add_argument("videos", type=Path, nargs="+", help="mp4 files of 30 frames per second")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--engines", nargs="+", default=list(ENGINES))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    parser.add_argument("--engine", default="", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="R(2+1)D-18 under torch, once: does it still run?")
    a = parser.parse_args()
    if a.quick:
        a.cases, a.engines, a.repeats = ["r2plus1d_18"], ["torch"], 1
    if a.side:
        return side(a)
    print("| extractor | engine | clips | CPU s per clip | times as fast | largest difference, share of the range |")
    print("|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as work:
        for name in a.cases:
            measured(name, a, Path(work))


if __name__ == "__main__":
    main()
