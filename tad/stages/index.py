"""Stage index: records frame locations of videos; train and detect decode the frames on the fly.

Inputs: all manifest shards (probe) and the checked table of a dataset.
Output: `results/features/<dataset>/<features>.h5`: the file, reader and time grid of the sampled frames of each video,
    but no pixels. With `modality: flow` also `<features>.flow/` with the optical flow of each video as one array of
    2 · height · width bytes per frame; removed files are computed again when they are needed.
Settings: `tad.settings.stages.IndexSpec`.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tad.annotations.missing import missing_videos
from tad.core.errors import TadError
from tad.core.files import digest, read_json
from tad.core.grid import Grid
from tad.core.h5 import H5Writer
from tad.features.store import GRID_ATTRS, key_of
from tad.provenance.conditions import uses
from tad.provenance.stamps import expect, stamp
from tad.settings.stages import IndexSpec
from tad.video.clips import LAST
from tad.video.health import warn_flawed

log = logging.getLogger(__name__)


def _facts(entry: dict[str, Any], videos: Path, spec: IndexSpec, versions: dict[str, str]) -> dict[str, Any]:
    """Return the attributes of a video; the number of frames is that of `tad.video.clips.resample` at constant rate."""
    frames, native = int(entry["frames"]), float(entry["rate"])
    rate = min(spec.frames.rate, native)
    if spec.frames.most:
        rate = min(rate, spec.frames.most / (frames - 1 + LAST) * native)
    length = max(math.ceil(rate * (frames - 1 + LAST) / native - 1e-9), 1)
    start = float(entry["start"])
    grid = Grid(start + 0.5 / rate, 1 / rate, length, float(entry["duration"]), start)
    settings = spec.frames.model_dump(mode="json")
    return {
        **{name: getattr(grid, name) for name in GRID_ATTRS},
        "length": length,
        "path": str(Path(videos) / entry["path"]),
        "bytes": int(entry["bytes"]),
        "reader": entry["reader"],
        "native_rate": native,
        "rate": rate,
        "checksum": digest({"video": entry["sha256"], "reader": entry["reader"], "frames": settings, **versions}, 64),
    }


def index(
    manifests: Sequence[Path],
    videos: Path,
    out: Path,
    *,
    spec: IndexSpec,
    threads: int = 1,
    annotations: Path | None = None,
) -> Path:
    """Write the frame index; damaged videos are excluded with their cause, or an error with on_damaged: error.

    An interrupted flow computation resumes with the unfinished videos.

    Args:
        manifests: all manifest shards.
        videos: folder of the videos.
        out: the index to write.
        spec: settings.
        threads: number of videos whose flow is computed in parallel.
        annotations: table made by check, which lists the videos without a file; None: there are none.

    Raises:
        TadError: a manifest belongs to another dataset; videos are damaged and on_damaged is error; or, for flow, a
            video is missing or cannot be decoded, or OpenCV is not installed.
    """
    entries: dict[str, dict[str, Any]] = {}
    inputs = {}
    for number, manifest in enumerate(sorted(Path(path) for path in manifests)):
        inputs[f"manifest {number:05d}"] = str(expect(manifest, stage="probe", dataset=spec.dataset)["identity"])
        entries |= read_json(manifest)["videos"]
    listed = missing_videos(annotations, dataset=spec.dataset) if annotations else {}
    missing = {video_id: cause for video_id, cause in listed.items() if video_id not in entries}
    inputs |= {"missing": digest(missing, 16)} if missing else {}
    unusable = {video_id: str(entry["cause"]) for video_id, entry in entries.items() if not entry["usable"]}
    excluded = dict(sorted((missing | unusable).items()))
    if excluded and spec.on_damaged == "error":
        first = min(excluded)
        raise TadError(
            f"{len(excluded)} videos are excluded, first '{first}': {excluded[first]}; repair them, or set"
            " on_damaged: exclude"
        )
    warn_flawed({video_id: entry for video_id, entry in entries.items() if video_id not in excluded})
    recipe = {"frames": spec.frames.model_dump(mode="json")}
    stamped = stamp("index", spec.model_dump(mode="json"), inputs, recipe=recipe, weights="")
    versions = {}
    if uses("flow", spec):
        from tad.training.data.frame_flow import flow_version

        versions = {"flow": flow_version()}
    facts = {v: _facts(entry, videos, spec, versions) for v, entry in sorted(entries.items()) if v not in excluded}
    if uses("flow", spec):
        from tad.training.data.frame_flow import compute_all_flows

        compute_all_flows(Path(out), facts.values(), spec.frames, threads=max(threads, 1))
    with H5Writer(Path(out), stamped) as writer:
        writer.attribute("excluded", excluded)
        for video_id, entry in facts.items():
            group = writer.file.create_group(key_of(video_id), track_order=False)
            for name, value in sorted({**entry, "video_id": video_id}.items()):
                group.attrs[name] = value
    log.info("%s: %d videos, %d excluded", out, len(facts), len(excluded))
    return Path(out)
