"""Compile all numba loops of suppression, evaluation and streams, so that the first score or frame does not wait.

`make setup` runs it once. numba caches the machine code, next to the sources or in the user's cache folder. The script
scores two small results files with each rule of evaluation, all measures and the diagnosis. It takes the code path of
`tad evaluate`, so that the loops are compiled for the types with which they are called.
"""

import tempfile
from pathlib import Path

import yaml

from tad.core.files import write_json
from tad.layers import rows
from tad.metrics.protocols import TABLE, protocol
from tad.nms import compile_loops
from tad.stages.evaluate import evaluate_file

MEASURES = ("proposals", "frames", "segmentation")


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """Write annotations of two videos and detections in them."""
    truth = [{"label": label, "segment": [k, k + 2.0]} for k, label in enumerate(("a", "b", "a", "Ambiguous"))]
    video = {"subset": "testing", "duration": 9.0, "annotations": truth}
    found = [{"label": e["label"], "segment": e["segment"], "score": 1 / (k + 2)} for k, e in enumerate(truth[:3])]
    annotations = write_json(folder / "annotations.json", {"database": {"v0": video, "v1": video}})
    return annotations, write_json(folder / "detections.json", {"results": {"v0": found, "v1": found}})


def compile_all() -> None:
    """Suppress and score once for every rule whose loops differ."""
    compile_loops()
    rows.compile_loops()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations, detections = write_inputs(folder)
        seen: set[str] = set()
        for rules in yaml.safe_load(TABLE.read_text(encoding="utf-8")):
            own = protocol(rules)
            conventions = str(own.rules())
            if conventions not in seen:
                seen.add(conventions)
                moments = {"tolerances": ["0.5s"], "moment": "start"}
                evaluate_file(
                    detections, annotations, folder / "map.json", protocol_name=rules,
                    tiou=() if own.of_moments else (0.3, 0.5),
                    settings=moments if own.of_moments else {"measures": MEASURES},
                    diagnosis=folder / "diagnosis.json",
                )  # fmt: skip


if __name__ == "__main__":
    compile_all()
