"""Features by video for training: read and checked once, kept where there is room."""

# T snippets, C channels

import os
import weakref

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tad.cache import FeatureReader
from tad.errors import TadError

CPU = torch.device("cpu")


def resize(feats_TC: np.ndarray, length: int) -> np.ndarray:
    """Features (T, C) linearly interpolated to (length, C), cells aligned by their borders (align_corners=False)."""
    if feats_TC.shape[0] == length:
        return feats_TC
    feats_1CT = torch.from_numpy(feats_TC.T.astype(np.float32))[None]
    return F.interpolate(feats_1CT, size=length, mode="linear", align_corners=False)[0].T.contiguous().numpy()


class Features:
    """Features by video, kept (as stored: half precision stays half) while they fit: on the GPU, then in memory.

    Where they lie changes no value.
    """

    def __init__(
        self, reader: FeatureReader, *, resize_to: int = 0, memory: int | None = None, device: torch.device = CPU
    ) -> None:
        """`memory`: bytes to use at most; by default a quarter of what is free on the GPU, half of the machine's."""
        self.device = device
        self.reader, self.resize_to = reader, resize_to
        self._kept: dict[str, Tensor] = {}
        self._spare: dict[tuple[int, ...], list[np.ndarray]] = {}  # memory of batches that nothing uses any more
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._left = {CPU: free // 2 if memory is None else memory}
        if device.type == "cuda":
            on_gpu = torch.cuda.mem_get_info(device)[0] // 4 if memory is None else memory
            self._left = {device: on_gpu, **self._left}

    @property
    def dim(self) -> int:
        """Channels."""
        return self.reader.dim

    def another(self, reader: FeatureReader, *, resize_to: int) -> "Features":
        """Those of another index, within the same memory."""
        other = Features(reader, resize_to=resize_to, memory=0, device=self.device)
        other._left = self._left
        return other

    def leave_gpu(self) -> bool:
        """Give the GPU's memory to others from now on; whether there was any to give."""
        had = any(feats_TC.device.type == "cuda" for feats_TC in self._kept.values())
        for place in [place for place in self._left if place != CPU]:
            del self._left[place]  # in place: others may share it
        self._kept = {video_id: feats_TC for video_id, feats_TC in self._kept.items() if feats_TC.device == CPU}
        return had

    def _whole(self, video_id: str) -> Tensor:
        feats_TC = self.reader.stored(video_id)
        if not np.isfinite(feats_TC).all():
            raise TadError(f"{self.reader.path}: features of '{video_id}' hold NaN or infinity; extract it again")
        return torch.from_numpy(resize(feats_TC, self.resize_to) if self.resize_to else feats_TC)

    def room(self, *shape: int) -> Tensor:
        """Memory for a batch, its values not set; used again when no tensor refers to it any more.

        What the system gives anew it clears page by page, which takes as long as reading the features.
        """
        if self.device.type != "cpu":
            return torch.empty(shape, device=self.device)
        spare = self._spare.setdefault(shape, [])
        try:
            memory = spare.pop()
        except IndexError:
            memory = np.empty(shape, np.float32)  # NumPy asks the system for large pages, torch does not
        lent = memory.view()
        weakref.finalize(lent, spare.append, memory).atexit = False
        return torch.from_numpy(lent)

    @property
    def _streams(self) -> bool:
        """Whether a video that is not kept is read by windows."""
        return not any(left > 0 for left in self._left.values()) and not self.resize_to

    def read_into(self, out_TC: Tensor, video_id: str, first: int) -> None:
        """Fill the snippets from `first` on into a float32 tensor; what is streamed is read in place."""
        if video_id not in self._kept and self._streams and out_TC.device.type == "cpu":
            self.reader.read_into(out_TC.numpy(), video_id, first)
            return
        feats_TC = self.read(video_id, first, first + len(out_TC))
        if feats_TC.shape[1] != out_TC.shape[1]:
            wide, others = feats_TC.shape[1], out_TC.shape[1]
            raise TadError(f"features of '{video_id}': {wide} wide, others {others}; extract again")
        out_TC.copy_(feats_TC)  # converts and copies at once

    def read(self, video_id: str, first: int, last: int) -> Tensor:
        """Snippets [first, last) as stored or resized; finite and, where they are read whole, checked by checksum."""
        kept = self._kept.get(video_id)
        if kept is not None:
            return kept[first:last]
        if self._streams:
            return torch.from_numpy(self.reader.read(video_id, first, last))
        feats_TC = self._whole(video_id)
        for place, left in list(self._left.items()):
            if feats_TC.nbytes <= left:
                self._left[place] = left - feats_TC.nbytes
                self._kept[video_id] = feats_TC.to(place)
                break
            self._left[place] = 0
        return feats_TC[first:last]


class SideBySide:
    """Features of several indices as one: the channels of each after those of the one before."""

    def __init__(self, parts: list[Features]) -> None:
        self.parts = parts

    @property
    def dim(self) -> int:
        """Channels of all together."""
        return sum(part.dim for part in self.parts)

    def columns(self, reader: FeatureReader, *, resize_to: int) -> slice:
        """The channels of an index, which is added unless it is there."""
        first = 0
        for part in self.parts:
            if (part.reader.path, part.resize_to) == (reader.path, resize_to):
                return slice(first, first + part.dim)
            first += part.dim
        self.parts.append(self.parts[0].another(reader, resize_to=resize_to))
        return slice(first, self.dim)

    def leave_gpu(self) -> bool:
        """As of `Features`."""
        return any([part.leave_gpu() for part in self.parts])

    def room(self, *shape: int) -> Tensor:
        """As of `Features`."""
        return self.parts[0].room(*shape)

    def read_into(self, out_TC: Tensor, video_id: str, first: int) -> None:
        """As of `Features`, of all channels."""
        last = 0
        for part in self.parts:
            feats_TC = part.read(video_id, first, first + len(out_TC))
            out_TC[:, last : last + part.dim].copy_(feats_TC)
            last += part.dim
