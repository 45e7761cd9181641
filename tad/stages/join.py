"""Stage join: concatenates several feature sets of the same videos along the channels, such as RGB and optical flow.

Inputs: the feature indices (merge, convert) of the parts, in the order of their channels.
Output: `results/features/<dataset>/<features>.h5`: for each video a virtual dataset over the rows of its parts, with
    relative paths, so that nothing is stored twice and the folder can be moved. HDF5 returns the fill value where a
    part is missing; it is NaN, which features never contain. `FeatureReader` also checks that the parts exist and are
    unchanged.
Settings: `tad.settings.stages.JoinSpec`.

The time grid is that of the first part. Clip lengths may differ slightly: 16 frames for RGB and 17 for the flow between
them have centres half a frame apart. Rows at the end of a video that not all parts have are dropped. The data type is
the widest one among the parts.
"""

# T snippets, C channels

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tad.core.errors import TadError
from tad.core.files import canonical
from tad.core.h5 import H5Writer
from tad.core.progress import track
from tad.core.storage import forecast
from tad.features.store import JOINED, FeatureReader, checksum, describe, key_of, source_name
from tad.provenance.stamps import expect, stamp
from tad.settings.stages import JoinSpec

log = logging.getLogger(__name__)
VIRTUAL_BYTES = 2000  # of a video and part in the index: a virtual dataset and its attributes
SPARE_ROWS = 2  # allowed difference in the number of rows: shorter clips may fit once or twice more
HALF = 0.5  # in steps; rows with a larger time difference would be closer to another row
OF_THE_FIRST = ("rate", "clip_length", "stride")  # required attributes, taken from the first part


@dataclass(frozen=True)
class Part:
    """One of the joined feature sets, with an open reader."""

    name: str
    reader: FeatureReader

    @property
    def path(self) -> Path:
        """Path of its index."""
        return self.reader.path


def _open(paths: Sequence[Path], spec: JoinSpec, held: ExitStack) -> list[Part]:
    if len(paths) != len(spec.parts):
        raise TadError(
            f"{len(paths)} indices for {len(spec.parts)} parts; give one index each for {', '.join(spec.parts)}"
        )
    parts = []
    for name, path in zip(spec.parts, paths, strict=True):
        expect(path, stage=("merge", "convert", "encode"), dataset=spec.dataset, features=name)
        parts.append(Part(name, held.enter_context(FeatureReader(path))))
    return parts


def _videos(parts: list[Part], spec: JoinSpec) -> tuple[list[str], dict[str, str]]:
    """Return the videos that all parts have, sorted, and the videos excluded from any part, with part and cause.

    Raises:
        TadError: a video is missing from some parts without a reason.
    """
    excluded: dict[str, str] = {}
    for part in parts:
        for video_id, cause in part.reader.excluded.items():
            excluded.setdefault(video_id, f"{part.name}: {cause}")
    known = {video_id for part in parts for video_id in part.reader.video_ids} - set(excluded)
    for part in parts:
        lacking = sorted(known - set(part.reader.video_ids) - set(spec.may_miss))
        if lacking:
            raise TadError(
                f"{part.path}: no features of {len(lacking)} videos that other parts of {spec.features} have, first "
                f"'{lacking[0]}'; extract them, or list them with a reason under exclude of the dataset or the run"
            )
        known &= set(part.reader.video_ids)
    return sorted(known), dict(sorted(excluded.items()))


def _length(video_id: str, parts: list[Part]) -> int:
    """Return the number of rows of a video that all parts have.

    Raises:
        TadError: the times or numbers of rows differ too much; the message names both files and their grids.
    """
    first = parts[0].reader.grid(video_id)
    shortest = first.length
    for part in parts[1:]:
        grid = part.reader.grid(video_id)
        last = max(min(first.length, grid.length) - 1, 0)
        apart = max(abs(grid.to_seconds(float(row)) - first.to_seconds(float(row))) for row in (0, last))
        if abs(first.length - grid.length) > SPARE_ROWS or apart > HALF * first.step:
            grids = ["{} rows every {:.6g} s from {:.6g} s".format(*(g.length, g.step, g.start)) for g in (first, grid)]
            raise TadError(
                f"video '{video_id}': {parts[0].path} has {grids[0]}, but {part.path} has {grids[1]}; joined features "
                "need the same clips: make stride, rate and clip length equal, or exclude the video with a reason"
            )
        shortest = min(shortest, grid.length)
    return shortest


def _attrs(video_id: str, parts: list[Part]) -> dict[str, Any]:
    """Return the attributes of a video that are equal in all parts, and the clip attributes of the first part."""
    first, *others = (part.reader.attrs(video_id) for part in parts)
    return {
        key: value
        for key, value in first.items()
        if key in OF_THE_FIRST or all(key in other and other[key] == value for other in others)
    }


def _virtual(group: h5py.Group, joined_TC: np.ndarray, sources: list[tuple[str, str, tuple[int, ...]]]) -> None:
    """Create the virtual dataset `feats` over the first rows of the sources (file, dataset, shape), filled with NaN.

    The low-level interface is used because h5py's own function would write the date into the file.
    """
    length = len(joined_TC)
    creation, space = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5s.create_simple(joined_TC.shape)
    column = 0
    for file, name, shape in sources:
        into, rows = space.copy(), h5py.h5s.create_simple(shape)
        into.select_hyperslab((0, column), (length, shape[1]))
        rows.select_hyperslab((0, 0), (length, shape[1]))
        creation.set_virtual(into, source_name(file).encode(), source_name(name).encode(), rows)
        column += shape[1]
    creation.set_fill_value(np.array(np.nan, joined_TC.dtype))
    creation.set_obj_track_times(False)
    h5py.h5d.create(group.id, b"feats", h5py.h5t.py_create(joined_TC.dtype), space, creation)


def _add(index: H5Writer, video_id: str, parts: list[Part], folder: Path) -> None:
    """Add a video to the index: the locations of its features, its grid and its attributes."""
    length, grid = _length(video_id, parts), parts[0].reader.grid(video_id)
    stored = [part.reader.stored(video_id) for part in parts]
    joined_TC = np.concatenate([feats_TC[:length] for feats_TC in stored], axis=1)
    group = index.file.create_group(key_of(video_id), track_order=False)
    if length:
        locations = [part.reader.location(video_id) for part in parts]
        files = [os.path.relpath(path.resolve(), folder) for path, _ in locations]
        shapes = [feats_TC.shape for feats_TC in stored]
        _virtual(group, joined_TC, list(zip(files, (name for _, name in locations), shapes, strict=True)))
    else:
        group.create_dataset("feats", data=joined_TC, track_times=False)
    checksums = [str(part.reader.attrs(video_id)["checksum"]) for part in parts]  # already verified by `stored`
    attrs = _attrs(video_id, parts) | {JOINED: canonical(checksums)}
    describe(group, video_id, grid=grid.window(0, length), attrs=attrs, checksum=checksum(joined_TC))


def join(parts_in: Sequence[Path], out: Path, *, spec: JoinSpec) -> Path:
    """Write the index of joined feature sets; equal parts give equal bytes.

    Args:
        parts_in: feature index of each part, in the order of the settings.
        out: the index to write.
        spec: settings.

    Raises:
        TadError: an index belongs to another stage, dataset or feature set; a part is damaged; the rows of a video have
            different times in different parts; or some parts lack a video without a reason.
    """
    with ExitStack() as held:
        parts = _open([Path(path) for path in parts_in], spec, held)
        video_ids, excluded = _videos(parts, spec)
        stamps = [part.reader.stamp for part in parts]
        # as in merge, the recipe does not depend on the dataset
        recipes = [{key: value for key, value in part["recipe"].items() if key != "dataset"} for part in stamps]
        inputs = {f"part {k:05d}": str(part["identity"]) for k, part in enumerate(stamps)}
        weights = [part["weights"] for part in stamps]
        stamped = stamp("join", spec.model_dump(mode="json"), inputs, recipe={"join": recipes}, weights=weights)
        forecast(out, VIRTUAL_BYTES * len(video_ids) * len(parts), what=f"join of {len(video_ids)} videos")
        with H5Writer(out, stamped) as index:
            index.attribute("excluded", excluded)
            for video_id in track(video_ids, "join"):
                _add(index, video_id, parts, Path(out).resolve().parent)
    log.info("%s: %d videos of %s, %d excluded", out, len(video_ids), " and ".join(spec.parts), len(excluded))
    return Path(out)
