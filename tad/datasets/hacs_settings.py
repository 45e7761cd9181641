"""Settings of HACS Segments' annotations."""

from pydantic import Field

from tad.datasets._settings import OfficialSettings, Policy
from tad.settings.base import Spec


class Known(Spec):
    """Policy for each known kind of defect of the published file: keep, drop (and list) or error."""

    degenerate: Policy = Field(default="drop", description="instances of zero length")
    duplicate: Policy = Field(default="drop", description="repeated instances; the published detectors drop them too")
    beyond: Policy = Field(
        default="keep", description="instances that end after the stated duration; the published protocol counts them"
    )
    empty: Policy = Field(default="keep", description="splits without annotations (testing)")


class Settings(OfficialSettings):
    """`HACS_segments_v1.1.1.json`: 200 labels, 37,613 training and 5,981 validation videos."""

    known: Known = Known()
