"""Measure the gain of sharing R(2+1)D's stem and first stage among overlapping clips; a bound for I3D → Markdown rows.

    OMP_NUM_THREADS=1 python benchmarks/bench_sharing.py [--repeats 2] [--cases r2plus1d_18:1 tsp:1 i3d …]

A sequence of clips runs through `overlapping` of the backbone, as in the extraction, and for comparison clip by clip.
The row of I3D is an upper bound: the gain from its stem if sharing itself cost nothing. Times are CPU seconds of one
thread with random weights, the best of alternating repeats. Memory is the peak above the initial use of the process
(Linux).
"""

import argparse
import threading
import time
from collections.abc import Callable

import torch

from tad.extraction.overlap import RUN
from tad.settings import plugins
from tad.video.ring import own_bytes

LENGTH = 16
CASES = ["r2plus1d_18:1", "r2plus1d_18:2", "r2plus1d_18:4", "tsp:1", "i3d"]


def spent(work: Callable[[], object]) -> tuple[float, int]:
    """Return the CPU seconds of some work and its peak memory in MiB."""
    before, most, done = own_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], own_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    begin = time.process_time()
    work()
    seconds = time.process_time() - begin
    done.set()
    thread.join()
    return seconds, (most[0] - before) >> 20


def r2plus1d(name: str, stride: int, repeats: int) -> str:
    torch.manual_seed(0)
    net = plugins.build("backbones", name, plugins.defaults("backbones", name)).eval()
    frames = torch.randint(0, 256, (LENGTH + stride * (RUN - 1), 128, 171, 3), dtype=torch.uint8)
    starts = range(0, stride * RUN, stride)
    alone: list[torch.Tensor] = []
    shared: list[torch.Tensor] = []
    ones, runs = [], []
    for _ in range(repeats):
        ones.append(spent(lambda: alone.append(torch.cat([net(frames[s : s + LENGTH][None]) for s in starts]))))
        runs.append(spent(lambda: shared.append(net.overlapping(frames, length=LENGTH, stride=stride))))
    (one, small), (many, large) = min(ones), min(runs)
    one, many = one / RUN, many / RUN
    apart = float((shared[0] - alone[0]).abs().max() / (alone[0].max() - alone[0].min()))
    cells = [f"{name}, {LENGTH}/{stride}", f"{one:.3f}", f"{many:.3f}", f"{one / many:.2f}", f"{apart:.0e}"]
    return f"| {' | '.join([*cells, str(small), str(large)])} |"


def i3d() -> str:
    torch.manual_seed(0)
    settings = plugins.defaults("backbones", "i3d") | {"streams": "rgb"}
    net = plugins.build("backbones", "i3d", settings).eval().rgb
    x = torch.randn(1, 3, LENGTH, 224, 224)
    whole = min(spent(lambda: net.features(x))[0] for _ in range(2))
    first = min(spent(lambda: net.Conv3d_1a_7x7(x))[0] for _ in range(2))
    y = net.Conv3d_2b_1x1(net.MaxPool3d_2a_3x3(net.Conv3d_1a_7x7(x)))
    second = min(spent(lambda: net.Conv3d_2c_3x3(y))[0] for _ in range(2))
    left = whole - first * 3 / 8 - second * 1 / 8  # of 8 positions, 3 and then 1 would be reused from the previous clip
    name = f"I3D, 16/4 (limit; stem {first:.3f} + {second:.3f})"
    return f"| {name} | {whole:.3f} | {left:.3f} | {whole / left:.2f} | | | |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--cases", nargs="+", default=CASES, help="backbone:stride, or i3d")
    parser.add_argument("--quick", action="store_true", help="one network, once: does it still run?")
    a = parser.parse_args()
    if a.quick:
        a.cases, a.repeats = ["r2plus1d_18:1"], 1
    torch.set_num_threads(1)
    print(
        "| network, clip/stride | CPU s per clip alone | shared | times as fast | largest difference, share of range "
        "| MiB alone | shared |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    with torch.inference_mode():
        for case in a.cases:
            name, _, stride = case.partition(":")
            print(r2plus1d(name, int(stride), a.repeats) if stride else i3d(), flush=True)


if __name__ == "__main__":
    main()
