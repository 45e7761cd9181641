"""List the settings and code that a run of the workflow wants for each artefact; see `tad.provenance.wanted`."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tad.provenance.stamps import identity_of
from tad.provenance.wanted import FILE, Record, write_wanted
from tad.workflow.records import record_of, record_text
from tad.workflow.runs import Wildcards


def list_wanted(jobs: Iterable[Any], final: Callable[[Wildcards], bool], touched: bool) -> Path:
    """Write the list for all jobs of a plan, including those that are up to date.

    Args:
        jobs: Snakemake's jobs, with `rule.name`, `wildcards`, `output`, `params` and `non_derived_params`, which is
            what Snakemake records of them; those without settings are not in the list, nor are final models, which are
            accepted with any settings.
        final: whether the model of a run (its wildcards) is final; see `Workflow.final`.
        touched: the run only marks existing outputs as current (`snakemake --touch`).

    Raises:
        TadError: a final model, or an artefact to be marked as current, was not made by `tad`.
    """
    specs: dict[str, str] = {}
    codes: dict[str, str] = {}
    records: dict[str, Record] = {}
    for job in jobs:
        text = job.params.get("spec")
        if text is not None and not (job.rule.name == "train" and final(job.wildcards)):
            specs[str(job.output[0])] = str(text)
            codes[str(job.output[0])] = str(job.params.get("code"))
            paths = tuple(str(record_of(str(output)).absolute()) for output in job.output)
            records[str(job.output[0])] = Record(paths, record_text(job.rule.name, job.non_derived_params))
    accepted = {name: identity_of(Path(name)) for name in specs if touched and Path(name).is_file()}
    return write_wanted(FILE, specs, accepted, codes, records)
