"""I3D (Inception-V1 inflated to 3-D): RGB clips, optical flow of them, or both → 1024 numbers per stream.

"Quo Vadis, Action Recognition?" (CVPR 2017), with TensorFlow's padding, so that the published weights act as trained.
Parameter names are those of the PyTorch conversion `rgb_imagenet.pt` / `flow_imagenet.pt`.
Shapes: B clips, T frames, C channels, H rows, W columns, K classes.
"""

import logging
import re
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad.backbones._frames import center_crop, normalise, resize_lanczos, resize_uint8, short_side
from tad.errors import TadError
from tad.flow import NOTES, RAFT_STEMS, FlowSteps, method

log = logging.getLogger(__name__)
CELLS = 7  # on a side, that the published pooling averages
STREAMS = ("rgb", "flow", "both")
VIEWS = ("center_crop", "resize", "ten_crop")
# block: input channels, then the widths of b0, b1a, b1b, b2a, b2b, b3b
MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}
BRANCHES = {
    "branch_0": "b0", "branch_1.0": "b1a", "branch_1.1": "b1b", "branch_2.0": "b2a", "branch_2.1": "b2b",
    "branch_3.1": "b3b",
}  # fmt: skip


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(front, back) zeros of one dimension as TensorFlow's SAME: by the actual size, an odd one goes to the end."""
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


def _pad(x_BCTHW: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    pads = [same_padding(n, k, s) for n, k, s in zip(x_BCTHW.shape[2:], kernel, stride, strict=True)]
    flat = [side for pad in reversed(pads) for side in pad]
    return F.pad(x_BCTHW, flat) if any(flat) else x_BCTHW


class Unit(nn.Module):
    """Convolution with SAME padding, batch norm, ReLU; the classifier has a bias instead of the last two."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, *, classifier: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(c_in, c_out, self.kernel, self.stride, bias=classifier)
        # a momentum of 0.01 is TensorFlow's decay of 0.99 turned round; eps as in the published graph
        self.bn = None if classifier else nn.BatchNorm3d(c_out, eps=1e-3, momentum=0.01)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.conv3d(_pad(x_BCTHW, self.kernel, self.stride))
        return out if self.bn is None else torch.relu(self.bn(out))


class MaxPool(nn.Module):
    """Max pooling with SAME padding; zeros do no harm, since what is pooled is never negative."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return F.max_pool3d(_pad(x_BCTHW, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Inception block: four branches, concatenated."""

    def __init__(self, c_in: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int) -> None:
        super().__init__()
        self.b0 = Unit(c_in, b0)
        self.b1a, self.b1b = Unit(c_in, b1a), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(c_in, b2a), Unit(b2a, b2b, 3)
        self.b3a, self.b3b = MaxPool((3, 3, 3), (1, 1, 1)), Unit(c_in, b3b)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class Inception(nn.Module):
    """One stream. Input (B, C, T, H, W) in [-1, 1], T > 8; H and W 224 as published (7 x 7 cells remain), or any."""

    def __init__(self, *, channels: int, num_classes: int) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(channels, 64, 7, 2)
        self.MaxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        self.MaxPool3d_3a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Mixed_3b, self.Mixed_3c = Mixed(*MIXED["3b"]), Mixed(*MIXED["3c"])
        self.MaxPool3d_4a_3x3 = MaxPool((3, 3, 3), (2, 2, 2))
        self.Mixed_4b, self.Mixed_4c, self.Mixed_4d = Mixed(*MIXED["4b"]), Mixed(*MIXED["4c"]), Mixed(*MIXED["4d"])
        self.Mixed_4e, self.Mixed_4f = Mixed(*MIXED["4e"]), Mixed(*MIXED["4f"])
        self.MaxPool3d_5a_2x2 = MaxPool((2, 2, 2), (2, 2, 2))
        self.Mixed_5b, self.Mixed_5c = Mixed(*MIXED["5b"]), Mixed(*MIXED["5c"])
        self.logits = Unit(1024, num_classes, classifier=True)
        self.order = [name for name, _ in self.named_children() if name != "logits"]

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """(B, 1024, T') average-pooled features: 1 row for 9 to 16 frames, 2 for 17 to 24, and so on."""
        for name in self.order:
            x_BCTHW = getattr(self, name)(x_BCTHW)
        height, width = (min(CELLS, size) for size in x_BCTHW.shape[3:])
        return F.avg_pool3d(x_BCTHW, (2, height, width), stride=1).mean(dim=(3, 4))

    def classify(self, feats_BCT: Tensor) -> Tensor:
        """(B, K, T') class scores of features, before the softmax."""
        scores: Tensor = self.logits(feats_BCT[..., None, None])
        return scores[..., 0, 0]


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict in the other published dialect (lower case, `branch_1.0`, `batch3d`) → the names used here."""
    renamed = {}
    for key, tensor in state.items():
        name = re.sub(r"\bconv3d_0c_1x1\b", "logits", key)
        name = re.sub(r"\bconv3d_(\da|\db|\dc)_", r"Conv3d_\1_", name)
        name = re.sub(r"\bmixed_(\d[a-f])\b", r"Mixed_\1", name)
        name = re.sub(r"\b(branch_\d(?:\.\d)?)(?=\.(?:conv3d|batch3d|bn)\.)", lambda found: BRANCHES[found[1]], name)
        renamed[name.replace(".batch3d.", ".bn.")] = tensor
    return renamed


class Backbone(nn.Module):
    """Clips (B, T, H, W, 3) uint8 RGB → (B, dim) float32: 1024 numbers of RGB, of flow, or of RGB and then flow.

    Each stream sees `stream_length` steps: RGB the first frames of the clip, flow the first fields between neighbouring
    frames. A clip of `stream_length` + 1 frames has as many fields, a shorter one repeats its last field.

    Flow is computed on whole resized frames, before they are cropped or (view `resize`) squeezed, as in the published
    code. `stream` does it once per pair of neighbours of a video and hands it on with the frames, in two more channels
    (B, T, H, W, 5), or alone (2) where RGB is not looked at; clips of plain frames are accepted too, and their flow is
    then computed for them alone.
    """

    def __init__(
        self,
        *,
        streams: str,
        view: str,
        short: int,
        columns: int,
        crop: int,
        classes: int,
        stream_length: int,
        flow_method: str,
        flow_bound: float,
    ) -> None:
        super().__init__()
        if streams not in STREAMS:
            raise TadError(f"i3d.streams: {streams!r}: one of {', '.join(STREAMS)}")
        if view not in VIEWS:
            raise TadError(f"i3d.view: {view!r}: one of {', '.join(VIEWS)}")
        self.streams, self.view, self.crop = streams, view, crop
        self.short, self.columns = short, columns
        self.stream_length, self.flow_bound = stream_length, flow_bound
        if streams != "flow":
            self.rgb = Inception(channels=3, num_classes=classes)
        if streams != "rgb":
            self.flow = Inception(channels=2, num_classes=classes)
            self.motion = method(flow_method)
            if flow_method != "tvl1":
                log.warning("i3d.flow_method: %s %s", flow_method, NOTES[flow_method])
        self.dim = 2048 if streams == "both" else 1024

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names of this module for a file of one stream in either dialect; for both, `rgb.` and `flow.` first; and for
        a file of RAFT."""
        if all(name.startswith(RAFT_STEMS) for name in state):
            return {f"motion.network.{name}": tensor for name, tensor in state.items()}
        names = published_names(state)
        if all(name.startswith(("rgb.", "flow.", "motion.")) for name in names):
            return names
        stem = names.get("Conv3d_1a_7x7.conv3d.weight")
        stream = "flow" if stem is not None and stem.shape[1] == 2 else "rgb"
        return {f"{stream}.{name}": tensor for name, tensor in names.items()}

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Whole uint8 frames, resized to `short` rows and `columns`, or (0) to the short side, aspect kept."""
        height, width = frames_NHWC.shape[1:3]
        fixed = (self.short, self.columns)
        return resize_uint8(frames_NHWC, fixed if self.columns else short_side(height, width, self.short))

    def squeeze(self, steps_NHWC: Tensor) -> Tensor:
        """Resized frames and their flow, for the view `resize` as pictures of the crop's square; else as they are."""
        return resize_lanczos(steps_NHWC, (self.crop, self.crop)) if self.view == "resize" else steps_NHWC

    def _is_squeezed(self, frames: Tensor) -> bool:
        return self.view == "resize" and tuple(frames.shape[-3:-1]) == (self.crop, self.crop)

    def stream(self) -> Callable[[Tensor], Tensor]:
        """What turns one video's uint8 frames (N, H, W, 3), in order and in any portions, into the steps (N, h, w, C)
        that clips are cut from; C is 3 (RGB), 2 (the flow into the frame) or 5 (both)."""
        if self.streams == "rgb":
            return lambda frames: frames if self._is_squeezed(frames) else self.squeeze(self.shrink(frames))
        flow = FlowSteps(self.motion, bound=self.flow_bound)

        def steps(frames_NHWC: Tensor) -> Tensor:
            small = self.shrink(frames_NHWC)
            levels = flow(small)
            return self.squeeze(levels if self.streams == "flow" else torch.cat([small, levels], dim=-1))

        return steps

    def _views(self, x_BCTHW: Tensor) -> list[Tensor]:
        """Crops that the feature is averaged over. A mirrored crop of flow is mirrored as a picture and its x motion is
        not negated: the published ten-crop does the same."""
        if self.view != "ten_crop":
            return [center_crop(x_BCTHW, (self.crop, self.crop))]
        height, width = (size - self.crop for size in x_BCTHW.shape[-2:])
        corners = [(0, 0), (0, width), (height, 0), (height, width), (height // 2, width // 2)]
        crops = [x_BCTHW[..., y : y + self.crop, x : x + self.crop] for y, x in corners]
        return crops + [crop.flip(-1) for crop in crops]

    def _rgb_input(self, clips_BTHWC: Tensor) -> Tensor:
        return normalise(clips_BTHWC[:, : self.stream_length].permute(0, 1, 4, 2, 3), (0.5,) * 3, (0.5,) * 3)

    def _flow_input(self, clips_BTHWC: Tensor) -> Tensor:
        fields = clips_BTHWC[:, 1 : self.stream_length + 1, ..., -2:]
        missing = self.stream_length - fields.shape[1]
        if missing:
            fields = torch.cat([fields, fields[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
        return normalise(fields.permute(0, 1, 4, 2, 3), (0.5,) * 2, (0.5,) * 2)

    def _steps(self, clips_BTHWC: Tensor) -> Tensor:
        """Clips of steps as they are; clips of frames, each as a video of its own."""
        if clips_BTHWC.shape[-1] != 3:
            return clips_BTHWC
        return torch.stack([self.stream()(clip) for clip in clips_BTHWC])

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        clips = self._steps(clips_BTHWC)
        inputs = []
        if self.streams != "flow":
            inputs.append((self.rgb, self._rgb_input(clips[..., :3])))
        if self.streams != "rgb":
            inputs.append((self.flow, self._flow_input(clips)))
        rows = []
        for stream, x_BCTHW in inputs:
            views = [stream.features(view).mean(dim=2) for view in self._views(x_BCTHW)]
            rows.append(torch.stack(views).mean(dim=0))
        return torch.cat(rows, dim=1)
