"""Clips of the train split's videos → a clip encoder that tells actions from one another and from background (TSP).

Inputs: annotations (annotate), manifest shards (probe), the folder of videos, optionally weights to start from.
Output: backbone.safetensors, the encoder's weights with the stamp in the header; the heads are not kept.
Settings: `PretrainSpec`.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tad import plugins
from tad.backbones._weights import load_weights, weights_identity
from tad.device import leased, name_of, reproducible
from tad.errors import TadError
from tad.files import canonical, digest, publish, read_json, sha256, write_json
from tad.progress import track
from tad.provenance import expect, stamp
from tad.specs import ClipSpec, Plugin, PretrainSpec
from tad.training import tsp, tsp_clips
from tad.video.reader import open_video
from tad.video.sampling import sampled

log = logging.getLogger(__name__)
FRAMES_AT_ONCE = 64
TRAINABLE = ("frame_size", "crop_size", "shrink", "encode", "stem")


def _train_videos(annotations: Mapping[str, Any], manifests: list[Path]) -> dict[str, tuple[Any, Any]]:
    """Video id → (annotation entry, manifest entry), for usable videos of the train split, sorted."""
    probed: dict[str, Any] = {}
    for path in manifests:
        probed |= read_json(path)["videos"]
    wanted = [video for video, entry in annotations["videos"].items() if entry["split"] == "train"]
    usable = {
        video: (annotations["videos"][video], probed[video])
        for video in sorted(wanted)
        if video in probed and probed[video]["status"] == "ok"
    }
    if len(usable) < len(wanted):
        left = sorted(set(wanted) - set(usable))
        log.warning("%d train videos are missing or damaged and left out: %s", len(left), ", ".join(left[:5]))
    return usable


def sampled_frames(path: Path, entry: Mapping[str, Any], clip: ClipSpec) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 of a video that the clip's rate policy picks, in order."""
    with open_video(path, reader=entry["reader"]) as video:
        yield from sampled(
            video, policy=clip.policy, rate=clip.rate, native_rate=float(entry["rate"]), reader=entry["reader"]
        )


def _shrunk(frames: Iterator[np.ndarray], backbone: Any) -> Iterator[np.ndarray]:
    """The frames at the backbone's size, a few at a time."""
    waiting: list[np.ndarray] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == FRAMES_AT_ONCE:
            yield _levels(backbone.shrink(torch.from_numpy(np.stack(waiting))))
            waiting.clear()
    if waiting:
        yield _levels(backbone.shrink(torch.from_numpy(np.stack(waiting))))


def _levels(frames_NHWC: torch.Tensor) -> np.ndarray:
    """Frames as uint8: a backbone may resize to fractions of a level, which training does not need."""
    levels = frames_NHWC.round().to(torch.uint8) if frames_NHWC.is_floating_point() else frames_NHWC
    return np.ascontiguousarray(levels.numpy())


def decode(
    videos: Mapping[str, tuple[Any, Any]], folder: Path, *, backbone: Any, clip: ClipSpec, scratch: Path
) -> tsp_clips.Frames:
    """Decode every video once, in order, to uint8 frames of the backbone's size.

    They go to a nameless temporary file in `scratch` that is mapped into memory, so that memory stays bounded by what
    the system can spare, and the file goes away with the process.
    """
    first, count, rates, total = [], [], [], 0
    with tempfile.TemporaryFile(dir=scratch) as file:
        for _, entry in track(videos.values(), "decode", len(videos)):
            frames = 0
            for chunk in _shrunk(sampled_frames(folder / entry["path"], entry, clip), backbone):
                file.write(chunk.tobytes())
                frames += len(chunk)
            first.append(total)
            count.append(frames)
            rates.append(clip.rate or float(entry["rate"]))
            total += frames
        file.flush()
        shape = (total, *backbone.frame_size, 3)
        store = np.memmap(file, dtype=np.uint8, mode="r", shape=shape) if total else np.zeros(shape, np.uint8)
    return tsp_clips.Frames(store, first, count, rates)


def _save(backbone: nn.Module, path: Path, stamped: Mapping[str, Any]) -> None:
    tensors = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    with publish(path) as partial:
        save_file(tensors, partial, metadata={"tad_stamp": canonical(stamped)})


def _split(table: tsp_clips.SegmentTable, videos: int, spec: PretrainSpec) -> list[tsp_clips.SegmentTable]:
    """Segments of the videos to train on, and of those that are held out (none without `hold_out`)."""
    aside = max(1, round(spec.hold_out * videos)) if spec.hold_out else 0
    order = np.random.default_rng([spec.seed, videos]).permutation(videos).tolist()
    tables = [table.of_videos(order[aside:]), table.of_videos(order[:aside])]
    if not (tables[0].labels_S != tsp_clips.BACKGROUND).any():
        raise TadError(
            "pretrain: no clip of an action can be cut from the train videos; shorten clip.length, or set "
            "pretrain.short_segments: extend"
        )
    return tables


def _checked_backbone(spec: PretrainSpec, weights: Path | None) -> Any:
    backbone = plugins.load("backbones", spec.backbone.name)(**spec.backbone.settings)
    missing = [name for name in TRAINABLE if not hasattr(backbone, name)]
    if missing:
        raise TadError(
            f"backbone {spec.backbone.name}: cannot be trained here (it has no {', '.join(missing)}); "
            "give its published weights in config.yaml instead"
        )
    return load_weights(weights, backbone, spec.backbone) if weights else backbone


def _fit(trainer: tsp.Trainer, tables: list[tsp_clips.SegmentTable], kept: Path, stamped: dict[str, Any]) -> None:
    """Train all epochs; the best epoch's weights lie in `kept` at the end: of those held out, else the last one's."""
    spec = trainer.spec.model_dump(mode="json")
    epochs: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    for epoch in range(trainer.spec.epochs):
        loss = trainer.epoch(epoch, tables[0])
        if not np.isfinite(loss):
            stays = f"the weights of epoch {best['epoch']} stay in {kept}" if best else "no epoch was finished"
            raise TadError(f"pretrain: loss {loss} in epoch {epoch + 1}: lower lr_backbone or lr_heads; {stays}")
        score = trainer.score(tables[1])
        facts = {"epoch": epoch + 1, "loss": round(loss, 6), "action": score.action, "region": score.region}
        epochs.append(facts)
        log.info("epoch %d: loss %.4f%s", epoch + 1, loss, _held_out(score))
        if not best or not len(tables[1]) or score.mean > best["mean"]:
            best = {**facts, "mean": score.mean}
            _save(trainer.backbone, kept / "backbone.safetensors", stamp("pretrain", spec, **stamped, **best))
        write_json(kept / "epochs.json", epochs)


def _held_out(score: tsp.Score) -> str:
    parts = [("action", score.action), ("region", score.region)]
    told = [f"{name} {share:.3f}" for name, share in parts if share is not None]
    return f"; held out: {', '.join(told)}" if told else ""


def pretrain(
    annotations: Path, manifests: list[Path], videos_folder: Path, out: Path, *, spec: PretrainSpec, kept: Path,
    device: str = "auto", weights: Path | None = None,
) -> Path:
    """Train a clip encoder on the train split and write its weights to `out` (.safetensors).

    Args:
        annotations: what `annotate` wrote.
        manifests: all shards that `probe` wrote.
        videos_folder: where the manifest's paths start.
        spec: the settings.
        kept: folder of the best weights so far and of `epochs.json`; they stay when the training fails.
        device: see `tad.device.leased`.
        weights: encoder to start from; from scratch without.

    Raises:
        TadError: no usable clip, a backbone that cannot be trained, or a loss that is not finite.
    """
    dataset = expect(annotations, stage="annotate")["spec"]["dataset"]
    for path in manifests:
        expect(path, stage="probe", dataset=dataset)
    table_file = read_json(annotations)
    videos = _train_videos(table_file, manifests)
    labels = list(table_file["labels"])
    inputs = _contents(videos, labels, weights, spec.backbone)
    made = stamp("pretrain", spec.model_dump(mode="json"), inputs)["identity"]
    if _finished(kept, made):
        log.info("nothing that training reads has changed: the kept weights are published again")
    else:
        (kept / "finished.json").unlink(missing_ok=True)
        kept.mkdir(parents=True, exist_ok=True)
        with leased(device) as target, reproducible(target):
            torch.manual_seed(spec.seed)  # inside `reproducible`, which puts the generator back
            backbone = _checked_backbone(spec, weights)
            frames = decode(videos, videos_folder, backbone=backbone, clip=spec.clip, scratch=kept)
            tables = _split(_segments(videos, frames, labels, spec), len(videos), spec)
            trainer = tsp.Trainer(backbone, frames, num_classes=len(labels), spec=spec, device=target)
            _fit(trainer, tables, kept, {"inputs": inputs, "labels": labels, "device": name_of(target)})
        write_json(kept / "finished.json", {"identity": made, "sha256": sha256(kept / "backbone.safetensors")})
    with publish(out) as partial:
        shutil.copyfile(kept / "backbone.safetensors", partial)
    return out


def _contents(
    videos: Mapping[str, tuple[Any, Any]], labels: list[str], weights: Path | None, backbone: Plugin
) -> dict[str, str]:
    """Content of all that training reads; a test video that comes or goes changes nothing here."""
    read = {
        video: [entry["sha256"], entry["reader"], annotated["instances"], annotated.get("ambiguous", [])]
        for video, (annotated, entry) in videos.items()
    }
    return {"train": digest([labels, read], 16)} | ({"weights": weights_identity(weights, backbone)} if weights else {})


def _finished(kept: Path, identity: str) -> bool:
    """Whether `kept` holds the whole result of a training that read the same."""
    receipt, weights = kept / "finished.json", kept / "backbone.safetensors"
    if not (receipt.is_file() and weights.is_file()):
        return False
    return bool(read_json(receipt) == {"identity": identity, "sha256": sha256(weights)})


def _segments(
    videos: Mapping[str, tuple[Any, Any]], frames: tsp_clips.Frames, labels: list[str], spec: PretrainSpec
) -> tsp_clips.SegmentTable:
    """The segments of all videos, on the durations that were decoded."""
    table = tsp_clips.segment_table(
        [annotated for annotated, _ in videos.values()],
        [count / rate for count, rate in zip(frames.count, frames.rates, strict=True)],
        {label: k for k, label in enumerate(labels)},
        clip_seconds=[spec.clip.length / rate for rate in frames.rates],
        short=spec.short_segments,
    )
    log.info("%d videos with %d segments; %d others are too short for a clip", len(videos), len(table), table.dropped)
    return table
