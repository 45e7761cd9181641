"""What overlapping clips gain by sharing R(2+1)D's stem and first stage, and could of I3D's stem → Markdown rows.

    OMP_NUM_THREADS=1 python benchmarks/bench_sharing.py [--repeats 2]

A run of clips goes through `overlapping` of the backbone, as the extraction has it, beside the same clips one by one.
I3D's row is a limit: what would be saved if sharing itself cost nothing. CPU seconds of one thread, random weights, the
best of the repeats, taken in turns.
"""

import argparse
import time
from collections.abc import Callable

import torch

from tad import plugins
from tad.extraction.overlap import RUN

LENGTH = 16


def spent(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def r2plus1d(name: str, stride: int, repeats: int) -> str:
    torch.manual_seed(0)
    net = plugins.load("backbones", name)(**plugins.document("backbones", name)["settings"]).eval()
    frames = torch.randint(0, 256, (LENGTH + stride * (RUN - 1), 128, 171, 3), dtype=torch.uint8)
    starts = range(0, stride * RUN, stride)
    times: list[tuple[float, float]] = []
    alone: list[torch.Tensor] = []
    shared: list[torch.Tensor] = []
    for _ in range(repeats):
        one = spent(lambda: alone.append(torch.cat([net(frames[s : s + LENGTH][None]) for s in starts])))
        many = spent(lambda: shared.append(net.overlapping(frames, length=LENGTH, stride=stride)))
        times.append((one, many))
    one, many = (min(column) / RUN for column in zip(*times, strict=True))
    apart = float((shared[0] - alone[0]).abs().max() / (alone[0].max() - alone[0].min()))
    return f"| {name}, {LENGTH}/{stride} | {one:.3f} | {many:.3f} | {one / many:.2f} | {apart:.0e} |"


def i3d() -> str:
    torch.manual_seed(0)
    settings = plugins.document("backbones", "i3d")["settings"] | {"streams": "rgb"}
    net = plugins.load("backbones", "i3d")(**settings).eval().rgb
    x = torch.randn(1, 3, LENGTH, 224, 224)
    whole = min(spent(lambda: net.features(x)) for _ in range(2))
    first = min(spent(lambda: net.Conv3d_1a_7x7(x)) for _ in range(2))
    y = net.Conv3d_2b_1x1(net.MaxPool3d_2a_3x3(net.Conv3d_1a_7x7(x)))
    second = min(spent(lambda: net.Conv3d_2c_3x3(y)) for _ in range(2))
    left = whole - first * 3 / 8 - second * 1 / 8  # of 8 positions, 3 and then 1 would come from the clip before
    return f"| I3D, 16/4 (limit; stem {first:.3f} + {second:.3f}) | {whole:.3f} | {left:.3f} | {whole / left:.2f} | |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| network, clip/stride | CPU s per clip alone | shared | times as fast | largest difference, share of range |"
    )
    print("|---|---:|---:|---:|---:|")
    with torch.inference_mode():
        for name, stride in (("r2plus1d_18", 1), ("r2plus1d_18", 2), ("r2plus1d_18", 4), ("tsp", 1)):
            print(r2plus1d(name, stride, a.repeats), flush=True)
        print(i3d())


if __name__ == "__main__":
    main()
