"""All paths below `results/` that the package reads or writes.

The output of a stage is declared in the table of stages. The rules repeat these patterns, so that a reader of the rules
sees them; tests/test_paths.py compares both.
"""

from pathlib import Path

from tad.settings.stage_table import INDEX, STAGES

RESULTS = "results"
PATTERNS = {
    **{name: stage.output for name, stage in STAGES.items()},
    "features": INDEX,  # written by any stage in FEATURES
    "rendered": "data/{dataset}/dataset.json",  # the completion marker of a generated data set
    "rendered_annotations": "data/{dataset}/annotations.json",
    "rendered_videos": "data/{dataset}/videos",
    "figure": "{run}/timeline.png",
    "diagnosis": "{run}/diagnosis/diagnosis.json",
    "picture": "{run}/diagnosis/{name}.png",
    "table": "table.md",
    # written by commands outside the workflow
    "apply": "{run}/apply",
    "sweep": "{run}/sweep/{on}",
    "stream": "{run}/stream.json",
}
# names that a run must not have
FOLDERS = {"logs", *(pattern.split("/")[0] for pattern in PATTERNS.values() if "/" in pattern)} - {"{run}"}


def path_of(what: str, *, root: Path = Path(), **names: str) -> Path:
    """Return a path below `results/`.

    Args:
        what: key of `PATTERNS`: a stage, for its output, or another key.
        root: the folder that contains `results/`; the current one by default.
        names: values of the wildcards: `dataset`, `features`, `shard`, `run`, …
    """
    return root / RESULTS / PATTERNS[what].format(**names)


def run_of(target: str) -> str:
    """Return the run whose folder contains a target of the workflow; empty for other targets."""
    parts = target.split("/")
    return parts[1] if parts[0] == RESULTS and len(parts) > 1 and parts[1] not in FOLDERS else ""
