"""Cache of features for training: each video is read and checked once, and cached on the GPU or in memory."""

# T snippets, C channels

import os
import weakref

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tad.core.errors import TadError
from tad.features.store import FeatureReader

CPU = torch.device("cpu")


def resize(feats_TC: np.ndarray, length: int) -> np.ndarray:
    """Interpolate features (T, C) linearly to (length, C), with cell borders aligned (align_corners=False)."""
    if feats_TC.shape[0] == length:
        return feats_TC
    feats_1CT = torch.from_numpy(feats_TC.T.astype(np.float32))[None]
    return F.interpolate(feats_1CT, size=length, mode="linear", align_corners=False)[0].T.contiguous().numpy()


class Features:
    """Features by video, cached in their stored precision while they fit: on the GPU first, then in memory.

    Where a video is cached does not change its values.
    """

    def __init__(
        self, reader: FeatureReader, *, resize_to: int = 0, memory: int | None = None, device: torch.device = CPU
    ) -> None:
        """`memory`: cache size in bytes; default: a quarter of the free GPU memory and half of the free host memory."""
        self.device = device
        self.reader, self.resize_to = reader, resize_to
        self._cached: dict[str, Tensor] = {}
        self._pool: dict[tuple[int, ...], list[np.ndarray]] = {}  # buffers of batches that are no longer referenced
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._left = {CPU: free // 2 if memory is None else memory}
        if device.type == "cuda":
            on_gpu = torch.cuda.mem_get_info(device)[0] // 4 if memory is None else memory
            self._left = {device: on_gpu, **self._left}

    @property
    def dim(self) -> int:
        """Number of channels."""
        return self.reader.dim

    def for_reader(self, reader: FeatureReader, *, resize_to: int) -> "Features":
        """Return the features of another index, which share this cache's memory limit."""
        other = Features(reader, resize_to=resize_to, memory=0, device=self.device)
        other._left = self._left
        return other

    def release_gpu(self) -> bool:
        """Drop all features cached on the GPU and cache none there any more; return whether there were any."""
        any_on_gpu = any(feats_TC.device.type == "cuda" for feats_TC in self._cached.values())
        for device in [device for device in self._left if device != CPU]:
            del self._left[device]  # in place, because other `Features` may share it
        self._cached = {video_id: feats_TC for video_id, feats_TC in self._cached.items() if feats_TC.device == CPU}
        return any_on_gpu

    def _whole(self, video_id: str) -> Tensor:
        feats_TC = self.reader.stored(video_id)
        if not np.isfinite(feats_TC).all():
            raise TadError(f"{self.reader.path}: features of '{video_id}' contain NaN or infinity; extract it again")
        return torch.from_numpy(resize(feats_TC, self.resize_to) if self.resize_to else feats_TC)

    def batch_buffer(self, *shape: int) -> Tensor:
        """Return an uninitialised buffer from the pool; it returns to the pool when no tensor refers to it any more.

        The operating system clears fresh memory page by page, which takes as long as reading the features.
        """
        if self.device.type != "cpu":
            return torch.empty(shape, device=self.device)
        pool = self._pool.setdefault(shape, [])
        try:
            memory = pool.pop()
        except IndexError:
            memory = np.empty(shape, np.float32)  # NumPy asks the system for large pages, torch does not
        view = memory.view()
        weakref.finalize(view, pool.append, memory).atexit = False
        return torch.from_numpy(view)

    @property
    def _streams(self) -> bool:
        """Whether videos that are not cached are read window by window."""
        return not any(left > 0 for left in self._left.values()) and not self.resize_to

    def read_into(self, out_TC: Tensor, video_id: str, first: int) -> None:
        """Read the snippets from `first` on into a float32 tensor, without a copy if they are streamed to the CPU."""
        if video_id not in self._cached and self._streams and out_TC.device.type == "cpu":
            self.reader.read_into(out_TC.numpy(), video_id, first)
            return
        feats_TC = self.read(video_id, first, first + len(out_TC))
        if feats_TC.shape[1] != out_TC.shape[1]:
            width, others = feats_TC.shape[1], out_TC.shape[1]
            raise TadError(
                f"features of '{video_id}' have {width} channels, those of other videos {others}; extract again"
            )
        out_TC.copy_(feats_TC)  # converts and copies in one pass

    def read(self, video_id: str, first: int, last: int) -> Tensor:
        """Return the snippets [first, last), stored or resized; videos that are read whole are checked by checksum.

        Raises:
            TadError: values are not finite, or do not match the checksum.
        """
        cached = self._cached.get(video_id)
        if cached is not None:
            return cached[first:last]
        if self._streams:
            return torch.from_numpy(self.reader.read(video_id, first, last))
        feats_TC = self._whole(video_id)
        for device, left in list(self._left.items()):
            if feats_TC.nbytes <= left:
                self._left[device] = left - feats_TC.nbytes
                self._cached[video_id] = feats_TC.to(device)
                break
            self._left[device] = 0
        return feats_TC[first:last]


class SideBySide:
    """Features of several indices, concatenated along the channels."""

    def __init__(self, parts: list[Features]) -> None:
        self.parts = parts

    @property
    def dim(self) -> int:
        """Total number of channels."""
        return sum(part.dim for part in self.parts)

    def columns(self, reader: FeatureReader, *, resize_to: int) -> slice:
        """Return the channel range of an index; adds the index if it is new."""
        first = 0
        for part in self.parts:
            if (part.reader.path, part.resize_to) == (reader.path, resize_to):
                return slice(first, first + part.dim)
            first += part.dim
        self.parts.append(self.parts[0].for_reader(reader, resize_to=resize_to))
        return slice(first, self.dim)

    def release_gpu(self) -> bool:
        """Drop all features cached on the GPU; see `Features.release_gpu`."""
        return any([part.release_gpu() for part in self.parts])

    def batch_buffer(self, *shape: int) -> Tensor:
        """Return an uninitialised buffer; see `Features.batch_buffer`."""
        return self.parts[0].batch_buffer(*shape)

    def read_into(self, out_TC: Tensor, video_id: str, first: int) -> None:
        """Read all channels of the snippets from `first` on into a float32 tensor."""
        last = 0
        for part in self.parts:
            feats_TC = part.read(video_id, first, first + len(out_TC))
            out_TC[:, last : last + part.dim].copy_(feats_TC)
            last += part.dim
