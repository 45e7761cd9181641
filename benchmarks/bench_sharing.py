"""What overlapping clips could share exactly: R(2+1)D's stem and first stage, I3D's stem → Markdown rows.

    OMP_NUM_THREADS=1 python benchmarks/bench_sharing.py [--clips 8]

Networks pad every clip with zeros in time, so each temporal convolution spoils one more position at either end of a
clip: only what lies between is the same in neighbouring clips. Here the middle is computed once for a run of clips and
the ends for each clip, which gives the same features (to rounding). I3D's row is a limit: what would be saved if
sharing itself cost nothing. CPU seconds of one thread, random weights, the better of two.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad import plugins

LENGTH = 16


@dataclass
class Parts:
    """Maps of a run of clips after some layers. `spoilt` positions at either end of each clip are its own.

    long_1CTHW: the positions from `spoilt` on that all clips see alike; left, right: (clips, C, spoilt, H, W).
    """

    long_1CTHW: Tensor
    left: Tensor
    right: Tensor
    starts: list[int]

    @property
    def spoilt(self) -> int:
        return int(self.left.shape[2])

    def each(self, layer: Callable[[Tensor], Tensor]) -> "Parts":
        """A layer that sees one position at a time."""
        ends = [layer(x) if x.shape[2] else x for x in (self.left, self.right)]
        long = layer(self.long_1CTHW)
        return Parts(
            long, *(x if x.shape[2] else long[:, :, :0].expand(len(x), -1, -1, -1, -1) for x in ends), self.starts
        )

    def between(self, first: int, last: int) -> Tensor:
        """Shared positions [first, last), counted from each clip's start."""
        k = self.spoilt
        return torch.cat([self.long_1CTHW[:, :, s + first - k : s + last - k] for s in self.starts])

    def temporal(self, conv: nn.Conv3d) -> "Parts":
        """A convolution over three positions with zeros beyond the clip."""
        k, nothing = self.spoilt, torch.zeros_like(self.between(self.spoilt, self.spoilt + 1))
        valid = lambda x: F.conv3d(x, conv.weight)  # noqa: E731
        left = torch.cat([nothing, self.left, self.between(k, k + 2)], dim=2)
        right = torch.cat([self.between(LENGTH - k - 2, LENGTH - k), self.right, nothing], dim=2)
        return Parts(valid(self.long_1CTHW), valid(left), valid(right), self.starts)

    def clips(self) -> Tensor:
        """The maps of whole clips."""
        return torch.cat([self.left, self.between(self.spoilt, LENGTH - self.spoilt), self.right], dim=2)


def through(parts: Parts, layers: nn.Module) -> Parts:
    """Convolutions in space or in time, norms, activations; in order."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] == 3:
            parts = parts.temporal(layer)
        elif isinstance(layer, nn.Conv3d | nn.BatchNorm3d | nn.ReLU):
            parts = parts.each(layer)
    return parts


def shared(net: nn.Module, x_1CTHW: Tensor, starts: list[int]) -> Tensor:
    """Features of the clips that begin at `starts` of a run of frames."""
    empty = x_1CTHW[:, :, :0].expand(len(starts), -1, -1, -1, -1)
    parts = through(Parts(x_1CTHW, empty, empty, starts), net.stem)
    for block in net.layer1:
        inner = through(through(parts, block.conv1), block.conv2)
        skip = Parts(parts.long_1CTHW[:, :, 2:-2], parts.left, parts.right, starts)
        skip.left = torch.cat([parts.left, parts.between(parts.spoilt, parts.spoilt + 2)], dim=2)
        skip.right = torch.cat([parts.between(LENGTH - parts.spoilt - 2, LENGTH - parts.spoilt), parts.right], dim=2)
        sums = [
            torch.relu(a + b)
            for a, b in ((inner.long_1CTHW, skip.long_1CTHW), (inner.left, skip.left), (inner.right, skip.right))
        ]
        parts = Parts(*sums, starts)
    rows = []
    for clip in parts.clips().split(1):
        for stage in (net.layer2, net.layer3, net.layer4, net.avgpool):
            clip = stage(clip)
        rows.append(clip.flatten(1))
    return torch.cat(rows)


def spent(work: Callable[[], object]) -> float:
    times = []
    for _ in range(2):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def r2plus1d(stride: int, count: int) -> str:
    torch.manual_seed(0)
    backbone = plugins.load("backbones", "r2plus1d_18")(**plugins.document("backbones", "r2plus1d_18")["settings"])
    net = backbone.eval().net
    starts = [stride * k for k in range(count)]
    x = torch.randn(1, 3, starts[-1] + LENGTH, 112, 112)
    alone = lambda: torch.cat([net(x[:, :, s : s + LENGTH]) for s in starts])  # noqa: E731
    apart = float((shared(net, x, starts) - alone()).abs().max() / (alone().max() - alone().min()))
    one, many = spent(alone) / count, spent(lambda: shared(net, x, starts)) / count
    return f"| R(2+1)D-18, 16/{stride} | {one:.3f} | {many:.3f} | {one / many:.2f} | {apart:.0e} |"


def i3d() -> str:
    torch.manual_seed(0)
    settings = plugins.document("backbones", "i3d")["settings"] | {"streams": "rgb"}
    net = plugins.load("backbones", "i3d")(**settings).eval().rgb
    x = torch.randn(1, 3, LENGTH, 224, 224)
    whole = spent(lambda: net.features(x))
    first = spent(lambda: net.Conv3d_1a_7x7(x))
    y = net.Conv3d_2b_1x1(net.MaxPool3d_2a_3x3(net.Conv3d_1a_7x7(x)))
    second = spent(lambda: net.Conv3d_2c_3x3(y))
    left = whole - first * 3 / 8 - second * 1 / 8  # of 8 positions, 3 and then 1 would come from the clip before
    return f"| I3D, 16/4 (limit; stem {first:.3f} + {second:.3f}) | {whole:.3f} | {left:.3f} | {whole / left:.2f} | |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    a = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| network, clip/stride | CPU s per clip alone | shared | times as fast | largest difference, share of range |"
    )
    print("|---|---:|---:|---:|---:|")
    with torch.inference_mode():
        for stride in (1, 4, 8):
            print(r2plus1d(stride, a.clips), flush=True)
        print(i3d())


if __name__ == "__main__":
    main()
