"""RegNet-Y for single frames, with gate-shift modules that exchange channels between neighbouring frames.

Radosavovic et al.: Designing Network Design Spaces, CVPR 2020; Sudhakaran, Escalera, Lanz: Gate-Shift Networks for
Video Action Recognition, CVPR 2020. The parameters have the names that the package timm gives them, so that its files
of weights (`regnety_002`, `regnety_008`) can be loaded.
"""

# B videos, T frames, N frames of all videos, C channels, H rows, W columns

from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.core.errors import TadError

Name = Literal["regnety_002", "regnety_008"]
STEM = 32
SQUEEZE = 0.25  # hidden channels of the channel attention, as a share of a block's input channels
SHIFTED = 4  # one of this many channels takes part in the shift


class Plan(NamedTuple):
    """Channels and blocks of the four stages, and the channels of a convolution's group."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    group: int


PLANS: Mapping[str, Plan] = {
    "regnety_002": Plan((24, 56, 152, 368), (1, 1, 4, 7), 8),  # 200 million operations at 224 pixels
    "regnety_008": Plan((64, 128, 320, 768), (1, 3, 8, 2), 16),
}


class Unit(nn.Module):
    """Convolution without bias, batch norm and, with `act`, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = act

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.bn(self.conv(x_NCHW))
        return F.relu(x_NCHW) if self.act else x_NCHW


class Attention(nn.Module):
    """Squeeze and excitation: channels are weighted by a function of their means."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        mean_NC11 = x_NCHW.mean((2, 3), keepdim=True)
        weight_NC11: Tensor = self.fc2(F.relu(self.fc1(mean_NC11))).sigmoid()
        return x_NCHW * weight_NC11


class GateShift(nn.Module):
    """Shift gated channels by a frame, half of them forwards and half backwards; with zero gates the identity.

    Published: with a batch norm and ReLU before the gate; here norms have fixed statistics, and there is none.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = max(channels // SHIFTED // 2, 1) * 2
        self.gate = nn.Conv3d(self.channels, 2, 3, padding=1, groups=2)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)  # type: ignore[arg-type]

    def forward(self, x_NCHW: Tensor, frames: int, real_N111: Tensor | None = None) -> Tensor:
        """(N, C, H, W) of videos of `frames` frames each → the same shape; padding is not shifted into data."""
        part_NCHW, rest_NCHW = x_NCHW[:, : self.channels], x_NCHW[:, self.channels :]
        if real_N111 is not None:
            part_NCHW = part_NCHW * real_N111
        part_BCTHW = part_NCHW.reshape(-1, frames, *part_NCHW.shape[1:]).transpose(1, 2)
        gate_B2THW = torch.tanh(self.gate(F.relu(part_BCTHW)))
        gated_BCTHW = part_BCTHW * gate_B2THW.repeat_interleave(self.channels // 2, dim=1)
        forth, back = gated_BCTHW.chunk(2, dim=1)
        forth = F.pad(forth[:, :, :-1], (0, 0, 0, 0, 1, 0))
        back = F.pad(back[:, :, 1:], (0, 0, 0, 0, 0, 1))
        mixed_BCTHW = part_BCTHW - gated_BCTHW + torch.cat([forth, back], dim=1)
        return torch.cat([mixed_BCTHW.transpose(1, 2).flatten(0, 1), rest_NCHW], dim=1)


class Block(nn.Module):
    """A residual block; with `shift`, a gate-shift module precedes its first convolution."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, group: int, shift: bool) -> None:
        super().__init__()
        self.shift = GateShift(inputs) if shift else None
        self.conv1 = Unit(inputs, outputs, 1)
        self.conv2 = Unit(outputs, outputs, 3, stride=stride, groups=outputs // group)
        self.se = Attention(outputs, round(inputs * SQUEEZE))
        self.conv3 = Unit(outputs, outputs, 1, act=False)
        nn.init.zeros_(self.conv3.bn.weight)  # a block starts as the identity
        changes = stride > 1 or inputs != outputs
        self.downsample = Unit(inputs, outputs, 1, stride=stride, act=False) if changes else None

    def forward(self, x_NCHW: Tensor, frames: int, real_N111: Tensor | None) -> Tensor:
        y_NCHW = x_NCHW if self.shift is None else self.shift(x_NCHW, frames, real_N111)
        y_NCHW = self.conv3(self.se(self.conv2(self.conv1(y_NCHW))))
        return F.relu(y_NCHW + (x_NCHW if self.downsample is None else self.downsample(x_NCHW)))


class RegNetY(nn.Module):
    """Frames (B, T, 3, H, W), normalised, → vectors (B, T, `dim`). Batch norms keep their statistics in training."""

    def __init__(self, name: Name, *, shift: bool) -> None:
        super().__init__()
        plan = PLANS[name]
        self.dim, inputs = plan.widths[-1], STEM
        self.stem = Unit(3, STEM, 3, stride=2)
        for number, (width, depth) in enumerate(zip(plan.widths, plan.depths, strict=True), 1):
            stage = nn.Module()
            for k in range(depth):
                block = Block(inputs, width, stride=1 if k else 2, group=plan.group, shift=shift)
                stage.add_module(f"b{k + 1}", block)
                inputs = width
            self.add_module(f"s{number}", stage)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x_BTCHW: Tensor, real_BT: Tensor | None = None) -> Tensor:
        """Encode frames; those outside `real_BT`, if it is given, do not influence the others."""
        frames = x_BTCHW.shape[1]
        real_N111 = None if real_BT is None else real_BT.flatten()[:, None, None, None].to(x_BTCHW.dtype)
        x_NCHW = self.stem(x_BTCHW.flatten(0, 1))
        for block in self.modules():
            if isinstance(block, Block):
                x_NCHW = block(x_NCHW, frames, real_N111)
        vectors_NC: Tensor = x_NCHW.mean((2, 3))
        return vectors_NC.reshape(-1, frames, self.dim)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; batch norms stay in evaluation mode, so that videos do not influence one another."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights under timm's names; gate-shift modules keep theirs, and a classifier is not needed.

        Raises:
            TadError: a weight is missing or has another shape.
        """
        for name, value in self.state_dict().items():
            if ".shift." in name or name.endswith("num_batches_tracked"):
                continue
            if name not in weights or weights[name].shape != value.shape:
                raise TadError(
                    f"weights of RegNet-Y: '{name}' is missing or not {tuple(value.shape)}; use timm's file of the"
                    " model that settings.encoder names"
                )
            value.copy_(weights[name])
