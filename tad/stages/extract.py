"""Stage extract: computes the features of one manifest shard, with one pass over each video.

Inputs: a manifest shard (probe), the folder of videos, weights (published or from pretrain).
Output: `results/features/<dataset>/<features>/<k>-of-<n>.h5`.
Settings: `tad.settings.stages.ExtractSpec`.

The rows of a video depend only on the video, the recipe, the weights and the code, and videos are stored in the order
of their ids. So an interrupted run, or one that only adds a video, produces the same bytes as a single run. Finished
videos are cached in a separate folder and reused.
"""

# T snippets, C channels

import logging
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tad.annotations.missing import missing_videos
from tad.backbones._contract import BackboneBase
from tad.backbones._weights import load_weights, weights_identity
from tad.core import notices
from tad.core.device import leased, name_of, reproducible, threads_of_network
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.core.grid import Grid
from tad.core.lanes import INLINE, Lanes
from tad.core.progress import track
from tad.core.storage import forecast
from tad.extraction.batches import Stream
from tad.extraction.engines import lanes_of, prepare, version
from tad.extraction.pipeline import encode, reading
from tad.features.row_cache import RowCache
from tad.features.store import FeatureReader, ShardWriter
from tad.provenance.stamps import expect, stamp
from tad.settings import plugins
from tad.settings.stages import ExtractSpec
from tad.video.feed import Ended
from tad.video.health import warn_flawed
from tad.video.ring import SLOT_BYTES, Job, guessed_rate
from tad.video.sampling import offset
from tad.video.scanning import Scan
from tad.weights.store import expect_published

log = logging.getLogger(__name__)
HEADER_BYTES = 2048  # of a video: its attributes

Entry = dict[str, Any]
Factory = Callable[..., BackboneBase]


def _timing(entry: Entry, stream: Stream, spec: ExtractSpec, backbone: BackboneBase) -> tuple[Grid, dict[str, Any]]:
    """Return the time grid of a video's rows and the attributes stored with them."""
    rate, clip = spec.clip.rate or float(entry["rate"]), spec.clip
    frames, rows = stream.buffer.frames, stream.rows.count
    # a video shorter than a clip has one clip, whose time is the middle of its actual frames; two-stream clips hold one
    # frame more than each stream sees, and the published time mapping uses the streams' length
    length = min(backbone.stream_length or clip.length, frames)
    grid = Grid.of_clips(
        clip_length=length, stride=clip.stride, rate=rate, length=rows, duration=float(entry["duration"]),
        offset=offset(policy=clip.policy, start=float(entry["start"])),
    )  # fmt: skip
    facts = {"rate": rate, "clip_length": clip.length, "stride": clip.stride, "frames": frames}
    return grid, {**facts, "padded": frames < clip.length, "sha256": entry["sha256"], "reader": entry["reader"]}


def _usable(manifest: Path, spec: ExtractSpec) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the videos to extract, and the excluded ones with their cause."""
    expect(manifest, stage="probe", dataset=spec.dataset)
    videos: dict[str, Entry] = read_json(manifest)["videos"]
    excluded = {video_id: str(entry["cause"]) for video_id, entry in videos.items() if not entry["usable"]}
    if excluded and spec.on_damaged == "error":
        video_id, cause = min(excluded.items())
        raise TadError(
            f"{manifest}: {len(excluded)} damaged videos, first '{video_id}': {cause}; "
            "repair them or set on_damaged: exclude"
        )
    usable = {video_id: entry for video_id, entry in sorted(videos.items()) if video_id not in excluded}
    warn_flawed(usable)
    if spec.clip.policy == "native":
        varying = [video_id for video_id, entry in usable.items() if entry["vfr"]]
        if varying:
            log.warning(
                "%d videos have a variable frame rate, so the times of native clips drift (first: %s); "
                "consider clip.policy: resample",
                len(varying), varying[0],
            )  # fmt: skip
    return usable, excluded


def _refuse_missing(annotations: Path, spec: ExtractSpec) -> None:
    if missing := missing_videos(annotations, dataset=spec.dataset):
        video_id, cause = min(missing.items())
        raise TadError(
            f"{annotations}: {len(missing)} videos without a file, first '{video_id}': {cause}; add the files or set"
            " on_damaged: exclude"
        )


def _jobs(usable: dict[str, Entry], todo: list[str], folder: Path, spec: ExtractSpec) -> list[Job]:
    """Return the reading jobs, longest video first, so that no long one remains at the end."""
    jobs = []
    for video_id in sorted(todo, key=lambda v: (-usable[v]["frames"], v)):
        entry = usable[video_id]
        path = Path(folder) / entry["path"]
        size = path.stat().st_size if path.is_file() else -1
        if size != entry["bytes"]:
            problem = "no such file" if size < 0 else f"has {size} bytes, but {entry['bytes']} in its manifest"
            raise TadError(f"{path}: {problem}; run probe again")
        jobs.append(
            Job(
                video_id, path, entry["reader"], policy=spec.clip.policy, rate=spec.clip.rate,
                native_rate=float(entry["rate"]), frames=int(entry["frames"]),
                frame_bytes=3 * int(entry["width"]) * int(entry["height"]), start=float(entry["start"]),
            )
        )  # fmt: skip
    return jobs


def _built(
    spec: ExtractSpec, weights: Path | None, backbone: Factory | None, device: torch.device, lanes: Lanes = INLINE
) -> BackboneBase:
    torch.manual_seed(0)  # inside `reproducible`, which restores the generator
    own = spec.backbone
    model: BackboneBase = backbone(**own.settings) if backbone else plugins.build("backbones", own.name, own.settings)
    if weights is None:
        log.warning("backbone %s: no weights given; using random weights", spec.backbone.name)
    else:
        load_weights(weights, model, spec.backbone)
    model.lanes = lanes
    return prepare(model.to(device).eval(), spec.network, name=spec.backbone.name, device=device)


def encoder_of(spec: ExtractSpec, weights: Path, device: torch.device) -> BackboneBase:
    """Return the encoder of a feature set as this stage uses it, in evaluation mode, for `tad stream`.

    Raises:
        TadError: the weights are not those that were published, do not fit, or the engine cannot run on this machine.
    """
    expect_published(weights, spec.backbone)
    with reproducible(device):
        return _built(spec, weights, None, device)


def _bytes_needed(usable: dict[str, Entry], jobs: list[Job], spec: ExtractSpec, dim: int) -> int:
    """Estimate the space for the rows of the videos to extract, and for the shard with the rows of all videos."""

    def size(video_id: str) -> int:
        entry = usable[video_id]
        frames = int(entry["frames"]) * (spec.clip.rate or float(entry["rate"])) / float(entry["rate"])
        rows = max((frames - spec.clip.length) // spec.clip.stride + 1, 1)
        return int(rows * dim * np.dtype(spec.dtype).itemsize) + HEADER_BYTES

    return sum(size(job.video_id) for job in jobs) + sum(size(video_id) for video_id in usable)


def _assemble(out: Path, stamped: dict[str, Any], sources: dict[str, Path], excluded: dict[str, str]) -> None:
    """Write the shard from cached rows, in the order of ids."""
    with ShardWriter(out, stamped) as shard:
        shard.attribute("excluded", excluded)
        for video_id, path in sorted(sources.items()):
            with FeatureReader(path) as reader:
                facts = reader.attrs(video_id)
                shard.add(video_id, reader.stored(video_id), grid=reader.grid(video_id), attrs=facts)


def _failure_cause(ended: Ended, spec: ExtractSpec) -> str:
    """Return the cause of a video that could not be read.

    Raises:
        TadError: on_damaged is error, so the run must not continue without the video.
    """
    if spec.on_damaged == "error":
        raise TadError(f"'{ended.video_id}': {ended.cause}; repair it or set on_damaged: exclude")
    return ended.cause


def _extract_parts(
    jobs: list[Job],
    entry_of: Callable[[str, Scan | None], Entry | None],
    stamped: dict[str, Any],
    build: Callable[[torch.device, Lanes], BackboneBase],
    spec: ExtractSpec,
    cache: RowCache,
    *,
    device: str,
    workers: int,
    known: dict[str, np.ndarray] | None,
) -> tuple[dict[str, Path], dict[str, str]]:
    """Extract the features of videos, each into a file of the cache.

    Args:
        entry_of: returns the manifest entry of a video, given its scan if it was not probed before; None: its rows
            are not stored.
        stamped: stamp of the shard.
        build: builds the backbone on a device, to be computed in lanes.
        known: rows of the first clips of files that grow; None: files do not grow.

    Returns:
        The files by video id, and the videos that could not be read with the cause.

    Raises:
        TadError: see `extract`.
    """
    sources: dict[str, Path] = {}
    excluded: dict[str, str] = {}
    with (
        leased(device) as target,
        reproducible(target),
        closing(reading(jobs, spec, workers)) as feed,
        lanes_of(spec, target) as lanes,
        threads_of_network(target, spec.network.threads),
    ):
        feed.start()  # decoding starts while the network is built
        with notices.collecting(cache.warnings, key=cache.recipe):
            model = build(target, lanes)
        environment = {"device": name_of(target), "engine": version(spec.network)}
        # ended before the feed that it reads
        with closing(encode(jobs, feed, model, spec, target, known or {})) as done:
            for item in track(done, f"extract {spec.dataset}", len(jobs)):
                if isinstance(item, Ended):
                    excluded[item.video_id] = _failure_cause(item, spec)
                    continue
                entry = entry_of(item.video_id, feed.scans.pop(item.video_id, None))
                if entry is None:
                    continue
                grid, facts = _timing(entry, item, spec, model)
                part = cache.part(item.video_id)
                with ShardWriter(part, stamped) as writer:
                    facts |= environment | {"row_key": cache.key(entry)}
                    facts |= {} if known is None else {"bytes": entry["bytes"]}
                    writer.add(item.video_id, item.rows.features(), grid=grid, attrs=facts)
                sources[item.video_id] = part
        del item  # frees its rows
        if not jobs[0].max_pixels:  # videos that were not probed are read again, and only a second failure counts
            for line in feed.lost:
                log.warning("%s", line)
    return sources, excluded


def extract_unprobed(
    unprobed: dict[str, Entry],
    videos: Path,
    weights: Path,
    *,
    spec: ExtractSpec,
    cache: Path,
    judge: Callable[[str, Scan], Entry | None],
    max_pixels: int,
    device: str = "auto",
    workers: int = 0,
    growing: bool = False,
) -> None:
    """Cache the rows of videos while they are decoded for the first time, so that probe and extract find them known.

    Rows are cached only if probing confirms what the video was read with: the rate in its header, and PyAV. `extract`
    then takes them, and computes the other videos.

    Args:
        unprobed: path, sha256 and bytes of each video.
        videos: folder that the paths are relative to.
        weights, spec, cache, device, workers, growing: see `extract`.
        judge: returns the manifest entry of a video that was read to its end, given its scan; None: its file has
            changed since.
        max_pixels: size of the largest frame that is decoded.

    Raises:
        TadError: see `extract`.
    """
    expect_published(weights, spec.backbone)
    stamped = stamp("extract", spec.model_dump(mode="json"), {"weights": weights_identity(weights, spec.backbone)})
    cached = RowCache.at(cache, spec, stamped)
    expected = {video_id: {**entry, "reader": "pyav"} for video_id, entry in unprobed.items()}
    known = cached.grown(expected, videos) if growing else None
    jobs = [
        Job(
            video_id, Path(videos) / entry["path"], "pyav", policy=spec.clip.policy, rate=spec.clip.rate,
            native_rate=1.0, frames=1, frame_bytes=SLOT_BYTES, max_pixels=max_pixels,
        )
        for video_id, entry in sorted(unprobed.items(), key=lambda item: (-item[1]["bytes"], item[0]))
    ]  # fmt: skip

    def entry_of(video_id: str, scan: Scan | None) -> Entry | None:
        assert scan is not None
        entry = judge(video_id, scan)
        if entry is None or not entry["usable"] or entry["reader"] != "pyav":
            return None
        rate = guessed_rate(scan.facts["header"])
        return entry if spec.clip.policy == "native" or float(entry["rate"]) == rate else None

    lenient = spec.model_copy(update={"on_damaged": "exclude"})  # extract reports damaged videos
    build = partial(_built, spec, weights, None)
    _extract_parts(jobs, entry_of, stamped, build, lenient, cached, device=device, workers=workers, known=known)


def extract(
    manifest: Path,
    videos: Path,
    weights: Path | None,
    out: Path,
    *,
    spec: ExtractSpec,
    cache: Path,
    device: str = "auto",
    workers: int = 0,
    annotations: Path | None = None,
    backbone: Factory | None = None,
    growing: bool = False,
) -> Path:
    """Write the features of the videos of a manifest shard.

    Args:
        manifest: manifest shard made by probe.
        videos: folder that the manifest's paths are relative to.
        weights: file of the backbone's weights, or folder of several; None: random weights (for tests).
        out: the shard to write.
        spec: settings.
        cache: folder for finished videos, not managed by the workflow. When the shard is published, it replaces
            the cached videos, so that a later run recomputes only what has changed.
        device: see `tad.core.device.leased`.
        workers: number of reading processes; 0: one per thread of this process, at most 8.
        annotations: table made by check; with on_damaged: error, videos without a file are refused before anything is
            extracted. Otherwise merge lists them, and this stage does not depend on it.
        backbone: replaces the plug-in named in the settings (for tests).
        growing: files may grow at their ends: rows of the part that was seen before are reused, and those of this part
            are cached for the next call. The rows are equal.

    Raises:
        TadError: the manifest belongs to another dataset; a file has changed since; videos are damaged and on_damaged
            or missing and on_damaged is error; features are NaN; or the engine cannot run on this machine.
    """
    if annotations is not None and spec.on_damaged == "error":
        _refuse_missing(annotations, spec)
    usable, excluded = _usable(manifest, spec)
    inputs = {"manifest": str(expect(manifest, stage="probe")["identity"])}
    if weights is not None:
        expect_published(weights, spec.backbone)
        inputs["weights"] = weights_identity(weights, spec.backbone)
    stamped = stamp("extract", spec.model_dump(mode="json"), inputs)
    cached = RowCache.at(cache, spec, stamped)
    sources = cached.sources(usable)
    fresh = {video_id: entry for video_id, entry in usable.items() if video_id not in sources}
    known = cached.grown(fresh, videos) if growing else None
    jobs = _jobs(usable, list(fresh), videos, spec)
    log.info("%d videos to extract, %d cached, %d excluded", len(jobs), len(sources), len(excluded))
    if jobs:

        def build(target: torch.device, lanes: Lanes) -> BackboneBase:
            model = _built(spec, weights, backbone, target, lanes)
            needed = _bytes_needed(usable, jobs, spec, model.dim)
            forecast(out, needed, what=f"extract of {len(jobs)} videos", least=0.9 * needed)
            return model

        made, failed = _extract_parts(
            jobs, lambda video_id, _: usable[video_id], stamped, build, spec, cached,
            device=device, workers=workers, known=known,
        )  # fmt: skip
        sources |= made
        excluded |= failed
    else:
        notices.repeat(cached.warnings, cached.recipe)
    _assemble(out, stamped, sources, excluded)
    cached.keep(out)
    return Path(out)
