"""Feature shards → one index of links to them, with every video of the manifest present or excluded.

Inputs: all shards (extract) of a feature set, and all manifest shards (probe) of its dataset.
Output: `results/features/<dataset>/<features>.h5`: external links relative to the file, so the folder can be moved.
Settings: `tad.specs.MergeSpec`.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from tad.cache import FeatureReader, H5Writer, key_of
from tad.errors import TadError
from tad.files import read_json
from tad.provenance import expect, stamp
from tad.specs import MergeSpec

log = logging.getLogger(__name__)


def _same_recipe(shards: Sequence[Path], stamps: Sequence[dict[str, Any]]) -> None:
    """Refuse shards that were not all made in one way."""
    for path, found in zip(shards[1:], stamps[1:], strict=True):
        for what in ("spec", "code"):
            if found[what] != stamps[0][what]:
                raise TadError(f"{path}: made with another {what} than {shards[0]}; remove it and run extract again")
        if found["inputs"].get("weights") != stamps[0]["inputs"].get("weights"):
            raise TadError(f"{path}: made with other weights than {shards[0]}; remove it and run extract again")


def _collect(shards: Sequence[Path]) -> tuple[dict[str, Path], dict[str, str]]:
    """Video → its shard, and the excluded videos of all shards."""
    places: dict[str, Path] = {}
    excluded: dict[str, str] = {}
    dims: dict[int, Path] = {}
    for path in shards:
        with FeatureReader(path) as reader:
            for video_id in reader.video_ids:
                if video_id in places:
                    raise TadError(f"{path}: holds '{video_id}', and so does {places[video_id]}; remove one of them")
                places[video_id] = path
            excluded |= reader.excluded
            if reader.video_ids:
                dims.setdefault(reader.dim, path)
    if len(dims) > 1:
        widths = ", ".join(f"{path} has {dim} channels" for dim, path in sorted(dims.items()))
        raise TadError(f"{widths}; remove the wrong ones and run extract again")
    return places, excluded


def _check_whole(manifests: Sequence[Path], places: dict[str, Path], excluded: dict[str, str], spec: MergeSpec) -> None:
    wanted: set[str] = set()
    for manifest in manifests:
        wanted |= set(read_json(manifest)["videos"])
    lacking = sorted(wanted - set(places) - set(excluded))
    if lacking:
        raise TadError(
            f"{len(lacking)} videos of the manifest are in no shard and not excluded (first: '{lacking[0]}'); "
            f"run extract again for {spec.features}"
        )
    foreign = sorted((set(places) | set(excluded)) - wanted)
    if foreign:
        raise TadError(f"{len(foreign)} videos are in no manifest (first: '{foreign[0]}'); run extract again")
    if excluded and spec.on_damaged == "error":
        first = min(excluded)
        raise TadError(f"{len(excluded)} videos are excluded, first '{first}': {excluded[first]}; repair them")


def merge(shards: Sequence[Path], manifests: Sequence[Path], out: Path, *, spec: MergeSpec) -> Path:
    """Write the index of the shards; equal shards give equal bytes, in whatever order they are named.

    Raises:
        TadError: shards of different recipes, videos in two shards, videos of the manifests in none.
    """
    if not shards:
        raise TadError(f"{out}: no shards given; name the files that extract made")
    shards = sorted(Path(path) for path in shards)
    stamps = [expect(path, stage="extract", dataset=spec.dataset) for path in shards]
    _same_recipe(shards, stamps)
    places, excluded = _collect(shards)
    probed = {str(expect(manifest, stage="probe", dataset=spec.dataset)["identity"]) for manifest in manifests}
    _check_whole(manifests, places, excluded, spec)
    for path, found in zip(shards, stamps, strict=True):
        if found["inputs"]["manifest"] not in probed:
            raise TadError(f"{path}: made from an earlier manifest of its videos; run extract again")
    # the inputs' files are named by their order: an index of the same shards is the same wherever they lie
    inputs = {f"shard {k:05d}": str(found["identity"]) for k, found in enumerate(stamps)}
    made = stamp(
        "merge",
        spec.model_dump(mode="json"),
        inputs,
        recipe=stamps[0]["spec"],
        weights=stamps[0]["inputs"].get("weights", ""),
    )
    folder = Path(out).resolve().parent
    with H5Writer(out, made) as index:
        index.attribute("excluded", dict(sorted(excluded.items())))
        for video_id, path in sorted(places.items()):
            relative = os.path.relpath(path.resolve(), folder)
            index.file[key_of(video_id)] = h5py.ExternalLink(relative, f"/{key_of(video_id)}")
    log.info("%d videos in %d shards, %d excluded", len(places), len(shards), len(excluded))
    return Path(out)
