"""Settings of MultiTHUMOS' annotations."""

from pydantic import Field

from tad.datasets._settings import IndexSettings, Policy, Split
from tad.settings.base import Spec


class Splits(Spec):
    """Mapping of the file's subsets to our splits. OpenTAD calls the test videos validation."""

    training: Split = "train"
    train: Split = "train"
    validation: Split = "test"
    testing: Split = Field(default="test", description="alternative name in some files")
    test: Split = "test"


class Known(Spec):
    """Policy for each known kind of defect of the published file: keep, drop, clip (both are listed) or error."""

    degenerate: Policy = Field(default="drop", description="7 instances of zero length")
    beyond: Policy = Field(
        default="keep", description="65 instances end after the video (60 start there); published protocols count them"
    )


class Settings(IndexSettings):
    """`multithumos.json`: 65 classes, 200 train videos with 18,482 instances and 213 test videos with 20,208."""

    splits: Splits = Splits()
    known: Known = Known()
