"""Frames of a video → the optical flow between them, computed once and kept as one array a video on disk.

As AFSD's flow stream takes it: between neighbouring picked frames at the size that they are stored in, clamped to a
bound, x and y, the last field repeated so that there are as many as frames.
"""

# T frames, H rows, W columns

import importlib.metadata
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from tad.errors import TadError
from tad.files import digest, publish
from tad.flow import FlowSteps, method
from tad.provenance import modules
from tad.specs import FrameSpec

log = logging.getLogger(__name__)
OPENCV = ("opencv-contrib-python-headless", "opencv-contrib-python", "opencv-python-headless", "opencv-python")


def made_by() -> str:
    """The digest of what decides a flow besides frames and settings: this code and the version of OpenCV."""
    versions = []
    for name in OPENCV:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return digest([modules("tad.training.frame_flow", "tad.training.frames", "tad.video.seeking"), versions])


def flows(rows: Iterable[np.ndarray], frames: FrameSpec) -> Iterator[np.ndarray]:
    """Rows of frames (H·W·3) uint8, in order → as many rows of flow (H·W·2) uint8: row k is the motion from frame k to
    frame k + 1, the last one repeats the one before; of a single frame, none."""
    steps = FlowSteps(method(frames.flow_method), bound=frames.flow_bound)
    first, last = True, None
    for row in rows:
        frame_1HW3 = torch.from_numpy(row).view(1, frames.height, frames.width, 3)
        field = steps(frame_1HW3).flatten().numpy()
        if not first:
            yield field
        first, last = False, field
    if last is not None:
        yield last


def file_of(index: Path, checksum: str) -> Path:
    """Where the flow of a video is kept: beside the index, under the checksum of all that decides it."""
    return Path(index).with_suffix(".flow") / f"{checksum[:32]}.npy"


def keep(path: Path, rows: Iterable[np.ndarray], *, length: int, frames: FrameSpec) -> None:
    """Write the flow of a video's frames as one array (T, H·W·2) uint8, whole or not at all.

    Args:
        path: of the array.
        rows: its frames, as `flows` takes them.
        length: T; what the video's header promised too much repeats the last field.
        frames: the settings.

    Raises:
        TadError: there is no frame.
    """
    with publish(path) as partial:
        # mapped: an hour of flow is a gigabyte, and each thread has a video of its own
        kept = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(length, frames.dim))
        count = -1
        for count, field in enumerate(flows(rows, frames)):
            if count < length:
                kept[count] = field
        if count < 0:
            raise TadError("no frame could be decoded; run probe again")
        kept[count + 1 :] = kept[min(count, length - 1)]
        kept.flush()


def kept(path: Path, *, length: int, frames: FrameSpec) -> np.ndarray:
    """The array of `keep`, mapped into memory.

    Raises:
        TadError: the file is not whole.
    """
    try:
        field_TC = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise TadError(f"{path}: not an array of flow ({error}); remove it and run again") from None
    if field_TC.shape != (length, frames.dim) or field_TC.dtype != np.uint8:
        raise TadError(f"{path}: {field_TC.dtype} {field_TC.shape}, not uint8 {(length, frames.dim)}; remove it")
    return np.asarray(field_TC)
