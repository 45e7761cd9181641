"""What an export of features says of itself, so that it can be imported again as it was: one value per video, one head.

Beside exported files lies `tad_features.json`; an exported HDF5 file carries the same values as attributes.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tad.errors import TadError
from tad.files import read_json
from tad.specs import Count, Positive, Spec, explain

SIDECAR = "tad_features.json"
HEAD_ATTRIBUTE, VIDEO_ATTRIBUTE = "tad_features", "tad_facts"


class ExportedVideo(Spec):
    """Where a video's rows lie in time: row t is centred at `start + t * step` seconds."""

    file: str = Field(pattern=r"^[^/\\\x00]+$", description="file in the folder, or dataset of the HDF5 file")
    rows: int = Field(ge=0)
    fps: Positive = Field(description="frames per second that clips were counted in")
    stride: Count = Field(description="frames between the starts of neighbouring clips")
    clip: Count = Field(description="frames of a clip")
    offset: float = Field(description="frames: the centre of row 0")
    start: float = Field(description="seconds: the centre of row 0")
    step: Positive = Field(description="seconds between rows")
    duration: float = Field(ge=0, description="seconds of the whole video")
    checksum: str = Field(description="of the rows as they were in the cache; see tad.cache.checksum")
    facts: dict[str, bool | int | float | str] = Field(default={}, description="whatever else the cache says of it")


class ExportHead(Spec):
    """What is the same for all videos of an export."""

    tad: str = Field(description="version")
    identity: str = Field(description="of the index")
    format: Literal["npy", "npz", "pt", "h5"]
    dtype: Literal["float16", "float32"] = Field(description="of the files")
    cached_dtype: Literal["float16", "float32"] = Field(description="of the index")
    dim: Count
    recipe: dict[str, Any] = Field(default={}, description="backbone, clips, …: as in the index's stamp")
    excluded: dict[str, str] = Field(default={}, description="video id → why it has no features")


class Export(ExportHead):
    """The whole of `tad_features.json`."""

    videos: dict[str, ExportedVideo]


def parse_facts(model: type[Spec], value: Any, where: str) -> Any:
    """`value` as `model`.

    Raises:
        TadError: it is not; nobody but an export writes these, so they were edited or damaged.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise TadError(f"{where}: {explain(error)}; export the features again") from None


def read_sidecar(folder: Path) -> Export | None:
    """The facts beside exported files; None where there are none.

    Raises:
        TadError: damaged or edited facts.
    """
    path = Path(folder) / SIDECAR
    if not path.is_file():
        return None
    export: Export = parse_facts(Export, read_json(path), str(path))
    return export
