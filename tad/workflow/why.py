"""Explain which jobs would run for a target and why: a dry run, with changed settings and modules from the stamps."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from tad.core.bundle import python_module, workflow_file
from tad.core.errors import TadError
from tad.provenance import fingerprint, stamps
from tad.settings.config import Config
from tad.settings.paths import path_of
from tad.settings.stage_table import STAGES
from tad.video.listing import list_videos
from tad.workflow.locks import IN_USE, LOCKED
from tad.workflow.targets import check_targets

ALIKE = 3  # jobs of one rule with the same reasons are summed up from this number
STAMPED = {Path(stage.output).suffix for stage in STAGES.values()}
SENTENCES = {
    "Missing output files": "{} does not exist yet",
    "Input files updated by another job": "its input {} will be recreated",
    "Updated input files": "its input {} changed after it was made",
    "Code has changed since last execution": "the command in its rule changed",
    "Set of input files has changed since last execution": "it has other input files than last time",
    "Software environment definition has changed since last execution": "its conda environment changed",
    "Forced execution": "it was forced",
    "Incomplete output files": "{} was left unfinished",
}


@dataclass
class Job:
    """A job of the dry run."""

    rule: str
    outputs: list[str] = field(default_factory=list)
    wildcards: dict[str, str] = field(default_factory=dict)
    reason: str = ""


def parse_dry_run(text: str) -> list[Job]:
    """Parse the jobs in the output of `snakemake -n`."""
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


UNMADE = re.compile(r"No rule to produce (.+?) \(if you use input functions")


def refusal(text: str) -> str:
    """Extract Snakemake's error message as one line, without the location in the rules."""
    if LOCKED in text:
        return IN_USE
    _, marker, tail = text.partition("WorkflowError:\n")
    if not marker:
        _, marker, tail = text.rpartition("Exception:\n")
    if not marker:
        _, marker, tail = text.partition("WorkflowError in file")
        tail = tail.partition("\n")[2]
    lines = [line.strip() for line in (tail if marker else text).splitlines()]
    stop = ("Wildcards:", "Traceback:", "File ", "Using workflow specific profile")
    sentences = list(takewhile(lambda line: not line.startswith(stop), filter(None, lines)))
    if found := UNMADE.search(" ".join(sentences)):
        return f"no stage makes {found[1]}; name a run of config.yaml, or a file that the workflow makes"
    return " ".join(sentences) or "see snakemake -n"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested dict to `a.b.c` → value."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Yield `key: old → new` for each difference between two nested dicts."""
    before, after = flatten(old), flatten(new)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key}: {before.get(key, '(absent)')} → {after.get(key, '(absent)')}"


def differs(module: str, old: str | None, new: str | None) -> str:
    """Describe a changed module, or a changed version of a distribution, as a clause."""
    if module.startswith("distribution "):
        return f"version of the {module} changed: {old or '(absent)'} → {new or '(absent)'}"
    return f"code of {module} changed"


def _changed(job: Job, config: Config) -> list[str]:
    """List the differences of settings and code from the stamp of the job's output."""
    files = [config.root / name for name in job.outputs]
    output = next((file for file in files if file.suffix in STAMPED and file.exists()), None)
    if job.rule not in STAGES or output is None:
        return []
    try:
        stamp = stamps.read_stamp(output)
    except TadError as error:
        return [str(error)]
    names = {k: v for k, v in job.wildcards.items() if k in ("run", "dataset", "features")}
    spec = config.spec(job.rule, **names).model_dump(mode="json")
    changes = [f"setting {change}" for change in differences(stamp["spec"], spec)]
    now = fingerprint.stage_modules(job.rule, spec)
    before = stamp.get("modules", {})
    edited = sorted(m for m in now.keys() | before.keys() if now.get(m) != before.get(m))
    changes += [differs(m, before.get(m), now.get(m)) for m in edited]
    if not edited and stamp.get("code") != fingerprint.code(job.rule, spec):
        changes.append("its code imports a name from another module than before")
    return changes


def _few(paths: list[str]) -> str:
    """Return the first two of some paths, sorted, and how many more there are."""
    more = f" and {len(paths) - 2} more" if len(paths) > 2 else ""
    return ", ".join(sorted(paths)[:2]) + more


def _reasons(job: Job, config: Config) -> list[str]:
    """Return each of Snakemake's reasons as a sentence; changed parameters are explained with the stamp."""
    reasons: list[str] = []
    for part in job.reason.split("; "):
        head, _, rest = part.partition(":")
        if head.startswith("Params have changed"):
            outside = "the content of the files it reads from outside the workflow changed"
            reasons += _changed(job, config) or [
                outside if job.rule in STAGES else "its script or its settings changed"
            ]
        elif head in SENTENCES:
            reasons.append(SENTENCES[head].format(_few(rest.strip().split(", "))))
        elif not rest or head[0].isupper():
            reasons.append(part)
    return list(dict.fromkeys(reasons))


def _explained(jobs: list[Job], config: Config) -> Iterator[str]:
    """Yield each job with its reasons; many jobs of a rule with the same reasons are summed up."""
    groups: dict[tuple[str, tuple[str, ...]], list[Job]] = {}
    for job in jobs:
        reasons = tuple(_reasons(job, config))
        general = tuple(_without(reason, job.outputs) for reason in reasons)
        groups.setdefault((job.rule, general), []).append(job)
    for (rule, general), alike in groups.items():
        if len(alike) >= ALIKE:
            yield f"{rule} would run for {len(alike)} files, first {', '.join(alike[0].outputs)}"
            yield from (f"    because {sentence}" for sentence in general)
            continue
        for job in alike:
            yield f"{rule} would run for {', '.join(job.outputs)}"
            yield from (f"    because {sentence}" for sentence in _reasons(job, config))


def _without(sentence: str, outputs: list[str]) -> str:
    """Return a reason that names no file of its job, for many jobs that differ in their files only."""
    for output in outputs:
        sentence = sentence.replace(output, "the file")
    return re.sub(r"its input .* (will be recreated|changed after it was made)", r"its input \1", sentence)


def _videos(jobs: list[Job], config: Config) -> str:
    """Return how many videos the jobs of `probe` would look at; empty if there is no such job."""
    names = {job.wildcards.get("dataset", "") for job in jobs if job.rule == "probe"}
    folders = [config.root / config.dataset(name).videos for name in names if name and name not in config.generated]
    count = sum(len(list_videos(folder)) for folder in folders if folder.is_dir())
    return f" ({count} videos to decode)" if count else ""


def planned(targets: list[str], *, config: Path = Path("config.yaml")) -> list[Job]:
    """Return the jobs that would run for the targets; empty if everything is up to date.

    A target is a file below results/, or the name of a run, which stands for its score. Both are meant in the folder of
    the configuration.

    Raises:
        TadError: Snakemake cannot plan the targets; the message is Snakemake's own, shortened.
    """
    extra = [] if config.name == "config.yaml" else ["--configfile", config.name]
    settings = Config.read(config)
    runs, root = settings.file.runs, settings.root
    targets = [str(path_of("evaluate", run=t)) if t in runs and not (root / t).exists() else t for t in targets]
    check_targets(targets, settings)
    command = [*python_module("snakemake"), *targets, "--dry-run", "--nocolor", *extra]
    command += ["--snakefile", str(workflow_file("Snakefile"))]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TadError(f"snakemake cannot plan {' '.join(targets)}: {refusal(done.stdout + done.stderr)}")
    return [job for job in parse_dry_run(done.stdout + done.stderr) if job.rule != "all"]


def why(targets: list[str], *, config: Path = Path("config.yaml")) -> Iterator[str]:
    """Yield lines that list the jobs that would run for the targets, with reasons; one line if there are none.

    A target is a file below results/, or the name of a run, which stands for its score.

    Raises:
        TadError: Snakemake cannot plan the targets; the message is Snakemake's own, shortened.
    """
    jobs = planned(targets, config=config)
    if not jobs:
        yield f"{' '.join(targets)}: up to date, nothing would run"
        return
    settings = Config.read(config)
    yield from _explained(jobs, settings)
    counts = Counter(job.rule for job in jobs)
    rules = ", ".join(f"{rule} {count}" for rule, count in counts.items())
    yield f"{len(jobs)} job{'s' * (len(jobs) != 1)} in all: {rules}{_videos(jobs, settings)}"
