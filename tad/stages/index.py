"""Videos → an index of their frames, which train and detect decode when they need them, in place of stored features.

Inputs: all manifest shards (probe) of a dataset.
Output: `results/features/<dataset>/<features>.h5`: no frame, but of each video its file, its reader, and the grid of
    the frames that are picked from it. With `modality: flow` also `<features>.flow/`, the flow of each video as one
    array, 2 · height · width bytes a frame; if a file is removed, who needs it computes it again.
Settings: `tad.specs.IndexSpec`.
"""

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tad.cache import GRID_ATTRS, H5Writer, key_of
from tad.errors import TadError
from tad.files import digest, read_json
from tad.grid import Grid
from tad.progress import track
from tad.provenance import expect, stamp
from tad.specs import IndexSpec
from tad.training.frame_flow import file_of, made_by
from tad.training.frames import flow_of
from tad.video.clips import LAST

log = logging.getLogger(__name__)


def _facts(entry: dict[str, Any], videos: Path, spec: IndexSpec, made: dict[str, str]) -> dict[str, Any]:
    """What is stored of a video; its number of frames is that of `tad.video.clips.resample` at a constant rate."""
    frames, native = int(entry["frames"]), float(entry["rate"])
    rate = min(spec.frames.rate, native)
    if spec.frames.most:
        rate = min(rate, spec.frames.most / (frames - 1 + LAST) * native)
    length = max(math.ceil(rate * (frames - 1 + LAST) / native - 1e-9), 1)
    grid = Grid(0.5 / rate, 1 / rate, length, float(entry["duration"]))
    settings = spec.frames.model_dump(mode="json")
    return {
        **{name: getattr(grid, name) for name in GRID_ATTRS},
        "length": length,
        "path": str(Path(videos) / entry["path"]),
        "bytes": int(entry["bytes"]),
        "reader": entry["reader"],
        "native_rate": native,
        "rate": rate,
        "checksum": digest({"video": entry["sha256"], "reader": entry["reader"], "frames": settings, **made}, 64),
    }


def _keep_flow(out: Path, facts: dict[str, dict[str, Any]], spec: IndexSpec, threads: int) -> None:
    """Compute the flow of all videos that is not kept yet, `threads` videos at once; what was of others is removed."""
    kept = {file_of(out, entry["checksum"]): entry for entry in facts.values()}
    left = [entry for path, entry in sorted(kept.items()) if not path.is_file()]
    log.info(
        "flow (%s) of %d videos is kept, of %d it is computed",
        spec.frames.flow_method,
        len(kept) - len(left),
        len(left),
    )
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(flow_of, out, entry, spec.frames) for entry in left]
        try:
            for done in track(as_completed(waiting), "flow", total=len(waiting)):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    folder = Path(out).with_suffix(".flow")
    for path in set(folder.glob("*.npy")) - set(kept):
        path.unlink()


def index(manifests: Sequence[Path], videos: Path, out: Path, *, spec: IndexSpec, threads: int = 1) -> Path:
    """Write the index of frames; damaged videos are excluded with their cause, or refused with on_damaged error.

    An interrupted computation of flow goes on with the videos that it had not finished.

    Args:
        manifests, videos, out: as above.
        spec: the settings.
        threads: videos whose flow is computed at once.

    Raises:
        TadError: a manifest of another dataset, or damaged videos with on_damaged error; a video that is not there any
            more or cannot be decoded, and no OpenCV, for flow.
    """
    found: dict[str, dict[str, Any]] = {}
    inputs = {}
    for number, manifest in enumerate(sorted(Path(path) for path in manifests)):
        inputs[f"manifest {number:05d}"] = str(expect(manifest, stage="probe", dataset=spec.dataset)["identity"])
        found |= read_json(manifest)["videos"]
    excluded = {video_id: str(entry["cause"]) for video_id, entry in sorted(found.items()) if entry["status"] != "ok"}
    if excluded and spec.on_damaged == "error":
        first = min(excluded)
        raise TadError(f"{len(excluded)} videos are excluded, first '{first}': {excluded[first]}; repair them")
    recipe = {"frames": spec.frames.model_dump(mode="json")}
    made = stamp("index", spec.model_dump(mode="json"), inputs, recipe=recipe, weights="")
    versions = {"flow": made_by()} if spec.frames.modality == "flow" else {}
    facts = {v: _facts(entry, videos, spec, versions) for v, entry in sorted(found.items()) if v not in excluded}
    if spec.frames.modality == "flow":
        _keep_flow(Path(out), facts, spec, max(threads, 1))
    with H5Writer(Path(out), made) as writer:
        writer.attribute("excluded", excluded)
        for video_id, entry in facts.items():
            group = writer.file.create_group(key_of(video_id), track_order=False)
            for name, value in sorted({**entry, "video_id": video_id}.items()):
                group.attrs[name] = value
    log.info("%s: %d videos, %d excluded", out, len(found) - len(excluded), len(excluded))
    return Path(out)
