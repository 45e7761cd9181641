"""Run the workflow for `tad new`: decode the videos, then check the labels against them.

Only `probe` is a job of its own. The other two stages take less time than a job needs to start, so they run in this
process, as their rules would run them: with the same settings, inputs, log, benchmark file and record of Snakemake.
"""

import os
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import chdir, nullcontext, redirect_stderr
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tad.commands.cli import build_parser
from tad.commands.stages import call
from tad.core.bundle import python_module, workflow_file
from tad.core.errors import TadError
from tad.core.processes import PARENT
from tad.core.storage import storing
from tad.settings.paths import path_of
from tad.settings.stage_table import STAGES
from tad.settings.strict_yaml import read_yaml
from tad.workflow.records import write_benchmark, write_record
from tad.workflow.rules import Workflow
from tad.workflow.runs import Wildcards
from tad.workflow.terminal import RENEWED, clock, last_message
from tad.workflow.why import refusal

TABULAR = ("annotate", "check")  # the stages that run in this process, in this order


def make_checked(name: str, root: Path) -> None:
    """Make the table of labels that is checked against the decoded videos.

    The outputs of an earlier configuration, which only Snakemake can judge, are left to the workflow.

    Args:
        name: the data set.
        root: the folder of config.yaml.

    Raises:
        TadError: a stage refuses the labels or the videos; the message is its own.
    """
    earlier = any(path_of(stage, root=root, dataset=name).exists() for stage in TABULAR)
    _snakemake(name, root, until=() if earlier else ("--until", "probe"))
    if not earlier:
        with chdir(root):  # paths in config.yaml are relative to its folder
            _tabulate(name)


def _snakemake(name: str, root: Path, until: Sequence[str]) -> None:
    command = [*python_module("tad.workflow.launch"), "--snakefile", str(workflow_file("Snakefile"))]
    command += ["--cores", "all", "--quiet", "all", *until, "--", str(path_of("check", dataset=name))]
    own = os.environ | {PARENT: str(os.getpid())}
    began = time.time()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=root, env=own, **pipes) as process:  # type: ignore[call-overload]
        try:
            printed = _watched(process, logs_of(name, root))
        except BaseException:  # interrupted or terminated: the process must not outlive this one
            process.kill()
            raise
    if process.returncode:
        raise TadError(_cause(name, root, since=began) or refusal(printed))


def logs_of(name: str, root: Path) -> Path:
    """Return the folder with the logs of the jobs that decode the videos of a data set."""
    return path_of("probe", root=root, dataset=name, shard="*").parent / "logs"


def _watched(process: subprocess.Popen[str], logs: Path) -> str:
    """Wait for the process; on a terminal, show its time and the last line of its newest log meanwhile.

    Returns:
        what it has printed.
    """
    began, console = time.monotonic(), Console(stderr=True, highlight=False)
    with console.status("") if console.is_terminal else nullcontext() as status:
        while True:
            try:
                return "".join(process.communicate(timeout=RENEWED))
            except subprocess.TimeoutExpired:
                if status is not None:
                    newest = max(logs.glob("*.probe.log"), key=lambda path: path.stat().st_mtime, default=None)
                    line = f"decoding the videos  {clock(time.monotonic() - began)}  {last_message(newest)}"
                    status.update(Text(line, no_wrap=True, overflow="ellipsis"))


def _tabulate(name: str) -> None:
    """Run the tabular stages in the current folder."""
    hashes = Path(".snakemake/tad_hashes.json").absolute()  # it is saved at the end of the process
    flow = Workflow(read_yaml(Path("config.yaml")), workflow_file("Snakefile").parent, hashes)
    names = Wildcards(dataset=name)
    source, manifests = flow.annotation_source(names), flow.manifests(names)
    table, videos = str(path_of("annotate", dataset=name)), flow.video_folder(names)
    _run("annotate", flow, names, [source], params=(source, flow.annotation_content(names)))
    arguments = [table, "--manifests", *manifests, "--videos", videos]
    _run("check", flow, names, arguments, params=(videos,), inputs=[table, *manifests])


def _run(
    stage: str,
    flow: Workflow,
    names: Wildcards,
    arguments: Sequence[str],
    *,
    params: Sequence[str],
    inputs: Sequence[str] | None = None,
) -> None:
    """Run a stage with the arguments of its rule, log to the rule's file, and let Snakemake know.

    The record is written first: after a kill it describes a missing output. Labels that change meanwhile differ from
    it, so the stage runs again.
    """
    out = path_of(stage, dataset=names.dataset)
    spec = flow.spec(stage, names)
    write_record(str(out), stage, params=(spec, flow.code(stage, names), *params), inputs=inputs)
    log = out.parent / "logs" / f"{names.dataset}.{stage}.log"
    began, used = time.monotonic(), time.process_time()
    with storing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("", encoding="utf-8")
    words = build_parser(stage).parse_args([stage, *arguments, "--spec", spec, "--out", str(out)])
    with open(log, "a", encoding="utf-8") as file, redirect_stderr(file):  # logging writes there as well
        list(call(STAGES[stage], words))
    write_benchmark(log.with_suffix(".tsv"), wall=time.monotonic() - began, cpu=time.process_time() - used)


def _cause(name: str, root: Path, *, since: float = 0.0) -> str:
    """Return the error message in the log of the first stage that failed; empty if no log has one.

    Args:
        name, root: the data set and its folder.
        since: logs that are older are of an earlier run (seconds since 1970).
    """
    for stage in ("annotate", "probe", "check"):
        logs = path_of(stage, root=root, dataset=name, shard="*").parent / "logs"
        found = sorted(logs.glob(f"{'*' if stage == 'probe' else name}.{stage}.log"))
        for log in (log for log in found if log.stat().st_mtime >= since):
            errors = re.findall(rf"^tad {stage}: (.*)", log.read_text(encoding="utf-8"), flags=re.MULTILINE)
            if errors:
                return str(errors[-1])
    return ""
