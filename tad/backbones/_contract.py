"""Interface of a backbone: required methods, and optional ones with their defaults."""

# B clips, T frames, H rows, W columns, C channels, N frames of any clips, G clips of a contiguous range of frames

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from tad.core.errors import TadError
from tad.core.lanes import INLINE, Lanes
from tad.layers.adapters.trunk import Trunk


class BackboneBase(nn.Module):
    """Base of all backbones; `tad.backbones.<name>.Backbone` derives from it.

    The constructor is `Backbone(settings)`, with an instance of `Settings` in `<name>_settings`. A backbone must set
    `dim`, the width of its features, and define `forward`: clips (B, T, H, W, 3) uint8 RGB of any size → (B, dim)
    float32.

    It may define
        `shrink`: resize whole frames (N, H, W, 3) to a size that `forward` does not change, so that frames of
            overlapping clips are resized once;
        `stream`: return a function that maps a video's frames, in order and in chunks of any size, to the steps that
            clips are cut from, with `channels` values per pixel (optical flow needs the previous frame); with
            `finish`, it may hold back steps that need later frames;
        `live`: the same for frames that arrive while they are made, held back no longer than the method needs;
        `published_keys`: rename the keys of a published state dict;
        `load_model`, with `model_file`: load weights that are not a state dict;
        `networks`: return its modules with a method `features` of a normalised input, which an engine can run;
        `overlapping`, with `shares`: compute the features of overlapping clips, with shared computations done once;
        `encode`, `stem`, `frame_size` and `crop_size`, with `trainable`: required by `tad pretrain`;
        `trunk`: its transformer, for end-to-end training with adapters.

    Attributes:
        dim: width of the features.
        channels: values per pixel of the steps that `stream` computes.
        stream_length: number of steps of a clip that the network uses; 0: all.
        lanes: where `stream` may compute independent parts of a video side by side.
    """

    shares: ClassVar[bool] = False
    trainable: ClassVar[bool] = False
    model_file: ClassVar[bool] = False

    dim: int
    channels: int = 3
    stream_length: int = 0
    lanes: Lanes = INLINE
    stem: nn.Module
    frame_size: tuple[int, int]
    crop_size: tuple[int, int]

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Resize whole frames; by default return them unchanged."""
        return frames_NHWC

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Return a function that maps one video's frames, in order, to the steps that clips are cut from."""
        return self.shrink

    def live(self) -> Callable[[Tensor], Tensor]:
        """Return a function like that of `stream`, which does not wait for frames in order to compute them together."""
        return self.stream()

    def finish(self, steps: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return the steps that a function returned by `stream` still holds at the end of its video; None if none."""
        return None

    def load_model(self, path: Path) -> None:
        """Load a weight file that is not a state dict; required if `model_file`."""
        raise self._undefined("load_model", "`model_file`")

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a published state dict to this module's names; by default they are unchanged."""
        return dict(state)

    def networks(self) -> list[nn.Module]:
        """Return the modules whose method `features` an inference engine can run; by default none."""
        return []

    def overlapping(self, frames_NHWC: Tensor, *, length: int, stride: int) -> Tensor:
        """Return features (G, dim) of clips that start every `stride` consecutive frames; required if `shares`."""
        raise self._undefined("overlapping", "`shares`")

    def encode(self, clips_BTHWC: Tensor) -> Tensor:
        """Return features (B, dim) of clips of steps that already have the input size; required if `trainable`."""
        raise self._undefined("encode", "`trainable`")

    def trunk(self, clip: int) -> Trunk:
        """Return the transformer that adapters are put into, for clips of `clip` frames; not a copy.

        Raises:
            TadError: the backbone has no transformer, or its network needs clips of another length.
        """
        name = type(self).__module__.rpartition(".")[2]
        raise TadError(f"backbone {name}: adapters need a video transformer; use videomae, vjepa2 or vit_tiny")

    def _undefined(self, method: str, flag: str) -> NotImplementedError:
        """Return the error for a method that the class of a backbone must define and does not."""
        return NotImplementedError(f"{type(self).__module__}: a backbone with {flag} must define {method}")
