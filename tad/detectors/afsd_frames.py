"""AFSD on frames: I3D in front of AFSD's network, all of it trained together.

Lin et al.: Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021. What are features
elsewhere are frames here, one a snippet, each a row of height · width · 3 values from 0 to 255, or · 2 of optical flow.
"""

# B videos, T frames, C channels, H rows, W columns

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tad.errors import TadError
from tad.layers.inception import Inception
from tad.layers.masked import Mask
from tad.layers.saliency import TapEmbedding
from tad.layers.saliency_detector import SaliencyDetector
from tad.layers.saliency_network import Masks
from tad.layers.saliency_points import FrameGrid
from tad.layers.top_heavy import TopHeavy, flat_units
from tad.layers.types import MAIN

log = logging.getLogger(__name__)

TAPS = {"Mixed_4f": (832, 4, 16), "Mixed_5c": (1024, 8, 32)}  # channels, frames per position, pixels per cell
MODALITIES = {3: "RGB", 2: "flow"}
TRUNKS: dict[str, type[Inception]] = {"full": Inception, "top_heavy": TopHeavy}


class Detector(SaliencyDetector):
    """AFSD and, with a gate, GAF as published, from frames; settings are explained in afsd_frames.yaml."""

    def __init__(
        self,
        *,
        feature_dim: int,
        num_classes: int,
        max_length: int,
        face: str,
        corrections: Sequence[str],
        height: int,
        width: int,
        crop: int,
        flip: float,
        i3d: str,
        i3d_rate: float,
        taps: Sequence[str],
        embed_dim: int,
        strides: Sequence[float],
        regression_ranges: Sequence[Sequence[float]],
        piou: float,
        adaptive_piou: bool,
        smooth_l1: bool,
        loss_weight: float,
        class_weight: float,
        normaliser: str,
        head_init: str,
        consistency_weight: float,
        consistency_share: float,
        gate: str,
        gate_settings: Mapping[str, Any],
    ) -> None:
        channels = feature_dim // (height * width)
        if feature_dim != height * width * channels or channels not in (2, 3):
            raise TadError(
                f"features: {feature_dim} values a row: frames of {height} x {width} have {height * width * 3}, their"
                f" flow {height * width * 2}; make settings.height and width those of the feature set's frames"
            )
        self.channels = channels
        if not 0 < crop <= min(height, width):
            raise TadError(f"settings.crop: {crop}: must lie within {height} x {width}")
        if list(taps) not in (["Mixed_4f", "Mixed_5c"], ["Mixed_5c"]):
            raise TadError(f"settings.taps: {list(taps)}: write [Mixed_4f, Mixed_5c] or [Mixed_5c]")
        if i3d not in TRUNKS:
            raise TadError(f"settings.i3d: '{i3d}': choose {' or '.join(TRUNKS)}")
        if i3d_rate <= 0:
            raise TadError(f"settings.i3d_rate: {i3d_rate}: must be above 0")
        self.size, self.crop, self.flip, self.taps = (height, width), crop, flip, list(taps)
        self.i3d_rate = i3d_rate
        super().__init__(
            feature_dim=feature_dim,
            num_classes=num_classes,
            max_length=max_length,
            face=face,
            corrections=corrections,
            embed_dim=embed_dim,
            upsample=1,
            strides=strides,
            regression_ranges=regression_ranges,
            piou=piou,
            adaptive_piou=adaptive_piou,
            smooth_l1=smooth_l1,
            loss_weight=loss_weight,
            class_weight=class_weight,
            normaliser=normaliser,
            head_init=head_init,
            consistency_weight=consistency_weight,
            consistency_share=consistency_share,
            gate=gate,
            gate_settings=gate_settings,
        )
        self.trunk = TRUNKS[i3d](channels=channels, num_classes=1)
        del self.trunk.logits
        if "he" in self.repaired:
            for module in self.trunk.modules():
                if isinstance(module, nn.Conv3d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def grid_of(self, length: int, upsample: int, ranges: Sequence[Sequence[float]], *, aligned: bool) -> FrameGrid:
        """Snippets are frames; level 0 has one position for several."""
        stretch = TAPS[self.taps[0]][1]
        if length % (stretch * 2 ** (len(ranges) - 1)):
            raise TadError(
                f"train.max_length: {length}: must be a multiple of {stretch * 2 ** (len(ranges) - 1)}, the frames of a"
                " position on the last level"
            )
        return FrameGrid(length, upsample, stretch, ranges, aligned=True)

    def embedding(self, inputs: int, channels: int) -> TapEmbedding:
        """The taps' reducing convolutions, and their gates."""
        facts = [TAPS[name] for name in self.taps]
        cells = [-(-self.crop // pixels) for _, _, pixels in facts]
        for (wide, frames, _), count in zip(facts, cells, strict=True):
            length, normalised = self.max_length // frames, "normalised" in self.repaired
            self.add_gate(wide, length=length, cells=count, masked=self.masked, normalised=normalised)
        return TapEmbedding([wide for wide, _, _ in facts], channels, cells=cells, masked=self.masked)

    def view(self, feats_BTC: Tensor) -> Tensor | None:
        """Random crops and maybe mirrored, while training."""
        return self.uniform(feats_BTC, 3) if self.training else None

    def window(self, feats_BTC: Tensor, lengths_B: Tensor, view_B3: Tensor | None = None) -> Tensor:
        """Frames (B, T, H, W, 3) of whole windows in [-1, 1], cropped by `view_B3`, else in the middle; padding is 0.
        Published: -1 with a view, so while training."""
        x_BTC = super().window(feats_BTC, lengths_B)
        x_BTHWC = self._cropped(x_BTC.reshape(*x_BTC.shape[:2], *self.size, self.channels) / 127.5 - 1, view_B3)
        if view_B3 is not None and "padded" not in self.repaired:
            return x_BTHWC
        real_BT = torch.arange(self.max_length, device=x_BTC.device) < lengths_B.to(x_BTC.device)[:, None]
        return x_BTHWC * real_BT[:, :, None, None, None]

    def _cropped(self, x_BTHWC: Tensor, view_B3: Tensor | None) -> Tensor:
        rest = [size - self.crop for size in self.size]
        if view_B3 is None:
            top, left = (round(margin / 2) for margin in rest)
            return x_BTHWC[:, :, top : top + self.crop, left : left + self.crop]
        rows = []
        for x_THWC, chance in zip(x_BTHWC, view_B3.tolist(), strict=True):
            top, left = (int(share * (margin + 1)) for share, margin in zip(chance, rest, strict=False))
            cut_THWC = x_THWC[:, top : top + self.crop, left : left + self.crop]
            rows.append(self._mirrored(cut_THWC) if chance[2] < self.flip else cut_THWC)
        return torch.stack(rows)

    def _mirrored(self, x_THWC: Tensor) -> Tensor:
        """Pictures seen in a mirror; motion to the right is one to the left there (published: still to the right)."""
        x_THWC = x_THWC.flip(2)
        if self.channels == 2 and "turned" in self.repaired:
            return x_THWC * x_THWC.new_tensor([-1.0, 1.0])
        return x_THWC

    def maps_of(self, x_BTC: Tensor) -> list[Tensor]:
        """The taps of I3D."""
        return self.trunk.taps(x_BTC.permute(0, 4, 1, 2, 3), self.taps)

    def map_masks(self, masks: Masks) -> list[Mask]:
        """Of each tap."""
        return masks.inner[: len(self.taps)]

    def _norms(self) -> list[nn.BatchNorm3d]:
        return [module for module in self.trunk.modules() if isinstance(module, nn.BatchNorm3d)]

    def train(self, mode: bool = True) -> Self:
        """Batch norms of I3D stay as they are pre-trained."""
        super().train(mode)
        for norm in self._norms():
            norm.eval()
        return self

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """All but the batch norms' parameters, which do not learn; I3D's last, at a `rate` of their own."""
        trunk = {id(parameter) for parameter in self.trunk.parameters()}
        still = {id(parameter) for norm in self._norms() for parameter in norm.parameters()}
        for norm in self._norms():
            norm.requires_grad_(False)
        split: list[dict[str, Any]] = []
        for group in super().parameter_groups(weight_decay, phase):
            learning = [p for p in group["params"] if id(p) not in still]
            split.append({**group, "params": [p for p in learning if id(p) not in trunk]})
            if theirs := [p for p in learning if id(p) in trunk]:
                split.append({**group, "params": theirs, "rate": self.i3d_rate})
        return split

    @torch.no_grad()
    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with pre-trained I3D weights, under the names of `Inception`; its classifier is not needed.

        A unit of the top-heavy network whose kernel has lost its temporal extent keeps its random beginning, norm
        included, as the published student does everywhere; corrected (`summed`): it gets the kernel's sum over time,
        which says the same of frames that stand still, and the norm.

        Raises:
            TadError: a weight is missing or of another shape.
        """
        flat = flat_units(self.trunk, weights)
        given = dict(weights)
        for unit in flat:
            given[f"{unit}.conv3d.weight"] = weights[f"{unit}.conv3d.weight"].sum(dim=2, keepdim=True)
        left = () if "summed" in self.repaired else tuple(f"{unit}." for unit in flat)
        for name, value in self.trunk.state_dict().items():
            if name.endswith("num_batches_tracked") or name.startswith(left):
                continue
            if name not in given or given[name].shape != value.shape:
                stream = MODALITIES[self.channels]
                shape = tuple(value.shape)
                raise TadError(f"weights of I3D: '{name}' is missing or not {shape}; give those for {stream}")
            value.copy_(given[name])
        if flat:
            how = "their kernels' sums over time" if "summed" in self.repaired else "random weights (settings.i3d)"
            log.info("%d units of I3D without temporal extent begin with %s: %s", len(flat), how, ", ".join(flat))
