"""Settings of UnAV-100's annotations."""

from pydantic import Field

from tad.datasets._settings import KnownFaults, NumberedSettings, Split
from tad.settings.base import Spec


class Splits(Spec):
    """Mapping of the file's subsets to our splits."""

    train: Split = "train"
    training: Split = "train"
    validation: Split = "val"
    val: Split = "val"
    test: Split = "test"
    testing: Split = Field(default="test", description="alternative name in some files")


class Settings(NumberedSettings):
    """`unav100_annotations.json`: 100 classes."""

    classes: int = Field(default=100, ge=0, description="expected number of labels; 0: any, for a part of the data set")
    splits: Splits = Splits()
    known: KnownFaults = KnownFaults()
