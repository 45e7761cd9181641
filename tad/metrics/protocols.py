"""Named evaluation protocols, read from `protocols.yaml`: which videos count, and what counts as an instance."""

from pathlib import Path
from typing import Any, Literal

import yaml

from tad.errors import TadError
from tad.plugins import nearest
from tad.specs import Spec

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

    def rules(self) -> dict[str, Any]:
        """Its conventions as keyword arguments of `tad.metrics.evaluate`."""
        return self.model_dump(include={"duplicates", "tolerance", "shortest", "recall_at", "absent_labels"})


def protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        TadError: no such protocol; the message lists them.
    """
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    if name not in table:
        raise TadError(f"eval.protocol: no protocol is called '{name}'; {nearest(name, list(table))}")
    return Protocol.model_validate(table[name])
