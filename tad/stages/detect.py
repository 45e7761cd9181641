"""Stage detect: runs a trained detector on every video of a split; its candidates are not yet suppressed.

Inputs: feature index (merge, convert or join), model (train), annotations (annotate; only for the split's videos).
Output: `results/<run>/candidates.h5`: segments in grid units, scores and labels of all videos concatenated, row offsets
    of the videos, their time grids, and the excluded videos with their reasons.
Settings: `tad.settings.stages.DetectStageSpec`.
"""

# B videos, T snippets, C channels, N candidates of all videos, V videos of the split

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from tad.core.device import leased, name_of, reproducible
from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.core.h5 import H5Writer
from tad.core.printable import plural
from tad.core.progress import track
from tad.core.storage import forecast
from tad.features.store import FeatureReader
from tad.layers.types import Candidates, Raw
from tad.provenance.conditions import uses
from tad.provenance.stamps import expect, stamp
from tad.settings.stage_table import FEATURES
from tad.settings.stages import DetectStageSpec
from tad.training.data.in_memory import resize
from tad.training.data.inputs import Inputs, check_ends, check_lengths, open_features, read_inputs, recipe_of, select
from tad.training.data.window_positions import window_starts
from tad.training.io.models import Model, load_model

log = logging.getLogger(__name__)
CANDIDATE_BYTES = 16  # two times, a score and a label
LEVELS = 8  # of a detector, at most; for the forecast


def _batches(lengths: dict[str, int], *, max_length: int, size: int) -> Iterator[list[str]]:
    """Group videos in order into batches of up to `size`.

    A video longer than a training window gets its own batch, so that the others are not padded to its length.
    """
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
    """The features and the model of a run; with `detect.fuse` there are two streams."""

    reader: FeatureReader
    model: Model
    resize: int

    def features(self, video_id: str) -> np.ndarray:
        """Return all snippets (T, C) of a video, resized if the model needs it."""
        feats_TC = self.reader.read(video_id)
        return resize(feats_TC, self.resize) if self.resize else feats_TC

    def grid(self, video_id: str) -> Grid:
        """Return the time grid of a video's `features`."""
        grid = self.reader.grid(video_id)
        return grid.spread(self.resize) if self.resize else grid


def _candidates(
    streams: list[Stream], video_ids: list[str], spec: DetectStageSpec, device: torch.device
) -> list[Candidates]:
    feats = [[stream.features(v) for v in video_ids] for stream in streams]
    try:
        if not spec.detect.window_stride:
            return _of_sequences(feats, streams, spec, device)
        return [_of_windows([each[k] for each in feats], streams, spec, device) for k in range(len(video_ids))]
    except torch.OutOfMemoryError:
        raise TadError(
            f"out of memory on {device} with detect.batch_size {spec.detect.batch_size}; lower detect.batch_size"
        ) from None
    except TadError as error:
        raise TadError(f"{streams[0].reader.path}: videos {', '.join(video_ids)}: {error}") from None


def _of_sequences(
    feats: list[list[np.ndarray]], streams: list[Stream], spec: DetectStageSpec, device: torch.device
) -> list[Candidates]:
    """Return the candidates of a batch of sequences (T, C), given the features of each stream."""
    raws: list[list[Raw]] = []
    for sequences, stream in zip(feats, streams, strict=True):
        feats_BTC = torch.zeros(len(sequences), max(len(f) for f in sequences), sequences[0].shape[1])
        for row, feats_TC in enumerate(sequences):
            feats_BTC[row, : len(feats_TC)] = torch.from_numpy(feats_TC)
        lengths_B = torch.tensor([len(f) for f in sequences]).to(device)
        settings = spec.detect.model_dump(include={"score_threshold", "topk", "min_length"})
        if len(streams) == 1:
            candidates: list[Candidates] = stream.model.detector.candidates(feats_BTC.to(device), lengths_B, **settings)
            return candidates
        raws.append(stream.model.detector.raw(feats_BTC.to(device), lengths_B))
    return _averaged(raws, streams, len(feats[0]), spec, settings)


def _averaged(
    raws: list[list[Raw]], streams: list[Stream], count: int, spec: DetectStageSpec, settings: dict[str, Any]
) -> list[Candidates]:
    """Return the candidates of the averaged raw outputs of all streams."""
    detector = streams[0].model.detector
    together: list[Raw] = []
    if uses("fused", spec):
        from tad.layers.fusion import fused

        together = fused(raws, detector, borders=spec.detect.fuse_borders)
    candidates: list[Candidates] = detector.decode_candidates(together, count, **settings)
    return candidates


def _of_windows(
    feats: list[np.ndarray], streams: list[Stream], spec: DetectStageSpec, device: torch.device
) -> Candidates:
    """Return the candidates of all sliding windows of a video, in batches of `detect.batch_size` windows."""
    width = streams[0].model.max_length
    starts = window_starts(len(feats[0]), width, spec.detect.window_stride)
    parts: list[Candidates] = []
    for k in range(0, len(starts), spec.detect.batch_size):
        chosen = starts[k : k + spec.detect.batch_size]
        windows = [[x_TC[first : first + width] for first in chosen] for x_TC in feats]
        candidates = _of_sequences(windows, streams, spec, device)
        parts += [replace(c, segments_N2=c.segments_N2 + first) for c, first in zip(candidates, chosen, strict=True)]
    return Candidates(
        segments_N2=torch.cat([c.segments_N2 for c in parts]),
        scores_N=torch.cat([c.scores_N for c in parts]),
        labels_N=torch.cat([c.labels_N for c in parts]),
    )


def _lift_limits(streams: list[Stream], lengths: dict[str, int]) -> None:
    """Let the detectors accept every length, and say which videos are longer than the published code accepts."""
    limits = [limit for stream in streams if (limit := stream.model.detector.lift_limit())]
    beyond = [video_id for video_id, length in lengths.items() if limits and length > min(limits)]
    if beyond:
        longest = max(beyond, key=lengths.__getitem__)
        log.warning(
            "%s longer than the %d snippets that the published code accepts (settings.buffer_factor); all are detected"
            " nevertheless (longest: '%s', %d snippets; training windows have %d)",
            plural(len(beyond), "video is", "videos are"), min(limits), longest, lengths[longest],
            streams[0].model.max_length,
        )  # fmt: skip


def _all_candidates(
    streams: list[Stream], grids: dict[str, Grid], spec: DetectStageSpec, device: torch.device
) -> dict[str, Candidates]:
    """Return the candidates of all videos in `grids`.

    Raises:
        TadError: a video is too long for the detector, or see `_candidates`.
    """
    model = streams[0].model
    lengths = {v: grid.length for v, grid in grids.items()}
    limit = model.max_length if spec.detect.window_stride else max(lengths.values())
    limited = {v: min(length, limit) for v, length in lengths.items()}
    check_lengths(model.detector, limited, source=streams[0].reader.path, split=spec.split)
    candidates: dict[str, Candidates] = {}
    batches = list(_batches(lengths, max_length=model.max_length, size=spec.detect.batch_size))
    for video_ids in track(batches, "detect"):
        candidates |= zip(video_ids, _candidates(streams, video_ids, spec, device), strict=True)
    return candidates


def _own_stream(
    model: Path,
    encoder: Path | None,
    read: Inputs,
    reader: FeatureReader,
    spec: DetectStageSpec,
    device: torch.device,
) -> Stream:
    """Load the run's own model; return it with the run's features."""
    loaded = load_model(
        Path(model),
        dataset=spec.dataset,
        features=spec.features,
        plugin=spec.detector,
        resize=spec.resize,
        dim=reader.dim,
        recipe=recipe_of(read.features),
        device=device,
        adapters=spec.adapters,
        encoder=encoder,
    )
    return Stream(reader, loaded, spec.resize)


def _other_stream(
    files: tuple[Path, Path],
    first: Stream,
    usable: list[str],
    spec: DetectStageSpec,
    device: torch.device,
    held: ExitStack,
) -> tuple[Stream, dict[str, str]]:
    """Load the model and features of the run named by `detect.fuse`; return them with their identities.

    Raises:
        TadError: classes, windows or time grids differ from those of the first stream.
    """
    assert spec.fused is not None
    model, features = files
    merged = expect(features, stage=FEATURES, dataset=spec.dataset, features=spec.fused.features)
    reader = held.enter_context(open_features(features, spec.fused.frames))
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
        raise TadError(
            f"{model}: classes or train.max_length differ from the run's own model; detect.fuse needs equal ones"
        )
    for video_id in usable:
        if video_id not in set(reader.video_ids) or stream.grid(video_id) != first.grid(video_id):
            raise TadError(
                f"{features}: video '{video_id}' is missing or has another time grid than in {first.reader.path};"
                " detect.fuse needs features of the same clips"
            )
    return stream, {"fused model": str(loaded.stamp["identity"]), "fused features": str(merged["identity"])}


def _write(
    writer: H5Writer,
    candidates: dict[str, Candidates],
    grids: dict[str, Grid],
    labels: list[str],
    excluded: dict[str, str],
) -> None:
    video_ids = list(grids)
    parts = [candidates[v] for v in video_ids]
    segments_N2 = np.concatenate([c.segments_N2.cpu().numpy().reshape(-1, 2) for c in parts]).astype(np.float32)
    scores_N = np.concatenate([c.scores_N.cpu().numpy() for c in parts]).astype(np.float32)
    if not (np.isfinite(segments_N2).all() and np.isfinite(scores_N).all()):
        bad = next(
            v for v, c in candidates.items() if not (c.segments_N2.isfinite().all() and c.scores_N.isfinite().all())
        )
        raise TadError(f"candidates of video '{bad}' are not finite; check its features and the model's training")
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
    encoder: Path | None = None,
    any_length: bool = False,
) -> Path:
    """Run the detector on every video of the split; results do not depend on the batch size.

    Args:
        features: feature index made by merge, convert or join.
        model: detector made by train.
        annotations: table made by annotate.
        out: the candidates to write.
        spec: settings.
        fused: model and feature index of the run named by `detect.fuse`.
        device: see `tad.core.device.leased`.
        threads: CPU threads; 0: `spec.detect.threads`.
        encoder: weights (file or folder) of the frozen encoder of adapters.
        any_length: accept videos that are longer than the published code accepts, with a warning. New videos cannot
            wait for a training with another setting.

    Raises:
        TadError: the files of `detect.fuse` are missing; inputs do not belong together (see `load_model`); a video has
            neither features nor a reason for exclusion; features are damaged; or memory is exhausted.
    """
    if (fused is None) != (spec.fused is None):
        raise TadError(
            f"detect.fuse is '{spec.detect.fuse}', but {'no' if fused is None else 'a'} model to fuse is given; use"
            " --fused-model and --fused-features only together with detect.fuse"
        )
    read = read_inputs(features, annotations, dataset=spec.dataset, named=spec.features)
    table = read.table
    with (
        ExitStack() as held,
        open_features(features, spec.frames) as reader,
        leased(device, threads=threads or spec.detect.threads) as target,
        reproducible(target),
        torch.inference_mode(),
    ):
        check_ends(table, reader, read.annotations)
        usable, excluded = select(table, spec.split, reader, spec.exclude)
        own = _own_stream(model, encoder, read, reader, spec, target)
        if len(own.model.labels) > 1 and own.model.labels != list(table.labels):
            raise TadError(f"{model}: its classes differ from those of {annotations}; run train again")
        streams, inputs = [own], {**read.identities, "model": str(own.model.stamp["identity"])}
        if fused is not None:
            other, identities = _other_stream(fused, own, usable, spec, target, held)
            streams.append(other)
            inputs |= identities
        grids = {v: own.grid(v) for v in usable}
        if any_length:
            _lift_limits(streams, {v: grid.length for v, grid in grids.items()})
        rows = len(usable) * LEVELS * spec.detect.topk
        forecast(Path(out), rows * CANDIDATE_BYTES, what=f"detect: at most {rows} candidates")
        candidates = _all_candidates(streams, grids, spec, target)
    stamped = stamp("detect", spec.model_dump(mode="json"), inputs, device=name_of(target))
    with H5Writer(Path(out), stamped) as writer:
        _write(writer, candidates, grids, own.model.labels, excluded)
    count = sum(len(c.scores_N) for c in candidates.values())
    found = f"{plural(count, 'candidate')} in {plural(len(candidates), 'video')}"
    log.info("%s: %s, %d excluded", out, found, len(excluded))
    return Path(out)
