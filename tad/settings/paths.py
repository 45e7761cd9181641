"""All paths below `results/` that the package reads or writes.

The output of a stage is declared in the table of stages. The rules repeat these patterns, so that a reader of the rules
sees them; tests/test_paths.py compares both.
"""

import re
import shlex
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
OUTSIDE = {"apply", "sweep", "stream"}  # of these, written by commands outside the workflow
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


def wildcards_of(path: Path) -> dict[str, str] | None:
    """Return what a file of the workflow is made for (run, dataset, features, shard); None if no stage writes it.

    Args:
        path: the file, from the folder that contains `results/`.
    """
    run = rf"(?!(?:{'|'.join(sorted(FOLDERS))})/)[^/]+(?:/seed-\d+)?"
    patterns = [pattern for what, pattern in PATTERNS.items() if what not in OUTSIDE]
    for pattern in sorted(patterns, key=lambda text: -len(re.sub(r"{\w+}", "", text))):  # x.checked.json before x.json
        parts = re.split(r"{(\w+)}", f"{RESULTS}/{pattern}")
        names = [rf"(?P<{name}>{run if name == 'run' else '[^/]+'})" for name in parts[1::2]]
        parts = [names[k // 2] if k % 2 else re.escape(part) for k, part in enumerate(parts)]
        if match := re.fullmatch("".join(parts), path.as_posix()):
            return match.groupdict()
    return None


def command_of(path: Path, *, root: Path = Path()) -> str:
    """Return the shell command that makes a file of the workflow: `tad run` in the folder of config.yaml.

    Args:
        path: the file, as `path_of` returns it.
        root: the folder that contains `results/`; the current one by default.
    """
    go = "" if root.absolute() == Path.cwd() else f"cd {shlex.quote(str(root))} && "
    return f"{go}tad run {shlex.quote(str(path.relative_to(root)))}"
