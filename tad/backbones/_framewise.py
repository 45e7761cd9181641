"""Base of encoders that see single frames: each frame of a video is encoded once, and clips pool its frames' features.

Overlapping clips share the features of their frames, so short strides cost no more than long ones.
"""

# B clips, T frames, H rows, W columns, D values per frame, C channels of the features, N frames

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from tad.backbones._contract import BackboneBase
from tad.backbones._settings import PooledSettings, Pooling
from tad.core.errors import TadError
from tad.core.lanes import INLINE, Lanes

FRAMES = 16  # per call of the network; fixed, so that an engine compiles one shape


def pooled(values_BTD: Tensor, poolings: tuple[Pooling, ...]) -> Tensor:
    """Pool the values of each clip's frames: one part of the result (B, C) per name, in the given order.

    mean, max: over the frames. change: mean absolute difference between consecutive frames; 0 for a single frame.
    """
    parts = []
    for name in poolings:
        if name == "mean":
            parts.append(values_BTD.mean(dim=1))
        elif name == "max":
            parts.append(values_BTD.amax(dim=1))
        elif values_BTD.shape[1] > 1:
            parts.append(values_BTD.diff(dim=1).abs().mean(dim=1))
        else:
            parts.append(torch.zeros_like(values_BTD[:, 0]))
    return torch.cat(parts, dim=1)


class FrameSteps:
    """Encode a video's frames in order, several at a time; frames that do not fill a batch wait for the next chunk.

    Args:
        small: resizes uint8 frames (N, H, W, 3).
        values: encodes `together` resized frames as (N, D).
        dim: D.
        together: frames of a batch.
        lanes: compute as many batches side by side, for which as many frames wait.
    """

    def __init__(
        self,
        small: Callable[[Tensor], Tensor],
        values: Callable[[Tensor], Tensor],
        dim: int,
        *,
        together: int = FRAMES,
        lanes: Lanes = INLINE,
    ) -> None:
        self._small, self._values, self._dim, self._together, self._lanes = small, values, dim, together, lanes
        self._waiting: list[Tensor] = []

    def __call__(self, frames_NHWC: Tensor) -> Tensor:
        """Return the values (N, 1, 1, D) of the frames that fill batches."""
        # the caller may reuse the memory of its frames
        self._waiting += list(self._small(frames_NHWC).clone())
        size = self._together * self._lanes.count
        whole = len(self._waiting) // size * size
        ready, self._waiting = self._waiting[:whole], self._waiting[whole:]
        return torch.cat([torch.zeros(0, self._dim, device=frames_NHWC.device), *self._rows(ready)])[:, None, None]

    def finish(self) -> Tensor | None:
        """Return the values of the waiting frames at the end of the video; None if there are none."""
        if not self._waiting:
            return None
        count = len(self._waiting)
        frames = self._waiting + [self._waiting[-1]] * (-count % self._together)
        self._waiting = []
        return torch.cat(self._rows(frames))[:count, None, None]

    def _rows(self, frames: list[Tensor]) -> list[Tensor]:
        """Return the values of whole batches of resized frames."""
        starts = range(0, len(frames), self._together)
        return self._lanes.map(self._values, [torch.stack(frames[k : k + self._together]) for k in starts])


class FrameEncoder(BackboneBase, ABC):
    """Base of encoders of single frames: clips (B, T, H, W, 3) uint8 RGB → (B, C) float32; any T.

    Steps of a video are the values (N, 1, 1, D) of its frames. A subclass defines `shrink` and `frame_values`.

    Args:
        name: name of the backbone, for messages.
        settings: settings of the backbone.
        dim: values per frame.
    """

    def __init__(self, name: str, settings: PooledSettings, *, dim: int) -> None:
        super().__init__()
        self.name, self.pool, self.channels = name, settings.pool, dim
        self.dim = dim * len(settings.pool)

    @abstractmethod
    def frame_values(self, frames_NHWC: Tensor) -> Tensor:
        """Return the values (N, D) float32 of resized uint8 frames."""

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Return a function from a video's uint8 frames, in order and in chunks of any size, to their values."""
        return FrameSteps(self.shrink, self.frame_values, self.channels, lanes=self.lanes)

    def live(self) -> Callable[[Tensor], Tensor]:
        """Return a function like that of `stream` which encodes each frame at once; its values round differently."""
        return FrameSteps(self.shrink, self.frame_values, self.channels, together=1)

    def finish(self, steps: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return the values of the frames that still wait in the function that `stream` returned."""
        assert isinstance(steps, FrameSteps)
        return steps.finish()

    def _alone(self, clip_THWC: Tensor) -> Tensor:
        """Encode one clip of frames as a video of its own: (T, D)."""
        steps = self.stream()
        rows, rest = steps(clip_THWC), self.finish(steps)
        return (rows if rest is None else torch.cat([rows, rest]))[:, 0, 0]

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        if clips_BTHWC.dtype != torch.uint8:
            values_BTD = clips_BTHWC[:, :, 0, 0]
        elif clips_BTHWC.shape[-1] == 3:
            values_BTD = torch.stack([self._alone(clip) for clip in clips_BTHWC])
        else:
            raise TadError(f"{self.name}: clips of shape {tuple(clips_BTHWC.shape)}: needs (B, T, H, W, 3)")
        return pooled(values_BTD, self.pool)
