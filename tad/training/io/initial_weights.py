"""Initial weights of detectors on frames, from a published backbone."""

import logging
from pathlib import Path

from tad.backbones._weights import read_weights
from tad.backbones.i3d import published_names
from tad.core.errors import TadError
from tad.layers.contract import DetectorBase
from tad.settings import plugins
from tad.settings.stages import Plugin
from tad.weights.published import weight_files
from tad.weights.store import expect_published

log = logging.getLogger(__name__)
STREAMS = {3: "rgb", 2: "flow"}  # by the number of values per pixel


def initial_backbone(detector: Plugin, dim: int) -> Plugin:
    """Return the backbone that initialises a detector on frames, which have `dim` values; I3D is of RGB or flow.

    Raises:
        TadError: the detector has no backbone, or its frames have another size.
    """
    settings = plugins.detector_class(detector.name).model_validate(detector.settings)
    height, width = settings.frame_size
    size = height * width
    if not size:
        raise TadError(f"{detector.name} has no backbone to initialise; remove `weights` from its feature set")
    streams = STREAMS.get(dim // size)
    if streams is None or dim % size:
        raise TadError(
            f"features: {dim} values per frame are not {height} x {width} pixels of RGB or flow; use the same frame"
            " size in the feature set and in the detector's settings"
        )
    name, own = settings.initial_weights
    own = {"streams": streams} if name == "i3d" else own
    return Plugin(name=name, settings=plugins.defaults("backbones", name) | own)


def load_initial_weights(detector: DetectorBase, path: Path, backbone: Plugin) -> None:
    """Initialise a detector on frames with the weights in a file, or with the first matching file of a folder.

    Raises:
        TadError: no file matches, or a file does not have its published checksum.
    """
    expect_published(path, backbone)
    first_error = ""
    for file in weight_files(path, backbone):
        try:
            weights = read_weights(file)
            detector.start_from(published_names(weights) if backbone.name == "i3d" else weights)
            log.info("encoder initialised with the weights of %s", file)
            return
        except TadError as error:
            first_error = first_error or f"{file}: {error}"
    raise TadError(first_error)
