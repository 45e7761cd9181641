"""Videos of one manifest shard → their features: one pass over each video, clips through a backbone, rows in HDF5.

Inputs: a manifest shard (probe), the folder of videos, weights (published or from pretrain).
Output: `results/features/<dataset>/<features>/<k>-of-<n>.h5`.
Settings: `tad.specs.ExtractSpec`.

What a video's rows are depends on the video, the recipe, the weights and the code alone, and rows are stored in the
order of ids. So a run that was killed, or that only adds a video, ends in the same bytes as one that did everything at
once; finished videos are kept in a folder of their own and taken from there.
"""

# T snippets, C channels

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tad import plugins
from tad.backbones._weights import load_weights, weights_identity
from tad.cache import FeatureReader, ShardWriter, key_of
from tad.device import leased, name_of, reproducible
from tad.errors import TadError
from tad.extraction.batches import Stream
from tad.extraction.engines import prepare, version
from tad.extraction.pipeline import encode, reading
from tad.files import digest, read_json
from tad.grid import Grid
from tad.progress import track
from tad.provenance import expect, stamp
from tad.specs import ExtractSpec
from tad.video.feed import Ended
from tad.video.ring import Job
from tad.weight_store import expect_published

log = logging.getLogger(__name__)
NAME_BYTES = 180  # of a video's part, without the endings that it has and gets while it is written
NOT_IN_ROWS = {"dataset", "on_damaged", "stall_seconds", "reader_mb"}  # settings that decide which videos there are

Entry = dict[str, Any]
Backbone = Callable[..., Any]


def _row_key(entry: Entry, recipe: str) -> str:
    """What a video's rows depend on."""
    return digest({"recipe": recipe, "video": entry["sha256"], "reader": entry["reader"]}, 32)


def _timing(entry: Entry, stream: Stream, spec: ExtractSpec, backbone: Backbone) -> tuple[Grid, dict[str, Any]]:
    """The grid of a video's rows and the facts stored with them."""
    rate, clip = spec.clip.rate or float(entry["rate"]), spec.clip
    frames, rows = stream.buffer.frames, stream.rows.count
    # the one clip of a video shorter than a clip is placed at the middle of the frames that there are; two-stream clips
    # hold one frame more than each stream sees, and the published time mapping is that of the streams
    length = min(getattr(backbone, "stream_length", clip.length), frames)
    grid = Grid.of_clips(
        clip_length=length, stride=clip.stride, rate=rate, length=rows, duration=float(entry["duration"])
    )
    facts = {"rate": rate, "clip_length": clip.length, "stride": clip.stride, "frames": frames}
    return grid, {**facts, "padded": frames < clip.length, "sha256": entry["sha256"], "reader": entry["reader"]}


def _usable(manifest: Path, spec: ExtractSpec) -> tuple[dict[str, Entry], dict[str, str]]:
    """Videos to extract, and excluded ones with their cause."""
    expect(manifest, stage="probe", dataset=spec.dataset)
    videos: dict[str, Entry] = read_json(manifest)["videos"]
    excluded = {video_id: str(entry["cause"]) for video_id, entry in videos.items() if entry["status"] != "ok"}
    if excluded and spec.on_damaged == "error":
        video_id, cause = min(excluded.items())
        raise TadError(
            f"{manifest}: {len(excluded)} damaged videos, first '{video_id}': {cause}; "
            "repair them or set on_damaged: exclude"
        )
    usable = {video_id: entry for video_id, entry in sorted(videos.items()) if video_id not in excluded}
    if spec.clip.policy == "native":
        varying = [video_id for video_id, entry in usable.items() if entry["vfr"]]
        if varying:
            log.warning(
                "%d videos have a varying frame rate, so native clips drift against time (first: %s); "
                "consider clip.policy: resample",
                len(varying), varying[0],
            )  # fmt: skip
    return usable, excluded


def _stored(path: Path, key: str, video_id: str) -> bool:
    """True if `path` holds rows of this video made in this way, whole."""
    try:
        with FeatureReader(path) as reader:
            if video_id not in reader.video_ids or reader.attrs(video_id).get("row_key") != key:
                return False
            reader.stored(video_id)
            return True
    except (TadError, OSError, KeyError) as error:
        log.warning("%s: kept rows of %s are not usable (%s)", path, video_id, error)
        return False


def _part(kept: Path, video_id: str) -> Path:
    """The file of one finished video. File systems end names at 255 bytes, and an id in another script takes nine a
    letter here: a long one is cut, and its digest tells it from others."""
    name = key_of(video_id)
    if len(name) > NAME_BYTES:
        name = f"{name[: NAME_BYTES - 33]}-{digest(video_id, 32)}"
    return kept / f"{name}.part.h5"


def _sources(usable: dict[str, Entry], keys: dict[str, str], kept: Path) -> dict[str, Path]:
    """Video → the kept file from which its rows can be taken."""
    whole = kept / "shard.h5"
    found: dict[str, Path] = {}
    for video_id in usable:
        for path in (_part(kept, video_id), whole):
            if path.is_file() and _stored(path, keys[video_id], video_id):
                found[video_id] = path
                break
    return found


def _jobs(usable: dict[str, Entry], todo: list[str], folder: Path, spec: ExtractSpec) -> list[Job]:
    """Videos to read, longest first so that no long one is left at the end."""
    jobs = []
    for video_id in sorted(todo, key=lambda v: (-usable[v]["frames"], v)):
        entry = usable[video_id]
        path = Path(folder) / entry["path"]
        size = path.stat().st_size if path.is_file() else -1
        if size != entry["bytes"]:
            found = "no such file" if size < 0 else f"{size} bytes where its manifest says {entry['bytes']}"
            raise TadError(f"{path}: {found}; run probe again")
        jobs.append(
            Job(
                video_id, path, entry["reader"], policy=spec.clip.policy, rate=spec.clip.rate,
                native_rate=float(entry["rate"]), frames=int(entry["frames"]),
                frame_bytes=3 * int(entry["width"]) * int(entry["height"]),
            )
        )  # fmt: skip
    return jobs


def _built(spec: ExtractSpec, weights: Path | None, backbone: Backbone | None, device: torch.device) -> nn.Module:
    factory = backbone or plugins.load("backbones", spec.backbone.name)
    torch.manual_seed(0)  # inside `reproducible`, which puts the generator back
    model: nn.Module = factory(**spec.backbone.settings)
    if weights is None:
        log.warning("backbone %s: no weights given, its parameters are random", spec.backbone.name)
    else:
        load_weights(weights, model, spec.backbone)
    return prepare(model.to(device).eval(), spec.network, name=spec.backbone.name, device=device)


def _assemble(out: Path, stamped: dict[str, Any], sources: dict[str, Path], excluded: dict[str, str]) -> None:
    """Write the shard from kept rows, in the order of ids."""
    with ShardWriter(out, stamped) as shard:
        shard.attribute("excluded", excluded)
        for video_id, path in sorted(sources.items()):
            with FeatureReader(path) as reader:
                facts = reader.attrs(video_id)
                shard.add(video_id, reader.stored(video_id), grid=reader.grid(video_id), attrs=facts)


def _keep(out: Path, kept: Path) -> None:
    """Leave the shard in `kept` too (a hard link where possible), then drop the parts that it holds."""
    fresh = kept / f"shard.h5.partial-{os.getpid()}"
    try:
        try:
            os.link(out, fresh)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(out, fresh)
        os.replace(fresh, kept / "shard.h5")
    finally:
        fresh.unlink(missing_ok=True)
    for part in kept.glob("*.part.h5*"):
        with suppress(FileNotFoundError):
            part.unlink()


def _given_up(ended: Ended, spec: ExtractSpec) -> str:
    """The cause of a video that could not be read after all, if the settings let the run go on without it."""
    if spec.on_damaged == "error":
        raise TadError(f"'{ended.video_id}': {ended.cause}; repair it or set on_damaged: exclude")
    return ended.cause


def extract(
    manifest: Path,
    videos: Path,
    weights: Path | None,
    out: Path,
    *,
    spec: ExtractSpec,
    kept: Path,
    device: str = "auto",
    workers: int = 0,
    backbone: Backbone | None = None,
) -> Path:
    """Write the features of the videos of a manifest shard.

    Args:
        videos: folder below which the manifest's paths lie.
        weights: file of the backbone's weights, or folder of several; None leaves them random (for tests).
        kept: folder for finished videos, outside the workflow's care; emptied of parts when the shard is published,
            and from then on holding the shard itself, so that a later run recomputes only what has changed.
        device: see `tad.device.leased`.
        workers: reading processes; 0: one per thread of this process, at most 8.
        backbone: stands in for the plug-in that the spec names.

    Raises:
        TadError: foreign manifest, a file that changed since, damaged videos with on_damaged error, NaN features, an
            engine that cannot run here.
    """
    usable, excluded = _usable(manifest, spec)
    inputs = {"manifest": str(expect(manifest, stage="probe")["identity"])}
    if weights is not None:
        expect_published(weights, spec.backbone)
        inputs["weights"] = weights_identity(weights, spec.backbone)
    stamped = stamp("extract", spec.model_dump(mode="json"), inputs)
    recipe = digest(
        {"spec": spec.model_dump(mode="json", exclude=NOT_IN_ROWS), "code": stamped["code"],
         "weights": inputs.get("weights", "")}, 32
    )  # fmt: skip
    keys = {video_id: _row_key(entry, recipe) for video_id, entry in usable.items()}
    kept.mkdir(parents=True, exist_ok=True)
    sources = _sources(usable, keys, kept)
    jobs = _jobs(usable, [video_id for video_id in usable if video_id not in sources], videos, spec)
    log.info("%d videos to extract, %d kept, %d excluded", len(jobs), len(sources), len(excluded))
    if jobs:
        with leased(device) as target, reproducible(target), closing(reading(jobs, spec, workers)) as feed:
            feed.start()  # they decode while the network is built
            model = _built(spec, weights, backbone, target)
            made_on = {"device": name_of(target), "engine": version(spec.network)}
            done = encode(jobs, feed, model, spec, target)
            for item in track(done, f"extract {spec.dataset}", len(jobs)):
                if isinstance(item, Ended):
                    excluded[item.video_id] = _given_up(item, spec)
                    continue
                grid, facts = _timing(usable[item.video_id], item, spec, model)
                part = _part(kept, item.video_id)
                with ShardWriter(part, stamped) as writer:
                    facts |= made_on | {"row_key": keys[item.video_id]}
                    writer.add(item.video_id, item.rows.features(), grid=grid, attrs=facts)
                sources[item.video_id] = part
            del item  # with its rows
    _assemble(out, stamped, sources, excluded)
    _keep(out, kept)
    return Path(out)
