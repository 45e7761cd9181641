"""Weights of a published backbone → those that a detector on frames begins with."""

import logging
from pathlib import Path
from typing import Any

from tad import plugins
from tad.backbones._weights import read_weights
from tad.backbones.i3d import published_names
from tad.errors import TadError
from tad.specs import Plugin
from tad.weight_store import expect_published
from tad.weights import weight_files

log = logging.getLogger(__name__)
STREAMS = {3: "rgb", 2: "flow"}  # by the values of a pixel


def beginning(detector: Plugin, dim: int) -> Plugin:
    """The backbone whose weights a detector on frames begins with: I3D of what `dim` values a frame are.

    Raises:
        TadError: the detector begins with no backbone's weights, or its frames are of another size.
    """
    size = detector.settings.get("height", 0) * detector.settings.get("width", 0)
    if not size:
        raise TadError(f"{detector.name} begins with no backbone's weights; leave `weights` out of its feature set")
    streams = STREAMS.get(dim // size)
    if streams is None or dim % size:
        raise TadError(
            f"features: {dim} values a frame are not {detector.settings['height']} x {detector.settings['width']}"
            " pixels of RGB or flow; let frames and settings of the detector name one size"
        )
    return Plugin(name="i3d", settings=plugins.document("backbones", "i3d")["settings"] | {"streams": streams})


def begin_with(detector: Any, path: Path, backbone: Plugin) -> None:
    """Give a detector on frames the weights in a file or folder, of which the first that fits is taken.

    Raises:
        TadError: no file fits it, or one is not what was published under its name.
    """
    expect_published(path, backbone)
    said = ""
    for file in weight_files(path, backbone):
        try:
            detector.start_from(published_names(read_weights(file)))
            log.info("I3D begins with the weights of %s", file)
            return
        except TadError as error:
            said = said or f"{file}: {error}"
    raise TadError(said)
