"""I3D (inflated Inception-V1): 1024-dimensional features per stream, from RGB clips, their optical flow, or both.

"Quo Vadis, Action Recognition?" (CVPR 2017), with TensorFlow's padding, which the published weights require.
Parameter names are those of the PyTorch conversion `rgb_imagenet.pt` / `flow_imagenet.pt`.
Shapes: B clips, T frames, C channels, H rows, W columns, K classes.
"""

import logging
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tad.backbones._contract import BackboneBase
from tad.backbones._flow import NOTES, RAFT_STEMS, FlowSteps, method
from tad.backbones._frames import center_crop, normalise, resize_lanczos, resize_uint8, short_side
from tad.backbones.i3d_settings import Settings
from tad.layers.i3d.inception import Inception

log = logging.getLogger(__name__)
BRANCHES = {
    "branch_0": "b0", "branch_1.0": "b1a", "branch_1.1": "b1b", "branch_2.0": "b2a", "branch_2.1": "b2b",
    "branch_3.1": "b3b",
}  # fmt: skip


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict from the other published naming (lower case, `branch_1.0`, `batch3d`) to this module's."""
    renamed = {}
    for key, tensor in state.items():
        name = re.sub(r"\bconv3d_0c_1x1\b", "logits", key)
        name = re.sub(r"\bconv3d_(\da|\db|\dc)_", r"Conv3d_\1_", name)
        name = re.sub(r"\bmixed_(\d[a-f])\b", r"Mixed_\1", name)
        name = re.sub(r"\b(branch_\d(?:\.\d)?)(?=\.(?:conv3d|batch3d|bn)\.)", lambda match: BRANCHES[match[1]], name)
        renamed[name.replace(".batch3d.", ".bn.")] = tensor
    return renamed


class Backbone(BackboneBase):
    """I3D: clips (B, T, H, W, 3) uint8 RGB → (B, dim) float32: 1024 values for RGB, for flow, or for each in turn.

    Each stream uses `stream_length` steps: RGB the first frames of the clip, flow the first flow fields between
    consecutive frames. A clip needs `stream_length` + 1 frames for that many fields; a shorter one repeats its last.

    Flow is computed on whole resized frames, before cropping or (view `resize`) squeezing, as in the published code.
    `stream` computes it once per pair of a video's consecutive frames, and returns it together with the frames, as two
    more channels (B, T, H, W, 5), or alone (2 channels) if RGB is not used. Clips of plain frames are accepted too;
    their flow is then computed per clip.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.streams, self.view, self.crop = settings.streams, settings.view, settings.crop
        self.short, self.columns = settings.short, settings.columns
        self.stream_length, self.flow_bound = settings.stream_length, settings.flow_bound
        if self.streams != "flow":
            self.rgb = Inception(channels=3, num_classes=settings.classes)
        if self.streams != "rgb":
            self.flow = Inception(channels=2, num_classes=settings.classes)
            self.motion = method(settings.flow_method)
            if settings.flow_method != "tvl1":
                log.warning("i3d.flow_method: %s %s", settings.flow_method, NOTES[settings.flow_method])
        self.dim = 2048 if self.streams == "both" else 1024

    def networks(self) -> list[nn.Module]:
        """Return one network per stream."""
        names = {"rgb": ("rgb",), "flow": ("flow",), "both": ("rgb", "flow")}[self.streams]
        return [self.get_submodule(name) for name in names]

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a file of one stream in either naming, or of a RAFT file, to this module's names.

        Keys that start with `rgb.`, `flow.` or `motion.` are this module's own.
        """
        if all(name.startswith(RAFT_STEMS) for name in state):
            return {f"motion.network.{name}": tensor for name, tensor in state.items()}
        names = published_names(state)
        if all(name.startswith(("rgb.", "flow.", "motion.")) for name in names):
            return names
        stem = names.get("Conv3d_1a_7x7.conv3d.weight")
        stream = "flow" if stem is not None and stem.shape[1] == 2 else "rgb"
        return {f"{stream}.{name}": tensor for name, tensor in names.items()}

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Resize whole uint8 frames to `short` rows and `columns`, or if that is 0, by the shorter side."""
        height, width = frames_NHWC.shape[1:3]
        fixed = (self.short, self.columns)
        return resize_uint8(frames_NHWC, fixed if self.columns else short_side(height, width, self.short))

    def squeeze(self, steps_NHWC: Tensor) -> Tensor:
        """Resize steps to the square of the crop for the view `resize`; otherwise return them unchanged."""
        return resize_lanczos(steps_NHWC, (self.crop, self.crop)) if self.view == "resize" else steps_NHWC

    def _is_squeezed(self, frames: Tensor) -> bool:
        return self.view == "resize" and tuple(frames.shape[-3:-1]) == (self.crop, self.crop)

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Return a function from a video's uint8 frames (N, H, W, 3), in order and in chunks of any size, to its steps.

        Clips are cut from the steps (N, h, w, C); C is 3 (RGB), 2 (flow from the previous frame) or 5 (both).
        """
        if self.streams == "rgb":
            return lambda frames: frames if self._is_squeezed(frames) else self.squeeze(self.shrink(frames))
        flow = FlowSteps(self.motion, bound=self.flow_bound)

        def steps(frames_NHWC: Tensor) -> Tensor:
            small = self.shrink(frames_NHWC)
            levels = flow(small)
            return self.squeeze(levels if self.streams == "flow" else torch.cat([small, levels], dim=-1))

        return steps

    def _views(self, x_BCTHW: Tensor) -> list[Tensor]:
        """Return the crops over which the feature is averaged.

        Flipped crops of flow keep the sign of their horizontal motion, as in the published ten-crop.
        """
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
        """Convert clips of frames to steps, each clip as a separate video; clips of steps are returned unchanged."""
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
