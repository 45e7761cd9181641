"""Features and annotations as learning takes them: that they belong together, and which videos are used."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tad.annotations import Table, read_table
from tad.annotations import exclude as without
from tad.cache import FeatureReader
from tad.errors import TadError
from tad.files import digest
from tad.provenance import FEATURES, expect

BEYOND = 1.0  # seconds; the tolerance of annotate
UNKNOWN_RECIPE = "unknown"  # of the features behind an imported model; their width is all that can be checked


@dataclass(frozen=True)
class Inputs:
    """The annotation table, and the stamps of the features (merge, convert or join) and of the table (annotate)."""

    table: Table
    features: dict[str, Any]
    annotations: dict[str, Any]

    @property
    def identities(self) -> dict[str, str]:
        """What a stamp says of its inputs."""
        return {"features": str(self.features["identity"]), "annotations": str(self.annotations["identity"])}


def read_inputs(features: Path, annotations: Path, *, dataset: str, named: str) -> Inputs:
    """The annotations and what is known of the features, checked to be of `dataset` and of the feature set `named`.

    Raises:
        TadError: made by other stages, of another dataset or feature set.
    """
    merged = index_stamp(features, dataset=dataset, named=named)
    annotated = expect(annotations, stage="annotate", dataset=dataset)
    return Inputs(read_table(annotations), merged, annotated)


def index_stamp(features: Path, *, dataset: str, named: str) -> dict[str, Any]:
    """What is known of an index of features, checked to be of `dataset` and of the feature set `named`.

    Raises:
        TadError: made by another stage, of another dataset or feature set.
    """
    return expect(features, stage=FEATURES, dataset=dataset, features=named)


def recipe_of(merged: dict[str, Any]) -> str:
    """The identity of a feature set's recipe, weights included, from the stamp of its index; equal across datasets."""
    recipe = merged.get("recipe")
    settings = {k: v for k, v in recipe.items() if k != "dataset"} if isinstance(recipe, dict) else merged["identity"]
    return digest({"recipe": settings, "weights": merged.get("weights", "")})


def labels_behind(merged: dict[str, Any]) -> str:
    """Which labels features know already, from the stamp of their index: a few labels are fewer than they look where
    an encoder has seen the others."""
    if merged["stage"] == "index":
        return "none: frames"
    recipe = merged["recipe"]
    return "; ".join(dict.fromkeys(_behind(part) for part in recipe.get("join", [recipe])))


def _behind(recipe: dict[str, Any]) -> str:
    if "backbone" not in recipe:
        return "not known: imported features"
    seen = recipe.get("pretrained_on", "")
    return f"of {seen}" if seen else "those of the published weights"


def label_names(table: Table, *, class_agnostic: bool) -> list[str]:
    """The classes that the detector learns; one named "action" when it only proposes."""
    return ["action"] if class_agnostic else list(table.labels)


def select(
    table: Table, split: str, reader: FeatureReader, exclude: dict[str, str]
) -> tuple[list[str], dict[str, str]]:
    """The videos of a split that are to be used, sorted, and the reasons of those that are not.

    Raises:
        TadError: a video of the split has no features and nobody said why, or the split is empty.
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
            reasons[video_id] = "its features hold no snippet"
    usable = [video_id for video_id in wanted if video_id not in reasons]
    if not usable:
        splits = ", ".join(f"{name} {len(table.split(name))}" for name in ("train", "val", "test"))
        raise TadError(
            f"{reader.path}: split '{split}' of {table.dataset} has no video to use ({len(wanted)} annotated,"
            f" {len(reasons)} excluded; videos per split: {splits}); check the split's name and the exclusions"
        )
    return usable, reasons


def check_ends(table: Table, reader: FeatureReader, table_stamp: dict[str, Any]) -> None:
    """Ends against the decoded duration, for annotations that state none, so that annotate could not compare them.

    Raises:
        TadError: an end beyond the video, unless its format knows such ends and keeps them (THUMOS14).
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


def check_lengths(detector: Any, lengths: Mapping[str, int], *, source: Path, split: str) -> None:
    """Every video of a split fits the detector, before any of them is computed.

    Args:
        lengths: video id → snippets.
        source: the features, for the message.

    Raises:
        TadError: names the longest video that does not, its length, the limit, and the settings that raise it.
    """
    refused = {}
    for video_id, length in lengths.items():
        try:
            detector.padded(length)
        except TadError as error:
            refused[video_id] = error
    if refused:
        longest = max(refused, key=lambda video_id: lengths[video_id])
        what = f"video '{longest}' of split {split}, the longest of {len(refused)} that are too long"
        raise TadError(f"{source}: {what}: {refused[longest]}")
