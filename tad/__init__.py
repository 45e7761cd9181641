"""Temporal action detection from untrimmed videos.

`tad.load`, `tad.evaluate`, `tad.nms` and `tad.Columns` are for Python and notebooks, see docs/python.md. Importing this
package costs nothing: what they need is imported when they are first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load": "tad.api.run", "Run": "tad.api.run", "evaluate": "tad.api.scores", "Columns": "tad.metrics.columns",
    "Detections": "tad.api.detections",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "nms":
        return importlib.import_module("tad.nms")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tad' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "nms"})
