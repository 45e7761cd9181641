"""Compile what the first commands would otherwise compile: Python's modules, and all numba loops of suppression,
evaluation and streams.

`make setup` runs it once. Python keeps the bytecode of a module beside it; if PYTHONDONTWRITEBYTECODE is set, as in
many containers, every process would compile torch anew, which takes seconds. numba caches the machine code, next to the
sources or in the user's cache folder. The script scores two small results files with each rule of evaluation, all
measures and the diagnosis. It takes the code path of `tad evaluate`, so that the loops are compiled for the types with
which they are called.
"""

import compileall
import importlib
import tempfile
from pathlib import Path

import yaml

import tad
from tad.core.files import write_json
from tad.layers import rows
from tad.metrics.protocols import TABLE, protocol
from tad.nms import compile_loops
from tad.stages.evaluate import evaluate_file

# What the stages import; torch imports its compiler in each training.
PACKAGES = ("snakemake.cli", "torch._dynamo", "torch.utils.tensorboard", "matplotlib.pyplot", "decord", "av", "h5py")
MEASURES = ("proposals", "frames", "segmentation")


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """Write annotations of two videos and detections in them."""
    truth = [{"label": label, "segment": [k, k + 2.0]} for k, label in enumerate(("a", "b", "a", "Ambiguous"))]
    video = {"subset": "testing", "duration": 9.0, "annotations": truth}
    found = [{"label": e["label"], "segment": e["segment"], "score": 1 / (k + 2)} for k, e in enumerate(truth[:3])]
    annotations = write_json(folder / "annotations.json", {"database": {"v0": video, "v1": video}})
    return annotations, write_json(folder / "detections.json", {"results": {"v0": found, "v1": found}})


def compile_all() -> None:
    """Import the packages, and suppress and score once for every rule whose loops differ."""
    for name in PACKAGES:
        importlib.import_module(name)
    compileall.compile_dir(Path(tad.__file__).parent, quiet=1)
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
