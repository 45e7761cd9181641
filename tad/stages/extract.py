"""Videos of one manifest shard → their features: one pass over each video, clips through a backbone, rows in HDF5.

Inputs: a manifest shard (probe), the folder of videos, weights (published or from pretrain).
Output: `results/features/<dataset>/<features>/<k>-of-<n>.h5`.
Settings: `tad.specs.ExtractSpec`.

What a video's rows are depends on the video, the recipe, the weights and the code alone: batches never mix videos, and
rows are stored in the order of ids. So a run that was killed, or that only adds a video, ends in the same bytes as one
that did everything at once; finished videos are kept in a folder of their own and taken from there.
"""

# B clips, T frames (of a clip) or snippets (of a video), H rows, W columns, C channels

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tad import plugins
from tad.backbones._weights import load_weights, weights_identity
from tad.cache import FeatureReader, ShardWriter, key_of
from tad.device import name_of, reproducible, resolve
from tad.errors import TadError
from tad.files import digest, read_json
from tad.grid import Grid
from tad.progress import track
from tad.provenance import expect, stamp
from tad.specs import ExtractSpec
from tad.video.clips import ClipBuffer
from tad.video.feed import Feed, Job

log = logging.getLogger(__name__)
BATCH_CPU, BATCH_GPU = 8, 32
MOST_READERS = 8
FLOAT16_MAX = 65504.0

Entry = dict[str, Any]
Backbone = Callable[..., Any]


class VideoEncoder:
    """Frames of one video, in order → its features."""

    def __init__(self, video_id: str, backbone: Any, *, spec: ExtractSpec, device: torch.device) -> None:
        self.video_id, self.backbone, self.device = video_id, backbone, device
        self.dtype = np.float16 if spec.dtype == "float16" else np.float32
        self.batch = BATCH_GPU if device.type == "cuda" else BATCH_CPU
        clip = spec.clip
        self.buffer: ClipBuffer[Tensor] = ClipBuffer(length=clip.length, stride=clip.stride, tail=clip.tail)
        stream, shrink = getattr(backbone, "stream", None), getattr(backbone, "shrink", None)
        self._steps: Callable[[Tensor], Tensor] = stream() if stream else shrink or (lambda frames: frames)
        self._clips: list[Tensor] = []
        self._rows: list[np.ndarray] = []

    def push(self, frames_NHWC: np.ndarray) -> None:
        """Take the next frames (N, H, W, 3) uint8; each is moved to the device and prepared (shrunk, its flow) once."""
        for step in self._steps(torch.from_numpy(frames_NHWC).to(self.device)):
            self._take(self.buffer.push(step))

    def _take(self, clip: list[Tensor] | None) -> None:
        if clip is not None:
            self._clips.append(torch.stack(clip))
        if len(self._clips) == self.batch:
            self._run()

    def _run(self) -> None:
        rows_BC = self.backbone(torch.stack(self._clips)).float().cpu().numpy()
        self._clips = []
        largest = np.abs(rows_BC).max()
        if not np.isfinite(largest):
            raise TadError(f"{self.video_id}: features hold NaN or infinity; check the weights, nothing was stored")
        if self.dtype == np.float16 and largest > FLOAT16_MAX:
            raise TadError(f"{self.video_id}: a feature of {largest:.3g} does not fit float16; set dtype: float32")
        self._rows.append(rows_BC.astype(self.dtype))

    def finish(self) -> np.ndarray:
        """After the last frame: the features (T, C), one row per clip."""
        self._take(self.buffer.finish())
        if self._clips:
            self._run()
        return np.concatenate(self._rows)


def _row_key(entry: Entry, recipe: str) -> str:
    """What a video's rows depend on."""
    return digest({"recipe": recipe, "video": entry["sha256"], "reader": entry["reader"]}, 32)


def _timing(entry: Entry, encoder: VideoEncoder, spec: ExtractSpec, rows: int) -> tuple[Grid, dict[str, Any]]:
    """The grid of a video's rows and the facts stored with them."""
    rate, clip = spec.clip.rate or float(entry["rate"]), spec.clip
    frames = encoder.buffer.frames
    # the one clip of a video shorter than a clip is placed at the middle of the frames that there are; two-stream clips
    # hold one frame more than each stream sees, and the published time mapping is that of the streams
    length = min(getattr(encoder.backbone, "stream_length", clip.length), frames)
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


def _sources(usable: dict[str, Entry], keys: dict[str, str], kept: Path) -> dict[str, Path]:
    """Video → the kept file from which its rows can be taken."""
    whole = kept / "shard.h5"
    found: dict[str, Path] = {}
    for video_id in usable:
        for path in (kept / f"{key_of(video_id)}.part.h5", whole):
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
                video_id, path, entry["reader"], spec.clip.policy, spec.clip.rate,
                float(entry["rate"]), int(entry["frames"]),
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
    return model.to(device).eval()


def _encode(jobs: list[Job], model: nn.Module, spec: ExtractSpec, device: torch.device, workers: int) -> Iterator[Any]:
    """(video id, features, encoder) of each video as it is finished."""
    encoders: dict[str, VideoEncoder] = {}
    with torch.inference_mode():
        for chunk in Feed(jobs, workers=workers):
            encoder = encoders.get(chunk.video_id)
            if encoder is None:
                encoder = encoders[chunk.video_id] = VideoEncoder(chunk.video_id, model, spec=spec, device=device)
            if chunk.last:
                yield chunk.video_id, encoder.finish(), encoders.pop(chunk.video_id)
            else:
                encoder.push(chunk.frames)


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
        device: see `tad.device.resolve`.
        workers: reading processes; 0: one per usable core, at most 8.
        backbone: stands in for the plug-in that the spec names.

    Raises:
        TadError: foreign manifest, a file that changed since, damaged videos with on_damaged error, NaN features.
    """
    usable, excluded = _usable(manifest, spec)
    inputs = {"manifest": str(expect(manifest, stage="probe")["identity"])}
    if weights is not None:
        inputs["weights"] = weights_identity(weights, spec.backbone)
    stamped = stamp("extract", spec.model_dump(mode="json"), inputs)
    recipe = digest(
        {"spec": spec.model_dump(mode="json", exclude={"dataset", "on_damaged"}), "code": stamped["code"],
         "weights": inputs.get("weights", "")}, 32
    )  # fmt: skip
    keys = {video_id: _row_key(entry, recipe) for video_id, entry in usable.items()}
    kept.mkdir(parents=True, exist_ok=True)
    sources = _sources(usable, keys, kept)
    jobs = _jobs(usable, [video_id for video_id in usable if video_id not in sources], videos, spec)
    log.info("%d videos to extract, %d kept, %d excluded", len(jobs), len(sources), len(excluded))
    if jobs:
        target = resolve(device)
        with reproducible(target):
            model = _built(spec, weights, backbone, target)
            readers = workers or min(len(os.sched_getaffinity(0)), MOST_READERS)
            done = _encode(jobs, model, spec, target, readers)
            for video_id, feats_TC, encoder in track(done, f"extract {spec.dataset}", len(jobs)):
                grid, facts = _timing(usable[video_id], encoder, spec, len(feats_TC))
                part = kept / f"{key_of(video_id)}.part.h5"
                facts |= {"row_key": keys[video_id], "device": name_of(target)}
                with ShardWriter(part, stamped) as writer:
                    writer.add(video_id, feats_TC, grid=grid, attrs=facts)
                sources[video_id] = part
    _assemble(out, stamped, sources, excluded)
    _keep(out, kept)
    return Path(out)
