"""Settings of FineAction's annotations."""

from pydantic import Field

from tad.datasets._settings import KnownFaults, NumberedSettings, Policy, ValidationAsTest


class Known(KnownFaults):
    """Known defects of the published file."""

    empty: Policy = Field(default="keep", description="splits without annotations (testing)")


class Settings(NumberedSettings):
    """`annotations_gt.json`: 106 classes."""

    classes: int = Field(default=106, ge=0, description="expected number of labels; 0: any, for a part of the data set")
    splits: ValidationAsTest = ValidationAsTest()
    known: Known = Known()
