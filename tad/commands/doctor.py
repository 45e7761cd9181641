"""`tad doctor`: check the installation, the machine and the folder, and report problems with remedies."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from tad.commands import doctor_folder as folder
from tad.commands import doctor_packages as packages
from tad.commands import doctor_trials as trials
from tad.commands.doctor_findings import Finding
from tad.core.errors import TadError
from tad.settings.paths import RESULTS

TRIAL_SECONDS = 120.0  # a first import from a slow network file system takes a minute
FAILED = {
    "readers": "pip install --force-reinstall av decord==0.6.0",
    "torch": "install torch again (pytorch.org)",
    "numba": "pip install --force-reinstall numba",
    "openvino": "pip install --force-reinstall openvino",
}


def _started(folder: str) -> dict[str, subprocess.Popen[str]]:
    """Start all trials, the longest first. Openvino has its own: it needs no torch, and imports in parallel."""
    optional = packages.optional_modules()
    started = {"torch": trials.start("torch", folder, *(name for name in optional if name != "openvino"))}
    started |= {name: trials.start(name, folder) for name in ("numba", "readers")}
    if "openvino" in optional:
        started["openvino"] = trials.start("openvino", folder)
    return started


def _tried(name: str, process: subprocess.Popen[str]) -> tuple[dict[str, Any], list[Finding]]:
    """Return what a trial found, or the problem that it ended with."""
    try:
        return trials.ended(process, seconds=TRIAL_SECONDS), []
    except TadError as error:
        state: Literal["note", "problem"] = "note" if name == "openvino" else "problem"  # nothing requires it
        return {}, [Finding(name, state, f"{name}: {error}", FAILED[name])]


def findings(config: Path) -> Iterator[Finding]:
    """Yield all findings. Heavy packages are imported in subprocesses while the other checks run."""
    with TemporaryDirectory(prefix="tad-doctor-") as name:
        started = _started(name)
        results = config.parent / RESULTS
        checks: tuple[Callable[[], Iterator[Finding]], ...] = (
            packages.versions,
            packages.bytecode,
            packages.weights,
            lambda: folder.file_system(results),
            lambda: folder.space(results),
            folder.memory,
            folder.caches,
            lambda: folder.left_over(results, config.parent / ".snakemake"),
            lambda: folder.configuration(config),
        )
        for check in checks:
            yield from check()
        if "openvino" in started:
            of_openvino, problems = _tried("openvino", started["openvino"])
            yield from problems or packages.of_imports(of_openvino)
        of_torch, problems = _tried("torch", started["torch"])
        yield from problems or packages.of_torch(of_torch)
        of_readers, problems = _tried("readers", started["readers"])
        yield from problems
        if "torchcodec" in of_torch:
            of_readers["torchcodec"] = of_torch["torchcodec"]
        yield from packages.of_readers(of_readers)
        of_numba, problems = _tried("numba", started["numba"])
        yield from problems or packages.of_numba(of_numba)


def doctor(*, config: Path = Path("config.yaml"), as_json: bool = False) -> Iterator[str]:
    """Yield one line per finding: `ok`, `note` or `problem`, the topic, what was found, and a remedy.

    Args:
        config: the configuration; results/ beside it is looked at.
        as_json: yield one JSON list of all findings instead.

    Raises:
        TadError: after all lines, if there are problems.
    """
    found = []
    for finding in findings(config):
        found.append(finding)
        if not as_json:
            yield finding.line()
    if as_json:
        yield json.dumps([finding._asdict() for finding in found], indent=1, ensure_ascii=False)
    counts = {state: sum(finding.state == state for finding in found) for state in ("ok", "note", "problem")}
    if counts["problem"]:
        raise TadError(f"problems found: {counts['problem']}; each has a remedy in its line")
    if not as_json:
        yield f"problems: 0, notes: {counts['note']}"
