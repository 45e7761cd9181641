"""Candidates of a split → detections in seconds.

Inputs: candidates of all videos on their grids (detect).
Output: `results/<run>/detections.json`: the ActivityNet results format, one line per video, plus the stamp, the
    labels and the excluded videos with their reasons. Every video of the candidates has an entry, an empty one too.
Settings: `tad.specs.SuppressStageSpec`.
"""

# V videos, N candidates of all videos, M kept

import ctypes
import importlib.util
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.cache import open_h5
from tad.errors import TadError
from tad.files import publish
from tad.grid import Grid
from tad.nms import Engine, Kept, refuse_bad, suppress_segments
from tad.provenance import expect, stamp
from tad.specs import SuppressStageSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidates:
    """The content of candidates.h5: segments (N, 2) in snippets, scores (N,), labels (N,), rows of video v at
    offsets[v]:offsets[v + 1]."""

    video_ids: list[str]
    grids: list[Grid]
    segments: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    offsets: NDArray[np.int64]
    names: list[str]
    excluded: dict[str, str]


def _video_of(row: int, offsets: NDArray[np.int64], video_ids: list[str]) -> str:
    return video_ids[int(np.searchsorted(offsets, row, side="right")) - 1]


def read_candidates(path: Path) -> Candidates:
    """The candidates in a file made by detect.

    Raises:
        TadError: parts are missing or do not fit each other, or a candidate is not finite or ends before it starts.
    """
    with open_h5(path) as file:
        try:
            rows = {name: file[name][()] for name in ("segments", "scores", "labels", "offsets", "grids")}
            video_ids = [str(name) for name in file["video_ids"].asstr()[()]]
            names, excluded = json.loads(file.attrs["labels"]), json.loads(file.attrs["excluded"])
        except (KeyError, OSError, ValueError, AttributeError, TypeError) as error:
            raise TadError(f"{path}: damaged candidates ({error}); remove it and run detect again") from None
    total, offsets = len(rows["scores"]), rows["offsets"]
    fits = rows["segments"].shape == (total, 2) and rows["labels"].shape == (total,)
    fits = fits and rows["grids"].shape == (len(video_ids), 4) and offsets.shape == (len(video_ids) + 1,)
    fits = fits and offsets[0] == 0 and offsets[-1] == total and bool(np.all(np.diff(offsets) >= 0))
    if not (fits and rows["labels"].min(initial=0) >= 0 and rows["labels"].max(initial=0) < max(len(names), 1)):
        raise TadError(f"{path}: damaged candidates (parts do not fit each other); remove it and run detect again")
    refuse_bad(
        rows["segments"], rows["scores"], where=lambda row: f"{path}: video '{_video_of(row, offsets, video_ids)}': "
    )
    grids = [Grid(start, step, int(length), duration) for start, step, length, duration in rows["grids"].tolist()]
    return Candidates(
        video_ids, grids, rows["segments"], rows["scores"], rows["labels"], offsets, [*map(str, names)], excluded
    )


def in_seconds(candidates: Candidates, kept: Kept) -> dict[str, list[dict[str, Any]]]:
    """The `results` of a results file: by video, descending score, segments in seconds inside the video, unrounded."""
    results: dict[str, list[dict[str, Any]]] = {}
    scores, labels = kept.scores.astype(np.float64).tolist(), kept.labels.tolist()
    for v, (video_id, grid) in enumerate(zip(candidates.video_ids, candidates.grids, strict=True)):
        a, b = kept.offsets[v], kept.offsets[v + 1]
        seconds = grid.clamp(grid.to_seconds(kept.segments[a:b].astype(np.float64))).tolist()
        results[video_id] = [
            {"label": candidates.names[label], "score": score, "segment": segment}
            for label, score, segment in zip(labels[a:b], scores[a:b], seconds, strict=True)
        ]
    return results


def write_detections(path: Path, head: dict[str, Any], results: dict[str, list[dict[str, Any]]]) -> Path:
    """A results file with one line per entry of `head` and per video, at once or not at all."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    with publish(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write("{\n")
        file.writelines(f" {text(key)}: {text(value)},\n" for key, value in head.items())
        file.write(' "results": {\n')
        file.write(",\n".join(f"  {text(video_id)}: {text(entries)}" for video_id, entries in results.items()))
        file.write("\n }\n}\n")
    return Path(path)


def _cuda_is_there() -> bool:
    """Whether the driver of CUDA has a device; asked without torch, whose import takes longer than suppression."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def engine_of(device: str) -> tuple[Engine, str]:
    """The engine for a device named as in `tad.device.resolve`, and that device; equal results whatever it is.

    Raises:
        TadError: an unknown name, or a CUDA device that is not there.
    """
    if device == "auto" and not (_cuda_is_there() and importlib.util.find_spec("triton")):
        device = "cpu"
    if device == "cpu":
        return "numba", device
    from tad.device import resolve

    target = resolve(device)
    return ("triton", str(target)) if target.type == "cuda" else ("numba", "cpu")


def suppress(candidates: Path, out: Path, *, spec: SuppressStageSpec, device: str = "cpu", threads: int = 0) -> Path:
    """Suppress overlapping candidates, in snippets and float32, and write what is kept in seconds.

    All videos go in one call. The file is the same to the byte on every device and with any number of threads.

    Args:
        candidates: made by detect.
        out: the results file to write.
        device: auto, cpu, cuda or cuda:<index>; see `engine_of`.
        threads: CPU threads; 0: as many as numba is allowed.

    Raises:
        TadError: candidates of another run, damaged, or not finite; a device that is not there.
    """
    engine, used = engine_of(device)
    made_by = expect(candidates, stage="detect", run=spec.run)
    found = read_candidates(candidates)
    kept = suppress_segments(
        found.segments, found.scores, found.labels, offsets=found.offsets,
        engine=engine, device=used, threads=threads, **spec.nms.model_dump(),
    )  # fmt: skip
    head = {
        "version": "tad detections 1 (ActivityNet results format)",
        "stamp": stamp("suppress", spec.model_dump(mode="json"), {"candidates": str(made_by["identity"])}),
        "labels": found.names,
        "excluded": found.excluded,
        "external_data": {"used": False},
    }
    write_detections(out, head, in_seconds(found, kept))
    counts = (len(kept.index), len(found.scores), len(found.video_ids))
    log.info("%s: %d of %d candidates in %d videos kept (%s, on %s)", out, *counts, spec.nms.method, used)
    return Path(out)
