"""Named evaluation protocols, read from `protocols.yaml`: which videos count, and what counts as an instance."""

from pathlib import Path
from typing import Any, Literal

import yaml

from tad.errors import TadError
from tad.plugins import nearest
from tad.specs import Spec

CONVENTIONS = {"duplicates", "tolerance", "shortest", "recall_at", "absent_labels", "matching"}
TABLE = Path(__file__).with_name("protocols.yaml")


class Protocol(Spec):
    """One entry of `protocols.yaml`, which explains the fields."""

    summary: str
    videos: int
    instances: int
    left_out: dict[str, str]
    duplicates: Literal["drop", "keep"]
    tolerance: float
    shortest: float
    recall_at: tuple[int, ...]
    absent_labels: Literal["ignore", "collide"]
    matching: Literal["activitynet", "devkit"] = "activitynet"
    tiou: tuple[float, ...] = ()
    buckets: Literal["thumos14", "activitynet", "quintiles"] = "quintiles"

    def rules(self) -> dict[str, Any]:
        """Its conventions as keyword arguments of `tad.metrics.evaluate`."""
        return self.model_dump(include=CONVENTIONS)

    def leaves_out(self, video_id: str) -> str:
        """Why a video does not count; empty if it does. ActivityNet's ids are known with and without their `v_`."""
        return self.left_out.get(video_id) or self.left_out.get(video_id.removeprefix("v_"), "")


def protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        TadError: no such protocol; the message lists them.
    """
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    if name not in table:
        raise TadError(f"eval.protocol: no protocol is called '{name}'; {nearest(name, list(table))}")
    entry = table[name]
    if "left_out_file" in entry:
        left = yaml.safe_load(TABLE.with_name(entry.pop("left_out_file")).read_text(encoding="utf-8"))
        entry["left_out"] = dict.fromkeys(left["videos"], left["reason"])
    return Protocol.model_validate(entry)
