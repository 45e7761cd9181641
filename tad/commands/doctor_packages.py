"""Checks of `tad doctor` on what is installed: versions, extras, devices, readers, compiled code, weights."""

import importlib.metadata
import os
import platform
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tad import __version__
from tad.commands.doctor_findings import Finding
from tad.core.bundle import ROOT
from tad.core.errors import TadError
from tad.settings import plugins
from tad.weights.published import packaged, published

DISTRIBUTION = "temporal-action-detection"
OLDEST_PYTHON = (3, 11)
REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)([^;]*)(?:;.*extra *== *[\"']([\w-]+)[\"'])?")
TOOLS = ("test", "docs")  # extras for those who change the package
GPU_FILES = ("/dev/nvidia0", "/dev/kfd")
READER_REMEDIES = {
    "pyav": "pip install --force-reinstall av",
    "decord": "pip install --force-reinstall decord==0.6.0, or set reader: pyav",
    "torchcodec": "install FFmpeg's shared libraries and the release that fits torch (0.13.0 beside a CPU build);"
    " other readers do without",
}


class Requirement(NamedTuple):
    """A required distribution: its name, its minimum or exact version, and the extra that needs it."""

    name: str
    least: str
    exactly: str
    extra: str

    @property
    def remedy(self) -> str:
        """The command that installs it."""
        version = f"=={self.exactly}" if self.exactly else f">={self.least}" if self.least else ""
        return f"pip install '{self.name}{version}'"


def _requirement(text: str, extra: str = "") -> Requirement:
    match = REQUIREMENT.match(text)
    assert match is not None, text
    bounds = dict(re.findall(r"(==|>=) *([\d.]+)", match[2]))
    return Requirement(match[1], bounds.get(">=", ""), bounds.get("==", ""), extra or match[3] or "")


def requirements() -> list[Requirement]:
    """Return the package's requirements: from pyproject.toml in a checkout, else from the installed metadata."""
    file = ROOT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        own = [_requirement(text) for text in project["dependencies"]]
        return own + [_requirement(text, extra) for extra, texts in extras.items() for text in texts]
    try:
        return [_requirement(text) for text in importlib.metadata.requires(DISTRIBUTION) or []]
    except importlib.metadata.PackageNotFoundError:
        raise TadError(f"{DISTRIBUTION}: not installed, and {file} does not exist; pip install it again") from None


def version_of(distribution: str) -> str:
    """Return the installed version of a distribution; empty if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"[\d.]*", version)[0].strip(".").split(".") if part)  # type: ignore[index]


def _wrong(wanted: Requirement) -> str:
    """Return what is wrong with an installed distribution; empty if it fits or nothing is required."""
    found = version_of(wanted.name)
    if not found:
        return f"{wanted.name} is not installed"
    if wanted.exactly and _numbers(found) != _numbers(wanted.exactly):
        return f"{wanted.name} is {found}, but {wanted.exactly} is needed"
    if wanted.least and _numbers(found) < _numbers(wanted.least):
        return f"{wanted.name} is {found}, but at least {wanted.least} is needed"
    return ""


def versions() -> Iterator[Finding]:
    """Report the versions of Python, the package, its requirements and its extras."""
    python = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        yield Finding(
            "versions", "problem", f"Python {python}", f"install {'.'.join(map(str, OLDEST_PYTHON))} or newer"
        )
    needed = [one for one in requirements() if not one.extra]
    wrong = [(one, text) for one in needed if (text := _wrong(one))]
    for one, text in wrong:
        yield Finding("versions", "problem", text, one.remedy)
    fine = [f"{one.name} {version_of(one.name)}" for one in needed if one not in [bad for bad, _ in wrong]]
    yield Finding("versions", "ok", ", ".join([f"tad {__version__}", f"Python {python}", *fine]))
    yield from _extras()


def bytecode() -> Iterator[Finding]:
    """Report whether every process compiles torch's modules anew."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:  # reported with the versions
        return
    kept = Path(cache_from_source(spec.origin)).is_file()
    if not kept and sys.dont_write_bytecode:
        yield Finding("bytecode", "note", "PYTHONDONTWRITEBYTECODE is set, and torch was installed without bytecode:"
                      " every process compiles it anew, which takes seconds",
                      "unset it, or run `python -m compileall` on the installed packages once")  # fmt: skip


def _extras() -> Iterator[Finding]:
    extras: dict[str, list[Requirement]] = {}
    for one in requirements():
        if one.extra and one.extra not in TOOLS:
            extras.setdefault(one.extra, []).append(one)
    absent = []
    for extra, members in extras.items():
        wrong = [(one, _wrong(one)) for one in members if _wrong(one)]
        if not wrong:
            yield Finding("extras", "ok", f"{extra}: {', '.join(f'{m.name} {version_of(m.name)}' for m in members)}")
        elif all(not version_of(one.name) for one in members):
            absent.append(extra)
        else:
            remedies = "; ".join(one.remedy for one, _ in wrong)
            yield Finding("extras", "note", f"{extra}: {', '.join(text for _, text in wrong)}", remedies)
    if absent:
        install = f"pip install '{DISTRIBUTION}[{','.join(absent)}]' if you need them"
        yield Finding("extras", "note", f"not installed: {', '.join(absent)}", install)


def optional_modules() -> list[str]:
    """Return the modules that the trials import only where they are installed."""
    return [name for name in ("torchvision", "torchcodec", "openvino") if find_spec(name) is not None]


def of_torch(facts: dict[str, Any]) -> Iterator[Finding]:
    """Report devices and the packages that depend on torch, from the trial of torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = f"{cores} CPU cores, torch {facts['version']} uses {facts['threads']} threads"
    if facts["devices"]:
        named = ", ".join(
            f"cuda:{k} {name} ({free / 1e9:.1f} GB free)" for k, (name, free) in enumerate(facts["devices"])
        )
        yield Finding("devices", "ok", f"{named}; {cpu}")
    elif gpu := next((file for file in GPU_FILES if Path(file).exists()), ""):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None and hidden in ("", "-1"):
            yield Finding("devices", "note", f"CUDA_VISIBLE_DEVICES={hidden!r} hides the GPUs; {cpu}", "unset it")
        else:
            why = "torch is a CPU build" if not facts["cuda"] else f"torch {facts['cuda']} cannot use the driver"
            yield Finding("devices", "problem", f"{gpu} exists, but {why}; {cpu}",
                          "install the torch build for your driver (pytorch.org), or set device: cpu")  # fmt: skip
    else:
        yield Finding("devices", "ok", f"no GPU; {cpu}")
    yield from of_imports(facts)


def of_imports(facts: dict[str, Any]) -> Iterator[Finding]:
    """Report the packages that cannot be imported, from the trials of torch and of openvino."""
    for name in ("torchvision", "openvino"):
        if facts.get(name):
            state = "problem" if name == "torchvision" else "note"
            yield Finding("versions", state, f"{name}: {facts[name]}", f"pip install --force-reinstall {name}")  # type: ignore[arg-type]


def of_readers(facts: dict[str, str]) -> Iterator[Finding]:
    """Report which readers decoded a small video in the trials."""
    works = [name for name, wrong in facts.items() if not wrong]
    if works:
        yield Finding("readers", "ok", f"{', '.join(works)} decode a test video")
    for name, wrong in facts.items():
        if wrong:
            cause = f"{name}: {wrong.partition('; ')[0]}"
            yield Finding("readers", "note" if name == "torchcodec" else "problem", cause, READER_REMEDIES[name])


def of_numba(facts: dict[str, Any]) -> Iterator[Finding]:
    """Report the loops compiled by numba, from the trial of numba."""
    loops, cached = facts["loops"], facts["cached"]
    places = ", ".join(folder for folder in facts["folders"] if folder)
    if "" in facts["folders"]:
        yield Finding("numba", "note", "no cache folder is writable: every process compiles its loops again",
                      "set NUMBA_CACHE_DIR to a writable folder")  # fmt: skip
    elif cached < loops:
        yield Finding("numba", "note", f"{cached} of {loops} loops are compiled ({places})",
                      "nothing to do: the first use compiles the others, some seconds each")  # fmt: skip
    else:
        yield Finding("numba", "ok", f"all {loops} loops are compiled ({places})")


def weights() -> Iterator[Finding]:
    """Report the weights of backbones in installed Python packages."""
    here, installs = [], []
    for backbone in plugins.names("backbones"):
        for entry in published(backbone):
            if not entry.package:
                continue
            path = packaged(entry)
            if path is not None and path.is_file():
                here.append(f"{backbone} ({entry.name})")
            else:
                installs.append(f"{backbone}: {entry.install}")
    if here:
        yield Finding("weights", "ok", f"in packages: {', '.join(here)}; `tad weights list` lists the other files")
    if installs:
        yield Finding("weights", "note", f"{len(installs)} files that packages hold are not here",
                      f"if you need them: {'; '.join(installs)}")  # fmt: skip
