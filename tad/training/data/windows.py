"""Training windows of one split: cleaned labels, random truncation and padded batches.

Every random choice comes from a generator seeded by (seed, epoch, video), never from a global one. A window therefore
does not depend on earlier draws: threads, evaluation and resuming cannot change the training stream.
"""

# B videos, T snippets, C channels, N segments

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tad.annotations.table import Instance, Table
from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.features.store import FeatureReader
from tad.layers.types import Part, Targets
from tad.settings.stages import TrainSpec
from tad.training.data.in_memory import Features, SideBySide
from tad.training.data.inputs import select
from tad.training.data.window_positions import WindowPosition, cut_to, sliding, truncate

log = logging.getLogger(__name__)
SAME_SECONDS = 1e-3
ORDER, WINDOW, MODEL, HELD_OUT, STRETCH = range(5)


def generator(seed: int, *path: int) -> np.random.Generator:
    """Return the random generator for one purpose and point of training, e.g. (WINDOW, epoch, video)."""
    return np.random.default_rng([seed % 2**64, *path])


@dataclass(frozen=True)
class Item:
    """A training video.

    Attributes:
        video_id: id of the video.
        grid: time grid of its snippets, after resizing.
        segments_N2: float64 (start, end) in snippets.
        labels_N: int64 class ids.
        checksum: checksum of its stored features.
    """

    video_id: str
    grid: Grid
    segments_N2: np.ndarray
    labels_N: np.ndarray
    checksum: str

    @property
    def half_clip(self) -> float:
        """Half the clip length in snippets: how far the first and last clip extend beyond their centres."""
        return self.grid.start / self.grid.step


@dataclass(frozen=True)
class Batch:
    """A batch of windows, zero-padded to one length; features may be limited to the rows of one process.

    Attributes:
        video_ids: ids for all rows of the batch.
        lengths_B: int64, snippets of all rows.
        targets: targets of all rows.
        feats_BTC: float32, features of the rows from `first` on.
        first: 0, or the first row of this process.
    """

    video_ids: list[str]
    lengths_B: Tensor
    targets: list[Targets]
    feats_BTC: Tensor
    first: int = 0

    def parts(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, list[Targets], Part]]:
        """Split the batch into micro-batches of up to `size` videos on `device`.

        Yields: features, lengths, targets and the position in the batch, as `DetectorBase.loss` takes them.
        """
        lengths = tuple(self.lengths_B.tolist())
        for row in range(0, len(self.feats_BTC), size):
            feats_BTC = self.feats_BTC[row : row + size].to(device)
            rows = slice(self.first + row, self.first + row + len(feats_BTC))
            targets = [
                replace(t, segments_N2=t.segments_N2.to(device), labels_N=t.labels_N.to(device))
                for t in self.targets[rows]
            ]
            yield feats_BTC, self.lengths_B[rows], targets, Part(len(lengths), rows.start, max(lengths), lengths)


def _same(one: Instance, other: Instance, classes: dict[str, int]) -> bool:
    apart = max(abs(one.start - other.start), abs(one.end - other.end))
    return classes[one.label] == classes[other.label] and apart <= SAME_SECONDS


def clean(
    instances: Sequence[Instance], classes: dict[str, int], grid: Grid, *, threshold: float, moments: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Convert instances in seconds to segments (N, 2) in snippets and class ids (N,), as the published loaders do.

    Duplicates (equal class, start and end within a millisecond) are removed. Instances that start after the end of the
    last clip, or overlap the clips by less than `threshold` of their length, are dropped; others are clipped there.
    With `moments`, instances have one time, and are dropped only after the end of the last clip.
    """
    seen: list[Instance] = []
    limit = grid.length + grid.start / grid.step
    segments, labels = [], []
    for instance in instances:
        if any(_same(instance, other, classes) for other in seen):
            continue
        seen.append(instance)
        start, end = grid.to_grid(instance.start), grid.to_grid(instance.end)
        if moments and start <= limit:
            segments.append((start, start))
            labels.append(classes[instance.label])
            continue
        if start >= limit or end <= start or (min(end, limit) - start) / (end - start) < threshold:
            continue
        segments.append((start, min(end, limit)))
        labels.append(classes[instance.label])
    return np.array(segments, np.float64).reshape(-1, 2), np.array(labels, np.int64)


def read_items(
    reader: FeatureReader, table: Table, split: str, *, spec: TrainSpec, exclude: dict[str, str]
) -> list[Item]:
    """Read the videos of a split, with cleaned instances on the (resized) grid.

    Raises:
        TadError: see `select`; or the split has no instance at all.
    """
    usable, reasons = select(table, split, reader, exclude)
    classes = {label: 0 if spec.class_agnostic else k for k, label in enumerate(table.labels)}
    items, empty, dropped = [], 0, 0
    for video_id in usable:
        grid = reader.grid(video_id)
        if spec.resize:
            grid = grid.spread(spec.resize)
        instances = table.videos[video_id].instances
        moments = table.kind == "moments"
        segments_N2, labels_N = clean(instances, classes, grid, threshold=spec.trunc_threshold, moments=moments)
        dropped += len(instances) - len(labels_N)
        empty += len(labels_N) == 0
        items.append(Item(video_id, grid, segments_N2, labels_N, str(reader.attrs(video_id)["checksum"])))
    if empty == len(items):
        raise TadError(
            f"{reader.path}: none of the {len(items)} videos of split '{split}' has an instance within its features;"
            " check that annotations and features belong to the same videos"
        )
    log.info(
        "%s: %d videos (%d without instances, used as background), %d instances (%d dropped as duplicates or outside"
        " the video), %d videos excluded",
        split,
        len(items),
        empty,
        sum(len(i.labels_N) for i in items),
        dropped,
        len(reasons),
    )
    return items


@dataclass(frozen=True)
class _Window:
    """A window [first, last) of a video's snippets, which is stretched to `length` snippets.

    `segments_M2` are its segments in the video's snippets from `first` on, `indices_M` the indices of their instances.
    """

    first: int
    last: int
    segments_M2: np.ndarray
    indices_M: np.ndarray
    length: int

    @property
    def factor(self) -> float:
        """How many times longer the window becomes."""
        return self.length / (self.last - self.first)

    def stretched(self) -> np.ndarray:
        """Return the segments in stretched snippets; the borders of the first and the last snippet stay borders."""
        return self.segments_M2 if self.factor == 1 else (self.segments_M2 + 0.5) * self.factor - 0.5


class Windows:
    """Training batches of a list of videos; batch `k` of epoch `e` depends on (seed, e, k) only.

    In data-parallel training each process reads the features of its own rows of a batch.
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
        """`everywhere`: also use sliding windows without an instance.

        Raises:
            TadError: no sliding window contains an instance.
        """
        self.everywhere = everywhere
        self.items, self.features, self.spec, self.seed, self.dim = list(items), features, spec, seed, dim
        # length of the shortest instance of each video, after clipping to windows
        self.shortest = [float((i.segments_N2[:, 1] - i.segments_N2[:, 0]).min(initial=np.inf)) for i in self.items]
        self.positions = (
            self._sliding() if spec.window_stride else [WindowPosition(video) for video in range(len(self.items))]
        )

    def _sliding(self) -> list[WindowPosition]:
        spec, positions = self.spec, []
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
            for first, segments_N2, _, used in windows:
                if used:
                    positions.append(WindowPosition(video, first))
                # over all windows: AFSD's loader also measures those that it does not train on
                shortest = (segments_N2[:, 1] - segments_N2[:, 0]).min(initial=np.inf)
                self.shortest[video] = min(self.shortest[video], float(shortest))
        if not positions:
            raise TadError(
                f"no window of {spec.max_length} snippets contains an instance (train.window_rule {spec.window_rule});"
                " raise train.max_length or lower train.trunc_threshold"
            )
        log.info("%d windows of %d videos are used for training", len(positions), len(self.items))
        return positions

    def __len__(self) -> int:
        """Number of batches per epoch; an incomplete last batch is dropped unless it is the only one."""
        return max(len(self.positions) // self.spec.batch_size, 1)

    @property
    def size(self) -> int:
        """Number of windows per training batch."""
        return min(self.spec.batch_size, len(self.positions))

    def training_batch(self, epoch: int, k: int, share: Callable[[int], range] = range) -> Batch:
        """Return batch `k` of an epoch: shuffled windows, either random per video or sliding over it.

        `share(videos)` returns the rows whose features are read.
        """
        order = generator(self.seed, ORDER, epoch).permutation(len(self.positions))
        chosen = order[k * self.size : (k + 1) * self.size]
        return self._collate(chosen, epoch, rows=share(len(chosen)))

    def fixed_batches(self) -> Iterator[Batch]:
        """Iterate over all windows in order, without augmentation; deterministic for long videos too (validation)."""
        size = self.spec.batch_size
        for first in range(0, len(self.positions), size):
            chosen = np.arange(first, min(first + size, len(self.positions)))
            yield self._collate(chosen, 0, augmented=False, rows=range(len(chosen)))

    def _window(self, position: WindowPosition, epoch: int, *, augmented: bool) -> _Window:
        spec, item = self.spec, self.items[position.video]
        common = {"threshold": spec.trunc_threshold, "margin": spec.trunc_margin * item.half_clip}
        if position.first is not None:
            width = min(spec.max_length, item.grid.length)
            cut = cut_to(item.segments_N2, position.first, width, **common)
            return _Window(position.first, position.first + width, *cut, length=width)
        factor = self._stretch(epoch, position.video) if augmented else 1.0
        first, last, segments_M2, indices_M = truncate(
            item.segments_N2,
            length=item.grid.length,
            max_length=max(int(spec.max_length / factor), 1),
            crop_ratio=spec.crop_ratio if augmented else (1.0, 1.0),
            rng=generator(self.seed, WINDOW, epoch, position.video),
            **common,
        )
        length = min(max(round((last - first) * factor), 1), spec.max_length)
        return _Window(first, last, segments_M2, indices_M, length=length)

    def _stretch(self, epoch: int, video: int) -> float:
        """Draw how many times longer a window becomes, from 1/stretch to stretch, evenly in its logarithm."""
        if self.spec.stretch == 1:
            return 1.0
        return float(self.spec.stretch ** generator(self.seed, STRETCH, epoch, video).uniform(-1, 1))

    def _collate(self, chosen: np.ndarray, epoch: int, *, augmented: bool = True, rows: range) -> Batch:
        feats_BTC = self.features.batch_buffer(len(rows), self.spec.max_length, self.dim)
        lengths, targets = [], []
        positions = [self.positions[index] for index in chosen.tolist()]
        for row, position in enumerate(positions):
            item = self.items[position.video]
            window = self._window(position, epoch, augmented=augmented)
            lengths.append(window.length)
            segments = torch.from_numpy(window.stretched().astype(np.float32))
            shortest = self.shortest[position.video] * window.factor
            targets.append(Targets(segments, torch.from_numpy(item.labels_N[window.indices_M]), shortest))
            if row in rows:
                self._read(feats_BTC[row - rows.start], item.video_id, window)
        video_ids = [self.items[position.video].video_id for position in positions]
        return Batch(video_ids, torch.tensor(lengths), targets, feats_BTC, rows.start)

    def _read(self, out_TC: Tensor, video_id: str, window: _Window) -> None:
        """Read a window's features, stretched, into a row of a batch, with zeros behind them."""
        width = window.last - window.first
        if window.length == width:
            self.features.read_into(out_TC[:width], video_id, window.first)
        else:
            stored_TC = torch.empty(width, self.dim, device=out_TC.device)
            self.features.read_into(stored_TC, video_id, window.first)
            out_TC[: window.length] = F.interpolate(stored_TC.T[None], size=window.length, mode="linear")[0].T
        out_TC[window.length :] = 0.0
