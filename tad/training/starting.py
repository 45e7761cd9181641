"""Weights of a published backbone → those that a detector on frames begins with."""

from pathlib import Path
from typing import Any

from tad.backbones._weights import read_weights
from tad.backbones.i3d import published_names
from tad.errors import TadError
from tad.weights import weight_files


def begin_with(detector: Any, path: Path, *, named: str) -> None:
    """Give a detector on frames the weights of I3D in a file or folder, of which the first that fits is taken.

    Raises:
        TadError: the detector has no such network, or no file fits it.
    """
    if not hasattr(detector, "start_from"):
        raise TadError(f"{named} begins with no backbone's weights; leave `weights` out of its feature set")
    said = ""
    for file in weight_files(path):
        try:
            detector.start_from(published_names(read_weights(file)))
            return
        except TadError as error:
            said = f"{file}: {error}"
    raise TadError(said or f"{path}: holds no weights; give those of I3D")
