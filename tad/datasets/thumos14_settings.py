"""Settings of THUMOS14's annotations."""

from typing import Literal

from pydantic import Field

from tad.datasets._settings import Policy
from tad.settings.base import Spec
from tad.settings.components import FormatSettings


class Known(Spec):
    """Policy for each known kind of defect of the official files: keep, drop (and list) or error."""

    beyond: Policy = Field(
        default="keep",
        description="30 instances in 5 videos end past the video; published results count them, OpenTAD drops them",
    )


class Settings(FormatSettings):
    """Train split: 200 validation videos (3,007 instances); test split: 212 test videos (3,358 instances)."""

    variant: Literal[213, 212, 211, 210] = Field(
        default=212,
        description="number of test videos, as in the protocol name; 212: ActionFormer, TriDet, MSE; 211: OpenTAD "
        "(without 0000270, wrongly annotated); 210: G-TAD, AFSD, GAF (also without 0001496); 213: all (0001292 has no "
        "instance)",
    )
    duration_file: str = Field(
        default="",
        description="file with durations, which the official text files lack: JSON {video: seconds} or CSV; "
        '"": ends are not checked',
    )
    known: Known = Known()
