# Helpers of the rules: everything that can be tested lives in tad.workflow.
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

sys.path.insert(0, workflow.basedir)

from tad.errors import TadError
from tad.locks import clear_stale_locks
from tad.workflow import Workflow

if workflow.is_main_process:
    alive = clear_stale_locks()

try:
    flow = Workflow(config, basedir=workflow.basedir)
    if workflow.is_main_process:
        # Snakemake itself knows its targets only later, and would tell what is missing amid a traceback.
        flow.require_targets(sys.argv[1:])
except TadError as error:
    raise WorkflowError(str(error))

# With --sdm conda the Python of a rule's environment, which comes first in its PATH; else the one that runs this.
in_conda = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
python = "python" if in_conda else sys.executable

# Shell functions, so that an edit of the package needs no reinstall and a rule still reads (and prints) `tad …`.
shell.prefix(
    "set -euo pipefail; "
    f"export PYTHONPATH='{workflow.basedir}' TAD_DEVICE='{flow.device}'; "
    f"tad() {{{{ '{python}' -m tad \"$@\"; }}}}; "
    f"workflow_script() {{{{ '{python}' '{workflow.basedir}/workflow_scripts/'\"$@\"; }}}}; "
)


# Rules that use every core there is. A cluster has no such number: its profile gives threads rule by rule.
try:
    cores = workflow.cores
except WorkflowError:
    cores = 1


wildcard_constraints:
    run=flow.pattern("runs"),
    dataset=flow.pattern("datasets"),
    features=flow.pattern("features"),
    shard=r"\d\d-of-\d\d",


def ready_runs():
    return flow.ready_runs()


def said_plainly(method, *arguments):
    try:
        return method(*arguments)
    except TadError as error:
        raise WorkflowError(str(error))


def spec(stage):
    def settings(wildcards):
        return said_plainly(flow.spec, stage, wildcards)

    return settings


def code(stage):
    def fingerprint(wildcards):
        return said_plainly(flow.code, stage, wildcards)

    return fingerprint


def content(what):
    def key(wildcards):
        return said_plainly(getattr(flow, what), wildcards)

    return key


def need(what):
    def files(wildcards):
        found = said_plainly(getattr(flow, what), wildcards)
        # What the user put there counts by content, which is a parameter of the rule, and never by its date.
        return (
            ancient(found)
            if isinstance(found, str) and not found.startswith("results/")
            else found
        )

    return files


def learned_from(what):
    """What a training reads. For a model that is final it counts as old, and what is not there yet as nothing,
    because Snakemake makes anew what follows from a file that it makes: nothing trains over such a model.
    """

    def files(wildcards):
        found = said_plainly(getattr(flow, what), wildcards)
        if not said_plainly(flow.final, wildcards):
            return found
        paths = [found] if isinstance(found, str) else found
        return [ancient(path) for path in paths if Path(path).exists()]

    return files
