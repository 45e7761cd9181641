"""Clips of the train split's videos → a clip encoder that tells actions from one another and from background (TSP).

Inputs: annotations (annotate), manifest shards (probe), the folder of videos, optionally weights to start from.
Output: backbone.safetensors, the encoder's weights with the stamp in the header; the heads are not kept.
Settings: `PretrainSpec`.
"""

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tad import plugins
from tad.backbones._weights import load_weights, weights_identity
from tad.device import leased, name_of, reproducible
from tad.errors import TadError
from tad.files import canonical, digest, publish, read_json, sha256, write_json
from tad.provenance import expect, stamp
from tad.specs import Plugin, PretrainSpec
from tad.training import checkpoint, tsp, tsp_clips
from tad.training.label_draw import draw_labelled
from tad.training.tsp_store import frames_of
from tad.weight_store import expect_published

log = logging.getLogger(__name__)
TRAINABLE = ("frame_size", "crop_size", "shrink", "encode", "stem")


def _train_videos(
    annotations: Mapping[str, Any], manifests: list[Path], spec: PretrainSpec
) -> dict[str, tuple[Any, Any]]:
    """Video id → (annotation entry, manifest entry), for usable videos of the train split whose labels may be seen."""
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
    if spec.share == 1:
        return usable
    first = {video: next((i[2] for i in annotated["instances"]), "") for video, (annotated, _) in usable.items()}
    labelled = draw_labelled(first, share=spec.share, seed=spec.share_seed)
    log.info("%d of %d train videos (%g of each class)", len(labelled), len(usable), spec.share)
    return {video: both for video, both in usable.items() if video in labelled}


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


@dataclass
class _Course:
    """How far a training is, as it is kept beside its weights: what is over, the best epoch, and the epoch at work."""

    path: Path
    made: str
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    done: tsp.Done | None = None
    saved: float = field(default_factory=time.monotonic)

    def read(self) -> dict[str, Tensor]:
        """Go on from where a training that read the same was ended; its tensors, none where there is no such."""
        if not self.path.is_file():
            return {}
        try:
            tensors, metadata = checkpoint.read_tensors(self.path)
            course = checkpoint.read_json_field(self.path, metadata, "course", dict)
        except TadError as error:
            log.warning("%s; starting anew", error)
            return {}
        if course["made"] != self.made:
            return {}
        self.epochs, self.best = course["epochs"], course["best"]
        self.done = tsp.Done(*course["done"]) if course["done"] else None
        steps = f" and {self.done.steps} steps" if self.done else ""
        log.info("going on after %d epochs%s", len(self.epochs), steps)
        return tensors

    def write(self, trainer: tsp.Trainer, done: tsp.Done | None) -> None:
        """Keep the state of this moment."""
        course = {"made": self.made, "epochs": self.epochs, "best": self.best, "done": done}
        checkpoint.write_tensors(self.path, trainer.state(), {"course": course})
        self.done, self.saved = None, time.monotonic()


def _fit(
    trainer: tsp.Trainer, tables: list[tsp_clips.SegmentTable], course: _Course, stamped: dict[str, Any], every: float
) -> None:
    """Train all epochs that are left; the best one's weights lie beside `course.path` at the end: of those held out,
    else the last one's."""
    spec, kept = trainer.spec.model_dump(mode="json"), course.path.parent

    def save(done: tsp.Done) -> None:
        if time.monotonic() - course.saved >= every:
            course.write(trainer, done)

    for epoch in range(len(course.epochs), trainer.spec.epochs):
        loss = trainer.epoch(epoch, tables[0], course.done, save)
        if not np.isfinite(loss):
            stays = f"the weights of epoch {course.best['epoch']} stay in {kept}" if course.best else "no epoch ended"
            raise TadError(f"pretrain: loss {loss} in epoch {epoch + 1}: lower lr_backbone or lr_heads; {stays}")
        score = trainer.score(tables[1])
        facts = {"epoch": epoch + 1, "loss": round(loss, 6), "action": score.action, "region": score.region}
        course.epochs.append(facts)
        log.info("epoch %d: loss %.4f%s", epoch + 1, loss, _held_out(score))
        if not course.best or not len(tables[1]) or score.mean > course.best["mean"]:
            course.best = {**facts, "mean": score.mean}
            _save(trainer.backbone, kept / "backbone.safetensors", stamp("pretrain", spec, **stamped, **course.best))
        write_json(kept / "epochs.json", course.epochs)
        course.write(trainer, None)


def _held_out(score: tsp.Score) -> str:
    parts = [("action", score.action), ("region", score.region)]
    told = [f"{name} {share:.3f}" for name, share in parts if share is not None]
    return f"; held out: {', '.join(told)}" if told else ""


def pretrain(
    annotations: Path,
    manifests: list[Path],
    videos_folder: Path,
    out: Path,
    *,
    spec: PretrainSpec,
    kept: Path,
    device: str = "auto",
    weights: Path | None = None,
    most_kept: int | None = None,
    every_seconds: float = 600.0,
) -> Path:
    """Train a clip encoder on the train split and write its weights to `out` (.safetensors).

    A training that was ended goes on from its last state, and ends in the bytes that it would have had at once.

    Args:
        annotations: what `annotate` wrote.
        manifests: all shards that `probe` wrote.
        videos_folder: where the manifest's paths start.
        spec: the settings.
        kept: folder of the best weights so far, of `epochs.json` and of the state; they stay when the training fails.
        device: see `tad.device.leased`.
        weights: encoder to start from; from scratch without.
        most_kept: bytes of decoded frames that may be kept on disk while training, beyond which clips are decoded on
            demand; None: half of what is free.
        every_seconds: time between states within an epoch; there is one at the end of each.

    Raises:
        TadError: no usable clip, a backbone that cannot be trained, or a loss that is not finite.
    """
    dataset = expect(annotations, stage="annotate")["spec"]["dataset"]
    for path in manifests:
        expect(path, stage="probe", dataset=dataset)
    table_file = read_json(annotations)
    videos = _train_videos(table_file, manifests, spec)
    labels = list(table_file["labels"])
    if weights is not None:
        expect_published(weights, spec.backbone)
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
            frames = frames_of(videos, videos_folder, backbone=backbone, clip=spec.clip, scratch=kept, most=most_kept)
            tables = _split(_segments(videos, frames, labels, spec), len(videos), spec)
            course = _Course(kept / "state.safetensors", digest([made, name_of(target)], 32))
            state = course.read()
            trainer = tsp.Trainer(
                backbone, frames, num_classes=len(labels), spec=spec, device=target, global_VC=state.get("global")
            )
            if state:
                trainer.load_state(state)
            stamped = {"inputs": inputs, "labels": labels, "device": name_of(target)}
            _fit(trainer, tables, course, stamped, every_seconds)
        course.path.unlink(missing_ok=True)
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
    videos: Mapping[str, tuple[Any, Any]], frames: tsp_clips.Clips, labels: list[str], spec: PretrainSpec
) -> tsp_clips.SegmentTable:
    """The segments of all videos, on the durations that were decoded."""
    table = tsp_clips.segment_table(
        [annotated for annotated, _ in videos.values()],
        [count / rate for count, rate in zip(frames.count, frames.rates, strict=True)],
        {label: k for k, label in enumerate(labels)},
        clip_seconds=[spec.clip.length / rate for rate in frames.rates],
        short=spec.short_segments,
        shortest_gap=spec.shortest_gap,
    )
    log.info("%d videos with %d segments; %d others are too short", len(videos), len(table), table.dropped)
    return table
