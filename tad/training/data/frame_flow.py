"""Optical flow between the sampled frames of a video, computed once and cached on disk as one array per video.

As in AFSD's flow stream, flow is computed between neighbouring sampled frames at their stored size, in x and y, and
clamped to a bound. The last field is repeated, so there are as many fields as frames.
"""

# T frames, H rows, W columns

import importlib.metadata
import io
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tad.backbones._flow import FlowSteps, method
from tad.core import formats
from tad.core.checksums import BlockFile, append_blocks
from tad.core.errors import StorageError, TadError
from tad.core.files import digest, publish, read_json, write_json
from tad.core.progress import track
from tad.core.storage import forecast
from tad.provenance.fingerprint import fingerprint
from tad.settings.stages import FrameSpec
from tad.training.data.frame_source import shrunk, source_of

log = logging.getLogger(__name__)
FORMAT_LOCK = threading.Lock()  # threads compute different videos but share the format file
KIND, FORMAT_FILE = "frame-flow", "format.json"  # NumPy's file format cannot hold our format number
OPENCV = ("opencv-contrib-python-headless", "opencv-contrib-python", "opencv-python-headless", "opencv-python")


def flow_version() -> str:
    """Return a digest of this code and the OpenCV version, on which flow depends besides frames and settings."""
    versions = []
    for name in OPENCV:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    code = fingerprint("tad.training.data.frame_flow", "tad.training.data.frame_source", "tad.video.seeking")
    return digest([code, versions])


def flow_rows(rows: Iterable[np.ndarray], frames: FrameSpec) -> Iterator[np.ndarray]:
    """Compute flow rows (H·W·2) uint8 from frame rows (H·W·3) uint8, in order and equal in number.

    Row k is the motion from frame k to frame k + 1, and the last row repeats the one before. A single frame has no
    motion.
    """
    steps = FlowSteps(method(frames.flow_method), bound=frames.flow_bound)
    first, last = True, None
    for row in rows:
        frame_1HW3 = torch.from_numpy(row).view(1, frames.height, frames.width, 3)
        field = steps(frame_1HW3).flatten().numpy()
        if not first:
            yield field
        first, last = False, field
    if last is not None:
        yield last


def flow_path(index: Path, checksum: str) -> Path:
    """Return the path of a video's flow: beside the index, named by the checksum of everything it depends on."""
    return Path(index).with_suffix(".flow") / f"{checksum[:32]}.npy"


def check_format(folder: Path) -> dict[str, str]:
    """Check and return the format mark of a folder of flow; empty if there is no flow yet.

    Raises:
        TadError: the folder has a format that this version cannot read.
    """
    path = folder / FORMAT_FILE
    mark: dict[str, str] = read_json(path) if path.is_file() else {}
    if mark or any(folder.glob("*.npy")):
        formats.check(mark, folder, kind=KIND)
    return mark


def write_flow(path: Path, rows: Iterable[np.ndarray], *, length: int, frames: FrameSpec) -> None:
    """Write the flow of a video's frames as one array (T, H·W·2) uint8, atomically.

    Args:
        path: file to write.
        rows: rows of frames, as in `flow_rows`.
        length: T; if the video has fewer frames than its header states, the last field is repeated.
        frames: frame settings.

    Raises:
        TadError: there is no frame, or the folder has a format that this version cannot read.
    """
    with FORMAT_LOCK:
        if check_format(path.parent) != formats.mark(KIND):
            write_json(path.parent / FORMAT_FILE, formats.mark(KIND))
    header, size = _header(length, frames), length * frames.dim
    with publish(path, size=len(header) + size) as partial:
        with open(partial, "wb") as file:  # row by row: an hour of flow takes a gigabyte, and each thread has a video
            file.write(header)
            count, field = 0, None
            for field in flow_rows(rows, frames):
                if count < length:
                    file.write(field.tobytes())
                    count += 1
            if field is None:
                raise TadError("no frame could be decoded; run probe again")
            for _ in range(count, length):
                file.write(field.tobytes())
        append_blocks(partial)


def _header(length: int, frames: FrameSpec) -> bytes:
    """Return the header of a NumPy file with an array (length, H·W·2) uint8."""
    text = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": (length, frames.dim)}
    np.lib.format.write_array_header_1_0(text, described)  # type: ignore[arg-type]
    return text.getvalue()


def read_flow(path: Path, *, length: int, frames: FrameSpec, first: int = 0, last: int | None = None) -> np.ndarray:
    """Read the fields [first, last) of an array written by `write_flow`, (fields, H·W·2) uint8.

    Raises:
        DamagedError: what was read does not match its checksum.
        TadError: the file is incomplete, or has a format that this version cannot read.
    """
    mark = check_format(path.parent)
    header = _header(length, frames)
    with BlockFile(path) as file:
        if file.length != len(header) + length * frames.dim or file.read(len(header)) != header:
            raise TadError(
                f"{path}: not a readable flow array of uint8 {(length, frames.dim)} ({file.length} bytes); remove it"
                " and run again"
            )
        formats.check(mark, path, kind=KIND, sealed=file.sealed)
        first, last, _ = slice(first, last).indices(length)
        field_TC = np.empty((max(last - first, 0), frames.dim), np.uint8)
        file.read_at(len(header) + first * frames.dim, field_TC.reshape(-1).data)
    return field_TC


def load_or_compute_flow(
    index: Path, facts: Mapping[str, Any], frames: FrameSpec, first: int = 0, last: int | None = None
) -> np.ndarray:
    """Return fields [first, last) of a video, (fields, H·W·2) uint8, from the cache; compute and cache all if absent.

    Raises:
        DamagedError: what was read does not match its checksum.
        TadError: the video has changed or cannot be decoded, or the cached file is incomplete.
    """
    path = flow_of(index, facts, frames)
    return read_flow(path, length=int(facts["length"]), frames=frames, first=first, last=last)


def flow_of(index: Path, facts: Mapping[str, Any], frames: FrameSpec) -> Path:
    """Return the cached flow of a video, which is computed if it is absent.

    Raises:
        TadError: the video has changed or cannot be decoded.
    """
    path, length = flow_path(index, str(facts["checksum"])), int(facts["length"])
    if not path.is_file():
        source = source_of(facts, index)
        started = time.monotonic()
        try:
            write_flow(path, shrunk(source.images(), frames), length=length, frames=frames)
        except StorageError:
            raise
        except TadError as error:
            raise TadError(f"{source.path}: flow: {error}") from None
        log.info("%s: flow of %d frames in %.0f s", source.path.name, length, time.monotonic() - started)
    return path


def compute_all_flows(index: Path, entries: Iterable[Mapping[str, Any]], frames: FrameSpec, *, threads: int) -> None:
    """Compute the missing flow of all videos of an index, and remove the flow of other videos.

    Args:
        index: the index; flow is cached beside it.
        entries: the attributes of its videos.
        frames: frame settings.
        threads: number of videos computed in parallel.
    """
    wanted = {flow_path(index, str(entry["checksum"])): entry for entry in entries}
    check_format(Path(index).with_suffix(".flow"))
    left = [entry for path, entry in sorted(wanted.items()) if not path.is_file()]
    if left:
        needed = sum(int(entry["length"]) for entry in left) * frames.dim
        forecast(Path(index), needed, what=f"optical flow of {len(left)} videos", least=needed)
    log.info("flow (%s): %d videos cached, %d to compute", frames.flow_method, len(wanted) - len(left), len(left))
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(flow_of, index, entry, frames) for entry in left]
        try:
            for done in track(as_completed(waiting), "flow", total=len(waiting)):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for path in set(Path(index).with_suffix(".flow").glob("*.npy")) - set(wanted):
        path.unlink()
