"""Stage merge: creates one index of links to the feature shards and checks that no video of the manifests is missing.

Inputs: all shards (extract) of a feature set, all manifest shards (probe) and the checked table of its dataset.
Output: `results/features/<dataset>/<features>.h5`: external links relative to the file, so the folder can be moved.
Settings: `tad.settings.stages.MergeSpec`.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from tad.annotations.missing import missing_videos
from tad.core.errors import TadError
from tad.core.files import digest, read_json
from tad.core.h5 import H5Writer
from tad.core.storage import forecast
from tad.features.store import FeatureReader, key_of
from tad.provenance.stamps import expect, stamp
from tad.settings.stages import MergeSpec

log = logging.getLogger(__name__)
LINK_BYTES = 400  # of a video in the index, with HDF5's own tables


def _same_recipe(shards: Sequence[Path], stamps: Sequence[dict[str, Any]]) -> None:
    """Check that all shards have equal settings, code and weights.

    Raises:
        TadError: they differ.
    """
    for path, shard in zip(shards[1:], stamps[1:], strict=True):
        for key in ("spec", "code"):
            if shard[key] != stamps[0][key]:
                raise TadError(f"{path}: made with a different {key} than {shards[0]}; remove it and run extract again")
        if shard["inputs"].get("weights") != stamps[0]["inputs"].get("weights"):
            raise TadError(f"{path}: made with different weights than {shards[0]}; remove it and run extract again")


def _collect(shards: Sequence[Path]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the shard of each video, and the excluded videos of all shards with their cause."""
    shard_of: dict[str, Path] = {}
    excluded: dict[str, str] = {}
    dims: dict[int, Path] = {}
    for path in shards:
        with FeatureReader(path) as reader:
            for video_id in reader.video_ids:
                if video_id in shard_of:
                    raise TadError(
                        f"{path}: contains '{video_id}', but so does {shard_of[video_id]}; remove one of them"
                    )
                shard_of[video_id] = path
            excluded |= reader.excluded
            if reader.video_ids:
                dims.setdefault(reader.dim, path)
    if len(dims) > 1:
        widths = ", ".join(f"{path} has {dim} channels" for dim, path in sorted(dims.items()))
        raise TadError(f"{widths}; remove the wrong ones and run extract again")
    return shard_of, excluded


def _check_complete(
    manifests: Sequence[Path],
    shard_of: dict[str, Path],
    excluded: dict[str, str],
    missing: dict[str, str],
    spec: MergeSpec,
) -> dict[str, str]:
    """Return all excluded videos with their cause: those of the shards, and those without a file.

    Raises:
        TadError: a video of the manifests is in no shard, or the reverse; or videos are excluded against `on_damaged`.
    """
    wanted: set[str] = set()
    for manifest in manifests:
        wanted |= set(read_json(manifest)["videos"])
    lacking = sorted(wanted - set(shard_of) - set(excluded))
    if lacking:
        raise TadError(
            f"{len(lacking)} videos of the manifest are in no shard and not excluded (first: '{lacking[0]}'); "
            f"run extract again for {spec.features}"
        )
    foreign = sorted((set(shard_of) | set(excluded)) - wanted)
    if foreign:
        raise TadError(f"{len(foreign)} videos are in no manifest (first: '{foreign[0]}'); run extract again")
    excluded = {video_id: cause for video_id, cause in missing.items() if video_id not in wanted} | excluded
    if excluded and spec.on_damaged == "error":
        first = min(excluded)
        raise TadError(
            f"{len(excluded)} videos are excluded, first '{first}': {excluded[first]}; repair them or set on_damaged:"
            " exclude"
        )
    return excluded


def merge(
    shards: Sequence[Path], manifests: Sequence[Path], out: Path, *, spec: MergeSpec, annotations: Path | None = None
) -> Path:
    """Write the index of the shards; equal shards give equal bytes in any order.

    Args:
        shards: all feature shards made by extract.
        manifests: all manifest shards made by probe.
        out: the index to write.
        spec: settings.
        annotations: table made by check, which lists the videos without a file; None: there are none.

    Raises:
        TadError: shards have different recipes, or a video of the manifests is in two shards or in none.
    """
    if not shards:
        raise TadError(f"{out}: no shards given; pass the files made by extract")
    shards = sorted(Path(path) for path in shards)
    stamps = [expect(path, stage="extract", dataset=spec.dataset) for path in shards]
    _same_recipe(shards, stamps)
    shard_of, excluded = _collect(shards)
    probed = {str(expect(manifest, stage="probe", dataset=spec.dataset)["identity"]) for manifest in manifests}
    missing = missing_videos(annotations, dataset=spec.dataset) if annotations else {}
    excluded = _check_complete(manifests, shard_of, excluded, missing, spec)
    for path, shard in zip(shards, stamps, strict=True):
        if shard["inputs"]["manifest"] not in probed:
            raise TadError(f"{path}: made from an earlier manifest of its videos; run extract again")
    # inputs are named by their order, so that the index does not depend on the shards' paths
    inputs = {f"shard {k:05d}": str(shard["identity"]) for k, shard in enumerate(stamps)}
    inputs |= {"missing": digest(missing, 16)} if missing else {}
    stamped = stamp(
        "merge",
        spec.model_dump(mode="json"),
        inputs,
        recipe=stamps[0]["spec"],
        weights=stamps[0]["inputs"].get("weights", ""),
    )
    forecast(out, LINK_BYTES * len(shard_of), what=f"merge of {len(shard_of)} videos")
    folder = Path(out).resolve().parent
    with H5Writer(out, stamped) as index:
        index.attribute("excluded", dict(sorted(excluded.items())))
        for video_id, path in sorted(shard_of.items()):
            relative = os.path.relpath(path.resolve(), folder)
            index.file[key_of(video_id)] = h5py.ExternalLink(relative, f"/{key_of(video_id)}")
    log.info("%d videos in %d shards, %d excluded", len(shard_of), len(shards), len(excluded))
    return Path(out)
