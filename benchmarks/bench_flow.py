"""Time each optical flow method: milliseconds per pair of neighbouring frames → Markdown.

    python benchmarks/bench_flow.py VIDEO [--pairs 5] [--device cpu]

Frames of VIDEO are scaled to 340x256, the size at which the THUMOS14 features were extracted. The methods alternate in
one process. RAFT has random weights, which take the same time. CPU time counts all threads; wall time is given too.
"""

import argparse
import importlib.metadata
import platform
import statistics
import sys
import time
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch

from tad.backbones import _flow as flow
from tad.backbones._frames import resize_uint8
from tad.video.reader import open_video

SIZE = (256, 340)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="one pair, without RAFT: does it still run?")
    arguments = parser.parse_args()
    arguments.pairs = 1 if arguments.quick else arguments.pairs
    device = torch.device(arguments.device)
    with open_video(arguments.video) as video:
        frames = [torch.from_numpy(f.image.copy())[None] for f in islice(video, arguments.pairs + 2)]
    small = [resize_uint8(frame, SIZE)[0].contiguous().to(device) for frame in frames]
    methods = {}
    for name in ("tvl1", "dis") if arguments.quick else flow.NOTES:
        methods[name] = flow.method(name)
        if isinstance(methods[name], torch.nn.Module):
            methods[name].to(device).eval()
    cpu: dict[str, list[float]] = {name: [] for name in methods}
    wall: dict[str, list[float]] = {name: [] for name in methods}
    with torch.inference_mode():
        for k, (first, second) in enumerate(pairwise(small)):
            for name, method in methods.items():
                begin, clock = time.process_time(), time.perf_counter()
                flow.quantise(method(first, second), bound=20).cpu()
                if k:  # the first pair is a warm-up
                    cpu[name].append(1000 * (time.process_time() - begin))
                    wall[name].append(1000 * (time.perf_counter() - clock))
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("opencv-contrib-python-headless", "torch"))
    sys.stdout.write(
        f"{versions}, Python {platform.python_version()}, {platform.machine()}, device {device}, "
        f"{torch.get_num_threads()} torch thread(s); median of {arguments.pairs} pairs of 340x256 frames\n\n"
        "| method | CPU ms per pair | clock ms per pair | CPU hours per hour of video at 30/s | share of TV-L1 |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
    )
    slowest = statistics.median(cpu["tvl1"])
    for name in methods:
        ms = statistics.median(cpu[name])
        sys.stdout.write(
            f"| {name} | {ms:.0f} | {np.median(wall[name]):.0f} | {ms * 30 / 1000:.1f} | {ms / slowest:.3f} |\n"
        )


if __name__ == "__main__":
    main()
