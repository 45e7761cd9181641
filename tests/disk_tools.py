"""Disks that are full, read-only or broken, for tests and fault campaigns."""

import atexit
import errno
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tad.annotations.table import Table, Video, write_table
from tad.core.files import write_json
from tad.core.grid import Grid
from tad.core.h5 import H5Writer
from tad.features.export import export_features
from tad.features.store import ShardWriter
from tad.provenance.stamps import stamp
from tad.stages.suppress import write_detections
from tad.training.io.tensors import write_tensors


def mounting(folder: Path, kilobytes: int) -> None:
    """Mount a small file system of its own on a folder; skip the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no file system can be mounted here (needs root)")


def remount(folder: Path, options: str) -> None:
    """Change the options of a mounted file system, such as its size."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of a few kilobytes."""
    mounting(folder, kilobytes)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Limit the size of files that this process writes, as `ulimit -f` does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def failing(call: str, number: int, *, after: int = 0) -> Iterator[list[int]]:
    """Let a function of `os` fail with an error number, from its call number `after` on; yields the count of calls."""
    real, calls = getattr(os, call), [0]

    def fail(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] > after:
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, fail)
        yield calls


NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
SIZE = 300_000  # bytes that each writer below writes, or more


def shard(path: Path) -> Path:
    """Features of three videos."""
    feats_TC = np.random.default_rng(0).normal(size=(400, 128)).astype(np.float32)
    with ShardWriter(path, stamp("extract", {"dataset": "d"}, {})) as writer:
        for name in ("a", "b", "c"):
            facts = {"rate": 25.0, "clip_length": 16, "stride": 4}
            writer.add(name, feats_TC, grid=Grid(0.5, 1, 400, 401), attrs=facts)
        writer.attribute("excluded", {})
    return path


def index_of_frames(path: Path) -> Path:
    """Groups with attributes alone, which HDF5 keeps in memory until it closes the file."""
    with H5Writer(path, stamp("index", {"dataset": "d"}, {})) as writer:
        for k in range(120):
            group = writer.file.create_group(f"video {k}")
            for name in "abcd":
                group.attrs[name] = "x" * 700
    return path


def table(path: Path) -> Path:
    """Annotations of thousands of videos."""
    videos = {f"video {k}": Video("train", 10.0) for k in range(2500)}
    return write_table(Table("d", ("a",), videos), path, stamp("annotate", {"dataset": "d"}, {}))


def detections(path: Path) -> Path:
    """A results file."""
    found = {f"video {k}": [{"label": "a", "score": 0.5, "segment": [1.0, 2.0]}] * 20 for k in range(400)}
    return write_detections(path, {"stamp": stamp("suppress", {"run": "r"}, {})}, found)


def model(path: Path) -> Path:
    """Weights."""
    return write_tensors(path, {"a": torch.arange(100_000.0)}, {"tad_stamp": stamp("train", {"run": "r"}, {})})


def flow(path: Path) -> Path:
    """A cached array of flow."""
    import test_checksums

    frames = test_checksums.FRAMES.model_copy(update={"height": 64, "width": 64})
    rows = np.random.default_rng(1).integers(0, 255, (40, 64 * 64 * 3), dtype=np.uint8)
    from tad.training.data import frame_flow

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_flow, "flow_rows", lambda rows, frames: (row[: frames.dim] for row in rows))
        frame_flow.write_flow(path, rows, length=40, frames=frames)
    return path


@cache
def source() -> Path:
    """Features on a disk that does not fail."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return shard(folder / "f.h5")


def exported(file_format: Any) -> Callable[[Path], Path]:
    """Export features to the folder of a path."""

    def write(path: Path) -> Path:
        export_features(source(), path, file_format=file_format)
        return path

    return write


def picture(path: Path) -> Path:
    """A figure."""
    from matplotlib.figure import Figure

    from tad.core.files import publish

    with publish(path) as partial:
        figure = Figure(figsize=(4, 4))
        figure.add_subplot().imshow(np.random.default_rng(0).random((400, 400)), interpolation="none")
        figure.savefig(partial, format="png", dpi=100, metadata={"Software": None})
    return path


WRITERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "features": ("f.h5", shard),
    "index of frames": ("i.h5", index_of_frames),
    "annotations": ("d.json", table),
    "JSON": ("m.json", lambda path: write_json(path, {str(k): k for k in range(30_000)})),
    "detections": ("detections.json", detections),
    "model": ("model.safetensors", model),
    "flow": ("i.flow/x.npy", flow),
    "picture": ("p.png", picture),
    "export to npy": ("out", exported("npy")),
    "export to npz": ("out", exported("npz")),
    "export to pt": ("out", exported("pt")),
    "export to h5": ("out", exported("h5")),
}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files in a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
