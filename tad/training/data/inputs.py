"""Inputs of training and detection: checks that features and annotations match, and selects the videos to use."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tad.annotations.table import Table, read_table
from tad.annotations.table import exclude as without
from tad.core.errors import TadError
from tad.core.files import digest
from tad.features.store import FeatureReader
from tad.layers.contract import DetectorBase
from tad.provenance.conditions import uses
from tad.provenance.stamps import expect, read_stamp
from tad.settings.stage_table import FEATURES, TABLES

BEYOND = 1.0  # tolerance in seconds, as in annotate
UNKNOWN_RECIPE = "unknown"  # feature recipe of an imported model; only the width of its features can be checked


@dataclass(frozen=True)
class Inputs:
    """The annotation table, and the stamps of the features (merge, convert or join) and of the table (annotate)."""

    table: Table
    features: dict[str, Any]
    annotations: dict[str, Any]

    @property
    def identities(self) -> dict[str, str]:
        """Identities of both inputs, as they are recorded in a stamp."""
        return {"features": str(self.features["identity"]), "annotations": str(self.annotations["identity"])}


def read_inputs(features: Path, annotations: Path, *, dataset: str, named: str) -> Inputs:
    """Read the annotations and the stamp of the features; check the dataset and the feature set's name (`named`).

    Raises:
        TadError: the files were made by other stages, or belong to another dataset or feature set.
    """
    merged = index_stamp(features, dataset=dataset, named=named)
    annotated = expect(annotations, stage=TABLES, dataset=dataset)
    return Inputs(read_table(annotations), merged, annotated)


def index_stamp(features: Path, *, dataset: str, named: str) -> dict[str, Any]:
    """Read the stamp of a feature index; check the dataset and the feature set's name (`named`).

    Raises:
        TadError: the index was made by another stage, or belongs to another dataset or feature set.
    """
    return expect(features, stage=FEATURES, dataset=dataset, features=named)


def open_features(path: Path, frames: str = "") -> FeatureReader:
    """Return a reader for an index of stored features, or of frames if `frames` names a modality (`rgb` or `flow`).

    Raises:
        TadError: the file does not exist, or is not the kind of index that the settings name.
    """
    if uses("frames", {"frames": frames}):
        from tad.training.data.frames import FrameReader

        index = read_stamp(path)
        contents = index["spec"]["frames"]["modality"] if index["stage"] == "index" else "stored features"
        if contents != frames:
            raise TadError(f"{path}: contains {contents}, but the settings ask for frames: {frames}; use their index")
        return FrameReader(path)
    return FeatureReader(path)


def recipe_of(merged: dict[str, Any]) -> str:
    """Return the identity of a feature recipe, weights included, from an index's stamp; the same for all datasets."""
    recipe = merged.get("recipe")
    settings = {k: v for k, v in recipe.items() if k != "dataset"} if isinstance(recipe, dict) else merged["identity"]
    return digest({"recipe": settings, "weights": merged.get("weights", "")})


def labels_behind(merged: dict[str, Any]) -> str:
    """Describe which labels the feature encoder was trained with, from the stamp of the index.

    Results with few labels are misleading if the encoder has already seen the others.
    """
    if merged["stage"] == "index":
        return "none: frames"
    recipe = merged["recipe"]
    return "; ".join(dict.fromkeys(_behind(part) for part in recipe.get("join", [recipe])))


def _behind(recipe: dict[str, Any]) -> str:
    if "backbone" not in recipe:
        return "unknown: imported features"
    seen = recipe.get("pretrained_on", "")
    return f"of {seen}" if seen else "those of the published weights"


def label_names(table: Table, *, class_agnostic: bool) -> list[str]:
    """Return the classes that the detector learns; for class-agnostic proposals only "action"."""
    return ["action"] if class_agnostic else list(table.labels)


def select(
    table: Table, split: str, reader: FeatureReader, exclude: dict[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Return the usable videos of a split, sorted, and the excluded ones with their reasons.

    Raises:
        TadError: a video of the split has neither features nor a reason for exclusion, or no video is left.
    """
    table = without(table, exclude)
    wanted = sorted(table.split(split))
    reasons = {**{v: r for v, r in reader.excluded.items() if v in set(wanted)}, **table.excluded}
    known = set(reader.video_ids)
    for video_id in wanted:
        if video_id not in known and video_id not in reasons:
            raise TadError(
                f"{reader.path}: no features of video '{video_id}' of split {split}; extract it, or exclude it with a"
                f" reason (exclude: {{{video_id}: why}} of the run or the dataset)"
            )
        if video_id not in reasons and reader.grid(video_id).length == 0:
            reasons[video_id] = "its features contain no snippet"
    usable = [video_id for video_id in wanted if video_id not in reasons]
    if not usable:
        splits = ", ".join(f"{name} {len(table.split(name))}" for name in ("train", "val", "test"))
        raise TadError(
            f"{reader.path}: split '{split}' of {table.dataset} has no video to use ({len(wanted)} annotated,"
            f" {len(reasons)} excluded; videos per split: {splits}); check the split's name and the exclusions"
        )
    return usable, reasons


def check_ends(table: Table, reader: FeatureReader, table_stamp: dict[str, Any]) -> None:
    """Check instance ends against the decoded duration, for annotations without durations.

    Annotate can only compare the ends with durations that are stated.

    Raises:
        TadError: an instance ends after its video, unless the format declares such ends as known (THUMOS14).
    """
    known = table_stamp["spec"].get("format", {}).get("settings", {}).get("known", {})
    if known.get("beyond") == "keep":
        return
    for video_id in sorted(set(table.videos) & set(reader.video_ids)):
        if table.videos[video_id].duration is not None:
            continue
        duration = reader.grid(video_id).duration
        for number, instance in enumerate(table.videos[video_id].instances):
            if instance.end > duration + BEYOND:
                raise TadError(
                    f"annotations of {table.dataset}: video '{video_id}', instance {number} ({instance.label}): end"
                    f" {instance.end:g} s lies beyond the video ({duration:.2f} s); correct it, or exclude the video"
                )


def check_lengths(detector: DetectorBase, lengths: Mapping[str, int], *, source: Path, split: str) -> None:
    """Check that every video of a split fits the detector, before any of them is computed.

    Args:
        detector: the detector.
        lengths: video id → snippets.
        source: path of the features, for the error message.
        split: name of the split, for the error message.

    Raises:
        TadError: names the longest video that does not fit, its length, the limit, and the settings that raise it.
    """
    refused = {}
    for video_id, length in lengths.items():
        try:
            detector.padded(length)
        except TadError as error:
            refused[video_id] = error
    if refused:
        longest = max(refused, key=lambda video_id: lengths[video_id])
        what = f"video '{longest}' of split {split}, the longest of {len(refused)} videos that are too long"
        raise TadError(f"{source}: {what}: {refused[longest]}")
