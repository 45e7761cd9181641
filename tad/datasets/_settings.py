"""Settings shared by several annotation formats."""

from typing import Literal

from pydantic import Field

from tad.settings.base import Spec
from tad.settings.components import FormatSettings

Policy = Literal["keep", "drop", "clip", "error"]
Split = Literal["train", "val", "test", ""]
ToolUnit = Literal["", "seconds", "milliseconds", "frames"]
Unit = Literal[ToolUnit, "clock"]


class ValidationAsTest(Spec):
    """Mapping of a file's subsets to our splits. The validation set is our test split, as in published results."""

    training: Split = "train"
    train: Split = "train"
    validation: Split = "test"
    val: Split = "test"
    testing: Split = Field(default="", description="labels are withheld, so videos are excluded")
    test: Split = ""


class OfficialSplits(Spec):
    """Mapping of the file's subsets to our splits. The validation set is our test split, as in published results."""

    training: Split = "train"
    validation: Split = "test"
    testing: Split = Field(
        default="", description='annotations are withheld, so videos are excluded; "val" or "test" to keep them'
    )


class OfficialSettings(FormatSettings):
    """Settings of ActivityNet-1.3 and HACS, whose files have the same layout and ids from YouTube."""

    prefix: str = Field(default="v_", description='prefix of the video file names (v_<id>); "" if they have none')
    splits: OfficialSplits = OfficialSplits()
    classes: int = Field(default=200, ge=0, description="expected number of labels; 0: any, for a part of the data set")
    label_file: str = Field(
        default="",
        description="file with one label per line that defines their order (external classifiers come with their "
        'own); "": sorted',
    )


class KnownFaults(Spec):
    """Policy for each known kind of defect of a published file: keep, drop, clip (both are listed) or error."""

    degenerate: Policy = Field(default="drop", description="instances of zero length")
    duplicate: Policy = Field(default="drop", description="repeated instances; published detectors drop them too")
    beyond: Policy = Field(
        default="keep", description="instances that end after the stated duration; the published protocols count them"
    )


class NumberedSettings(FormatSettings):
    """Settings of published files in ActivityNet's layout whose labels may have numbers (`label_id`)."""

    classes: int
    splits: Spec
    known: Spec
    label_file: str = Field(
        default="", description='file with one label per line, in order; "": by label_id, or sorted'
    )


class IndexSettings(FormatSettings):
    """Settings of the index of super-events, whose labels are numbers."""

    splits: Spec
    known: Spec
    class_file: str = Field(
        default="",
        description='class names by number, a file of the official archive; "": the numbers',
    )


class DrawnSplit(FormatSettings):
    """Settings of custom files, whose splits and labels vary."""

    splits: dict[str, Split] = Field(
        default={},
        description='split names in the file → train, val, test, or "" to exclude, in addition to the usual names '
        "(training, validation, testing, …)",
    )
    test_share: float = Field(
        default=0.0, ge=0, lt=1, description="share of the videos without a split that is drawn into test; 0: none"
    )
    split_seed: int = Field(default=0, ge=0, description="random seed of this split")
    label_file: str = Field(
        default="",
        description='file with one label per line that defines their order and reveals misspellings; "": the labels '
        "that occur, sorted",
    )


class StatedSplits(DrawnSplit):
    """Settings of custom files whose splits may be in another file, or one for all videos."""

    split: Split = Field(default="", description="split of the videos without any other split")
    split_file: str = Field(
        default="", description="CSV with the columns video and split, if the annotations have no splits"
    )


class OwnSettings(DrawnSplit):
    """Settings of custom files whose unit varies, too."""

    unit: Unit = Field(default="", description='unit of starts and ends; "": as in the column names, otherwise seconds')
    rate: float = Field(
        default=0.0, ge=0, description="for unit frames: frame rate if the file states none; 0: that of the video"
    )
