"""Settings of Charades' annotations."""

from pydantic import Field

from tad.datasets._settings import IndexSettings, KnownFaults, Policy, Split
from tad.settings.base import Spec


class Splits(Spec):
    """Mapping of the file's subsets to our splits."""

    training: Split = "train"
    train: Split = "train"
    testing: Split = Field(default="test", description="alternative name in some files")
    test: Split = "test"


class Known(KnownFaults):
    """Known defects of the published file."""

    degenerate: Policy = Field(default="drop", description="7 instances that end before they start")
    beyond: Policy = Field(
        default="clip",
        description="8,745 instances (13 %) that end more than 1 s after the video",
    )


class Settings(IndexSettings):
    """`charades.json`: 157 classes, 7,985 train videos with 49,809 instances and 1,863 test videos with 16,691."""

    splits: Splits = Splits()
    known: Known = Known()
