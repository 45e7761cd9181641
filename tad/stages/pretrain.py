"""Stage pretrain: trains a clip encoder on the train split to classify actions and background (TSP).

Inputs: annotations (annotate), manifest shards (probe), the folder of videos, optionally initial weights.
Output: backbone.safetensors: the encoder's weights with the stamp in the header; the heads are discarded.
Settings: `PretrainSpec`.
"""

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tad.backbones._contract import BackboneBase
from tad.backbones._weights import load_weights, weights_identity
from tad.core import formats, notices
from tad.core.device import leased, name_of, reproducible
from tad.core.errors import TadError
from tad.core.files import canonical, digest, publish, read_json, sha256, write_json
from tad.core.notices import TRANSIENT
from tad.core.storage import storing
from tad.provenance.conditions import uses
from tad.provenance.stamps import expect, stamp
from tad.settings import plugins
from tad.settings.stage_table import TABLES
from tad.settings.stages import Plugin, PretrainSpec
from tad.training.io import tensors as checkpoint
from tad.training.tsp import clips as tsp_clips
from tad.training.tsp import trainer as tsp
from tad.training.tsp.frames import frames_of
from tad.weights.store import expect_published

log = logging.getLogger(__name__)


def _train_videos(
    annotations: Mapping[str, Any], manifests: list[Path], spec: PretrainSpec
) -> dict[str, tuple[Any, Any]]:
    """Return (annotation entry, manifest entry) of the usable, labelled train videos by id."""
    probed: dict[str, Any] = {}
    for path in manifests:
        probed |= read_json(path)["videos"]
    wanted = [video for video, entry in annotations["videos"].items() if entry["split"] == "train"]
    usable = {
        video: (annotations["videos"][video], probed[video])
        for video in sorted(wanted)
        if video in probed and probed[video]["usable"]
    }
    if len(usable) < len(wanted):
        skipped = sorted(set(wanted) - set(usable))
        log.warning("%d train videos are missing or damaged and skipped: %s", len(skipped), ", ".join(skipped[:5]))
    if uses("share", spec):
        from tad.annotations.label_draw import draw_labelled

        first = {video: next((i[2] for i in annotated["instances"]), "") for video, (annotated, _) in usable.items()}
        labelled = draw_labelled(first, share=spec.share, seed=spec.share_seed)
        log.info("using %d of %d train videos (share %g of each class)", len(labelled), len(usable), spec.share)
        return {video: both for video, both in usable.items() if video in labelled}
    return usable


def _save(backbone: BackboneBase, path: Path, stamped: Mapping[str, Any]) -> None:
    tensors = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    checkpoint.write_tensors(path, tensors, {"tad_stamp": canonical(stamped)})


def _split(table: tsp_clips.SegmentTable, videos: int, spec: PretrainSpec) -> list[tsp_clips.SegmentTable]:
    """Split the segments by video into training and validation segments (none of these if `hold_out` is 0)."""
    held_out = max(1, round(spec.hold_out * videos)) if spec.hold_out else 0
    order = np.random.default_rng([spec.seed, videos]).permutation(videos).tolist()
    tables = [table.of_videos(order[held_out:]), table.of_videos(order[:held_out])]
    if not (tables[0].labels_S != tsp_clips.BACKGROUND).any():
        raise TadError(
            "pretrain: all actions in the train videos are shorter than a clip; shorten clip.length, or set "
            "pretrain.short_segments: extend"
        )
    return tables


def _checked_backbone(spec: PretrainSpec, weights: Path | None) -> BackboneBase:
    backbone: BackboneBase = plugins.build("backbones", spec.backbone.name, spec.backbone.settings)
    if not backbone.trainable:
        raise TadError(
            f"backbone {spec.backbone.name}: cannot be trained here; set its published weights in config.yaml instead"
        )
    return load_weights(weights, backbone, spec.backbone) if weights else backbone


@dataclass
class _Progress:
    """Progress of a training, saved beside its weights: finished epochs, the best epoch, and the current epoch.

    Attributes:
        path: state file.
        identity: digest of everything that the training depends on.
        epochs: loss and accuracies of the finished epochs.
        best: facts of the best epoch so far.
        done: progress within the current epoch, if it was interrupted.
        saved: time of the last saved state.
    """

    path: Path
    identity: str
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    done: tsp.Done | None = None
    saved: float = field(default_factory=time.monotonic)

    def read(self) -> dict[str, Tensor]:
        """Load the state of an interrupted training with the same identity; return its tensors, empty if none."""
        if not self.path.is_file():
            return {}
        try:
            tensors, metadata = checkpoint.read_tensors(self.path)
            state = checkpoint.read_json_field(self.path, metadata, "course", dict)
            formats.check(metadata, self.path, kind="encoder-state")
        except TadError as error:
            if not formats.replaceable(error):
                raise
            log.warning("%s; training restarts from the first epoch", error, extra=TRANSIENT)
            return {}
        if state["made"] != self.identity:
            return {}
        self.epochs, self.best = state["epochs"], state["best"]
        if state["done"]:
            steps_done, loss, generator = state["done"]
            self.done = tsp.Done(steps_done, loss, json.loads(generator))
        steps = f" and {self.done.steps} steps" if self.done else ""
        log.info("resuming after %d epochs%s", len(self.epochs), steps)
        return tensors

    def write(self, trainer: tsp.Trainer, done: tsp.Done | None) -> None:
        """Save the current state."""
        # the generator's state has integers of 128 bits, more than files of others may hold: it is stored as text
        stopped = (*done[:-1], json.dumps(done.rng)) if done else None
        state = {"made": self.identity, "epochs": self.epochs, "best": self.best, "done": stopped}
        checkpoint.write_tensors(self.path, trainer.state(), {"course": state, **formats.mark("encoder-state")})
        self.done, self.saved = None, time.monotonic()


def _fit(
    trainer: tsp.Trainer,
    tables: list[tsp_clips.SegmentTable],
    progress: _Progress,
    stamped: dict[str, Any],
    every: float,
) -> None:
    """Train the remaining epochs; write the weights of the best epoch beside `progress.path`.

    The best epoch is the one with the highest validation accuracy, or the last one if no videos are held out.
    """
    spec, folder = trainer.spec.model_dump(mode="json"), progress.path.parent

    def save(done: tsp.Done) -> None:
        if time.monotonic() - progress.saved >= every:
            progress.write(trainer, done)

    for epoch in range(len(progress.epochs), trainer.spec.epochs):
        loss = trainer.epoch(epoch, tables[0], progress.done, save)
        if not np.isfinite(loss):
            best = progress.best
            left = f"the weights of epoch {best['epoch']} are in {folder}" if best else "no epoch was finished"
            raise TadError(f"pretrain: loss {loss} in epoch {epoch + 1}: lower lr_backbone or lr_heads; {left}")
        score = trainer.score(tables[1])
        facts = {"epoch": epoch + 1, "loss": round(loss, 6), "action": score.action, "region": score.region}
        progress.epochs.append(facts)
        log.info("epoch %d: loss %.4f%s", epoch + 1, loss, _validation_text(score))
        if not progress.best or not len(tables[1]) or score.mean > progress.best["mean"]:
            progress.best = {**facts, "mean": score.mean}
            header = stamp("pretrain", spec, **stamped, **progress.best)
            _save(trainer.backbone, folder / "backbone.safetensors", header)
        write_json(folder / "epochs.json", {**formats.mark("encoder-epochs"), "epochs": progress.epochs})
        progress.write(trainer, None)


def _validation_text(score: tsp.Score) -> str:
    accuracies = [("action", score.action), ("region", score.region)]
    texts = [f"{name} {share:.3f}" for name, share in accuracies if share is not None]
    return f"; validation accuracy: {', '.join(texts)}" if texts else ""


def pretrain(
    annotations: Path,
    manifests: list[Path],
    videos_folder: Path,
    out: Path,
    *,
    spec: PretrainSpec,
    cache: Path,
    device: str = "auto",
    weights: Path | None = None,
    max_cached: int | None = None,
    every_seconds: float = 600.0,
) -> Path:
    """Train a clip encoder on the train split and write its weights to `out` (.safetensors).

    An interrupted training resumes from its last state and gives bit-equal weights.

    Args:
        annotations: table made by annotate.
        manifests: all manifest shards made by probe.
        videos_folder: folder that the manifest's paths are relative to.
        out: the weights to write.
        spec: settings.
        cache: folder for the best weights so far, `epochs.json` and the state; they remain if the training fails.
        device: see `tad.core.device.leased`.
        weights: initial weights; None: random weights.
        max_cached: maximum bytes of decoded frames on disk during training; above it, clips are decoded on demand;
            None: half of the free space.
        every_seconds: time between saved states within an epoch; one is always saved at the end of an epoch.

    Raises:
        TadError: there is no usable clip, the backbone cannot be trained, or the loss is not finite.
    """
    dataset = expect(annotations, stage=TABLES)["spec"]["dataset"]
    for path in manifests:
        expect(path, stage="probe", dataset=dataset)
    table_file = read_json(annotations)
    videos = _train_videos(table_file, manifests, spec)
    labels = list(table_file["labels"])
    if weights is not None:
        expect_published(weights, spec.backbone)
    inputs = _contents(videos, labels, weights, spec.backbone)
    identity = stamp("pretrain", spec.model_dump(mode="json"), inputs)["identity"]
    if _finished(cache, identity):
        log.info("inputs, settings and code are unchanged: weights republished from %s", cache)
        notices.repeat(cache / "warnings.json", identity)
    else:
        (cache / "finished.json").unlink(missing_ok=True)
        with storing(cache):
            cache.mkdir(parents=True, exist_ok=True)
        kept = notices.collecting(cache / "warnings.json", key=identity)
        with leased(device, threads=spec.threads) as target, reproducible(target), kept:
            torch.manual_seed(spec.seed)  # inside `reproducible`, which restores the generator
            backbone = _checked_backbone(spec, weights)
            frames = frames_of(videos, videos_folder, backbone=backbone, clip=spec.clip, scratch=cache, most=max_cached)
            tables = _split(_segments(videos, frames, labels, spec), len(videos), spec)
            progress = _Progress(cache / "state.safetensors", digest([identity, name_of(target)], 32))
            trainer = _trainer(backbone, frames, labels, spec, target, progress.read())
            stamped = {"inputs": inputs, "labels": labels, "device": name_of(target)}
            _fit(trainer, tables, progress, stamped, every_seconds)
        progress.path.unlink(missing_ok=True)
        receipt = {"identity": identity, "sha256": sha256(cache / "backbone.safetensors")}
        write_json(cache / "finished.json", {**formats.mark("encoder-receipt"), **receipt})
    with publish(out, size=(cache / "backbone.safetensors").stat().st_size) as partial:
        shutil.copyfile(cache / "backbone.safetensors", partial)
    return out


def _trainer(
    backbone: BackboneBase,
    frames: tsp_clips.Clips,
    labels: list[str],
    spec: PretrainSpec,
    device: torch.device,
    state: dict[str, Tensor],
) -> tsp.Trainer:
    """Create the trainer, and load the state of an interrupted training unless it is empty."""
    trainer = tsp.Trainer(
        backbone, frames, num_classes=len(labels), spec=spec, device=device, global_VC=state.get("global")
    )
    if state:
        trainer.load_state(state)
    return trainer


def _contents(
    videos: Mapping[str, tuple[Any, Any]], labels: list[str], weights: Path | None, backbone: Plugin
) -> dict[str, str]:
    """Return digests of everything that training reads; test videos are not included."""
    read = {
        video: [entry["sha256"], entry["reader"], annotated["instances"], annotated.get("ambiguous", [])]
        for video, (annotated, entry) in videos.items()
    }
    return {"train": digest([labels, read], 16)} | ({"weights": weights_identity(weights, backbone)} if weights else {})


def _finished(cache: Path, identity: str) -> bool:
    """Return whether `cache` holds the complete result of a training with this identity."""
    receipt, weights = cache / "finished.json", cache / "backbone.safetensors"
    if not (receipt.is_file() and weights.is_file()):
        return False
    content = formats.unmarked(read_json(receipt), receipt, kind="encoder-receipt")
    return content == {"identity": identity, "sha256": sha256(weights)}


def _segments(
    videos: Mapping[str, tuple[Any, Any]], frames: tsp_clips.Clips, labels: list[str], spec: PretrainSpec
) -> tsp_clips.SegmentTable:
    """Return the segments of all videos, with their decoded durations."""
    table = tsp_clips.segment_table(
        [annotated for annotated, _ in videos.values()],
        [count / rate for count, rate in zip(frames.count, frames.rates, strict=True)],
        {label: k for k, label in enumerate(labels)},
        clip_seconds=[spec.clip.length / rate for rate in frames.rates],
        short=spec.short_segments,
        shortest_gap=spec.shortest_gap,
        moments=all(start == end for annotated, _ in videos.values() for start, end, _ in annotated["instances"]),
    )
    log.info("%d videos with %d segments; %d more segments are too short", len(videos), len(table), table.dropped)
    return table
