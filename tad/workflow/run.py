"""Run the workflow in any folder: Snakemake with the Snakefile of this package and the folder's config.yaml."""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from tad.core.bundle import ROOT, python_module, workflow_file
from tad.core.errors import TadError
from tad.settings.paths import path_of
from tad.workflow.targets import configured

# Arguments that set the number of cores or jobs, directly or by a profile.
CORES = re.compile(r"-[cj]\d*|--(cores|jobs|profile|local-cores)(=.*)?")
# Options of Snakemake without a value; the name of a run may follow them.
FLAGS = frozenset({
    "--", "-n", "--dry-run", "--dryrun", "-p", "--printshellcmds", "-f", "--force", "-F", "--forceall", "-k",
    "--keep-going", "-t", "--touch", "--rerun-incomplete", "--ri", "--nolock", "--unlock", "--dag", "--rulegraph",
    "--summary", "--detailed-summary", "--notemp", "--verbose", "--nocolor",
})  # fmt: skip
# Options with which Snakemake's own output is shown: there is no progress, or the user requests it.
OWN_OUTPUT = frozenset({
    "-n", "--dry-run", "--dryrun", "-q", "--quiet", "-v", "--verbose", "--logger", "--dag", "--rulegraph",
    "--filegraph", "--d3dag", "--summary", "--detailed-summary", "-D", "-S", "--unlock", "--list", "-l", "--lint",
    "--report", "--help", "-h", "--version", "--cleanup-metadata", "--archive", "--list-input-changes",
    "--list-params-changes", "--list-code-changes", "--containerize", "--export-cwl",
    "--delete-all-output", "--delete-temp-output",
})  # fmt: skip
VERBOSE = frozenset({"-v", "--verbose"})
PROFILES = ("--profile", "--workflow-profile")
CONFIG_FILES = ("--configfile", "--configfiles")
SNAKEFILE = re.compile(r"-s|--snakefile(=.*)?")


def _profile(name: str) -> str:
    """Return the folder of a profile of this package (`slurm` or `profiles/slurm`); other names unchanged."""
    for candidate in (ROOT / "profiles" / name, ROOT / name):
        if not Path(name).exists() and (candidate / "profile.yaml").is_file():
            return str(candidate)
    return name


def _config_files(words: Sequence[str]) -> list[Path]:
    """Return the configuration files that apply: config.yaml, if there is one, and those of `--configfile`."""
    files, taken = [Path("config.yaml")] if Path("config.yaml").is_file() else [], False
    for word in words:
        option, equals, value = word.partition("=")
        if option.startswith("-"):
            taken = option in CONFIG_FILES and not equals
            files += [Path(value)] if option in CONFIG_FILES and equals else []
        elif taken:
            files.append(Path(word))
    return files


def _arguments(words: Sequence[str], runs: Iterable[str]) -> list[str]:
    """Return the arguments for Snakemake: names of runs become their scores, names of profiles their folders."""
    targets: list[str] = []
    for word in words:
        before = targets[-1] if targets else ""
        option, equals, value = word.partition("=")
        if option in PROFILES and equals:
            targets.append(f"{option}={_profile(value)}")
        elif before in PROFILES:
            targets.append(_profile(word))
        elif (
            word in runs
            and (not before.startswith("-") or "=" in before or before in FLAGS)
            and not Path(word).exists()
        ):
            targets.append(str(path_of("evaluate", run=word)))
        else:
            targets.append(word)
    return targets


def snakemake_command(words: Sequence[str]) -> list[str]:
    """Return the command line that `tad run` executes.

    It is `snakemake` with the Snakefile of this package and these words. The name of a run stands for its score. All
    cores are used unless an argument sets their number. One line per job shows its progress (`tad.workflow.terminal`);
    with `-v`, and for dry runs and lists, the output is Snakemake's own. Its line about the workflow profile is shown
    only with `-v`.

    Raises:
        TadError: this folder has no config.yaml, or it is invalid.
    """
    if any(SNAKEFILE.fullmatch(word) for word in words):
        raise TadError("tad run always uses its own Snakefile; call snakemake itself for another one")
    files = _config_files(words)
    if not files:
        raise TadError(
            f"{Path.cwd()}: no config.yaml in this folder; write one with `tad new NAME --videos FOLDER --labels FILE`,"
            " or go to the folder that has one"
        )
    runs = configured(files).file.runs
    cores = (
        [] if any(CORES.fullmatch(word) for word in words) or "SNAKEMAKE_PROFILE" in os.environ else ["--cores", "all"]
    )
    module = "snakemake" if VERBOSE.intersection(words) else "tad.workflow.launch"
    own = any(word.partition("=")[0] in OWN_OUTPUT for word in words)
    progress = [] if own else ["--logger", "tad"]  # before another option: it takes every word up to the next one
    words = [word for word in words if word != "-v"]
    command = [*python_module(module), *progress, "--snakefile", str(workflow_file("Snakefile"))]
    return [*command, *cores, *_arguments(words, runs)]


def run(words: Sequence[str]) -> NoReturn:
    """Replace this process by Snakemake, so that signals and the exit status are Snakemake's own."""
    command = snakemake_command(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)
