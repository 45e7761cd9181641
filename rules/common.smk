# Helpers for the rules. Everything that can be unit-tested is in tad.workflow.rules.
import os
import shlex
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

sys.path.insert(0, workflow.basedir)

from tad.core.bundle import import_path
from tad.core.errors import TadError
from tad.provenance.wanted import FILE as WANTED
from tad.workflow.interrupt import end_jobs_on_interrupt
from tad.workflow.locks import clear_stale_locks
from tad.workflow.records import mark_outdated
from tad.workflow.rules import Workflow
from tad.workflow.videos import SHARD
from tad.workflow.wanted import list_wanted
from tad.workflow.warnings import since


def dry_run():
    return workflow.dryrun


try:
    if workflow.is_main_process:
        alive = clear_stale_locks()
        if (
            workflow.execution_settings and workflow.execution_settings.no_hooks
        ):  # the list below would be that of an earlier run
            WANTED.unlink(missing_ok=True)
    flow = Workflow(
        config,
        basedir=workflow.basedir,
        files=config_files,
        dry=dry_run,
    )
    if workflow.is_main_process:
        # Snakemake resolves its targets only later and would report a missing one inside a traceback.
        flow.require_targets(sys.argv[1:])
except TadError as error:
    raise WorkflowError(str(error))

started = time.time()


# Each job compares its settings and those of its inputs with this list, wherever and however late it runs.
onstart:
    said_plainly(list_wanted, workflow.dag.jobs, flow.final, workflow.touch)
    end_jobs_on_interrupt()


onsuccess:
    for line in since(started):
        print(line, file=sys.stderr)


# With --sdm conda this is the Python of the rule's environment, which is first in its PATH; otherwise it is the Python
# that runs Snakemake.
in_conda = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
python = "python" if in_conda else sys.executable


# Shell functions let a rule read (and print) `tad …` while an edit of the package needs no reinstallation.
# Paths may contain any character: they are quoted for the shell, and braces are doubled because Snakemake formats them.
def quoted(text):
    return shlex.quote(str(text)).replace("{", "{{").replace("}", "}}")


# Jobs import `tad` from the clone, or from the installed package. The program puts this folder in front of the packages
# with components that may be on the caller's PYTHONPATH: a path with a colon cannot be part of PYTHONPATH. A conda
# environment has another Python and its own packages. `-P` keeps the modules of the working folder out; a script finds
# the modules beside it, as usual.
def launched(*statements):
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); " + "; ".join(statements)
    packages = import_path(other_python=in_conda)
    return f"{quoted(python)} -P -c {quoted(code)} {quoted(packages)}"


tad_main = launched("from tad.commands.cli import main", "sys.exit(main())")
script_main = launched(
    "import runpy",
    "sys.argv.pop(0)",
    "sys.path.insert(1, sys.argv[0].rpartition('/')[0])",
    "runpy.run_path(sys.argv[0], run_name='__main__')",
)
# The shell's own $PPID is 1 if this process is killed while the shell starts, and its job would be watched by nobody.
shell.prefix(
    f"set -euo pipefail; {'unset PYTHONPATH; ' if in_conda else ''}export TAD_DEVICE={quoted(flow.device)}"
    f" TAD_SUPERVISOR={os.getpid()} TAD_WANTED={quoted(WANTED.absolute())}; "
    f'tad() {{{{ {tad_main} "$@"; }}}}; '
    f'workflow_script() {{{{ {script_main} {quoted(workflow.basedir)}/workflow_scripts/"$@"; }}}}; '
)


# The number of cores for rules that use all of them. It is undefined on a cluster, whose profile sets threads per rule.
try:
    cores = workflow.cores
except WorkflowError:
    cores = 1


wildcard_constraints:
    run=flow.pattern("runs"),
    dataset=flow.pattern("datasets"),
    features=flow.pattern("features"),
    shard=SHARD,


def ready_scores(wildcards):
    return expand("results/{run}/map.json", run=said_plainly(flow.ready_runs))


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


def threads_of(stage):
    def count(wildcards):
        return said_plainly(flow.threads, stage, wildcards)

    return count


def share_of_cores(wildcards):
    return (
        min(cores, 8)
        if flow.gpus
        else said_plainly(flow.share_of_cores, wildcards, cores)
    )


def content(what):
    def key(wildcards):
        return said_plainly(getattr(flow, what), wildcards)

    return key


def env(name):
    """Return the path of a conda environment, with braces doubled because Snakemake formats it."""
    return f"{workflow.basedir}/envs/{name}.yaml".replace("{", "{{").replace("}", "}}")


def plannable(paths):
    """Return the paths that can be inputs of a rule. Snakemake takes text in braces for a wildcard, even in the path of
    a user's file. Such a path is only a parameter of its rule, which includes it with a hash of the content anyway.
    """
    if isinstance(paths, str):
        return [] if "{" in paths else paths
    return [path for path in paths if "{" not in path]


def need(what):
    def files(wildcards):
        found = plannable(said_plainly(getattr(flow, what), wildcards))
        # The user's files are compared by content, which is a parameter of the rule, and never by modification time.
        return (
            ancient(found)
            if isinstance(found, str) and not found.startswith("results/")
            else found
        )

    return files


def learned_from(what):
    """Return the inputs of a training. If its model is final, existing inputs are marked as ancient and missing ones
    are left out. Otherwise Snakemake would rerun the training after creating an input, and overwrite the final model.
    """

    def files(wildcards):
        found = said_plainly(getattr(flow, what), wildcards)
        if not said_plainly(flow.final, wildcards):
            return plannable(found)
        paths = [found] if isinstance(found, str) else found
        return [ancient(path) for path in plannable(paths) if Path(path).exists()]

    return files
