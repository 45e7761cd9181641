"""Features of frames as they arrive, with a ring buffer of one clip: constant work and memory per frame."""

# T steps of a clip, H rows, W columns, C channels

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tad.backbones._contract import BackboneBase
from tad.core.grid import Grid
from tad.settings.stages import ExtractSpec
from tad.video.clips import ClipBuffer


class LiveFeatures:
    """Encoder of one stream: sampled frames in order → the rows that `tad extract` would store, one per clip.

    Args:
        backbone: the encoder, in evaluation mode.
        spec: settings of the feature set.
        device: device of the encoder.
    """

    def __init__(self, backbone: BackboneBase, spec: ExtractSpec, device: torch.device) -> None:
        clip = spec.clip
        self._backbone, self._device = backbone, device
        self._steps: Callable[[Tensor], Tensor] = backbone.live()
        self._buffer: ClipBuffer[Tensor] = ClipBuffer(length=clip.length, stride=clip.stride, tail=clip.tail)
        self._dtype = np.float16 if spec.dtype == "float16" else np.float32
        self._length, self._stride = backbone.stream_length or clip.length, clip.stride

    @property
    def clips(self) -> int:
        """Number of clips so far."""
        return self._buffer.clips

    def grid(self, rate: float, offset: float) -> Grid:
        """Return the time grid of the rows, for frames at `rate` a second of which the first is shown at `offset`."""
        return Grid.of_clips(
            clip_length=self._length, stride=self._stride, rate=rate, length=0, duration=0.0, offset=offset
        )

    def push(self, image: np.ndarray) -> list[np.ndarray]:
        """Take the next frame (H, W, 3) uint8; return the rows (C,) float32 of the clips that it completes."""
        with torch.inference_mode():
            steps = self._steps(torch.from_numpy(np.ascontiguousarray(image))[None].to(self._device))
            return self._rows(steps)

    def finish(self) -> list[np.ndarray]:
        """Return the rows that the encoder held back, and that of a stream shorter than a clip."""
        with torch.inference_mode():
            rest = self._backbone.finish(self._steps)
            rows = [] if rest is None else self._rows(rest)
            if not self._buffer.clips and (clip := self._buffer.finish()) is not None:
                rows.append(self._encoded(clip))
            return rows

    def _rows(self, steps: Tensor) -> list[np.ndarray]:
        clips = (self._buffer.push(step) for step in steps.clone())  # the encoder may reuse the memory of its steps
        return [self._encoded(clip) for clip in clips if clip is not None]

    def _encoded(self, clip: list[Tensor]) -> np.ndarray:
        row_C = self._backbone(torch.stack(clip)[None])[0].float().cpu().numpy()
        stored: np.ndarray = row_C.astype(self._dtype).astype(np.float32)  # detectors were trained on stored rows
        return stored
