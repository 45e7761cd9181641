"""Settings of EPIC-KITCHENS-100's annotations."""

from typing import Literal

from pydantic import Field

from tad.datasets._settings import Policy, ValidationAsTest
from tad.settings.base import Spec
from tad.settings.components import FormatSettings


class Known(Spec):
    """Policy for each known kind of defect of a published file: keep, drop (and list) or error."""

    duplicate: Policy = Field(
        default="keep", description="repeated instances; published work trains on them, the protocol counts them once"
    )
    beyond: Policy = Field(
        default="keep", description="instances that end after the stated duration; the published protocol counts them"
    )


class Settings(FormatSettings):
    """Verbs (97) and nouns (300) are two data sets here, with a detector each, as published."""

    target: Literal["verb", "noun"] = Field(
        default="verb", description="target classes; also selects the detector settings for epic_verb or epic_noun"
    )
    class_file: str = Field(
        default="", description='class names by id; "": EPIC_100_<target>_classes.csv beside the annotations'
    )
    splits: ValidationAsTest = ValidationAsTest()
    known: Known = Known()
