"""A real one-node Slurm: a job is cancelled, the node is drained and resumed, and the bytes are those of a local run.

Needs root and Debian's Slurm; it installs nothing and is skipped where they are missing.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from cases import LOST, SILENT, SKIPPED, SURVIVED, Case

WEIGHT = 2.0
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "cluster" / "run_slurm.sh"
TARGET = "results/small/map.json"
MISSING, TOO_SLOW = 77, 124  # exit status of the script: no Slurm; Snakemake was ended by `timeout`
LEAST_SECONDS = 90.0
NAME = f"cancelled job, drained node: {TARGET} on Slurm"


def run(budget_seconds: float) -> list[Case]:
    """Run the workflow on Slurm with both faults, and locally; compare all files."""
    if budget_seconds < LEAST_SECONDS:
        return [Case(NAME, SKIPPED, f"needs {LEAST_SECONDS:.0f} s; {budget_seconds:.0f} s were left")]
    wishes = {"TAD_CLUSTER_FAULTS": "1", "TAD_CLUSTER_INSTALL": "0", "PYTHON": sys.executable}
    environment = os.environ | wishes | {"TAD_CLUSTER_SECONDS": str(round(budget_seconds * 0.7))}
    process = subprocess.Popen(
        [str(SCRIPT), TARGET], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=budget_seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # the script stops its cluster
        output, _ = process.communicate()
        return [Case(NAME, SKIPPED, f"not finished in {budget_seconds:.0f} s on this machine")]
    return [judged(process.returncode, output)]


def judged(status: int, output: str) -> Case:
    """Judge the output of the script."""
    last = output.strip().splitlines()[-1] if output.strip() else "no output"
    if status == MISSING:
        return Case(NAME, SKIPPED, last)
    if status == TOO_SLOW:
        return Case(NAME, SKIPPED, "the run on Slurm took longer than its share of the time")
    if status:
        return Case(NAME, LOST, f"exit status {status}: {last}"[:300])
    faults = re.findall(r"^(cancelled|drained|resumed): ", output, re.M)
    if faults != ["cancelled", "drained", "resumed"] or f"equal: {TARGET}" not in output:
        return Case(NAME, SILENT, f"the faults were {faults}; {last}"[:300])
    return Case(NAME, SURVIVED)
