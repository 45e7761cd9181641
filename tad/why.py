"""What would run for a target, and why, in words: a dry run, with the stamps telling which setting or module."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from tad import provenance
from tad.config import Config
from tad.errors import TadError

STAGES = {"annotate", "probe", "pretrain", "extract", "merge", "convert", "join", "index"}
STAGES |= {"train", "detect", "suppress", "evaluate", "summarise"}
STAMPED = {".h5", ".json", ".safetensors"}
SENTENCES = {
    "Missing output files": "{} does not exist yet",
    "Input files updated by another job": "its input {} is going to be made again",
    "Updated input files": "its input {} changed after it was made",
    "Code has changed since last execution": "the command in its rule changed",
    "Set of input files has changed since last execution": "it has other input files than last time",
    "Software environment definition has changed since last execution": "its conda environment changed",
    "Forced execution": "it was asked for by force",
    "Incomplete output files": "{} was left unfinished",
}


@dataclass
class Job:
    """One job of the dry run."""

    rule: str
    outputs: list[str] = field(default_factory=list)
    wildcards: dict[str, str] = field(default_factory=dict)
    reason: str = ""


def parse_dry_run(text: str) -> list[Job]:
    """The jobs in the output of `snakemake -n`."""
    jobs: list[Job] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"(?:local)?rule (\w+):", line):
            jobs.append(Job(match[1]))
        elif jobs and (match := re.fullmatch(r"    (output|wildcards|reason): (.*)", line)):
            if match[1] == "output":
                jobs[-1].outputs = match[2].split(", ")
            elif match[1] == "wildcards":
                jobs[-1].wildcards = dict(part.split("=", 1) for part in match[2].split(", "))
            else:
                jobs[-1].reason = match[2].strip()
    return jobs


def refusal(text: str) -> str:
    """What Snakemake says when it cannot plan, in one line, without where in the rules it noticed."""
    _, found, tail = text.partition("WorkflowError:\n")
    if not found:
        _, found, tail = text.rpartition("Exception:\n")
    if not found:
        _, found, tail = text.partition("WorkflowError in file")
        tail = tail.partition("\n")[2]
    lines = [line.strip() for line in (tail if found else text).splitlines()]
    stop = ("Wildcards:", "Traceback:", "File ", "Using workflow specific profile")
    said = list(takewhile(lambda line: not line.startswith(stop), filter(None, lines)))
    return " ".join(said) or "see snakemake -n"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dict as `a.b.c` → value."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """`key: old → new`, one for each difference of two nested dicts."""
    before, after = flatten(old), flatten(new)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key}: {before.get(key, '(absent)')} → {after.get(key, '(absent)')}"


def _changed(job: Job, config: Config) -> list[str]:
    """What of settings and code differs from the stamp of the job's output."""
    output = next((Path(o) for o in job.outputs if Path(o).suffix in STAMPED and Path(o).is_file()), None)
    if job.rule not in STAGES or output is None:
        return []
    try:
        stamp = provenance.read_stamp(output)
    except TadError as error:
        return [str(error)]
    names = {k: v for k, v in job.wildcards.items() if k in ("run", "dataset", "features")}
    spec = config.spec(job.rule, **names).model_dump(mode="json")
    found = [f"setting {change}" for change in differences(stamp["spec"], spec)]
    now = provenance.modules(*provenance.stage_roots(job.rule, spec))
    before = stamp.get("modules", {})
    edited = sorted(m for m in now.keys() | before.keys() if now.get(m) != before.get(m))
    return found + [f"code of {module} changed" for module in edited]


def _reasons(job: Job, config: Config) -> list[str]:
    """Each reason of Snakemake's as a sentence; changed parameters are told from the stamp."""
    said: list[str] = []
    for part in job.reason.split("; "):
        head, _, rest = part.partition(":")
        if head.startswith("Params have changed"):
            outside = "the content of the files it reads from outside the workflow changed"
            said += _changed(job, config) or [outside if job.rule in STAGES else "its script or its settings changed"]
        elif head in SENTENCES:
            said.append(SENTENCES[head].format(rest.strip()))
        elif not rest or head[0].isupper():
            said.append(part)
    return list(dict.fromkeys(said))


def why(targets: list[str], *, config: Path = Path("config.yaml")) -> Iterator[str]:
    """Lines that say what would run for the targets and why; one line when nothing would.

    Raises:
        TadError: Snakemake cannot plan the target (its own message, shortened).
    """
    extra = [] if config == Path("config.yaml") else ["--configfile", str(config)]
    if not Path("Snakefile").is_file():
        extra += ["--snakefile", str(Path(__file__).parents[1] / "Snakefile")]
    command = [sys.executable, "-m", "snakemake", *targets, "--dry-run", "--nocolor", *extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TadError(f"snakemake cannot plan {' '.join(targets)}: {refusal(done.stdout + done.stderr)}")
    jobs = [job for job in parse_dry_run(done.stdout + done.stderr) if job.rule != "all"]
    if not jobs:
        yield f"{' '.join(targets)}: up to date, nothing would run"
        return
    settings = Config.read(config)
    for job in jobs:
        yield f"{job.rule} would run for {', '.join(job.outputs)}"
        for sentence in _reasons(job, settings):
            yield f"    because {sentence}"
    yield f"{len(jobs)} jobs in all"
