"""The video file of an index entry, and its frames at the stored size."""

# H rows, W columns

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tad.core.errors import TadError
from tad.settings.stages import FrameSpec
from tad.video.seeking import Source

AT_ONCE = 32  # frames per resize call


def shrunk(images: Iterable[np.ndarray], frames: FrameSpec) -> Iterator[np.ndarray]:
    """Resize images (H, W, 3) uint8 to the size in the settings, ignoring aspect ratio; yield them as uint8 rows."""
    for some in _batched(images):
        x_NCHW = torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2).float()
        x_NCHW = F.interpolate(x_NCHW, (frames.height, frames.width), mode=frames.interpolation, align_corners=False)
        yield from x_NCHW.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).flatten(1).numpy()


def _batched(images: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    left = iter(images)
    while some := tuple(itertools.islice(left, AT_ONCE)):
        yield some


def source_of(facts: Mapping[str, Any], index: Path) -> Source:
    """Return the video file of an index entry.

    Raises:
        TadError: the file is missing or has changed since it was indexed.
    """
    path = Path(str(facts["path"]))
    if not path.is_file() or path.stat().st_size != int(facts["bytes"]):
        raise TadError(f"{path}: missing, or changed since {index} was made; run probe again")
    return Source(path, str(facts["reader"]), "resample", float(facts["rate"]), float(facts["native_rate"]))
