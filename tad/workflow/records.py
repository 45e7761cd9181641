"""Settings and code of artefacts that Snakemake has no record of, compared by their stamps.

Snakemake compares settings and code with its records in `.snakemake/metadata`. If that folder was deleted, or results
were copied without it, whatever exists counts as current. Each artefact has its settings and code in its stamp, so the
records of those that are out of date are written from there.
"""

import json
import logging
import os
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tad.core.errors import TadError
from tad.core.files import publish, read_json, write_json
from tad.core.storage import storing
from tad.provenance.stamps import first_difference, read_stamp
from tad.settings.paths import RESULTS
from tad.settings.stage_table import STAGES, Stage
from tad.workflow.rules import Workflow
from tad.workflow.runs import Wildcards

log = logging.getLogger(__name__)
FOLDER = Path(".snakemake")
OWN = "tad: no record, and the stamp has other settings or code"  # the parameter in records that are written here
FORMAT = 6  # of Snakemake's records
# columns of Snakemake's benchmark files
BENCHMARK = ("s", "h:m:s", "max_rss", "max_vms", "max_uss", "max_pss", "io_in", "io_out", "mean_load", "cpu_time")
LISTED = 5  # artefacts, a line each


def record_of(output: str, folder: Path = FOLDER) -> Path:
    """Return where Snakemake stores its record of an output."""
    name, most = urlsafe_b64encode(output.encode()).decode(), os.pathconf(folder, "PC_NAME_MAX") - 1
    parts = [name[at : at + most] for at in range(0, len(name), most)]
    return folder.joinpath("metadata", *(f"@{part}" for part in parts[:-1]), parts[-1])


def record_text(rule: str, params: Iterable[Any], *, inputs: Sequence[str] | None = None) -> str:
    """Return Snakemake's record of an output that is made without a job, so that it is compared like any other.

    Args:
        rule: name of its rule.
        params: the rule's parameters, in any order.
        inputs: the rule's inputs; None: not recorded, so that Snakemake compares only their dates.
    """
    known = {} if inputs is None else {"input": sorted(inputs)}
    return json.dumps({"record_format_version": FORMAT, "rule": rule, "params": sorted(map(repr, params)), **known})


def write_record(
    output: str, rule: str, *, params: Iterable[str], inputs: Sequence[str] | None = None, folder: Path = FOLDER
) -> None:
    """Write Snakemake's record of an output; see `record_text`.

    Args:
        output: path of the output.
        rule, params, inputs: see `record_text`.
        folder: Snakemake's folder.
    """
    text = record_text(rule, params, inputs=inputs)
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    with storing(folder):
        record = record_of(output, folder)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(text, encoding="utf-8")


def write_benchmark(path: Path, *, wall: float, cpu: float) -> None:
    """Write Snakemake's benchmark file of a stage that ran without a job; memory and traffic are not measured.

    Args:
        path: the file.
        wall, cpu: seconds.
    """
    clock = str(timedelta(seconds=int(wall)))
    row = [f"{wall:.2f}", clock, *["NA"] * 6, f"{100 * cpu / max(wall, 1e-3):.2f}", f"{cpu:.2f}"]
    with publish(path) as partial:
        partial.write_text("\t".join(BENCHMARK) + "\n" + "\t".join(row) + "\n", encoding="utf-8")


def _artefacts(stage: Stage, flow: Workflow) -> Iterator[tuple[Path, Wildcards]]:
    """Yield the existing outputs of a stage for all names in config.yaml, with their wildcards."""
    file = flow.config.file
    runs = [name for run in file.runs for name in dict.fromkeys((run, *flow.config.trainings(run)))]
    rows: list[dict[str, str]] = [{"run": run} for run in runs] if "run" in stage.wildcards else [{}]
    for kind in ("dataset", "features"):
        if kind in stage.wildcards:
            names = file.datasets if kind == "dataset" else file.features
            rows = [row | {kind: name} for row in rows for name in names]
    for row in rows:
        if "shard" not in stage.wildcards:
            path = Path(RESULTS, stage.output.format(**row))
            if path.exists():
                yield path, Wildcards(**row)
            continue
        pattern = Path(RESULTS, stage.output.format(**row, shard="*"))
        for path in sorted(pattern.parent.glob(pattern.name)):
            yield path, Wildcards(**row, shard=path.name.removesuffix(pattern.suffix))


def _difference(path: Path, stage: str, wildcards: Wildcards, flow: Workflow) -> str:
    """Return how the stamp of an artefact differs from what the workflow wants; empty if it does not."""
    stamped, wanted = read_stamp(path), json.loads(flow.spec(stage, wildcards))
    if stamped.get("stage") != stage:
        return f"made by stage {stamped.get('stage')} and not by {stage}"
    if stamped.get("spec") != wanted:
        setting, have, want = first_difference("", stamped.get("spec"), wanted)
        return f"made with {setting.lstrip('.')}={have!r:.60} and not {want!r:.60}"
    return "" if stamped.get("code") == flow.code(stage, wildcards) else "made with other code"


def mark_outdated(rules: Iterable[Any], flow: Workflow, folder: Path = FOLDER) -> dict[str, str]:
    """Let Snakemake make artefacts again that have no record and whose settings or code differ from the wanted ones.

    Their record gets a parameter that no job has. It is removed when the settings are wanted again. Records of
    Snakemake are never changed; `snakemake --touch` writes them, and so accepts what exists.

    Args:
        rules: Snakemake's rules; those of stages have the stage's name.
        flow: the workflow.
        folder: Snakemake's folder.

    Returns:
        path of each artefact that is out of date → how it differs.
    """
    listed = folder / "tad_outdated.json"
    before = read_json(listed)["outputs"] if listed.is_file() else {}
    outdated: dict[str, str] = {}
    outputs: dict[str, list[str]] = {}
    for rule in rules:
        if rule.name not in STAGES:
            continue
        for path, wildcards in _artefacts(STAGES[rule.name], flow):
            if not rule.is_producer(str(path)) or not _is_ours(record_of(str(path), folder)):
                continue
            try:
                final = rule.name == "train" and flow.final(wildcards)
                difference = "" if final else _difference(path, rule.name, wildcards, flow)
            except TadError as error:  # of a run that is not requested, or a file that the stage will refuse
                log.debug("%s: %s", path, error)
                continue
            if difference:
                outdated[str(path)] = difference
                outputs[str(path)] = [str(output) for output in rule.expand_output(vars(wildcards))[0]]
    for output in {output for names in before.values() for output in names}:
        record = record_of(output, folder)
        if _is_ours(record):
            record.unlink(missing_ok=True)
    text = json.dumps({"record_format_version": FORMAT, "params": [OWN]})
    with storing(folder):
        for record in {record_of(output, folder) for names in outputs.values() for output in names}:
            if not record.exists():
                record.parent.mkdir(parents=True, exist_ok=True)
                record.write_text(text, encoding="utf-8")
    if outputs or before:
        write_json(listed, {"outputs": outputs})
    for name, difference in list(outdated.items())[: LISTED if outdated.keys() - before.keys() else 0]:
        log.warning("%s: %s, and Snakemake has no record of it; it is made again", name, difference)
    return outdated


def _is_ours(record: Path) -> bool:
    """Return whether Snakemake has no record of its own: there is none, or it was written here."""
    try:
        text = record.read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    return OWN in text
