"""Feature sets of the same videos, side by side → one index: the channels of each after those of the one before.

Inputs: the indices (merge, convert) of the feature sets, in the order of their channels; such as RGB and optical flow.
Output: `results/features/<dataset>/<features>.h5`: of each video a virtual dataset over the rows of its parts, relative
    to the file, so that nothing is stored twice and the folder can be moved. Where a part is not there HDF5 would give
    the fill value: that is NaN, which no features hold, and `FeatureReader` looks for the parts besides, and that they
    are still those that were joined.
Settings: `tad.specs.JoinSpec`.

A row is what all parts say of one moment. The grid of the first part counts: clips may be of slightly different
lengths, such as 16 frames for RGB and 17 for the flow between them, whose centres are half a frame apart. Rows that not
all parts have at the end of a video are cut off. The type is the widest of the parts'.
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

from tad.cache import JOINED, FeatureReader, H5Writer, checksum, describe, key_of, source_name
from tad.errors import TadError
from tad.files import canonical
from tad.progress import track
from tad.provenance import expect, stamp
from tad.specs import JoinSpec

log = logging.getLogger(__name__)
SPARE_ROWS = 2  # of a video's last: clips of another length fit in once or twice more
HALF = 0.5  # of a step: rows that are farther apart in time would be nearer to another one
OF_THE_FIRST = ("rate", "clip_length", "stride")  # facts that have to be there


@dataclass(frozen=True)
class Part:
    """One of the feature sets, open."""

    name: str
    reader: FeatureReader

    @property
    def path(self) -> Path:
        """Its index."""
        return self.reader.path


def _open(paths: Sequence[Path], spec: JoinSpec, held: ExitStack) -> list[Part]:
    if len(paths) != len(spec.parts):
        raise TadError(f"{len(paths)} indices for {len(spec.parts)} parts; give those of {', '.join(spec.parts)}")
    parts = []
    for name, path in zip(spec.parts, paths, strict=True):
        expect(path, stage=("merge", "convert"), dataset=spec.dataset, features=name)
        parts.append(Part(name, held.enter_context(FeatureReader(path))))
    return parts


def _videos(parts: list[Part], spec: JoinSpec) -> tuple[list[str], dict[str, str]]:
    """The videos that all parts have, sorted, and those that are excluded from any, with the part and its cause.

    Raises:
        TadError: a video is in some parts, and nobody says why it is not in the others.
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
                f"'{lacking[0]}'; make them, or list them with a reason under exclude of the dataset or the run"
            )
        known &= set(part.reader.video_ids)
    return sorted(known), dict(sorted(excluded.items()))


def _length(video_id: str, parts: list[Part]) -> int:
    """The rows of a video that all parts have.

    Raises:
        TadError: rows of other times, or many more or fewer; both files and what they say are named.
    """
    first = parts[0].reader.grid(video_id)
    shortest = first.length
    for part in parts[1:]:
        grid = part.reader.grid(video_id)
        last = max(min(first.length, grid.length) - 1, 0)
        apart = max(abs(grid.to_seconds(float(row)) - first.to_seconds(float(row))) for row in (0, last))
        if abs(first.length - grid.length) > SPARE_ROWS or apart > HALF * first.step:
            said = ["{} rows every {:.6g} s from {:.6g} s".format(*(g.length, g.step, g.start)) for g in (first, grid)]
            raise TadError(
                f"video '{video_id}': {parts[0].path} has {said[0]}, {part.path} has {said[1]}: joined features are of "
                "the same clips; make stride, rate and clip length of both equal, or exclude the video with a reason"
            )
        shortest = min(shortest, grid.length)
    return shortest


def _attrs(video_id: str, parts: list[Part]) -> dict[str, Any]:
    """What all parts say of a video, and the clips of the first."""
    first, *others = (part.reader.attrs(video_id) for part in parts)
    return {
        key: value
        for key, value in first.items()
        if key in OF_THE_FIRST or all(key in other and other[key] == value for other in others)
    }


def _virtual(group: h5py.Group, joined_TC: np.ndarray, sources: list[tuple[str, str, tuple[int, ...]]]) -> None:
    """Create `feats` over the first rows of the sources (file, dataset, shape), with NaN where one is not there; not by
    h5py's own function, which would write the date into the file."""
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
    """Store a video's features: where they are, and what is known of them."""
    length, grid = _length(video_id, parts), parts[0].reader.grid(video_id)
    stored = [part.reader.stored(video_id) for part in parts]
    joined_TC = np.concatenate([feats_TC[:length] for feats_TC in stored], axis=1)
    group = index.file.create_group(key_of(video_id), track_order=False)
    if length:
        places = [part.reader.place(video_id) for part in parts]
        files = [os.path.relpath(path.resolve(), folder) for path, _ in places]
        shapes = [feats_TC.shape for feats_TC in stored]
        _virtual(group, joined_TC, list(zip(files, (name for _, name in places), shapes, strict=True)))
    else:
        group.create_dataset("feats", data=joined_TC, track_times=False)
    of_parts = [str(part.reader.attrs(video_id)["checksum"]) for part in parts]  # which `stored` has verified
    attrs = _attrs(video_id, parts) | {JOINED: canonical(of_parts)}
    describe(group, video_id, grid=grid.window(0, length), attrs=attrs, checksum=checksum(joined_TC))


def join(parts_in: Sequence[Path], out: Path, *, spec: JoinSpec) -> Path:
    """Write the index of several feature sets side by side; equal parts give equal bytes.

    Args:
        parts_in: index of each part of the settings, in their order.
        out: the index to write.

    Raises:
        TadError: an index of another stage, dataset or feature set, a part that is damaged, a video whose rows do not
            lie at the same times in all parts, or that some parts lack without a cause.
    """
    with ExitStack() as held:
        parts = _open([Path(path) for path in parts_in], spec, held)
        video_ids, excluded = _videos(parts, spec)
        stamps = [part.reader.stamp for part in parts]
        # as in merge: what the rows are does not depend on the dataset
        recipes = [{key: value for key, value in made["recipe"].items() if key != "dataset"} for made in stamps]
        inputs = {f"part {k:05d}": str(made["identity"]) for k, made in enumerate(stamps)}
        weights = [made["weights"] for made in stamps]
        made = stamp("join", spec.model_dump(mode="json"), inputs, recipe={"join": recipes}, weights=weights)
        with H5Writer(out, made) as index:
            index.attribute("excluded", excluded)
            for video_id in track(video_ids, "join"):
                _add(index, video_id, parts, Path(out).resolve().parent)
    log.info("%s: %d videos of %s, %d excluded", out, len(video_ids), " and ".join(spec.parts), len(excluded))
    return Path(out)
