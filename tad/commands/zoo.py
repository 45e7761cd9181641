"""List the ready runs of a configuration: inputs, missing files, and published scores with their source."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tad.core.bundle import ROOT
from tad.core.errors import TadError
from tad.settings.config import Config
from tad.settings.plugins import nearest
from tad.settings.rows import PublishedScore
from tad.workflow.missing import missing_of_run, needs

log = logging.getLogger(__name__)
COLUMNS = ("run", "data set", "features", "detector", "published", "missing here")


def entry(config: Config, run: str) -> dict[str, Any]:
    """Return the facts about a run as plain values.

    `needs` lists all files and runs, `missing` one sentence per missing file.
    """
    row = config.run(run)
    return {
        "run": run,
        "file": config.source_of("runs", run),
        "dataset": row.dataset,
        "features": row.features,
        "detector": row.detector if isinstance(row.detector, str) else row.detector.get("name", ""),
        "seeds": row.seeds,
        "needs": [need._asdict() for need in needs(config, run)],
        "missing": missing_of_run(config, run),
        "published": row.published.model_dump(exclude_defaults=True) if row.published else None,
    }


def _included(config: Config) -> list[str]:
    return [run for run in config.file.runs if config.included.file_of("runs", run)]


def _complete() -> list[str]:
    """Return the shipped files of rows, as `include` names them, that need no rows of other files."""
    files = []
    for path in sorted((ROOT / "zoo").glob("*.yaml")):
        entry = f"zoo/{path.name}"
        try:
            config = Config({"include": [entry]}, folder=ROOT)
            for run in config.file.runs:
                config.check(run)
        except TadError as error:  # such as further runs of the demo, whose rows are in the checkout's config.yaml
            log.debug("%s", error)
            continue
        files.append(entry)
    return files


def _chosen(config: Config, names: Sequence[str]) -> list[str]:
    """Return all included runs, or those named by run, data set, format, or file name without suffix."""
    if not names:
        return _included(config)
    keys = {run: _keys(config, run) for run in config.file.runs}
    for name in names:
        if not any(name in of_run for of_run in keys.values()):
            raise TadError(
                f"{name}: neither a run nor a data set; {nearest(name, sorted(set().union(*keys.values())))}"
            )
    return [run for run, of_run in keys.items() if of_run & set(names)]


def _keys(config: Config, run: str) -> set[str]:
    dataset = config.run(run).dataset
    return {run, dataset, config.format(dataset), Path(config.source_of("runs", run).split(" with ")[0]).stem}


def score_text(published: PublishedScore | None) -> str:
    """Format a published score in percent."""
    if published is None:
        return "–"
    if published.average_mAP is not None:
        return f"{published.average_mAP:g}"
    return " ".join(f"{value:g}@{tiou}" for tiou, value in published.mAP.items())


def _cells(config: Config, run: str) -> list[str]:
    facts = entry(config, run)
    missing = list(
        dict.fromkeys(need["what"] for need in facts["needs"] if not need["there"] and need["what"] != "run")
    )
    if not missing and facts["missing"]:
        missing = ["files of " + ", ".join(need["path"] for need in facts["needs"] if need["what"] == "run")]
    published = score_text(config.run(run).published)
    return [run, facts["dataset"], facts["features"], facts["detector"], published, ", ".join(missing) or "nothing"]


def _aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    table = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _details(config: Config, run: str) -> Iterator[str]:
    facts, published = entry(config, run), config.run(run).published
    rows = ", ".join(f"{key} {facts[key]}" for key in ("dataset", "features", "detector"))
    yield f"{run} ({facts['file']}): {rows}"
    for need in facts["needs"]:
        other = "trained" if need["there"] else "not trained yet; the workflow trains it first"
        state = ("found" if need["there"] else "missing") if need["what"] != "run" else other
        yield f"  needs {need['what']} {need['path']}: {state}"
    for sentence in facts["missing"]:
        yield f"  {sentence}"
    if published:
        note = f"; {published.note}" if published.note else ""
        yield f"  published: {score_text(published)} ({published.source}{note})"
    yield f"  run it: tad run {run}"


def zoo(names: Sequence[str] = (), *, config: Path = Path("config.yaml"), format: str = "text") -> Iterator[str]:
    """Yield a table of the ready runs, all or those of a data set, or the details of the runs that are named.

    Args:
        names: runs, data sets or files of rows; all included runs by default.
        config: the configuration. If it includes no runs or does not exist, the shipped runs are listed.
        format: `text` or `json`.

    Raises:
        TadError: an unknown name, or invalid settings of a run.
    """
    settings = Config.read(config) if config.is_file() or config != Path("config.yaml") else None
    shipped = settings is None or not _included(settings)
    if settings is None or shipped:
        settings = Config({"include": _complete()}, source=str(config), root=config.parent, folder=ROOT)
    runs = _chosen(settings, names)
    for run in runs:
        settings.check(run)
    if format == "json":
        yield json.dumps([entry(settings, run) for run in runs], indent=1, ensure_ascii=False)
        return
    yield from _listed(settings, runs, names)
    if shipped:
        file = Path(settings.included.file_of("runs", runs[0])).name
        yield f"{settings.source} includes none of them; to run one, add its file there, such as: include: [zoo/{file}]"


def _listed(settings: Config, runs: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    named = [run for run in runs if run in names]
    if named != runs:  # a data set's, or all
        yield from _aligned([COLUMNS, *(_cells(settings, run) for run in runs)])
        yield f"{len(runs)} runs; `tad zoo <run>` says what a run needs and where it is published"
    for run in named:
        yield from _details(settings, run)
