"""TSP's training of a clip encoder: an action head and a region head, cross-entropy, SGD with three groups of rates.

After "TSP: Temporally-Sensitive Pretraining of Video Encoders for Localization Tasks" (ICCV-W 2021).
Shapes: V videos, B clips, T frames, H rows, W columns, C channels, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad.specs import PretrainSpec
from tad.training.tsp_clips import BACKGROUND, Augment, Frames, SegmentTable, even_clips, random_clips

ACTION_REGION, BACKGROUND_REGION = 0, 1


class Heads(nn.Module):
    """The action head sees the clip; the region head (action or background) sees the clip and its whole video."""

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
    """Cross-entropy of the class (action clips alone) plus that of the region (all clips).

    A batch without any action clip has an action loss of 0, where a mean over no clips would be NaN.
    """
    regions_B = torch.where(labels_B == BACKGROUND, BACKGROUND_REGION, ACTION_REGION)
    actions = (labels_B != BACKGROUND).sum().clamp(min=1)
    action = F.cross_entropy(action_BK, labels_B, ignore_index=BACKGROUND, reduction="sum") / actions
    return action + F.cross_entropy(region_B2, regions_B)


def learning_rate_factor(
    step: int, *, steps_per_epoch: int, warmup_epochs: float, milestones: Sequence[int], decay: float
) -> float:
    """Factor on every learning rate at an iteration: linear from 1e-5 over the warm-up, then × decay per milestone."""
    warmup = warmup_epochs * steps_per_epoch
    start = 1e-5
    ramp = min(1.0, start + (1 - start) * step / warmup) if warmup else 1.0
    return ramp * float(decay ** sum(step >= milestone * steps_per_epoch for milestone in milestones))


@dataclass(frozen=True)
class Score:
    """Shares of clips that the heads get right; None where there is no such clip."""

    action: float | None
    region: float | None

    @property
    def mean(self) -> float:
        """Mean of those that exist: what epochs are selected by."""
        known = [share for share in (self.action, self.region) if share is not None]
        return sum(known) / len(known) if known else 0.0


class Trainer:
    """One TSP training: encoder, heads, optimiser and the clips they see."""

    def __init__(
        self, backbone: Any, frames: Frames, *, num_classes: int, spec: PretrainSpec, device: torch.device
    ) -> None:
        self.spec, self.device, self.frames = spec, device, frames
        self.backbone = backbone.to(self.device)
        self.augment = Augment(tuple(backbone.crop_size), spec.flip, spec.shift)
        self.global_VC = self._global_features(spec.global_feature)
        heads = Heads(dim=backbone.dim, global_dim=self.global_VC.shape[1], num_classes=num_classes)
        self.heads = heads.to(self.device)
        self.groups = self._groups()
        self.optimiser = torch.optim.SGD(self.groups, lr=0.0, momentum=spec.momentum, weight_decay=spec.weight_decay)

    def _groups(self) -> list[dict[str, Any]]:
        stem = list(self.backbone.stem.parameters())
        inside = {id(parameter) for parameter in stem}
        rest = [parameter for parameter in self.backbone.parameters() if id(parameter) not in inside]
        spec = self.spec
        rates = [(stem, spec.lr_stem), (rest, spec.lr_backbone), (list(self.heads.parameters()), spec.lr_heads)]
        for parameters, rate in rates:
            for parameter in parameters:  # a group without a rate needs no gradient: TSP freezes the stem like this
                parameter.requires_grad_(rate > 0)
        return [{"params": parameters, "base": rate} for parameters, rate in rates if rate > 0]

    @torch.no_grad()  # not inference_mode: the backward pass of the region head needs these tensors
    def _global_features(self, pooling: Literal["max", "mean", "none"]) -> Tensor:
        """(V, C) pooled features of the encoder as it is before training; (V, 0) without."""
        videos = len(self.frames.first)
        if pooling == "none":
            return torch.zeros(videos, 0, device=self.device)
        self.backbone.eval()
        length = self.spec.clip.length
        rows = []
        size = self.spec.batch_size
        for video in range(videos):
            count = max(self.frames.count[video] // length, 1)
            clips = [(video, k * length / self.frames.rates[video]) for k in range(count)]
            parts = [clips[k : k + size] for k in range(0, count, size)]
            feats = torch.cat([self.backbone.encode(self._clips(part, None)) for part in parts])
            rows.append(feats.amax(dim=0) if pooling == "max" else feats.mean(dim=0))
        return torch.stack(rows)

    def _clips(self, where: list[tuple[int, float]], rng: np.random.Generator | None) -> Tensor:
        length = self.spec.clip.length
        clips = [self.augment(self.frames.clip(video, start, length), rng) for video, start in where]
        return torch.from_numpy(np.stack(clips)).to(self.device)

    def _batch(
        self, table: SegmentTable, rows: np.ndarray, starts: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        videos = table.videos_S[rows]
        clips = self._clips(list(zip(videos.tolist(), starts.tolist(), strict=True)), rng)
        labels = torch.from_numpy(table.labels_S[rows]).to(self.device)
        return clips, self.global_VC[torch.from_numpy(videos).to(self.device)], labels

    def epoch(self, epoch: int, table: SegmentTable) -> float:
        """One pass over random clips of the segments; the mean loss, or NaN (at once) where something is not finite.

        The clips depend on (seed, epoch) alone.
        """
        rng = np.random.default_rng([self.spec.seed, epoch])
        rows, starts = random_clips(table, self.spec.clips_per_segment, rng)
        steps = -(-len(rows) // self.spec.batch_size)
        self.backbone.train()
        total = 0.0
        for step in range(steps):
            part = slice(step * self.spec.batch_size, (step + 1) * self.spec.batch_size)
            self._set_rates(epoch * steps + step, steps)
            clips, global_BC, labels_B = self._batch(table, rows[part], starts[part], rng)
            loss = self._step(clips, global_BC, labels_B)
            if not np.isfinite(loss):
                return loss
            total += loss
        # a finite loss may still have led to a step out of bounds, and the last step has no successor that would tell
        finite = all(bool(value.isfinite().all()) for value in self.backbone.state_dict().values())
        return total / steps if finite else float("nan")

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
        """Accuracy of both heads on evenly spaced clips of the segments of `table`."""
        self.backbone.eval()
        rows, starts = even_clips(table, self.spec.clips_per_segment)
        action: list[bool] = []
        region: list[bool] = []
        for k in range(0, len(rows), self.spec.batch_size):
            part = slice(k, k + self.spec.batch_size)
            clips, global_BC, labels_B = self._batch(table, rows[part], starts[part], None)
            action_BK, region_B2 = self.heads(self.backbone.encode(clips), global_BC)
            is_action = labels_B != BACKGROUND
            action += (action_BK.argmax(1) == labels_B)[is_action].tolist()
            region += ((region_B2.argmax(1) == ACTION_REGION) == is_action).tolist()
        return Score(*(sum(right) / len(right) if right else None for right in (action, region)))
