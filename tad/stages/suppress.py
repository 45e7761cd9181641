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
from tad.files import publish, sha256
from tad.grid import Grid
from tad.nms import Engine, Kept, refuse_bad, suppress_segments
from tad.nms.fusion import fuse
from tad.provenance import expect, stamp
from tad.specs import ExternalSpec, SuppressStageSpec
from tad.video_scores import read_video_scores

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


def in_seconds(candidates: Candidates, kept: Kept, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The `results` of a results file: by video, descending score, segments in seconds inside the video, unrounded;
    `names` are those of the kept labels."""
    results: dict[str, list[dict[str, Any]]] = {}
    scores, labels = kept.scores.astype(np.float64).tolist(), kept.labels.tolist()
    for v, (video_id, grid) in enumerate(zip(candidates.video_ids, candidates.grids, strict=True)):
        a, b = kept.offsets[v], kept.offsets[v + 1]
        seconds = grid.clamp(grid.to_seconds(kept.segments[a:b].astype(np.float64))).tolist()
        results[video_id] = [
            {"label": names[label], "score": score, "segment": segment}
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


def _fused(found: Candidates, kept: Kept, spec: ExternalSpec, path: Path) -> tuple[Kept, list[str], dict[str, Any]]:
    """What is kept with the class scores of its videos, the labels, and what the results file says of them.

    Raises:
        TadError: no scores for a video with detections, labels that the scores do not know.
    """
    given = read_video_scores(path, found.names)
    scores = given.probabilities(softmax=spec.softmax, factor=spec.factor)
    vectors, lacking = [], []
    for v, video_id in enumerate(found.video_ids):
        vector = scores.of(video_id)
        if vector is None and kept.offsets[v + 1] > kept.offsets[v]:
            lacking.append(video_id)
        vectors.append(np.zeros(len(scores.labels)) if vector is None else vector)
    if lacking:
        raise TadError(
            f"{path}: no scores for {len(lacking)} of {len(vectors)} videos, for example '{lacking[0]}'; complete the"
            " file, or exclude these videos from the run"
        )
    if min((float(vector.min()) for vector in vectors), default=0.0) < 0:
        raise TadError(f"{path}: negative scores; if they are logits, set external.softmax: true")
    if spec.labels == "keep":
        unknown = [name for name in found.names if name not in scores.labels]
        if unknown:
            raise TadError(
                f"{path}: knows no class '{unknown[0]}', which the detector tells ({len(unknown)} such); with a"
                " detector that only proposes set external.labels: replace"
            )
        order = [scores.labels.index(name) for name in found.names]
        vectors, names = [vector[order] for vector in vectors], found.names
    else:
        names = list(scores.labels)
    rule = spec.model_dump(include={"labels", "topk", "combine", "detections"})
    identity = str(given.stamp["identity"]) if given.stamp else sha256(path)[:16]
    return fuse(kept, vectors, **rule), names, {"used": True, **spec.model_dump(mode="json"), "identity": identity}


def suppress(
    candidates: Path,
    out: Path,
    *,
    spec: SuppressStageSpec,
    scores: Path | None = None,
    device: str = "cpu",
    threads: int = 0,
) -> Path:
    """Suppress overlapping candidates, in snippets and float32, and write what is kept in seconds.

    All videos go in one call. The file is the same to the byte on every device and with any number of threads.

    Args:
        candidates: made by detect.
        out: the results file to write.
        scores: class scores of whole videos, which the settings `external` combine with what is kept.
        device: auto, cpu, cuda or cuda:<index>; see `engine_of`.
        threads: CPU threads; 0: as many as numba is allowed.

    Raises:
        TadError: candidates of another run, damaged, or not finite; a device that is not there.
    """
    engine, used = engine_of(device)
    if (scores is None) != (spec.external is None):
        raise TadError(
            f"run {spec.run}: scores of whole videos and the settings `external` go together; one is missing"
        )
    made_by = expect(candidates, stage="detect", run=spec.run)
    found = read_candidates(candidates)
    kept = suppress_segments(
        found.segments, found.scores, found.labels, offsets=found.offsets,
        engine=engine, device=used, threads=threads, **spec.nms.model_dump(),
    )  # fmt: skip
    inputs, names, external = {"candidates": str(made_by["identity"])}, found.names, {"used": False}
    if spec.external is not None and scores is not None:
        kept, names, external = _fused(found, kept, spec.external, scores)
        inputs["scores"] = str(external["identity"])
    other = (made_by["spec"].get("fused") or {}).get("run", "")
    head = {
        "version": "tad detections 1 (ActivityNet results format)",
        "stamp": stamp("suppress", spec.model_dump(mode="json"), inputs, fused_with=other),
        "labels": names,
        "excluded": found.excluded,
        "external_data": external,
    }
    write_detections(out, head, in_seconds(found, kept, names))
    counts = (len(kept.index), len(found.scores), len(found.video_ids))
    log.info("%s: %d of %d candidates in %d videos kept (%s, on %s)", out, *counts, spec.nms.method, used)
    return Path(out)
