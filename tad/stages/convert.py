"""Stage convert: imports published features into a feature index, instead of extract and merge.

Inputs: a folder or HDF5 file with the features, or a folder of keypoint files; annotations (annotate; for videos,
durations and frame rates).
Output: `results/features/<dataset>/<features>.h5`: the features, with time grids from the clip settings.
Settings: `tad.settings.stages.ConvertSpec`.
"""

# T snippets, C channels

import logging
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tad.annotations.table import Table, Video, read_table
from tad.core.errors import TadError
from tad.core.files import content_key, digest
from tad.core.grid import Grid
from tad.core.progress import track
from tad.core.storage import forecast
from tad.features.foreign import FeatureFiles
from tad.features.keypoints import KeypointFiles
from tad.features.store import ShardWriter, checksum
from tad.provenance.stamps import expect, stamp
from tad.settings.stages import ConvertSpec

log = logging.getLogger(__name__)
SPARE_ROWS = 2  # published extractors differ in whether the first and last clip may be incomplete
LISTED = 3


@dataclass(frozen=True)
class Misfit:
    """A video whose number of rows does not match its duration, frame rate and stride."""

    video_id: str
    rows: int
    least: int
    most: int
    duration: float
    rate: float


@dataclass(frozen=True)
class Placed:
    """The time grid of a video's rows, and the attributes stored with them."""

    grid: Grid
    facts: dict[str, Any]


def rate_of(video_id: str, video: Video, spec: ConvertSpec) -> float:
    """Return the frame rate on which clip length and stride are based.

    Raises:
        TadError: clips use the native rate, but the annotations do not state the rate of the video.
    """
    rate = spec.clip.rate or video.rate
    if not rate:
        raise TadError(
            f"{spec.dataset}: video '{video_id}': clip.policy native needs the frame rate of each video, and the "
            "annotations state none; use annotations with `fps`, or set clip.policy: resample with the clip.rate that "
            f"the features of {spec.features} were made at"
        )
    return rate


def expected_rows(duration: float, rate: float, spec: ConvertSpec) -> tuple[int, int]:
    """Return the minimum (only whole clips) and maximum (also incomplete clips) number of rows for a duration."""
    frames, clip = duration * rate, spec.clip
    least = math.floor(max(frames - clip.length, 0.0) / clip.stride) * (1 - spec.tolerance) - SPARE_ROWS
    most = math.ceil(frames / clip.stride) * (1 + spec.tolerance) + SPARE_ROWS
    return max(math.floor(least), 1), math.ceil(most)


def _misfits_error(source: Path, misfits: list[Misfit], count: int, spec: ConvertSpec) -> TadError:
    """Return an error that names mismatching videos, and the stride or rate that would fit most of them."""
    shown = ", ".join(
        f"'{m.video_id}' has {m.rows} rows for {m.duration:.1f} s, expected {m.least} to {m.most}"
        for m in misfits[:LISTED]
    )
    clip, rate = spec.clip, statistics.median(m.rate for m in misfits)
    stride = statistics.median((m.duration * m.rate - clip.length) / m.rows for m in misfits)
    fits = f"clip.stride {max(round(stride), 1)} at {rate:g} frames per second"
    if clip.policy != "native":
        about = statistics.median((m.rows * clip.stride + clip.length) / m.duration for m in misfits)
        fits += f", or clip.rate of about {about:.3g} with stride {clip.stride},"
    return TadError(
        f"{source}: {len(misfits)} of {count} videos do not fit clip.stride {spec.clip.stride} at {rate:g} frames per "
        f"second: {shown}; {fits} would fit (or raise tolerance {spec.tolerance:g})"
    )


def _shaped(feats_TC: np.ndarray, path: Path, video_id: str, spec: ConvertSpec) -> np.ndarray:
    """Return features (T, dim) in the data type to store.

    Raises:
        TadError: the width is wrong, there is no row, or values are NaN, infinite or too large for the data type.
    """
    rows, width = feats_TC.shape
    if width != spec.dim:
        other = {"TC": "CT", "CT": "TC"}[spec.layout]
        hint = f"layout: {other} would fit" if rows == spec.dim else f"set dim: {width} if that is right"
        raise TadError(f"{path}: '{video_id}' has {width} channels and {rows} rows, expected dim {spec.dim}; {hint}")
    if not rows:
        raise TadError(f"{path}: '{video_id}' has no rows; download it again, or exclude the video with a reason")
    wrong = int(np.count_nonzero(~np.isfinite(feats_TC)))
    if wrong:
        raise TadError(
            f"{path}: '{video_id}' contains NaN or infinity ({wrong} values); download it again, or exclude the video "
            "with a reason"
        )
    if spec.dtype == "float16" and float(np.abs(feats_TC).max()) > float(np.finfo(np.float16).max):
        raise TadError(f"{path}: '{video_id}' has values too large for float16; set dtype: float32")
    return np.ascontiguousarray(feats_TC, dtype=np.dtype(spec.dtype))


def _exported(
    files: FeatureFiles | KeypointFiles, video_id: str, feats_TC: np.ndarray, spec: ConvertSpec
) -> Placed | None:
    """Return the original grid and attributes of features from `tad features export`; None for other features.

    Raises:
        TadError: the clips differ from the settings, or the rows differ from the exported ones.
    """
    facts = files.facts(video_id)
    if facts is None:
        return None
    where, clip = f"{files.paths[video_id]}: '{video_id}'", spec.clip
    if (facts.clip, facts.stride) != (clip.length, clip.stride) or (clip.rate and clip.rate != facts.fps):
        raise TadError(
            f"{where} was exported with clips of {facts.clip} frames every {facts.stride} at {facts.fps:g} frames per "
            f"second, but the settings have clips of {clip.length} every {clip.stride} ({clip.policy} {clip.rate:g}); "
            "correct clip"
        )
    same_type = files.export is not None and files.export.cached_dtype == spec.dtype
    if facts.rows != len(feats_TC) or (same_type and facts.checksum != checksum(feats_TC)):
        raise TadError(f"{where} differs from the exported rows; export the features again")
    grid = Grid(facts.start, facts.step, facts.rows, facts.duration)
    timing = {"rate": facts.fps, "clip_length": facts.clip, "stride": facts.stride}
    return Placed(grid, {**facts.facts, **timing})


def _grid(video: Video, rows: int, rate: float, spec: ConvertSpec) -> Grid:
    duration = video.duration
    if duration is None:  # unknown: assume that the video ends with the last clip
        duration = ((rows - 1) * spec.clip.stride + spec.clip.length) / rate
    return Grid.of_clips(
        clip_length=spec.clip.length, stride=spec.clip.stride, rate=rate, length=rows, duration=duration
    )


def _placed(video: Video, video_id: str, feats_TC: np.ndarray, spec: ConvertSpec) -> Placed | Misfit:
    """Return grid and attributes of a video from the clip settings, or a `Misfit` if its rows do not match them.

    Raises:
        TadError: the annotations lack the video's frame rate, or (timing `spread`) its duration.
    """
    rows = len(feats_TC)
    if spec.timing == "spread":
        if not video.duration:
            raise TadError(f"{spec.dataset}: video '{video_id}': timing spread needs its duration in the annotations")
        rate = rows / video.duration
        return Placed(_grid(video, rows, rate, spec), {"rate": rate, "clip_length": 1, "stride": 1})
    rate = rate_of(video_id, video, spec)
    least, most = expected_rows(video.duration, rate, spec) if video.duration else (1, rows)
    if not least <= rows <= most:
        return Misfit(video_id, rows, least, most, float(video.duration or 0), rate)
    facts = {"rate": rate, "clip_length": spec.clip.length, "stride": spec.clip.stride}
    return Placed(_grid(video, rows, rate, spec), facts)


def _wanted(files: FeatureFiles | KeypointFiles, table: Table, spec: ConvertSpec) -> list[str]:
    """Return the videos to convert, sorted.

    Raises:
        TadError: a video has no features and no reason for exclusion.
    """
    without = files.export.excluded if files.export else {}
    missing = sorted(v for v in table.videos if v not in files.paths and v not in (*spec.may_miss, *without))
    if missing:
        other = next(iter(files.paths), "")
        example = f" (it contains '{files.prefix}{other}{spec.suffix}', for example)" if other else ""
        raise TadError(
            f"{files.source}: no features of {len(missing)} of {len(table.videos)} videos of {spec.dataset}, first "
            f"'{files.prefix}{missing[0]}{spec.suffix}'{example}; set prefix and suffix if the names differ, download "
            "them, or list them with a reason under exclude of the dataset or the run"
        )
    video_ids = sorted(v for v in table.videos if v in files.paths)
    extra = len(files.paths) - len(video_ids)
    if extra:
        log.info("%d videos in %s are not annotated and are skipped", extra, files.source)
    return video_ids


def _opened(source: Path, table: Table, spec: ConvertSpec) -> FeatureFiles | KeypointFiles:
    if spec.keypoints is None:
        return FeatureFiles(source, prefix=spec.prefix, suffix=spec.suffix, layout=spec.layout)
    return KeypointFiles(
        source, spec.keypoints, spec.clip, prefix=spec.prefix, rate_of=lambda v: rate_of(v, table.videos[v], spec)
    )


def convert(source: Path, annotations: Path, out: Path, *, spec: ConvertSpec) -> Path:
    """Write the index of published features; equal files, annotations and settings give equal bytes.

    Args:
        source: folder of feature files, or one HDF5 file; see `tad.features.foreign.FeatureFiles`.
        annotations: table made by annotate; videos that are not in it are skipped.
        out: the index to write.
        spec: settings.

    Raises:
        TadError: a video has no features; a file is damaged or contains code; the width is wrong; values are NaN; or
            the numbers of rows do not match the clip settings (the message suggests settings that do).
    """
    table_stamp = expect(annotations, stage="annotate", dataset=spec.dataset)
    table = read_table(annotations)
    files = _opened(source, table, spec)
    video_ids = _wanted(files, table, spec)
    keys = {str(path.relative_to(source)): content_key(path) for path in files.files}
    inputs = {"annotations": str(table_stamp["identity"]), "source": digest(keys, 16)}
    # the recipe does not depend on the dataset, so a detector can be used on features of another dataset
    recipe = spec.model_dump(mode="json", include={"features", "clip", "dim", "dtype", "every", "channels"})
    if spec.keypoints is not None:
        recipe["keypoints"] = spec.keypoints.model_dump(mode="json", exclude={"suffix"})
    stamped = stamp("convert", spec.model_dump(mode="json"), inputs, recipe=recipe, weights="")
    size = sum(path.stat().st_size for path in files.files)
    forecast(out, size, what=f"convert of {len(video_ids)} videos, if stored as the source is,")
    channels = slice(*spec.channels) if spec.channels else slice(None)
    misfits: list[Misfit] = []
    with ShardWriter(out, stamped) as writer:
        for video_id in track(video_ids, "convert"):
            feats_TC = _shaped(files.read(video_id), files.paths[video_id], video_id, spec)
            video = table.videos[video_id]
            placed = _exported(files, video_id, feats_TC, spec) or _placed(video, video_id, feats_TC, spec)
            if isinstance(placed, Misfit):
                misfits.append(placed)
                continue
            thinned = {"stride": placed.facts["stride"] * spec.every, "source": files.paths[video_id].name}
            grid = placed.grid.thinned(spec.every)
            writer.add(video_id, feats_TC[:: spec.every, channels], grid=grid, attrs=placed.facts | thinned)
        if misfits:
            raise _misfits_error(files.source, misfits, len(video_ids), spec)
        without = files.export.excluded if files.export else {}
        writer.attribute("excluded", {v: cause for v, cause in sorted(without.items()) if v in table.videos})
    unstated = 0 if files.export else sum(table.videos[v].duration is None for v in video_ids)
    if unstated:
        log.warning("%d videos have no duration in the annotations: their numbers of rows were not checked", unstated)
    log.info("%s: %d videos, %d channels", out, len(video_ids), len(range(spec.dim)[channels]))
    return Path(out)
