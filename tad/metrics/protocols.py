"""Named evaluation protocols, read from `protocols.yaml`: which videos and instances count, and by which rules."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tad.core.errors import TadError
from tad.settings.plugins import nearest
from tad.settings.stages import Spec
from tad.settings.strict_yaml import read_yaml

CONVENTIONS = {
    *("duplicates", "tolerance", "shortest", "recall_at", "absent_labels", "matching", "ties", "segments"),
}
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
    matching: Literal["activitynet", "devkit", "moments", "soccernet"] = "activitynet"
    ties: Literal["fixed", "file"] = "fixed"
    segments: Literal["checked", "as given"] = "checked"
    counted: tuple[Literal["degenerate", "beyond", "duplicate"], ...] = ()
    tiou: tuple[float, ...] = ()
    tolerances: tuple[str, ...] = ()
    averages: dict[str, tuple[str, ...]] = {}
    grid_rate: float = 0.0
    buckets: Literal["thumos14", "activitynet", "quintiles"] = "quintiles"

    @property
    def of_moments(self) -> bool:
        """Whether the protocol scores moments, within tolerances, in place of segments."""
        return self.matching in ("moments", "soccernet")

    def rules(self) -> dict[str, Any]:
        """Return the conventions as keyword arguments of `tad.metrics.evaluate`."""
        return self.model_dump(include=CONVENTIONS - ({"matching"} if self.of_moments else set()))

    def exact(self, tiou: Sequence[float]) -> list[float]:
        """Return the thresholds with the rounding errors of the published scripts.

        These compute evenly spaced thresholds by `numpy.linspace`, which returns 0.30000000000000004 for 0.3; a tIoU of
        exactly 0.3 does not reach it. The THUMOS'14 kit uses 0.3 itself.
        """
        if len(self.tiou) < 2 or self.matching == "devkit":
            return list(tiou)
        script = np.linspace(self.tiou[0], self.tiou[-1], len(self.tiou)).tolist()
        return [next((s for s in script if abs(s - t) < 1e-9), t) for t in tiou]

    def leaves_out(self, video_id: str) -> str:
        """Return why a video does not count, or "" if it does; ActivityNet ids may have the prefix `v_`."""
        return self.left_out.get(video_id) or self.left_out.get(video_id.removeprefix("v_"), "")


def protocol(name: str) -> Protocol:
    """Return the protocol called `name`.

    Raises:
        TadError: no such protocol; the message lists the known ones.
    """
    table = _table()
    if name not in table:
        raise TadError(f"eval.protocol: unknown protocol '{name}'; {nearest(name, list(table))}")
    entry = dict(table[name])
    if "left_out_file" in entry:
        left = read_yaml(TABLE.with_name(entry.pop("left_out_file")))
        entry["left_out"] = dict.fromkeys(left["videos"], left["reason"])
    return Protocol.model_validate(entry)


@cache
def _table() -> dict[str, Any]:
    """Return all entries of `protocols.yaml` by name."""
    return read_yaml(TABLE)
