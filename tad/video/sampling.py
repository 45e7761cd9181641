"""Frame sampling by a recipe's rate policy (`tad.settings.stages.ClipSpec`)."""

from collections.abc import Iterable, Iterator

import numpy as np

from tad.core.errors import TadError
from tad.video.clips import ffmpeg_cfr, resample
from tad.video.reader import Frame

# H rows, W columns


def sampled(
    frames: Iterable[Frame], *, policy: str, rate: float, native_rate: float, start: float = 0.0, reader: str = "pyav"
) -> Iterator[np.ndarray]:
    """Select the images (H, W, 3) uint8 of a video's frames by a rate policy, in order and in one pass.

    Args:
        frames: all frames of the video, in order.
        policy: native (every frame); resample and ffmpeg_cfr: the functions of this name in `tad.video.clips`.
        rate: output frames per second; unused with native.
        native_rate: mean frames per second of the video.
        start: time of the first frame in seconds on the file's time line, from the manifest.
        reader: name of the reader of the frames.

    Raises:
        TadError: ffmpeg_cfr is used with decord, whose times are too coarse to decide how a half is rounded.
    """
    if policy == "native":
        return (frame.image for frame in frames)
    if policy == "resample":
        return resample(((frame.time, frame.image) for frame in frames), rate=rate, native_rate=native_rate)
    assert policy == "ffmpeg_cfr", policy
    if reader == "decord":
        raise TadError("clip.policy: ffmpeg_cfr needs exact times, decord's are single precision; set reader: pyav")
    timed = ((start + f.time, f.duration or 1 / native_rate, f.image) for f in frames)
    return ffmpeg_cfr(timed, rate=rate)


def offset(*, policy: str, start: float) -> float:
    """Return the time in seconds of the first selected frame on the file's time line, the origin of the clip grid.

    ffmpeg_cfr starts at the beginning of the file, even if the video stream starts later; the other policies start at
    the first frame.
    """
    return 0.0 if policy == "ffmpeg_cfr" else start
