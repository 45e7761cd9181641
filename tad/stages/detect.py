"""Features and a trained detector → scored candidate segments of every video of a split, before suppression.

Inputs: index of features (merge, convert or join), model (train), annotations (annotate; only for the split's videos).
Output: `results/<run>/candidates.h5`: segments in grid units, scores and labels of all videos in one row each, offsets,
    the grids that lead to seconds, and the excluded videos with their reasons.
Settings: `tad.specs.DetectStageSpec`.
"""

# B videos, T snippets, C channels, N candidates of all videos, V videos of the split

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch

from tad.cache import FeatureReader, H5Writer
from tad.device import leased, name_of, reproducible
from tad.errors import TadError
from tad.grid import Grid
from tad.layers.fusion import fused as averaged
from tad.layers.types import Candidates, Raw
from tad.progress import track
from tad.provenance import FEATURES, expect, stamp
from tad.specs import DetectStageSpec
from tad.training.features import resize
from tad.training.frames import open_features
from tad.training.inputs import check_ends, check_lengths, read_inputs, recipe_of, select
from tad.training.models import Model, load_model
from tad.training.places import window_starts

log = logging.getLogger(__name__)


def _batches(lengths: dict[str, int], *, max_length: int, size: int) -> Iterator[list[str]]:
    """Videos in order, up to `size` at once; one that is longer than a training window goes alone, so as not to pad
    the others to its length."""
    waiting: list[str] = []
    for video_id, length in lengths.items():
        if length > max_length:
            yield [video_id]
            continue
        waiting.append(video_id)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


@dataclass(frozen=True)
class Stream:
    """A run's features with its model; with `detect.fuse` there are two."""

    reader: FeatureReader
    model: Model
    resize: int

    def features(self, video_id: str) -> np.ndarray:
        """All snippets (T, C) of a video as the model sees them."""
        feats_TC = self.reader.read(video_id)
        return resize(feats_TC, self.resize) if self.resize else feats_TC

    def grid(self, video_id: str) -> Grid:
        """Their grid."""
        grid = self.reader.grid(video_id)
        return grid.spread(self.resize) if self.resize else grid


def _candidates(
    streams: list[Stream], video_ids: list[str], spec: DetectStageSpec, device: torch.device
) -> list[Candidates]:
    feats = [[stream.features(v) for v in video_ids] for stream in streams]
    try:
        if not spec.detect.window_stride:
            return _seen(feats, streams, spec, device)
        return [_of_windows([each[k] for each in feats], streams, spec, device) for k in range(len(video_ids))]
    except torch.OutOfMemoryError:
        raise TadError(f"out of memory on {device} with detect.batch_size {spec.detect.batch_size}; lower it") from None
    except TadError as error:
        raise TadError(f"{streams[0].reader.path}: videos {', '.join(video_ids)}: {error}") from None


def _seen(
    feats: list[list[np.ndarray]], streams: list[Stream], spec: DetectStageSpec, device: torch.device
) -> list[Candidates]:
    """Candidates of sequences (T, C) that are seen at once, by each stream in its features."""
    raws: list[list[Raw]] = []
    for sequences, stream in zip(feats, streams, strict=True):
        feats_BTC = torch.zeros(len(sequences), max(len(f) for f in sequences), sequences[0].shape[1])
        for row, feats_TC in enumerate(sequences):
            feats_BTC[row, : len(feats_TC)] = torch.from_numpy(feats_TC)
        lengths_B = torch.tensor([len(f) for f in sequences]).to(device)
        settings = spec.detect.model_dump(include={"score_threshold", "topk", "min_length"})
        if len(streams) == 1:
            found: list[Candidates] = stream.model.detector.candidates(feats_BTC.to(device), lengths_B, **settings)
            return found
        raws.append(stream.model.detector.raw(feats_BTC.to(device), lengths_B))
    detector = streams[0].model.detector
    together = averaged(raws, detector, borders=spec.detect.fuse_borders)
    found = detector.found(together, len(feats[0]), **settings)
    return found


def _of_windows(
    feats: list[np.ndarray], streams: list[Stream], spec: DetectStageSpec, device: torch.device
) -> Candidates:
    """Candidates of all windows of a video, `detect.batch_size` of them at once."""
    width = streams[0].model.max_length
    starts = window_starts(len(feats[0]), width, spec.detect.window_stride)
    parts: list[Candidates] = []
    for k in range(0, len(starts), spec.detect.batch_size):
        chosen = starts[k : k + spec.detect.batch_size]
        seen = _seen([[x_TC[first : first + width] for first in chosen] for x_TC in feats], streams, spec, device)
        parts += [replace(c, segments_N2=c.segments_N2 + first) for c, first in zip(seen, chosen, strict=True)]
    return Candidates(
        segments_N2=torch.cat([c.segments_N2 for c in parts]),
        scores_N=torch.cat([c.scores_N for c in parts]),
        labels_N=torch.cat([c.labels_N for c in parts]),
    )


def _other_stream(
    files: tuple[Path, Path],
    first: Stream,
    usable: list[str],
    spec: DetectStageSpec,
    device: torch.device,
    held: ExitStack,
) -> tuple[Stream, dict[str, str]]:
    """The model and features of the run in `detect.fuse`, and their identities.

    Raises:
        TadError: they do not fit the first ones: classes, windows, or the times of a video's snippets.
    """
    assert spec.fused is not None
    model, features = files
    merged = expect(features, stage=FEATURES, dataset=spec.dataset, features=spec.fused.features)
    reader = held.enter_context(open_features(features))
    loaded = load_model(
        model,
        dataset=spec.dataset,
        features=spec.fused.features,
        plugin=spec.fused.detector,
        resize=spec.fused.resize,
        dim=reader.dim,
        recipe=recipe_of(merged),
        device=device,
    )
    stream = Stream(reader, loaded, spec.fused.resize)
    if (loaded.labels, loaded.max_length) != (first.model.labels, first.model.max_length):
        raise TadError(f"{model}: of other classes or windows than the run's own model; detect.fuse needs the same")
    for video_id in usable:
        if video_id not in set(reader.video_ids) or stream.grid(video_id) != first.grid(video_id):
            raise TadError(
                f"{features}: video '{video_id}' has not the snippets that {first.reader.path} has; detect.fuse needs"
                " features of the same clips"
            )
    return stream, {"fused model": str(loaded.stamp["identity"]), "fused features": str(merged["identity"])}


def _write(
    writer: H5Writer, found: dict[str, Candidates], grids: dict[str, Grid], labels: list[str], excluded: dict[str, str]
) -> None:
    video_ids = list(grids)
    parts = [found[v] for v in video_ids]
    segments_N2 = np.concatenate([c.segments_N2.cpu().numpy().reshape(-1, 2) for c in parts]).astype(np.float32)
    scores_N = np.concatenate([c.scores_N.cpu().numpy() for c in parts]).astype(np.float32)
    if not (np.isfinite(segments_N2).all() and np.isfinite(scores_N).all()):
        bad = next(v for v, c in found.items() if not (c.segments_N2.isfinite().all() and c.scores_N.isfinite().all()))
        raise TadError(f"candidates of video '{bad}' are not finite; look at its features and the model's training")
    writer.dataset("segments", segments_N2)
    writer.dataset("scores", scores_N)
    writer.dataset("labels", np.concatenate([c.labels_N.cpu().numpy() for c in parts]).astype(np.int32))
    writer.dataset("offsets", np.cumsum([0, *(len(c.scores_N) for c in parts)]).astype(np.int64))
    rows = [[g.start, g.step, g.length, g.duration] for g in grids.values()]
    writer.dataset("grids", np.array(rows, np.float64).reshape(-1, 4))
    writer.file.create_dataset("video_ids", data=video_ids, dtype=h5py.string_dtype(), track_times=False)
    writer.file.attrs["labels"] = json.dumps(labels, ensure_ascii=False)
    writer.attribute("excluded", excluded)


def detect(
    features: Path,
    model: Path,
    annotations: Path,
    out: Path,
    *,
    spec: DetectStageSpec,
    fused: tuple[Path, Path] | None = None,
    device: str = "cpu",
    threads: int = 0,
) -> Path:
    """Run the detector over every video of the split; a result of each video by itself, whatever the batch size.

    Args:
        features: index made by merge, convert or join.
        model: detector made by train.
        annotations: table made by annotate.
        out: the candidates to write.
        fused: model and features of the run in `detect.fuse`.
        device: see `tad.device.leased`.
        threads: CPU threads; 0: torch's choice.

    Raises:
        TadError: `detect.fuse` without that run's files; inputs that do not belong together (`load_model`), a video of
            the split without features and without a reason, damaged features, out of memory.
    """
    if (fused is None) != (spec.fused is None):
        raise TadError(
            f"detect.fuse: '{spec.detect.fuse}' with {'no' if fused is None else 'a'} model to fuse; give --fused-model"
            " and --fused-features with detect.fuse, and without it neither"
        )
    read = read_inputs(features, annotations, dataset=spec.dataset, named=spec.features)
    table = read.table
    with (
        ExitStack() as held,
        open_features(features) as reader,
        leased(device, threads=threads) as target,
        reproducible(target),
        torch.inference_mode(),
    ):
        check_ends(table, reader, read.annotations)
        usable, excluded = select(table, spec.split, reader, spec.exclude)
        loaded = load_model(
            Path(model),
            dataset=spec.dataset,
            features=spec.features,
            plugin=spec.detector,
            resize=spec.resize,
            dim=reader.dim,
            recipe=recipe_of(read.features),
            device=target,
        )
        if len(loaded.labels) > 1 and loaded.labels != list(table.labels):
            raise TadError(f"{model}: its classes are not those of {annotations}; run train again")
        streams = [Stream(reader, loaded, spec.resize)]
        inputs = {**read.identities, "model": str(loaded.stamp["identity"])}
        if fused is not None:
            other, identities = _other_stream(fused, streams[0], usable, spec, target, held)
            streams.append(other)
            inputs |= identities
        grids = {v: streams[0].grid(v) for v in usable}
        lengths = {v: grid.length for v, grid in grids.items()}
        limit = loaded.max_length if spec.detect.window_stride else max(lengths.values())
        seen = {v: min(length, limit) for v, length in lengths.items()}
        check_lengths(loaded.detector, seen, source=Path(features), split=spec.split)
        found: dict[str, Candidates] = {}
        batches = list(_batches(lengths, max_length=loaded.max_length, size=spec.detect.batch_size))
        for video_ids in track(batches, "detect"):
            found |= zip(video_ids, _candidates(streams, video_ids, spec, target), strict=True)
    made = stamp("detect", spec.model_dump(mode="json"), inputs, device=name_of(target))
    with H5Writer(Path(out), made) as writer:
        _write(writer, found, grids, loaded.labels, excluded)
    count = sum(len(c.scores_N) for c in found.values())
    log.info("%s: %d candidates in %d videos, %d excluded", out, count, len(found), len(excluded))
    return Path(out)
