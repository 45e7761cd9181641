"""Trials of heavy packages for `tad doctor`, each in a process of its own, which prints one JSON object.

A package that crashes while it is imported, or that hangs, ends only its trial.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tad.core.bundle import PACKAGE
from tad.core.errors import TadError

FRAMES, SIDE, RATE = 12, 64, 25  # of the video that the readers decode
COMPILED = re.compile(r"^@compiled$", re.MULTILINE)
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from tad.commands.doctor_trials import main; main(*sys.argv[1:])"
)


def write_video(path: Path, *, repeats: int = 1) -> None:
    """Write a video of `FRAMES` frames, which get brighter, `repeats` times, with PyAV."""
    from tad.video.base import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for k in range(FRAMES * repeats):
            image = np.full((SIDE, SIDE, 3), 16 * (k % FRAMES), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def decode(path: Path, reader: str) -> str:
    """Decode a video of `write_video`; return a description of the first error, or an empty text."""
    from tad.video.reader import open_video

    try:
        with open_video(path, reader=reader) as video:
            levels = [float(frame.image.mean()) for frame in video]
    except TadError as error:
        return str(error).replace(f"{path}: ", "")
    if len(levels) != FRAMES:
        return f"returns {len(levels)} frames of a video with {FRAMES}"
    if max(abs(level - 16 * k) for k, level in enumerate(levels)) > 8:
        return "returns wrong pixels"
    return ""


def try_readers(folder: str) -> dict[str, str]:
    """Decode a small video with the readers that need no torch; return what is wrong with each."""
    path = Path(folder) / "readers.mp4"
    write_video(path)
    return {reader: decode(path, reader) for reader in ("pyav", "decord")}


def try_torch(folder: str, *further: str) -> dict[str, Any]:
    """Import torch and the installed ones of `further` (`torchvision`, `torchcodec`), which need it.

    Returns:
        the version of torch, the names of its CUDA devices with their free bytes, the CUDA version that it was built
        for, its threads, and what is wrong with each of `further`.
    """
    torch = importlib.import_module("torch")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    facts: dict[str, Any] = {
        "version": torch.__version__,
        "cuda": torch.version.cuda or "",
        "threads": torch.get_num_threads(),
        "devices": [[torch.cuda.get_device_name(k), torch.cuda.mem_get_info(k)[0]] for k in range(count)],
        "sum": float(torch.ones(3, device="cuda" if count else "cpu").sum()),
    }
    for name in further:
        facts[name] = _imported(name, Path(folder))
    return facts


def _imported(name: str, folder: Path) -> str:
    if name == "torchcodec":
        path = folder / "torchcodec.mp4"
        write_video(path)
        return decode(path, "torchcodec")
    try:
        if name == "torchvision":
            importlib.import_module("tad.core.optional").torchvision()
        else:
            importlib.import_module(name)
    except (TadError, ImportError, OSError, RuntimeError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return ""


def try_openvino(folder: str) -> dict[str, str]:
    """Import openvino; return what is wrong with it."""
    return {"openvino": _imported("openvino", Path(folder))}


def compiled_modules() -> list[str]:
    """Return the modules of the package with loops that numba compiles."""
    files = [file for file in sorted(PACKAGE.rglob("*.py")) if COMPILED.search(file.read_text(encoding="utf-8"))]
    return [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]


def try_numba(_folder: str) -> dict[str, Any]:
    """Return how many loops there are, how many are compiled in a cache, and the cache folders ("" for none)."""
    loops = cached = 0
    folders = set()
    for name in compiled_modules():
        module = importlib.import_module(name)
        for function in vars(module).values():
            if not hasattr(function, "py_func") or function.py_func.__module__ != name:
                continue
            loops += 1
            path = getattr(function.stats, "cache_path", None) or ""
            folders.add(path)
            stem = f"{name.rpartition('.')[2]}.{function.py_func.__qualname__}-"
            cached += any(entry.startswith(stem) and entry.endswith(".nbi") for entry in _names(path))
    return {"loops": loops, "cached": cached, "folders": sorted(folders)}


def _names(folder: str) -> list[str]:
    return os.listdir(folder) if folder and os.path.isdir(folder) else []


TRIALS: dict[str, Callable[..., dict[str, Any]]] = {
    "readers": try_readers,
    "torch": try_torch,
    "numba": try_numba,
    "openvino": try_openvino,
}


def start(trial: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a trial in a process; `ended` returns what it found."""
    command = [sys.executable, "-P", "-c", PROGRAM, str(PACKAGE.parent), trial, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str], *, seconds: float) -> dict[str, Any]:
    """Wait for a trial and return what it found.

    Raises:
        TadError: it failed, crashed or took too long; the message says what happened.
    """
    try:
        out, log = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise TadError(f"no answer after {seconds:g} seconds") from None
    if process.returncode < 0:
        raise TadError(f"crashes (signal {-process.returncode})")
    if process.returncode:
        lines = log.strip().splitlines()
        raise TadError(lines[-1][:300] if lines else f"ends with status {process.returncode}")
    facts: dict[str, Any] = json.loads(out.splitlines()[-1])
    return facts


def main(trial: str, *arguments: str) -> None:
    """Run a trial and print what it found as JSON, in the last line."""
    print(json.dumps(TRIALS[trial](*arguments)))
