"""Settings of Ego4D Moment Queries' annotations."""

from pydantic import Field

from tad.datasets._settings import KnownFaults, NumberedSettings, Policy, Split
from tad.settings.base import Spec


class Splits(Spec):
    """Mapping of the files' splits to ours. The validation set is our test split, as in published results."""

    train: Split = "train"
    training: Split = "train"
    val: Split = "test"
    validation: Split = "test"
    test: Split = Field(default="", description="labels are withheld, so clips are excluded")


class Known(KnownFaults):
    """Known defects of the published files: invalid moments, and moments that several annotators have marked."""

    negative: Policy = Field(default="clip", description="moments that start before the clip")


class Settings(NumberedSettings):
    """`moments_train.json` and `moments_val.json`: 110 primary classes; videos are clips, named by their clip_uid."""

    classes: int = Field(default=110, ge=0, description="expected number of labels; 0: any, for a part of the data set")
    splits: Splits = Splits()
    known: Known = Known()
