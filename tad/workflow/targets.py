"""Targets of the workflow as a person types them: names of runs and rules, and files."""

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tad.core.errors import TadError
from tad.settings.config import Config
from tad.settings.include import written_in
from tad.settings.paths import path_of, wildcards_of
from tad.settings.plugins import nearest
from tad.settings.stage_table import OF_A_RUN, STAGES

RULES = frozenset({"all", "render", "table", *STAGES})
KINDS = {"run": "runs", "dataset": "datasets", "features": "features"}


def configured(files: Sequence[Path]) -> Config:
    """Read the configuration files of a run of the workflow; later ones take precedence.

    Raises:
        TadError: a file is missing or invalid.
    """
    written, folder, values = written_in(files)
    return Config(values, source=str(files[-1]), written=written, folder=folder)


def check_targets(targets: Iterable[str], config: Config) -> None:
    """Check that the workflow can make the targets, before it is planned.

    Args:
        targets: rules, and files relative to the folder of config.yaml.
        config: the configuration.

    Raises:
        TadError: no rule has the name, or no stage writes the file, or its run, data set or features are unknown.
    """
    for target in targets:
        path = Path(os.path.relpath(config.root / target, config.root))
        if target in RULES or (config.root / path).exists():
            continue
        names = wildcards_of(path)
        if names is None:
            raise TadError(_unknown(target, path, config))
        for key, kind in KINDS.items():
            known = getattr(config.file, kind)
            if key in names and (name := names[key].partition("/")[0]) not in known:
                raise TadError(f"{target}: {kind} has no '{name}'; {nearest(name, list(known))}")


def _unknown(target: str, path: Path, config: Config) -> str:
    """Return the message about a target that nothing makes."""
    runs = list(config.file.runs)
    if os.sep not in target:
        return f"{target}: no run of {config.source} has this name; {nearest(target, runs)}"
    files = [str(path_of(stage, run=run)) for run in runs for stage in OF_A_RUN]
    close = difflib.get_close_matches(str(path), files, n=1)
    return f"{target}: no stage writes this file; " + (
        f"did you mean '{close[0]}'?" if close else "`tad run RUN` makes the score of a run"
    )
