"""Settings of ActivityNet-1.3's annotations."""

from pydantic import Field

from tad.datasets._settings import OfficialSettings, Policy
from tad.settings.base import Spec


class Known(Spec):
    """Policy for each known kind of defect of the official file: keep, drop (and list) or error."""

    degenerate: Policy = Field(default="drop", description="12 instances of zero length (3 in validation)")
    duplicate: Policy = Field(
        default="drop",
        description="52 repeated instances (21 in validation); ActionFormer and TriDet drop them too: 7,630 remain",
    )
    empty: Policy = Field(default="keep", description="splits without annotations (testing)")


class Settings(OfficialSettings):
    """`activity_net.v1-3.min.json`: 200 labels, 10,024 training, 4,926 validation and 5,044 testing videos."""

    blocked_file: str = Field(
        default="",
        description="JSON list of withdrawn videos to exclude (986 ids, 246 of them in validation), for comparison "
        "with the official evaluation",
    )
    known: Known = Known()
