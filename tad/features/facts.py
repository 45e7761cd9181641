"""Facts recorded with exported features, so that they can be imported unchanged: a head and one entry per video.

They are stored in `tad_features.json` beside the exported files, and as attributes in an exported HDF5 file.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tad.core import formats
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.settings.stages import Count, Positive, Spec, explain

SIDECAR = "tad_features.json"
HEAD_ATTRIBUTE, VIDEO_ATTRIBUTE = "tad_features", "tad_facts"


class ExportedVideo(Spec):
    """Timing of an exported video: row t is centred at `start + t * step` seconds."""

    file: str = Field(pattern=r"^[^/\\\x00]+$", description="file in the folder, or dataset of the HDF5 file")
    rows: int = Field(ge=0)
    fps: Positive = Field(description="frames per second on which stride and clip are based")
    stride: Count = Field(description="frames between the starts of neighbouring clips")
    clip: Count = Field(description="frames per clip")
    offset: float = Field(description="frames: the centre of row 0")
    start: float = Field(description="seconds: the centre of row 0")
    step: Positive = Field(description="seconds between rows")
    duration: float = Field(ge=0, description="seconds of the whole video")
    checksum: str = Field(description="of the stored rows; see tad.features.store.checksum")
    facts: dict[str, bool | int | float | str] = Field(default={}, description="other attributes of the video")


class ExportHead(Spec):
    """Facts that all videos of an export share."""

    tad_format: str = Field(default="", description="kind and number of this layout; see tad.core.formats")
    tad: str = Field(description="version")
    identity: str = Field(description="of the index")
    format: Literal["npy", "npz", "pt", "h5"]
    dtype: Literal["float16", "float32"] = Field(description="of the files")
    cached_dtype: Literal["float16", "float32"] = Field(description="of the index")
    dim: Count
    recipe: dict[str, Any] = Field(default={}, description="backbone, clips, …, as in the index's stamp")
    excluded: dict[str, str] = Field(default={}, description="video id → reason for having no features")


class Export(ExportHead):
    """Content of `tad_features.json`."""

    videos: dict[str, ExportedVideo]


def parse_facts(model: type[Spec], value: Any, where: str) -> Any:
    """Validate `value` as `model`.

    Raises:
        TadError: it is not valid, so the exported facts were edited or damaged.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise TadError(f"{where}: {explain(error)}; export the features again") from None


def read_sidecar(folder: Path) -> Export | None:
    """Read the facts beside exported files; None if there are none.

    Raises:
        TadError: the facts were damaged or edited.
    """
    path = Path(folder) / SIDECAR
    if not path.is_file():
        return None
    value = read_json(path)
    formats.unmarked(value if isinstance(value, dict) else {}, path, kind="export")
    export: Export = parse_facts(Export, value, str(path))
    return export
