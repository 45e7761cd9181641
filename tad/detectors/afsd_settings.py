"""Settings of AFSD on features; the defaults are OpenTAD's for THUMOS14, a vector every 12 frames."""

from typing import Literal

from pydantic import Field

from tad.detectors._afsd.settings import SaliencyFeatureSettings

Correction = Literal["masked", "aligned", "detached", "background", "scaled"]


class Settings(SaliencyFeatureSettings):
    """AFSD (published: 56.0 average mAP on 211 test videos of THUMOS14), with the paper's boundary consistency."""

    kin = ("gaf",)

    corrections: tuple[Correction, ...] = Field(
        default=("masked", "aligned", "detached", "background", "scaled"),
        description="masked: padding does not influence the outputs; aligned: a snippet's centre is the centre of its "
        "frames; detached: no gradient through the target of quality; background: background inserted into actions "
        "overlaps no action; scaled: positions in the consistency loss follow upsample",
    )
