"""Small R(2+1)D: 16-frame clips of RGB or of optical flow → one vector; trained from scratch by `pretrain` on a small
data set, on a CPU.

Factorised 3-D convolutions (a spatial one, then a temporal one) with residual stages, after "A Closer Look at
Spatiotemporal Convolutions for Action Recognition" (CVPR 2018), at a width and resolution that two cores can train.
Shapes: B clips, T frames, H rows, W columns, C channels, N frames.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tad.backbones._frames import normalise, resize_uint8
from tad.errors import TadError
from tad.flow import FlowSteps, method

MODALITIES = ("rgb", "flow")
FLOW_METHODS = ("dis", "tvl1")
log = logging.getLogger(__name__)
SUBTRACT = ("clip_mean", "previous", "none")
POOLS = ("mean", "max", "both")


def _pair(c_in: int, c_out: int, *, space: int = 1, time: int = 1) -> nn.Sequential:
    """A spatial 3x3 and a temporal 3 convolution, each normalised; the last activation is left to the caller."""
    return nn.Sequential(
        nn.Conv3d(c_in, c_out, (1, 3, 3), stride=(1, space, space), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(c_out),
        nn.ReLU(inplace=True),
        nn.Conv3d(c_out, c_out, (3, 1, 1), stride=(time, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(c_out),
    )


class Stage(nn.Module):
    """One residual block that halves the resolution in space, and in time by `time`."""

    def __init__(self, c_in: int, c_out: int, *, time: int) -> None:
        super().__init__()
        self.pair = _pair(c_in, c_out, space=2, time=time)
        self.skip = nn.Sequential(
            nn.Conv3d(c_in, c_out, 1, stride=(time, 2, 2), bias=False),
            nn.BatchNorm3d(c_out),
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return torch.relu(self.pair(x_BCTHW) + self.skip(x_BCTHW))


class Backbone(nn.Module):
    """Clips (B, T, H, W, 3) uint8 RGB of any size → (B, dim) float32.

    With modality `flow` step t of a clip is the motion into frame t from the frame before it, also into the clip's
    first: `stream` computes it once per pair of neighbours of a video, on frames at the input size, and clips are cut
    from its steps (B, T, H, W, 2). Clips of plain frames are accepted too; each is then a video of its own, whose first
    frame did not move.

    `frame_size`, `crop_size`, `channels`, `shrink`, `stream`, `encode` and `stem` are what `pretrain` needs of a
    trainable backbone.
    """

    def __init__(
        self, *, height: int, width: int, widths: Sequence[int], time_strides: Sequence[int], subtract: str,
        pool: str, mean: Sequence[float], std: Sequence[float], modality: str, flow_method: str, flow_bound: float,
    ) -> None:
        super().__init__()
        for key, value, known in (("modality", modality, MODALITIES), ("flow_method", flow_method, FLOW_METHODS)):
            if value not in known:
                raise TadError(f"r2plus1d_small.{key}: {value!r}: one of {', '.join(known)}")
        if modality == "flow" and subtract != "none":
            log.warning("r2plus1d_small.subtract: %s takes steady motion out of flow; none keeps it", subtract)
        if not flow_bound > 0:
            raise TadError(f"r2plus1d_small.flow_bound: {flow_bound}: pixels, more than 0")
        if subtract not in SUBTRACT:
            raise TadError(f"r2plus1d_small.subtract: {subtract!r}: one of {', '.join(SUBTRACT)}")
        if pool not in POOLS:
            raise TadError(f"r2plus1d_small.pool: {pool!r}: one of {', '.join(POOLS)}")
        if len(time_strides) != len(widths) - 1:
            raise TadError(f"r2plus1d_small.time_strides: {list(time_strides)}: one fewer than widths {list(widths)}")
        self.frame_size = self.crop_size = (height, width)
        self.channels = 2 if modality == "flow" else 3
        self.motion = method(flow_method) if modality == "flow" else None
        self.flow_bound, self.subtract, self.pool = flow_bound, subtract, pool
        self.mean, self.std = tuple(mean)[: self.channels], tuple(std)[: self.channels]
        self.dim = widths[-1] * (2 if pool == "both" else 1)
        self.stem = nn.Sequential(
            nn.Conv3d(self.channels, widths[0], (1, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2), bias=False),
            nn.BatchNorm3d(widths[0]),
            nn.ReLU(inplace=True),
            nn.Conv3d(widths[0], widths[0], (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(widths[0]),
            nn.ReLU(inplace=True),
        )
        pairs = zip(widths, widths[1:], time_strides, strict=False)
        self.stages = nn.Sequential(*(Stage(a, b, time=time) for a, b, time in pairs))
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Whole uint8 frames at the input size; `forward` does nothing more to the geometry of such frames."""
        return resize_uint8(frames_NHWC, self.frame_size)

    def stream(self) -> Callable[[Tensor], Tensor]:
        """What turns one video's uint8 frames (N, H, W, 3), in order and in any portions, into the steps (N, h, w, C)
        that clips are cut from: the frames at the input size, or the flow into each of them."""
        if self.motion is None:
            return self.shrink
        flow = FlowSteps(self.motion, bound=self.flow_bound)
        return lambda frames_NHWC: flow(self.shrink(frames_NHWC))

    def encode(self, clips_BTHWC: Tensor) -> Tensor:
        """Features (B, dim) of uint8 clips of steps, or of frames that already have the input size."""
        return self.features(normalise(clips_BTHWC.permute(0, 1, 4, 2, 3), self.mean, self.std))

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim) pooled features of a normalised input."""
        x_BCTHW = x_BCTHW.contiguous(memory_format=torch.channels_last_3d)  # 1.5 to 2 times faster on a CPU
        if self.subtract == "clip_mean":  # a still background vanishes: what moves is what is seen
            x_BCTHW = x_BCTHW - x_BCTHW.mean(dim=2, keepdim=True)
        elif self.subtract == "previous":
            x_BCTHW = torch.diff(x_BCTHW, dim=2, prepend=x_BCTHW[:, :, :1])
        cells_BCTHW: Tensor = self.stages(self.stem(x_BCTHW))
        pooled = {"mean": [cells_BCTHW.mean(dim=(2, 3, 4))], "max": [cells_BCTHW.amax(dim=(2, 3, 4))]}
        return torch.cat(pooled["mean"] + pooled["max"] if self.pool == "both" else pooled[self.pool], dim=1)

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        if self.motion is not None and clips_BTHWC.shape[-1] == 3:
            return self.encode(torch.stack([self.stream()(clip) for clip in clips_BTHWC]))
        frames_NHWC = self.shrink(clips_BTHWC.flatten(0, 1))
        return self.encode(frames_NHWC.reshape(*clips_BTHWC.shape[:2], *frames_NHWC.shape[1:]))
