"""AFSD on frames: I3D and AFSD's network, trained end to end.

Lin et al.: Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021. Frames take the
place of features, one per snippet: a row of height · width · 3 values from 0 to 255, or · 2 for optical flow.
"""

# B videos, T frames, C channels, H rows, W columns

import logging
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from tad.core.errors import TadError
from tad.detectors._afsd.detector import SaliencyDetector
from tad.detectors._afsd.modules import TapEmbedding
from tad.detectors._afsd.network import Masks
from tad.detectors._afsd.points import FrameGrid
from tad.detectors.afsd_frames_settings import Settings
from tad.layers.i3d.inception import Inception
from tad.layers.i3d.top_heavy import TopHeavy, flat_units
from tad.layers.masked import Mask
from tad.layers.types import MAIN

log = logging.getLogger(__name__)

TAPS = {"Mixed_4f": (832, 4, 16), "Mixed_5c": (1024, 8, 32)}  # channels, frames per position, pixels per cell
MODALITIES = {3: "RGB", 2: "flow"}
TRUNKS: dict[str, type[Inception]] = {"full": Inception, "top_heavy": TopHeavy}


class Detector(SaliencyDetector):
    """AFSD on frames and, with a gate, the published GAF. For the settings see afsd_frames_settings.py."""

    settings: Settings
    reads_frames = True

    def __init__(self, settings: Settings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        height, width = settings.frame_size
        channels = feature_dim // (height * width)
        if feature_dim != height * width * channels or channels not in MODALITIES:
            raise TadError(
                f"features: {feature_dim} values a row: frames of {height} x {width} have {height * width * 3}, their"
                f" flow {height * width * 2}; set settings.height and width to the size of the feature set's frames"
            )
        self.channels = channels
        self.taps = list(settings.taps)
        super().__init__(settings, feature_dim=feature_dim, num_classes=num_classes, max_length=max_length)
        self.trunk = TRUNKS[settings.i3d](channels=channels, num_classes=1)
        del self.trunk.logits
        if "he" in self.repaired:
            for module in self.trunk.modules():
                if isinstance(module, nn.Conv3d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def grid_of(self, length: int) -> FrameGrid:
        """Return the grid of a window; snippets are frames, and a position of level 0 spans several of them."""
        stretch = TAPS[self.taps[0]][1]
        last = stretch * self.settings.last_stride
        if length % last:
            raise TadError(
                f"train.max_length: {length}: must be a multiple of {last}, the frames of a position on the last level"
            )
        return FrameGrid(length, 1, stretch, self.settings.regression_ranges, aligned=True)

    def embedding(self, inputs: int, channels: int) -> TapEmbedding:
        """Create the embedding of I3D's tapped maps, and their gates."""
        facts = [TAPS[name] for name in self.taps]
        cells = [-(-self.settings.crop // pixels) for _, _, pixels in facts]
        for (wide, frames, _), count in zip(facts, cells, strict=True):
            length, normalised = self.max_length // frames, "normalised" in self.repaired
            self.add_gate(wide, length=length, cells=count, masked=self.masked, normalised=normalised)
        return TapEmbedding([wide for wide, _, _ in facts], channels, cells=cells, masked=self.masked)

    def view(self, feats_BTC: Tensor) -> Tensor | None:
        """Draw the random crop and flip of each window while training."""
        return self.uniform(feats_BTC, 3) if self.training else None

    def window(self, feats_BTC: Tensor, lengths_B: Tensor, view_B3: Tensor | None = None) -> Tensor:
        """Return the frames (B, T, H, W, C) of whole windows in [-1, 1], cropped by `view_B3` or else at the centre.

        Padding is 0. Published: -1 if `view_B3` is given, that is, while training.
        """
        x_BTC = super().window(feats_BTC, lengths_B)
        if view_B3 is not None and "padded" not in self.repaired:
            return self._cropped(self._images(x_BTC), view_B3)
        real_BT = torch.arange(self.max_length, device=x_BTC.device) < lengths_B.to(x_BTC.device)[:, None]
        return self.prepared(x_BTC, real_BT, view_B3)

    def prepared(self, x_BTC: Tensor, real_BT: Tensor, view_B3: Tensor | None = None) -> Tensor:
        """Return the frames (B, T, H, W, C) of whole windows in [-1, 1], cropped; padding is 0."""
        return self._cropped(self._images(x_BTC), view_B3) * real_BT[:, :, None, None, None]

    def _images(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.reshape(*x_BTC.shape[:2], *self.settings.frame_size, self.channels) / 127.5 - 1

    def _cropped(self, x_BTHWC: Tensor, view_B3: Tensor | None) -> Tensor:
        rest = [size - self.settings.crop for size in self.settings.frame_size]
        if view_B3 is None:
            top, left = (round(margin / 2) for margin in rest)
            return x_BTHWC[:, :, top : top + self.settings.crop, left : left + self.settings.crop]
        rows = []
        for x_THWC, chance in zip(x_BTHWC, view_B3.tolist(), strict=True):
            top, left = (int(share * (margin + 1)) for share, margin in zip(chance, rest, strict=False))
            cut_THWC = x_THWC[:, top : top + self.settings.crop, left : left + self.settings.crop]
            rows.append(self._mirrored(cut_THWC) if chance[2] < self.settings.flip else cut_THWC)
        return torch.stack(rows)

    def _mirrored(self, x_THWC: Tensor) -> Tensor:
        """Flip frames horizontally; the horizontal component of flow is negated (published: it is not)."""
        x_THWC = x_THWC.flip(2)
        if self.channels == 2 and "turned" in self.repaired:
            return x_THWC * x_THWC.new_tensor([-1.0, 1.0])
        return x_THWC

    def maps_of(self, x_BTC: Tensor) -> list[Tensor]:
        """Compute the tapped feature maps of I3D."""
        return self.trunk.taps(x_BTC.permute(0, 4, 1, 2, 3), self.taps)

    def map_masks(self, masks: Masks) -> list[Mask]:
        """Return the mask of each tapped map."""
        return masks.inner[: len(self.taps)]

    def _norms(self) -> list[nn.BatchNorm3d]:
        return [module for module in self.trunk.modules() if isinstance(module, nn.BatchNorm3d)]

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; I3D's batch norms stay in evaluation mode."""
        super().train(mode)
        for norm in self._norms():
            norm.eval()
        return self

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """Return a phase's parameter groups; batch norms are frozen, I3D's parameters have a `rate` of their own."""
        trunk = {id(parameter) for parameter in self.trunk.parameters()}
        frozen = {id(parameter) for norm in self._norms() for parameter in norm.parameters()}
        for norm in self._norms():
            norm.requires_grad_(False)
        split: list[dict[str, Any]] = []
        for group in super().parameter_groups(weight_decay, phase):
            learning = [p for p in group["params"] if id(p) not in frozen]
            split.append({**group, "params": [p for p in learning if id(p) not in trunk]})
            if theirs := [p for p in learning if id(p) in trunk]:
                split.append({**group, "params": theirs, "rate": self.settings.i3d_rate})
        return split

    @torch.no_grad()
    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Load pre-trained I3D weights, under the names of `Inception`; the classifier is not needed.

        Published: a unit of the top-heavy network whose kernel has no temporal extent keeps its random initialisation,
        norm included. Corrected (`summed`): it gets the kernel's sum over time, which is equivalent on static frames,
        and the norm.

        Raises:
            TadError: a weight is missing or has another shape.
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
                raise TadError(f"weights of I3D: '{name}' is missing or not {shape}; use weights for {stream}")
            value.copy_(given[name])
        if flat:
            how = "their kernels' sums over time" if "summed" in self.repaired else "random weights (settings.i3d)"
            log.info("%d units of I3D without temporal extent start from %s: %s", len(flat), how, ", ".join(flat))
