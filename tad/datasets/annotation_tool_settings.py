"""Settings of exports of annotation tools (docs/datasets.md)."""

from typing import Literal

from pydantic import Field

from tad.datasets._settings import StatedSplits, ToolUnit

Tool = Literal[
    "", "csv", "activitynet", "epic", "thumos_text", "elan", "elan_tab", "via", "via_csv", "label_studio", "cvat",
    "soccernet", "boris", "boris_table", "fiftyone", "audacity", "srt", "vtt", "nwb",
]  # fmt: skip


class Settings(StatedSplits):
    """An export of an annotation tool: one file, or a folder with one file per video."""

    tool: Tool = Field(default="", description='the tool and its file format; "": recognised from the file')
    unit: ToolUnit = Field(
        default="", description='unit of starts and ends where the files state none; "": that of the tool'
    )
    rate: float = Field(
        default=0.0,
        ge=0,
        description="for formats in frames: frame rate if the file states none; 0: that of the video",
    )
    names: dict[str, str] = Field(
        default={}, description="names of videos in the export → ids of the video files, where they differ"
    )
    points: float = Field(
        default=0.0, ge=0, description="seconds of the segment around each point in time; 0: points are refused"
    )
