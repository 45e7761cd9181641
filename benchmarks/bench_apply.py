"""Time `tad apply` on one long video: real-time factor, peak memory, and the share that decoding and the network take.

    python benchmarks/bench_apply.py [--video FILE | --minutes 10 --width 1920 --height 1080] [--cases demo lite i3d]

Each case is a tiny detector, trained for a moment on three rendered videos, on one encoder: `demo`, the small R(2+1)D
(random weights); `lite`, EfficientNet-Lite0 from its Python package; `i3d`, RGB stream on OpenVINO (random weights).
Without --video a moving test pattern with noise is encoded first, as H.264. For each case the command runs once in a
process of its own; then the same clips are decoded alone, and the network computes as many clips (or frames, if it sees
single ones) from memory, with as many side by side as in the command. The bar: the command takes at most 1/0.9 of the
slower of the two.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "workflow_scripts" / "render_demo.py"
TINY = {"name": "mse", "embed_dim": 16, "head_dim": 16, "mlp_dim": 16}
TRAIN = {"epochs": 1, "warmup_epochs": 1, "max_length": 288}
CASES: dict[str, dict[str, Any]] = {
    "demo": {"backbone": "r2plus1d_small", "weights": "demo.safetensors"},
    "lite": {"backbone": "efficientnet_lite0", "weights": "package"},
    "i3d": {
        "backbone": {"name": "i3d", "streams": "rgb"}, "weights": "i3d.safetensors", "network": {"engine": "openvino"},
    },
}  # fmt: skip
WEIGHTS = """
import sys
from pathlib import Path
import torch
from tad.settings import plugins
from tad.settings.config import Config
from tad.training.io.tensors import write_tensors
name, out = sys.argv[1:]
torch.manual_seed(0)
spec = Config.read().backbone(name, "demo")
write_tensors(Path(out), plugins.build("backbones", spec.name, spec.settings).state_dict(), {})
"""
# what the stage extract does, without files (network) and without a network (decoding)
PARTS = """
import json, sys, time
from pathlib import Path
import torch
from tad.backbones._framewise import FrameEncoder
from tad.backbones._weights import load_weights
from tad.core.files import read_json
from tad.extraction.batches import Preparer
from tad.extraction.engines import lanes_of, prepare
from tad.settings import plugins
from tad.settings.config import Config
from tad.stages.extract import _jobs
from tad.video.clips import count_clips
from tad.video.ring import read_frames
name, weights, manifest, folder, most = sys.argv[1:]
spec = Config.read().spec("extract", dataset="demo", features=name)
lanes = lanes_of(spec, torch.device("cpu"))
torch.set_num_threads(spec.network.threads)
videos = read_json(Path(manifest))["videos"]
(job,) = _jobs(videos, list(videos), Path(folder), spec)
start, frames, last = time.perf_counter(), 0, None
for frame in read_frames(job):
    frames, last = frames + 1, frame
decoding = time.perf_counter() - start
backbone = plugins.build("backbones", spec.backbone.name, spec.backbone.settings)
backbone = load_weights(Path(weights), backbone, spec.backbone).eval()
backbone.lanes = lanes
network = prepare(backbone, spec.network, name=spec.backbone.name, device=torch.device("cpu"))
clips = count_clips(frames, length=spec.clip.length, stride=spec.clip.stride, tail=spec.clip.tail)
counted, work = min(clips, int(most)), clips
with torch.inference_mode(), lanes:
    if isinstance(network, FrameEncoder):
        work, counted = frames, min(frames, 320)
        picture = torch.from_numpy(last[None].copy())
        steps = network.stream()
        start = time.perf_counter()
        for _ in range(counted):
            steps(picture)
        network.finish(steps)
    else:
        steps = Preparer(network, torch.device("cpu"))(last[None].copy())
        clip = steps.expand(spec.clip.length, *steps.shape[1:])[None].contiguous()
        lanes.map(network, [clip] * lanes.count)
        start = time.perf_counter()
        lanes.map(network, [clip] * counted)
    seconds = (time.perf_counter() - start) * work / counted
print(json.dumps({"decoding": decoding, "frames": frames, "network": seconds, "clips": clips}))
"""


def encode(path: Path, *, seconds: float, width: int, height: int, rate: int = 25) -> None:
    """Encode a moving pattern with noise, which neither compresses to nothing nor takes long to make."""
    import av

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (height + 256, width + 256, 3), dtype=np.uint8) // 4 + 96
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for k in range(round(seconds * rate)):
            x, y = (3 * k) % 256, (k // 2) % 256
            picture = np.ascontiguousarray(noise[y : y + height, x : x + width])
            picture[: height // 4, : width // 4] = (k * 5) % 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def tad(folder: Path, *arguments: str) -> tuple[float, int]:
    """Run a command in the folder; return its seconds and the peak memory of its processes in bytes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = (
        "import resource, subprocess, sys; done = subprocess.run([sys.executable, '-m', 'tad', *sys.argv[1:]]);"
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"tad {' '.join(arguments)}: {done.stdout[-1000:]}{done.stderr[-3000:]}")
    return seconds, 1024 * int(done.stdout.rpartition("peak ")[2])


def program(folder: Path, code: str, *arguments: str) -> str:
    """Run a Python program in the folder; return its last line."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return (done.stdout.splitlines() or [""])[-1]


def prepare(folder: Path, case: str) -> None:
    """Train the case's detector on three rendered videos."""
    row = CASES[case]
    config = {
        "device": "cpu",
        "datasets": {"demo": {"shards": 1}},
        "features": {case: row},
        "runs": {case: {"dataset": "demo", "features": case, "detector": TINY, "train": TRAIN}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    data = folder / "results/data/demo"
    if not data.is_dir():
        command = [sys.executable, str(SCRIPT), "--out", str(data), "--videos", "3", "--seed", "0", "--jobs", "1"]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    if row["weights"] != "package":
        program(folder, WEIGHTS, case, row["weights"])
    tad(folder, "run", "--cores", "2", f"results/{case}/model.safetensors")


def measure(folder: Path, case: str, video: Path, minutes: float) -> str:
    """Return the case's row."""
    seconds, peak = tad(folder, "apply", case, str(video), "--out", f"{case}.json")
    weights = CASES[case]["weights"]
    if weights == "package":
        weights = program(
            folder, "import sys; from tad.settings.config import Config; from tad.weights.published import located;"
            "print(located('package', Config.read().backbone(sys.argv[1], 'demo')))", case,
        )  # fmt: skip
    manifest = folder / f"results/{case}/apply/00-of-01.json"
    parts = json.loads(program(folder, PARTS, case, weights, str(manifest), str(video.parent), "200"))
    slower = max(parts["decoding"], parts["network"])
    return (
        f"| {case} | {seconds:.1f} | {60 * minutes / seconds:.2f} | {peak / 2**20:.0f} | {parts['decoding']:.1f} | "
        f"{parts['network']:.1f} | {parts['clips']} | {slower / seconds:.2f} |"
    )


def first_frame(folder: Path, case: str, video: Path) -> float:
    """Return the seconds from the start of the command until the probe has decoded a video of one second."""
    short = folder / "short" / "short.mp4"
    short.parent.mkdir(exist_ok=True)
    if not short.is_file():
        encode(short, seconds=1.0, width=320, height=240)
    return min(tad(folder, "apply", case, str(short), "--out", "short.json")[0] for _ in range(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="an H.264 video; default: one is encoded")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the video (of the given one, too)")
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--quick", action="store_true", help="a few seconds of a small video: does it still run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.minutes, arguments.width, arguments.height, arguments.cases = 0.1, 320, 240, ["demo"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = arguments.video
        if video is None:
            video = folder / "long" / "long.mp4"
            video.parent.mkdir()
            encode(video, seconds=60 * arguments.minutes, width=arguments.width, height=arguments.height)
        print(f"{arguments.width} x {arguments.height}, {arguments.minutes:g} minutes, {os.cpu_count()} cores\n")
        print(
            "| encoder | tad apply, s | times real time | peak, MiB | decoding alone, s | network alone, s | clips | "
            "slower part / command | a 1-second video, s |"
        )
        print("| --- |" + " ---: |" * 8)
        for case in arguments.cases:
            prepare(folder, case)
            row = measure(folder, case, video, arguments.minutes)
            print(f"{row} {first_frame(folder, case, video):.1f} |", flush=True)


if __name__ == "__main__":
    main()
