"""The role of each train video: trained on, held out to select the epoch, or without labels."""

import logging
from dataclasses import dataclass, field
from typing import Any

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.features.store import FeatureReader
from tad.provenance.conditions import uses
from tad.settings.stages import TrainStageSpec
from tad.training.data.windows import HELD_OUT, Item, generator, read_items

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Roles:
    """The train videos by role.

    Attributes:
        train: videos to train on.
        judged: validation videos, whose loss selects the epoch.
        unlabelled: videos without labels.
        labels: `LabelSplit.facts`; empty if all videos are labelled.
    """

    train: list[Item]
    judged: list[Item] = field(default_factory=list)
    unlabelled: list[Item] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)

    @property
    def videos(self) -> dict[str, list[Item]]:
        """Videos by the name of their role."""
        others = {"unlabelled": self.unlabelled} if self.unlabelled else {}
        return {"train": self.train, "judged": self.judged, **others}


def roles_of(reader: FeatureReader, table: Table, spec: TrainStageSpec) -> Roles:
    """Assign a role to each train video.

    With `train.selection: last` there are no validation videos. Held-out videos are taken from the labelled ones.

    Raises:
        TadError: see `read_items` and `split_labels`; or the held-out share leaves no video to validate or train on.
    """
    items = read_items(reader, table, "train", spec=spec.train, exclude=spec.exclude)
    if uses("labels", spec) and spec.labels is not None:
        from tad.training.data.label_split import split_labels

        excluded = [*reader.excluded, *table.excluded, *spec.exclude]
        split = split_labels(items, table, spec.labels, excluded=excluded)
        train, judged = _held_out(split.labelled, reader, table, spec)
        return Roles(train, judged, split.unlabelled if spec.labels.others == "pseudo" else [], split.facts)
    return Roles(*_held_out(items, reader, table, spec))


def _held_out(
    items: list[Item], reader: FeatureReader, table: Table, spec: TrainStageSpec
) -> tuple[list[Item], list[Item]]:
    train = spec.train
    if train.selection == "last":
        return items, []
    if train.selection == "test":
        log.warning("train.selection test: the epoch is chosen on the test split; map.json says so")
        return items, read_items(reader, table, "test", spec=train, exclude=spec.exclude)
    count = max(round(train.hold_out * len(items)), 1)
    if train.hold_out == 0 or count >= len(items):
        raise TadError(
            f"train.hold_out: {train.hold_out}: {count} of {len(items)} train videos would be held out; choose a share"
            " between 0 and 1 that leaves videos to train on, or set train.selection: last"
        )
    held_out = set(generator(spec.seed, HELD_OUT).permutation(len(items))[:count].tolist())
    return [v for k, v in enumerate(items) if k not in held_out], [items[k] for k in sorted(held_out)]
