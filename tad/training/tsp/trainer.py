"""TSP training of a clip encoder: an action head, a region head, cross-entropy, and three learning rates.

Follows "TSP: Temporally-Sensitive Pretraining of Video Encoders for Localization Tasks" (ICCV-W 2021).
Shapes: V videos, B clips, T frames, H rows, W columns, C channels, K classes.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad.backbones._contract import BackboneBase
from tad.core.prefetch import prefetch
from tad.settings.stages import PretrainSpec
from tad.training.io import tensors as checkpoint
from tad.training.tsp.clips import BACKGROUND, Augment, Clips, SegmentTable, even_clips, random_clips

ACTION_REGION, BACKGROUND_REGION = 0, 1
MOST_THREADS = 8  # maximum number of threads that read clips


class Heads(nn.Module):
    """Classification heads: the action head on clip features, the region head (action or background) on clip and video.

    The region head's input is the clip feature concatenated with the video's global feature.
    """

    def __init__(self, *, dim: int, global_dim: int, num_classes: int) -> None:
        super().__init__()
        self.action = nn.Linear(dim, num_classes)
        self.region = nn.Linear(dim + global_dim, 2)
        for head in (self.action, self.region):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, feats_BC: Tensor, global_BC: Tensor) -> tuple[Tensor, Tensor]:
        return self.action(feats_BC), self.region(torch.cat([feats_BC, global_BC], dim=1))


def tsp_loss(action_BK: Tensor, region_B2: Tensor, labels_B: Tensor) -> Tensor:
    """Return the cross-entropy of the action classes (action clips only) plus that of the regions (all clips).

    A batch without action clips has an action loss of 0; a mean over no clips would be NaN.
    """
    regions_B = torch.where(labels_B == BACKGROUND, BACKGROUND_REGION, ACTION_REGION)
    actions = (labels_B != BACKGROUND).sum().clamp(min=1)
    action = F.cross_entropy(action_BK, labels_B, ignore_index=BACKGROUND, reduction="sum") / actions
    return action + F.cross_entropy(region_B2, regions_B)


def learning_rate_factor(
    step: int, *, steps_per_epoch: int, warmup_epochs: float, milestones: Sequence[int], decay: float
) -> float:
    """Return the factor on all learning rates at a step: linear warm-up from 1e-5, then `decay` per milestone epoch."""
    warmup = warmup_epochs * steps_per_epoch
    start = 1e-5
    ramp = min(1.0, start + (1 - start) * step / warmup) if warmup else 1.0
    return ramp * float(decay ** sum(step >= milestone * steps_per_epoch for milestone in milestones))


@dataclass(frozen=True)
class Score:
    """Accuracies of the two heads; None if there are no such clips."""

    action: float | None
    region: float | None

    @property
    def mean(self) -> float:
        """Mean of the available accuracies, by which the epoch is selected."""
        known = [share for share in (self.action, self.region) if share is not None]
        return sum(known) / len(known) if known else 0.0


class Done(NamedTuple):
    """Progress within an epoch: number of steps, sum of their losses, and state of the augmentation's generator."""

    steps: int
    loss: float
    rng: Any


Save = Callable[[Done], None]


class Trainer:
    """A TSP training: encoder, heads, optimiser and training clips."""

    def __init__(
        self,
        backbone: BackboneBase,
        frames: Clips,
        *,
        num_classes: int,
        spec: PretrainSpec,
        device: torch.device,
        global_VC: Tensor | None = None,
    ) -> None:
        """`global_VC`: global features of the videos, if they have been computed before."""
        self.spec, self.device, self.frames = spec, device, frames
        self.backbone = backbone.to(self.device)
        self.augment = Augment(backbone.crop_size, spec.flip, spec.shift)
        known = self._global_features(spec.global_feature) if global_VC is None else global_VC
        self.global_VC = known.to(self.device)
        heads = Heads(dim=backbone.dim, global_dim=self.global_VC.shape[1], num_classes=num_classes)
        self.heads = heads.to(self.device)
        self.groups = self._groups()
        self.optimiser = self._optimiser()

    def _optimiser(self) -> torch.optim.Optimizer:
        decay = {"lr": 0.0, "weight_decay": self.spec.weight_decay}
        if self.spec.optimizer == "adamw":
            return torch.optim.AdamW(self.groups, **decay)
        return torch.optim.SGD(self.groups, momentum=self.spec.momentum, **decay)

    def _groups(self) -> list[dict[str, Any]]:
        stem = list(self.backbone.stem.parameters())
        inside = {id(parameter) for parameter in stem}
        rest = [parameter for parameter in self.backbone.parameters() if id(parameter) not in inside]
        spec = self.spec
        rates = [(stem, spec.lr_stem), (rest, spec.lr_backbone), (list(self.heads.parameters()), spec.lr_heads)]
        for parameters, rate in rates:
            for parameter in parameters:  # a learning rate of 0 freezes a group, as TSP does with the stem
                parameter.requires_grad_(rate > 0)
        return [{"params": parameters, "base": rate} for parameters, rate in rates if rate > 0]

    @torch.no_grad()  # not inference_mode: the backward pass of the region head needs these tensors
    def _global_features(self, pooling: Literal["max", "mean", "none"]) -> Tensor:
        """Return pooled features (V, C) of the encoder before training; (V, 0) if pooling is `none`."""
        videos = len(self.frames.count)
        if pooling == "none":
            return torch.zeros(videos, 0, device=self.device)
        self.backbone.eval()
        length, size = self.spec.clip.length, self.spec.batch_size
        rows = []
        for video in range(videos):
            count = max(self.frames.count[video] // length, 1)
            clips = [(video, k * length / self.frames.rates[video]) for k in range(count)]
            parts = [clips[k : k + size] for k in range(0, count, size)]
            read = prefetch(partial(self._in_order, parts))
            feats = torch.cat([self.backbone.encode(self._tensor(some, None)) for some in read])
            rows.append(feats.amax(dim=0) if pooling == "max" else feats.mean(dim=0))
        return torch.stack(rows)

    def _in_order(self, parts: list[list[tuple[int, float]]]) -> Iterator[list[np.ndarray]]:
        for part in parts:
            yield [self._clip(*clip) for clip in part]

    def _clip(self, video: int, start: float) -> np.ndarray:
        return self.frames.clip(video, start, self.spec.clip.length)

    def _tensor(self, clips: Sequence[np.ndarray], rng: np.random.Generator | None) -> Tensor:
        return torch.from_numpy(np.stack([self.augment(clip, rng) for clip in clips])).to(self.device)

    def _batches(
        self, table: SegmentTable, rows: np.ndarray, starts: np.ndarray, rng: np.random.Generator | None
    ) -> Generator[tuple[Tensor, Tensor, Tensor]]:
        """Iterate over batches of clips, their videos' global features and labels; the next batch is prefetched."""
        videos, size = table.videos_S[rows].tolist(), self.spec.batch_size
        seconds = starts.tolist()
        parts = [slice(k, k + size) for k in range(0, len(rows), size)]
        with ThreadPoolExecutor(min(torch.get_num_threads(), MOST_THREADS)) as pool:
            batches = (list(pool.map(self._clip, videos[part], seconds[part])) for part in parts)
            with closing(prefetch(lambda: batches, depth=1)) as read:
                for part, clips in zip(parts, read, strict=True):
                    labels = torch.from_numpy(table.labels_S[rows[part]]).to(self.device)
                    yield self._tensor(clips, rng), self.global_VC[torch.tensor(videos[part])], labels

    def epoch(self, epoch: int, table: SegmentTable, done: Done | None = None, save: Save | None = None) -> float:
        """Train one epoch on random clips of the segments and return the mean loss.

        Stops and returns the loss as soon as it is not finite; returns NaN if the final weights are not finite. Clips
        and the network's random numbers depend on (seed, epoch, step) only.

        Args:
            epoch: epoch, counted from 0.
            table: segments of the training videos.
            done: progress of an interrupted epoch, whose weights must have been loaded.
            save: called after every step with the progress so far.
        """
        rng = np.random.default_rng([self.spec.seed, epoch])
        rows, starts = random_clips(table, self.spec.clips_per_segment, rng)
        steps = -(-len(rows) // self.spec.batch_size)
        if done is not None:
            rng.bit_generator.state = done.rng
        first, total = (done.steps, done.loss) if done else (0, 0.0)
        self.backbone.train()
        left = slice(first * self.spec.batch_size, None)
        with closing(self._batches(table, rows[left], starts[left], rng)) as batches:
            for step, (clips, global_BC, labels_B) in enumerate(batches, first):
                self._set_rates(epoch * steps + step, steps)
                torch.manual_seed((self.spec.seed * 1009 + epoch) * 1_000_003 + step)
                loss = self._step(clips, global_BC, labels_B)
                if not np.isfinite(loss):
                    return loss
                total += loss
                if save is not None:
                    save(Done(step + 1, total, rng.bit_generator.state))
        # a finite loss can still lead to non-finite weights, and no later step would detect it after the last one
        finite = all(bool(value.isfinite().all()) for value in self.backbone.state_dict().values())
        return total / steps if finite else float("nan")

    def state(self) -> dict[str, Tensor]:
        """Return everything that training changes, and the global features of the initial encoder."""
        return {
            **checkpoint.with_prefix("backbone", self.backbone.state_dict()),
            **checkpoint.with_prefix("heads", self.heads.state_dict()),
            **checkpoint.with_prefix("optimiser", checkpoint.optimizer_tensors(self.optimiser)),
            "global": self.global_VC,
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Load a state returned by `state`."""
        self.backbone.load_state_dict(checkpoint.without_prefix("backbone", tensors))
        self.heads.load_state_dict(checkpoint.without_prefix("heads", tensors))
        checkpoint.load_optimizer(self.optimiser, checkpoint.without_prefix("optimiser", tensors))

    def _set_rates(self, step: int, steps: int) -> None:
        spec = self.spec
        factor = learning_rate_factor(
            step, steps_per_epoch=steps, warmup_epochs=spec.warmup_epochs, milestones=spec.milestones, decay=spec.decay
        )
        for group in self.optimiser.param_groups:
            group["lr"] = group["base"] * factor

    def _step(self, clips: Tensor, global_BC: Tensor, labels_B: Tensor) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        action_BK, region_B2 = self.heads(self.backbone.encode(clips), global_BC)
        loss = tsp_loss(action_BK, region_B2, labels_B)
        value = float(loss.detach())
        if np.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
        return value

    @torch.inference_mode()
    def score(self, table: SegmentTable) -> Score:
        """Compute the accuracies of both heads on evenly spaced clips of the segments."""
        self.backbone.eval()
        rows, starts = even_clips(table, self.spec.clips_per_segment)
        action: list[bool] = []
        region: list[bool] = []
        for clips, global_BC, labels_B in self._batches(table, rows, starts, None):
            action_BK, region_B2 = self.heads(self.backbone.encode(clips), global_BC)
            is_action = labels_B != BACKGROUND
            action += (action_BK.argmax(1) == labels_B)[is_action].tolist()
            region += ((region_B2.argmax(1) == ACTION_REGION) == is_action).tolist()
        return Score(*(sum(right) / len(right) if right else None for right in (action, region)))
