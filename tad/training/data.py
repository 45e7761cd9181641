"""Features and annotations of one split → training windows: cleaned labels, random truncation, padded batches.

Every random choice is drawn from a generator seeded by (seed, epoch, video), never from a global one, so a window does
not depend on what was drawn before it: threads, evaluation and resuming cannot change the training stream.
"""

# B videos, T snippets, C channels, N segments

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tad.annotations import Instance, Table
from tad.cache import FeatureReader
from tad.errors import TadError
from tad.grid import Grid
from tad.layers.types import Part, Targets
from tad.specs import TrainSpec
from tad.training.features import Features, SideBySide
from tad.training.inputs import select
from tad.training.places import Place, cut_to, sliding, truncate

log = logging.getLogger(__name__)
SAME_SECONDS = 1e-3
ORDER, WINDOW, MODEL, HELD_OUT = range(4)


def generator(seed: int, *path: int) -> np.random.Generator:
    """The generator of one place in training, e.g. (WINDOW, epoch, video)."""
    return np.random.default_rng([seed % 2**64, *path])


@dataclass(frozen=True)
class Item:
    """A video as training sees it.

    Attributes:
        video_id: its id.
        grid: the grid of its snippets, after resizing.
        segments_N2: float64 (start, end) in snippets.
        labels_N: int64 class ids.
        checksum: of its stored features.
    """

    video_id: str
    grid: Grid
    segments_N2: np.ndarray
    labels_N: np.ndarray
    checksum: str

    @property
    def half_clip(self) -> float:
        """Half a clip in snippets: how far the first and last clip reach beyond their centres."""
        return self.grid.start / self.grid.step


@dataclass(frozen=True)
class Batch:
    """Windows padded with zeros to one length, or the rows of a batch that one process computes.

    Attributes:
        video_ids: all of the batch.
        lengths_B: int64, snippets of all of them.
        targets: of all of them.
        feats_BTC: float32, of the rows from `first` on.
        first: 0, or the first row of a process.
    """

    video_ids: list[str]
    lengths_B: Tensor
    targets: list[Targets]
    feats_BTC: Tensor
    first: int = 0

    def parts(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, list[Targets], Part]]:
        """What a detector's loss is given, on a device: up to `size` videos at once."""
        longest = int(self.lengths_B.max())
        for row in range(0, len(self.feats_BTC), size):
            feats_BTC = self.feats_BTC[row : row + size].to(device)
            rows = slice(self.first + row, self.first + row + len(feats_BTC))
            targets = [
                replace(t, segments_N2=t.segments_N2.to(device), labels_N=t.labels_N.to(device))
                for t in self.targets[rows]
            ]
            yield feats_BTC, self.lengths_B[rows], targets, Part(len(self.video_ids), rows.start, longest)


def _same(one: Instance, other: Instance, classes: dict[str, int]) -> bool:
    apart = max(abs(one.start - other.start), abs(one.end - other.end))
    return classes[one.label] == classes[other.label] and apart <= SAME_SECONDS


def clean(
    instances: Sequence[Instance], classes: dict[str, int], grid: Grid, *, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Instances in seconds → segments (N, 2) in snippets and class ids (N,), as the published loaders clean them.

    Of instances with equal class and ends within a millisecond one is kept. What starts after the last clip's end, or
    lies in the clips by less than `threshold` of its length, is dropped; ends are cut there.
    """
    seen: list[Instance] = []
    limit = grid.length + grid.start / grid.step
    segments, labels = [], []
    for instance in instances:
        if any(_same(instance, other, classes) for other in seen):
            continue
        seen.append(instance)
        start, end = grid.to_grid(instance.start), grid.to_grid(instance.end)
        if start >= limit or end <= start or (min(end, limit) - start) / (end - start) < threshold:
            continue
        segments.append((start, min(end, limit)))
        labels.append(classes[instance.label])
    return np.array(segments, np.float64).reshape(-1, 2), np.array(labels, np.int64)


def read_items(
    reader: FeatureReader, table: Table, split: str, *, spec: TrainSpec, exclude: dict[str, str]
) -> list[Item]:
    """The videos of a split with their cleaned instances on the (resized) grid.

    Raises:
        TadError: see `select`; or not one instance in the whole split.
    """
    usable, reasons = select(table, split, reader, exclude)
    classes = {label: 0 if spec.class_agnostic else k for k, label in enumerate(table.labels)}
    items, empty, lost = [], 0, 0
    for video_id in usable:
        grid = reader.grid(video_id)
        if spec.resize:
            grid = grid.spread(spec.resize)
        instances = table.videos[video_id].instances
        segments_N2, labels_N = clean(instances, classes, grid, threshold=spec.trunc_threshold)
        lost += len(instances) - len(labels_N)
        empty += len(labels_N) == 0
        items.append(Item(video_id, grid, segments_N2, labels_N, str(reader.attrs(video_id)["checksum"])))
    if empty == len(items):
        raise TadError(
            f"{reader.path}: not one of the {len(items)} videos of split '{split}' has an instance within its features;"
            " check that annotations and features are of the same videos"
        )
    log.info(
        "%s: %d videos (%d without instances: background only), %d instances; %d duplicate or outside the video;"
        " %d videos excluded",
        split,
        len(items),
        empty,
        sum(len(i.labels_N) for i in items),
        lost,
        len(reasons),
    )
    return items


class Windows:
    """Training batches of a list of videos; batch `k` of epoch `e` is a function of (seed, e, k) alone.

    Several processes take rows of it each.
    """

    def __init__(
        self,
        items: Sequence[Item],
        features: Features | SideBySide,
        *,
        spec: TrainSpec,
        seed: int,
        dim: int,
        everywhere: bool = False,
    ) -> None:
        """`everywhere`: windows that slide need not hold an instance.

        Raises:
            TadError: windows slide, and none of them holds an instance.
        """
        self.everywhere = everywhere
        self.items, self.features, self.spec, self.seed, self.dim = list(items), features, spec, seed, dim
        # of each video: its shortest instance, as windows cut it
        self.shortest = [float((i.segments_N2[:, 1] - i.segments_N2[:, 0]).min(initial=np.inf)) for i in self.items]
        self.places = self._sliding() if spec.window_stride else [Place(video) for video in range(len(self.items))]

    def _sliding(self) -> list[Place]:
        spec, places = self.spec, []
        for video, item in enumerate(self.items):
            windows = sliding(
                item.segments_N2,
                length=item.grid.length,
                width=min(spec.max_length, item.grid.length),
                stride=spec.window_stride,
                threshold=spec.trunc_threshold,
                margin=spec.trunc_margin * item.half_clip,
                rule="any" if self.everywhere else spec.window_rule,
            )
            for first, segments_N2, _ in windows:
                places.append(Place(video, first))
                shortest = (segments_N2[:, 1] - segments_N2[:, 0]).min(initial=np.inf)
                self.shortest[video] = min(self.shortest[video], float(shortest))
        if not places:
            raise TadError(
                f"no window of {spec.max_length} snippets holds an instance ({spec.window_rule}); raise"
                " train.max_length or lower train.trunc_threshold"
            )
        log.info("%d windows of %d videos hold instances", len(places), len(self.items))
        return places

    def __len__(self) -> int:
        """Batches per epoch; a last incomplete one is dropped unless it is the only one."""
        return max(len(self.places) // self.spec.batch_size, 1)

    @property
    def size(self) -> int:
        """Windows of a training batch."""
        return min(self.spec.batch_size, len(self.places))

    def training_batch(self, epoch: int, k: int, share: Callable[[int], range] = range) -> Batch:
        """Batch `k` of an epoch: shuffled windows, random ones of each video or those that slide over it.

        `share(videos)`: the rows whose features are wanted.
        """
        order = generator(self.seed, ORDER, epoch).permutation(len(self.places))
        chosen = order[k * self.size : (k + 1) * self.size]
        return self._collate(chosen, epoch, crop_ratio=self.spec.crop_ratio, rows=share(len(chosen)))

    def fixed_batches(self) -> Iterator[Batch]:
        """All places in order, without cropping; of a long video always the same windows. For held-out videos."""
        size = self.spec.batch_size
        for first in range(0, len(self.places), size):
            chosen = np.arange(first, min(first + size, len(self.places)))
            yield self._collate(chosen, 0, crop_ratio=(1.0, 1.0), rows=range(len(chosen)))

    def _window(
        self, place: Place, epoch: int, crop_ratio: tuple[float, float]
    ) -> tuple[int, int, np.ndarray, np.ndarray]:
        """First and last snippet, segments in the window, and which instances they are."""
        spec, item = self.spec, self.items[place.video]
        common = {"threshold": spec.trunc_threshold, "margin": spec.trunc_margin * item.half_clip}
        if place.first is not None:
            width = min(spec.max_length, item.grid.length)
            return place.first, place.first + width, *cut_to(item.segments_N2, place.first, width, **common)
        return truncate(
            item.segments_N2,
            length=item.grid.length,
            max_length=spec.max_length,
            crop_ratio=crop_ratio,
            rng=generator(self.seed, WINDOW, epoch, place.video),
            **common,
        )

    def _collate(self, chosen: np.ndarray, epoch: int, *, crop_ratio: tuple[float, float], rows: range) -> Batch:
        feats_BTC = self.features.room(len(rows), self.spec.max_length, self.dim)
        lengths, targets = [], []
        places = [self.places[index] for index in chosen.tolist()]
        for row, place in enumerate(places):
            item = self.items[place.video]
            first, last, segments_N2, kept = self._window(place, epoch, crop_ratio)
            lengths.append(last - first)
            segments = torch.from_numpy(segments_N2.astype(np.float32))
            targets.append(Targets(segments, torch.from_numpy(item.labels_N[kept]), self.shortest[place.video]))
            if row in rows:
                row_TC = feats_BTC[row - rows.start]
                self.features.read_into(row_TC[: last - first], item.video_id, first)
                row_TC[last - first :] = 0.0
        video_ids = [self.items[place.video].video_id for place in places]
        return Batch(video_ids, torch.tensor(lengths), targets, feats_BTC, rows.start)
