"""Settings of custom annotations in a CSV file (docs/datasets.md)."""

from pydantic import Field

from tad.datasets._settings import OwnSettings, StatedSplits


class Settings(OwnSettings, StatedSplits):
    """A CSV file with a header: video, start, end, label and optionally split, duration, fps and unit."""

    columns: dict[str, str] = Field(
        default={},
        description="our column names → the file's, such as {video: Filename}; {}: usual names are recognised",
    )
    duration_file: str = Field(
        default="",
        description='CSV video,duration or JSON {video: seconds}, to detect times beyond the end of a video; "": no '
        "such check",
    )
