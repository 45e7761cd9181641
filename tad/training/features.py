"""Features by video for training: read and checked once, kept where there is room."""

# T snippets, C channels

import os

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
        self._reader, self._resize = reader, resize_to
        self._kept: dict[str, Tensor] = {}
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._left = {CPU: free // 2 if memory is None else memory}
        if device.type == "cuda":
            on_gpu = torch.cuda.mem_get_info(device)[0] // 4 if memory is None else memory
            self._left = {device: on_gpu, **self._left}

    def leave_gpu(self) -> bool:
        """Give the GPU's memory to others from now on; whether there was any to give."""
        had = any(feats_TC.device.type == "cuda" for feats_TC in self._kept.values())
        self._left = {CPU: self._left[CPU]}
        self._kept = {video_id: feats_TC for video_id, feats_TC in self._kept.items() if feats_TC.device == CPU}
        return had

    def _whole(self, video_id: str) -> Tensor:
        feats_TC = self._reader.stored(video_id)
        if not np.isfinite(feats_TC).all():
            raise TadError(f"{self._reader.path}: features of '{video_id}' hold NaN or infinity; extract it again")
        return torch.from_numpy(resize(feats_TC, self._resize) if self._resize else feats_TC)

    def read(self, video_id: str, first: int, last: int) -> Tensor:
        """Snippets [first, last) as stored or resized; finite and, where they are read whole, checked by checksum."""
        kept = self._kept.get(video_id)
        if kept is not None:
            return kept[first:last]
        if not any(left > 0 for left in self._left.values()) and not self._resize:
            return torch.from_numpy(self._reader.read(video_id, first, last))
        feats_TC = self._whole(video_id)
        for place, left in list(self._left.items()):
            if feats_TC.nbytes <= left:
                self._left[place] = left - feats_TC.nbytes
                self._kept[video_id] = feats_TC.to(place)
                break
            self._left[place] = 0
        return feats_TC[first:last]
