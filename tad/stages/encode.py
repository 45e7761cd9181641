"""Stage encode: computes features of whole videos with the adapted encoder of a run.

Inputs: frame index (index), model of a run with adapters (train), weights of its frozen encoder.
Output: `results/features/<dataset>/<features>.h5`: features at the positions that the run's detector sees. Any
    detector can be trained on them.
Settings: `tad.settings.stages.EncodeSpec`.

Finished videos are cached; an interrupted call resumes with the others, and gives the same bytes.
"""

# T frames, C values of a frame, L positions, D channels

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tad.core.device import leased, name_of, reproducible
from tad.core.errors import TadError
from tad.core.files import digest
from tad.core.formats import replaceable
from tad.core.grid import Grid
from tad.core.notices import TRANSIENT
from tad.core.progress import track
from tad.core.storage import forecast, storing
from tad.detectors._adapted.detector import AdaptedDetector
from tad.features.store import FeatureReader, ShardWriter
from tad.provenance.stamps import expect, stamp
from tad.settings.stages import EncodeSpec
from tad.training.adapted import encoder_identity
from tad.training.data.inputs import open_features, recipe_of
from tad.training.data.window_positions import window_starts
from tad.training.io.models import load_model, weights_digest

log = logging.getLogger(__name__)
HEADER_BYTES = 2048  # of a video: its attributes


def central(starts: list[int], width: int, length: int) -> list[tuple[int, int, int]]:
    """Return (start of a window, first row, last row): each row from the window that it is most central in.

    Rows halfway between two windows come from the earlier one.
    """
    middles = [start + width / 2 for start in starts]
    borders = [int(np.ceil((a + b) / 2)) for a, b in itertools.pairwise(middles)]
    firsts, lasts = [0, *borders], [*borders, length]
    return [(start, first, last) for start, first, last in zip(starts, firsts, lasts, strict=True) if first < last]


def _features(detector: AdaptedDetector, frames_TC: np.ndarray, spec: EncodeSpec, device: torch.device) -> np.ndarray:
    """Return the features (L, D) of a whole video."""
    each, width = spec.adapters.frames_per_position, detector.max_length
    positions, rows = -(-len(frames_TC) // each), []
    stride = max(spec.window_stride // each, 1)
    for start, first, last in central(window_starts(positions, width // each, stride), width // each, positions):
        part_TC = frames_TC[start * each : start * each + width]
        window_1TC = torch.from_numpy(np.ascontiguousarray(part_TC))[None].to(device)
        feats_1LD, _ = detector.features(window_1TC, torch.tensor([len(part_TC)]))
        rows.append(feats_1LD[0, first - start : last - start].float().cpu().numpy())
    return np.concatenate(rows).astype(spec.dtype)


def _grid(frames: Grid, each: int, length: int) -> Grid:
    """Return the time grid of positions, each in the middle of its frames."""
    if each == 1:
        return frames
    start = frames.start + (each - 1) / 2 * frames.step
    return Grid(start, each * frames.step, length, frames.duration, frames.offset)


def _cached(path: Path, key: str) -> bool:
    """Return whether a cache file holds the rows with this key."""
    if not path.is_file():
        return False
    try:
        with FeatureReader(path) as reader:
            (video_id,) = reader.video_ids
            reader.stored(video_id)
            return bool(reader.attrs(video_id).get("row_key") == key)
    except (TadError, OSError, KeyError, ValueError) as error:
        if not replaceable(error):
            raise
        log.warning("%s: cached rows are not usable (%s)", path, error, extra=TRANSIENT)
        return False


def _stamp(detector: AdaptedDetector, indexed: dict[str, Any], around: str, spec: EncodeSpec) -> dict[str, Any]:
    """Return the stamp of the features.

    Args:
        detector: the model, with the learnt adapters in its encoder.
        indexed: stamp of the frame index.
        around: identity of the encoder's frozen weights.
        spec: settings.
    """
    learnt = weights_digest({name: value for name, value in detector.encoder.state_dict().items()})
    inputs = {"frames": str(indexed["identity"]), "adapters": learnt, "encoder": around}
    recipe = {
        "backbone": spec.adapters.backbone.model_dump(mode="json"),
        "adapters": spec.adapters.model_dump(mode="json"),
        "frames": indexed["spec"]["frames"],
        "pretrained_on": spec.trained_on,
        "dtype": spec.dtype,
    }
    return stamp("encode", spec.model_dump(mode="json"), inputs, recipe=recipe, weights=digest([learnt, around], 16))


def encode(
    frames: Path,
    model: Path,
    out: Path,
    *,
    spec: EncodeSpec,
    cache: Path,
    encoder: Path | None = None,
    device: str = "auto",
) -> Path:
    """Write the features of all videos of a frame index.

    Args:
        frames: frame index made by index.
        model: model with adapters made by train.
        out: the index to write.
        spec: settings.
        cache: folder for the rows of finished videos.
        encoder: weights (file or folder) of the frozen encoder.
        device: see `tad.core.device.leased`.

    Raises:
        TadError: the inputs do not belong together, see `load_model`; or a video cannot be decoded.
    """
    indexed = expect(frames, stage="index", dataset=spec.dataset, features=spec.frame_set)
    around = encoder_identity(spec.adapters, encoder, run=spec.run)
    with (
        open_features(frames, spec.frames) as reader,
        leased(device) as target,
        reproducible(target),
        torch.inference_mode(),
    ):
        loaded = load_model(
            model, dataset=spec.trained_on, features=spec.frame_set, plugin=spec.detector, resize=0, dim=reader.dim,
            recipe=recipe_of(indexed), device=target, adapters=spec.adapters, encoder=encoder,
        )  # fmt: skip
        detector = loaded.detector
        assert isinstance(detector, AdaptedDetector)
        stamped = _stamp(detector, indexed, around, spec)
        keys = {
            video_id: digest({"recipe": stamped["identity"], "video": str(reader.attrs(video_id)["checksum"])}, 32)
            for video_id in reader.video_ids
        }
        with storing(cache):
            cache.mkdir(parents=True, exist_ok=True)
        parts = {video_id: cache / f"{digest(video_id, 32)}.part.h5" for video_id in sorted(keys)}
        todo = [video_id for video_id, path in parts.items() if not _cached(path, keys[video_id])]
        log.info("%d videos to encode, %d cached", len(todo), len(parts) - len(todo))
        rows = {video_id: reader.grid(video_id).length // spec.adapters.frames_per_position + 1 for video_id in parts}
        size = detector.encoder.width * np.dtype(spec.dtype).itemsize
        needed = sum(rows[video_id] * size + HEADER_BYTES for video_id in [*todo, *parts])
        forecast(Path(out), needed, what=f"encode of {len(todo)} videos")
        for video_id in track(todo, f"encode {spec.dataset}"):
            feats_LD = _features(detector, reader.stored(video_id), spec, target)
            grid = _grid(reader.grid(video_id), spec.adapters.frames_per_position, len(feats_LD))
            facts: dict[str, Any] = {"row_key": keys[video_id], "device": name_of(target)}
            with ShardWriter(parts[video_id], stamped) as writer:
                writer.add(video_id, feats_LD, grid=grid, attrs=facts)
        excluded = reader.excluded
    _assemble(out, stamped, parts, excluded)
    log.info("%s: %d videos, %d excluded", out, len(parts), len(excluded))
    return Path(out)


def _assemble(out: Path, stamped: dict[str, Any], parts: dict[str, Path], excluded: dict[str, str]) -> None:
    """Write the index from the cached rows of its videos, in the order of their ids."""
    with ShardWriter(Path(out), stamped) as index:
        index.attribute("excluded", excluded)
        for video_id, path in parts.items():
            with FeatureReader(path) as reader:
                facts = reader.attrs(video_id)
                index.add(video_id, reader.stored(video_id), grid=reader.grid(video_id), attrs=facts)
