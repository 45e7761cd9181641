"""I3D (Inception-V1 inflated to 3-D): RGB clips, optical flow of them, or both → 1024 numbers per stream.

"Quo Vadis, Action Recognition?" (CVPR 2017), with TensorFlow's padding, so that the published weights act as trained.
Parameter names are those of the PyTorch conversion `rgb_imagenet.pt` / `flow_imagenet.pt`.
Shapes: B clips, T frames, C channels, H rows, W columns, K classes.
"""

import logging
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tad.backbones._frames import center_crop, normalise, resize_lanczos, resize_uint8, short_side
from tad.errors import TadError
from tad.flow import NOTES, RAFT_STEMS, FlowSteps, method
from tad.layers.inception import Inception

log = logging.getLogger(__name__)
STREAMS = ("rgb", "flow", "both")
VIEWS = ("center_crop", "resize", "ten_crop")
BRANCHES = {
    "branch_0": "b0", "branch_1.0": "b1a", "branch_1.1": "b1b", "branch_2.0": "b2a", "branch_2.1": "b2b",
    "branch_3.1": "b3b",
}  # fmt: skip


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
