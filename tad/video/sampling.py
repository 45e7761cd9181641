"""Decoded frames → the sequence of frames that a recipe's rate policy asks for (`tad.specs.ClipSpec`)."""

from collections.abc import Iterable, Iterator

import numpy as np

from tad.errors import TadError
from tad.video.clips import ffmpeg_cfr, resample
from tad.video.reader import Frame

# H rows, W columns


def sampled(
    frames: Iterable[Frame], *, policy: str, rate: float, native_rate: float, reader: str = "pyav"
) -> Iterator[np.ndarray]:
    """The images (H, W, 3) uint8 that the policy picks from a video's frames, in order, in one pass.

    Args:
        frames: all frames of the video, in order.
        policy: native (every frame); resample and ffmpeg_cfr: the functions of this name in `tad.video.clips`.
        rate: frames per second wanted; of no effect with native.
        native_rate: mean frames per second of the video.
        reader: where the frames come from.

    Raises:
        TadError: ffmpeg_cfr with decord, whose times are too coarse to tell which way a half is rounded.
    """
    if policy == "native":
        return (frame.image for frame in frames)
    if policy == "resample":
        return resample(((frame.time, frame.image) for frame in frames), rate=rate, native_rate=native_rate)
    assert policy == "ffmpeg_cfr", policy
    if reader == "decord":
        raise TadError("clip.policy: ffmpeg_cfr needs exact times, decord's are single precision; set reader: pyav")
    timed = ((f.start + f.time, f.duration or 1 / native_rate, f.image) for f in frames)
    return ffmpeg_cfr(timed, rate=rate)
