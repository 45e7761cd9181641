"""Stage suppress: non-maximum suppression of candidates, and their conversion to detections in seconds.

Inputs: candidates of all videos on their grids (detect).
Output: `results/<run>/detections.json`: the ActivityNet results format, one line per video, plus the stamp, the labels
    and the excluded videos with their reasons. Every video of the candidates has an entry, which may be empty.
Settings: `tad.settings.stages.SuppressStageSpec`.
"""

# V videos, N candidates of all videos, M detections after suppression

import ctypes
import importlib.util
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tad.core import checksums
from tad.core.errors import DAMAGE, TadError, cause_of
from tad.core.files import publish, sha256
from tad.core.grid import Grid
from tad.core.h5 import open_h5, read_dataset, read_texts
from tad.core.storage import forecast
from tad.core.strict_json import parse_json
from tad.nms import Engine, Kept, refuse_bad, suppress_segments
from tad.provenance.conditions import uses
from tad.provenance.stamps import expect, stamp
from tad.settings.stages import ExternalSpec, SuppressStageSpec

if TYPE_CHECKING:
    from tad.features.class_scores import VideoScores

log = logging.getLogger(__name__)
DETECTION_BYTES = 110  # of a detection in the results file


@dataclass(frozen=True)
class Candidates:
    """The content of candidates.h5.

    Attributes:
        video_ids: ids of the videos.
        grids: time grid of each video.
        segments: (N, 2) in snippets.
        scores: (N,).
        labels: (N,) class ids.
        offsets: (V + 1,); the candidates of video v are the rows offsets[v]:offsets[v + 1].
        names: names of the classes.
        excluded: excluded videos with their reasons.
    """

    video_ids: list[str]
    grids: list[Grid]
    segments: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    offsets: NDArray[np.int64]
    names: list[str]
    excluded: dict[str, str]


ROWS = {"segments": np.float32, "scores": np.float32, "labels": np.int32, "offsets": np.int64, "grids": np.float64}


def _video_of(row: int, offsets: NDArray[np.int64], video_ids: list[str]) -> str:
    return video_ids[int(np.searchsorted(offsets, row, side="right")) - 1]


def read_candidates(path: Path) -> Candidates:
    """Read candidates made by detect.

    Raises:
        TadError: datasets are missing or inconsistent, or a candidate is not finite or ends before it starts.
    """
    with open_h5(path) as file:
        try:
            rows = {name: read_dataset(file, name).astype(kind, casting="same_kind") for name, kind in ROWS.items()}
            video_ids = read_texts(file, "video_ids")
            names, excluded = parse_json(file.attrs["labels"]), parse_json(file.attrs["excluded"])
            if not isinstance(names, list) or not isinstance(excluded, dict):
                raise ValueError("its labels are not a list, or its excluded videos not an object")
        except DAMAGE as error:
            raise TadError(f"{path}: damaged candidates ({cause_of(error)}); remove it and run detect again") from None
    total, offsets = rows["scores"].size, rows["offsets"]
    fits = (
        rows["scores"].shape == (total,) and rows["segments"].shape == (total, 2) and rows["labels"].shape == (total,)
    )
    fits = fits and rows["grids"].shape == (len(video_ids), 4) and offsets.shape == (len(video_ids) + 1,)
    fits = fits and offsets[0] == 0 and offsets[-1] == total and bool(np.all(np.diff(offsets) >= 0))
    if not (fits and rows["labels"].min(initial=0) >= 0 and rows["labels"].max(initial=0) < max(len(names), 1)):
        raise TadError(f"{path}: damaged candidates (inconsistent datasets); remove it and run detect again")
    refuse_bad(
        rows["segments"], rows["scores"], where=lambda row: f"{path}: video '{_video_of(row, offsets, video_ids)}': "
    )
    try:
        grids = [Grid(start, step, int(length), duration) for start, step, length, duration in rows["grids"].tolist()]
    except (ValueError, OverflowError) as error:
        raise TadError(f"{path}: damaged candidates ({error}); remove it and run detect again") from None
    return Candidates(
        video_ids, grids, rows["segments"], rows["scores"], rows["labels"], offsets, [*map(str, names)], excluded
    )


def in_seconds(candidates: Candidates, selected: Kept, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the `results` of a results file: detections of each video by descending score.

    Segments are in seconds, clamped to the video and not rounded. `names` are the names of the labels in `selected`.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    scores, labels = selected.scores.astype(np.float64).tolist(), selected.labels.tolist()
    for v, (video_id, grid) in enumerate(zip(candidates.video_ids, candidates.grids, strict=True)):
        a, b = selected.offsets[v], selected.offsets[v + 1]
        seconds = grid.clamp(grid.to_seconds(selected.segments[a:b].astype(np.float64))).tolist()
        results[video_id] = [
            {"label": names[label], "score": score, "segment": segment}
            for label, score, segment in zip(labels[a:b], scores[a:b], seconds, strict=True)
        ]
    return results


def write_detections(path: Path, head: dict[str, Any], results: dict[str, list[dict[str, Any]]]) -> Path:
    """Write a results file atomically, with its checksum and one line per entry of `head` and per video."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    with publish(path) as partial:
        with open(partial, "w", encoding="utf-8") as file:
            file.write("{\n")
            sealed = {checksums.KEY: checksums.UNSEALED, **head}
            file.writelines(f" {text(key)}: {text(value)},\n" for key, value in sealed.items())
            file.write(' "results": {\n')
            file.write(",\n".join(f"  {text(video_id)}: {text(entries)}" for video_id, entries in results.items()))
            file.write("\n }\n}\n")
        checksums.seal_inline(partial)
    return Path(path)


def _cuda_is_there() -> bool:
    """Return whether a CUDA device exists, without importing torch, which would take longer than suppression."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def engine_of(device: str) -> tuple[Engine, str]:
    """Return the suppression engine for a device, and the resolved device; results are equal on all devices.

    Raises:
        TadError: the device name is unknown (see `tad.core.device.resolve`), or the CUDA device does not exist.
    """
    if device == "auto" and not (_cuda_is_there() and importlib.util.find_spec("triton")):
        device = "cpu"
    if device == "cpu":
        return "numba", device
    from tad.core.device import resolve

    target = resolve(device)
    return ("triton", str(target)) if target.type == "cuda" else ("numba", "cpu")


def _fused(
    candidates: Candidates, selected: Kept, spec: SuppressStageSpec, path: Path
) -> tuple[Kept, list[str], dict[str, Any]]:
    """Combine detections with class scores of their videos, if the settings ask for it.

    Returns: the detections, the names of their labels, and the entry `external_data` of the results file.

    Raises:
        TadError: see `_vectors`.
    """
    if uses("external", spec) and spec.external is not None:
        from tad.features.class_scores import read_video_scores
        from tad.nms.fusion import fuse

        given = read_video_scores(path, candidates.names)
        vectors, names = _vectors(candidates, selected, spec.external, given, path)
        rule = spec.external.model_dump(include={"labels", "topk", "combine", "detections"})
        identity = str(given.stamp["identity"]) if given.stamp else sha256(path)[:16]
        used = {"used": True, **spec.external.model_dump(mode="json"), "identity": identity}
        return fuse(selected, vectors, **rule), names, used
    return selected, candidates.names, {"used": False}


def _vectors(
    candidates: Candidates, selected: Kept, spec: ExternalSpec, given: "VideoScores", path: Path
) -> tuple[list[NDArray[np.float64]], list[str]]:
    """Return the class scores of each video, and the names of their classes.

    Raises:
        TadError: a video with detections has no scores, or the scores lack one of the detector's classes.
    """
    scores = given.probabilities(softmax=spec.softmax, factor=spec.factor)
    vectors, lacking = [], []
    for v, video_id in enumerate(candidates.video_ids):
        vector = scores.of(video_id)
        if vector is None and selected.offsets[v + 1] > selected.offsets[v]:
            lacking.append(video_id)
        vectors.append(np.zeros(len(scores.labels)) if vector is None else vector)
    if lacking:
        raise TadError(
            f"{path}: no scores for {len(lacking)} of {len(vectors)} videos, for example '{lacking[0]}'; complete the"
            " file, or exclude these videos from the run"
        )
    if min((float(vector.min()) for vector in vectors), default=0.0) < 0:
        raise TadError(f"{path}: negative scores; if they are logits, set external.softmax: true")
    if spec.labels == "replace":
        return vectors, list(scores.labels)
    unknown = [name for name in candidates.names if name not in scores.labels]
    if unknown:
        raise TadError(
            f"{path}: no scores for {len(unknown)} of the detector's classes, first '{unknown[0]}'; for a"
            " class-agnostic detector set external.labels: replace"
        )
    order = [scores.labels.index(name) for name in candidates.names]
    return [vector[order] for vector in vectors], candidates.names


def suppress(
    candidates: Path,
    out: Path,
    *,
    spec: SuppressStageSpec,
    scores: Path | None = None,
    device: str = "cpu",
    threads: int = 0,
) -> Path:
    """Suppress overlapping candidates (in snippets, float32) and write the remaining detections in seconds.

    All videos are processed in one call. The output is byte-equal on all devices and for all numbers of threads.

    Args:
        candidates: made by detect.
        out: the results file to write.
        spec: settings.
        scores: class scores of whole videos, combined with the detections as set in `external`.
        device: auto, cpu, cuda or cuda:<index>; see `engine_of`.
        threads: CPU threads; 0: numba's limit.

    Raises:
        TadError: candidates belong to another run, are damaged or not finite; or the device does not exist.
    """
    engine, used = engine_of(device)
    if (scores is None) != (spec.external is None):
        raise TadError(
            f"run {spec.run}: video scores and the settings `external` are only valid together; add the missing one"
        )
    stamped = expect(candidates, stage="detect", run=spec.run)
    content = read_candidates(candidates)
    rows = len(content.scores)
    forecast(out, DETECTION_BYTES * rows, what=f"suppress: at most {rows} detections")
    selected = suppress_segments(
        content.segments, content.scores, content.labels, offsets=content.offsets,
        engine=engine, device=used, threads=threads, **spec.nms.model_dump(),
    )  # fmt: skip
    inputs, names, external = {"candidates": str(stamped["identity"])}, content.names, {"used": False}
    if scores is not None:
        selected, names, external = _fused(content, selected, spec, scores)
        inputs["scores"] = str(external["identity"])
    other = (stamped["spec"].get("fused") or {}).get("run", "")
    head = {
        "version": "tad detections 1 (ActivityNet results format)",
        "stamp": stamp("suppress", spec.model_dump(mode="json"), inputs, fused_with=other),
        "labels": names,
        "excluded": content.excluded,
        "external_data": external,
    }
    write_detections(out, head, in_seconds(content, selected, names))
    counts = (len(selected.index), len(content.scores), len(content.video_ids))
    log.info("%s: %d of %d candidates in %d videos remain (%s, on %s)", out, *counts, spec.nms.method, used)
    return Path(out)
