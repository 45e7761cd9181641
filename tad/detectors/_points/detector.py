"""Base of the point-based detectors: padding, encoding, label assignment, losses and decoding of candidates."""

# B videos, T snippets, C channels, K classes, L levels, P points of all levels, N chosen points

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.detectors._points.pyramid import points_of
from tad.detectors._points.settings import PointSettings
from tad.layers.chance import of_part
from tad.layers.gate.attention import Gated
from tad.layers.gate.detector import GatedDetector
from tad.layers.masked import zero_outside
from tad.layers.point_losses import (
    EPSILON,
    distance_iou_loss,
    doubtful_points,
    focal_loss,
    label_points,
    label_points_after,
    offset_iou,
)
from tad.layers.types import MAIN, Candidates, Choice, Observed, Outputs, Part, Raw, Targets

Chosen = tuple[Tensor, Tensor, Tensor]


class PointDetector(GatedDetector):
    """Base of the detectors that classify and regress from every point of a pyramid.

    A subclass sets `backbone` and `neck` and defines `heads` and `decode`.

    Args:
        settings: the detector's settings.
        feature_dim: width of the features, C.
        num_classes: K.
        max_length: snippets of a training window; shorter inputs are padded to it.
        multiple: inputs longer than `max_length` are padded to a multiple of this.
        iou_weight_power: the class loss of a positive point is weighted by its tIoU to this power; 0: no weighting.
        masked: padding does not influence the outputs, so batches are padded only as far as they need.
        detach_quality: no gradient flows through the tIoU that weights the class loss.
    """

    observable: ClassVar[bool] = True
    graphable: ClassVar[bool] = True
    class_offsets: bool  # whether each class of a point has offsets of its own
    decayed: ClassVar[tuple[str, ...]] = ()  # parameters with weight decay besides those of convolutions

    def __init__(
        self,
        settings: PointSettings,
        *,
        feature_dim: int,
        num_classes: int,
        max_length: int,
        multiple: int,
        iou_weight_power: float = 0.0,
        masked: bool = False,
        detach_quality: bool = False,
    ) -> None:
        super().__init__(settings.gate_settings, gated=settings.gated)
        self.settings, self.coarsest = settings, settings.last_stride
        if max_length % self.coarsest:
            raise TadError(
                f"train.max_length: {max_length}: must be a multiple of {self.coarsest}, the stride of the last of"
                f" {settings.levels} levels (settings.regression_ranges)"
            )
        self.feature_dim, self.num_classes, self.max_length = feature_dim, num_classes, max_length
        self.ranges, self.radius, self.delay = settings.regression_ranges, settings.center_radius, settings.delay
        # of the last stride as well: levels must halve (the published code stops where `multiple` is none of it)
        self.multiple, self.iou_weight_power = math.lcm(multiple, self.coarsest), iou_weight_power
        self.masked, self.detach_quality = masked, detach_quality
        self.limit = 0 if masked else int(max_length * settings.buffer_factor)
        self.add_gate(feature_dim, length=0, masked=True)
        self.backbone: nn.Module
        self.neck: nn.Module
        self.register_buffer("loss_norm", torch.tensor(settings.init_loss_norm), persistent=False)
        self.loss_norm: Tensor

    def heads(self, features: list[Tensor], masks: list[Tensor]) -> Outputs:
        """Return the outputs of the heads for the normalised levels."""
        raise AssertionError("a subclass must define heads")

    def decode(self, outputs: Outputs, level: int, chosen: Chosen) -> Tensor:
        """Return the distances (N, 2) to both borders, in strides, of the chosen (video, point, class) triples.

        The distance to the end is negative or 0 if the detector is causal: the end lies before the point.
        """
        raise AssertionError("a subclass must define decode")

    def encode(self, x_BCT: Tensor, mask_B1T: Tensor, spans: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the encoder's features and masks per level, before the neck."""
        features: tuple[list[Tensor], list[Tensor]] = self.backbone(x_BCT, mask_B1T, spans)
        return features

    def outputs(self, x_BCT: Tensor, mask_B1T: Tensor, spans: list[int]) -> Outputs:
        """Return the head outputs of a padded batch; `spans` as in `Pyramid.forward`."""
        return self._observe(x_BCT, mask_B1T, spans).outputs

    def _observe(self, x_BCT: Tensor, mask_B1T: Tensor, spans: list[int]) -> Observed:
        gated = self.attend([x_BCT], [mask_B1T])
        behind = self._behind(gated[0].foreground if gated else x_BCT, mask_B1T, spans)
        return replace(behind, attentions=[g.attention_BCT for g in gated])

    def _behind(self, x_BCT: Tensor, mask_B1T: Tensor, spans: list[int]) -> Observed:
        """Run encoder, neck and heads on features that have passed the gate."""
        x_BCT = self.complete(x_BCT, mask_B1T)
        features, masks = self.encode(x_BCT, mask_B1T, spans)
        return Observed(x_BCT, features[0], self.heads(self.neck(features, masks), masks))

    def complete(self, x_BCT: Tensor, mask_B1T: Tensor) -> Tensor:
        """Add the features that the detector predicts itself before encoding; by default none."""
        return x_BCT

    @torch.no_grad()
    def observe(
        self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None, choice: Choice | None = None
    ) -> Observed:
        """Return a trained detector's features and outputs for distillation; arguments as for `loss`.

        `choice` holds the student's random crops and cuts, of which these detectors make none; it is ignored.
        """
        assert not self.training, "call eval() first"
        padded = self.padded(part.longest if part else int(lengths_B.max()))
        x_BCT, mask_B1T = self.batch(feats_BTC, lengths_B, padded)
        return self._observe(x_BCT, mask_B1T, lengths_B.tolist() if self.masked else [padded] * len(feats_BTC))

    def distances(self, outputs: Outputs, level: int) -> Tensor:
        """Return both distances of every point of a level, (B, 2, T), or (B, 2 K, T) if they differ by class."""
        (batch, _, length), device = outputs.logits[level].shape, outputs.logits[level].device
        classes = self.num_classes if self.class_offsets else 1
        axes = [torch.arange(count, device=device) for count in (batch, classes, length)]
        video_N, class_N, point_N = (index.flatten() for index in torch.meshgrid(*axes, indexing="ij"))
        distance_N2 = self.decode(outputs, level, (video_N, point_N, class_N))
        return distance_N2.view(batch, classes, length, 2).transpose(2, 3).flatten(1, 2)

    def padded(self, length: int) -> int:
        """Return the length to which a sequence of `length` snippets is padded for inference.

        Raises:
            TadError: the sequence is longer than `limit`, which `settings.buffer_factor` sets as in the published code.
        """
        if self.masked:
            return math.ceil(length / self.coarsest) * self.coarsest
        padded = self.max_length if length <= self.max_length else math.ceil(length / self.multiple) * self.multiple
        if self.limit and padded > self.limit:
            raise TadError(
                f"features: {length} snippets: the detector accepts at most {self.limit}; raise settings.buffer_factor"
                f" (now {self.settings.buffer_factor:g}) or train.max_length"
            )
        return padded

    def batch(self, feats_BTC: Tensor, lengths_B: Tensor, padded: int) -> tuple[Tensor, Tensor]:
        """Return features (B, C, padded), zero on the padding, and their mask (B, 1, padded)."""
        self.expect_width(feats_BTC)
        mask_BT = torch.arange(padded, device=feats_BTC.device) < lengths_B.to(feats_BTC.device)[:, None]
        x_BTC = feats_BTC[:, :padded]
        if int(lengths_B.min()) < padded:
            x_BTC = F.pad(x_BTC, (0, 0, 0, padded - x_BTC.shape[1])).masked_fill(~mask_BT[:, :, None], 0.0)
        return x_BTC.transpose(1, 2), mask_BT[:, None]

    def positives(self, lengths_B: Tensor, targets: list[Targets]) -> int:
        """Count the positive points of a batch; it depends on the labels alone, so it is known before the loss."""
        count = 0
        for length, target in zip(lengths_B.tolist(), targets, strict=True):
            lengths = [math.ceil(length / 2**level) for level in range(len(self.ranges))]
            points_P4 = points_of(lengths, self.ranges, target.segments_N2.device)
            classes_PK, _ = self._labels(points_P4, target)
            count += int((classes_PK.sum(dim=1) > 0).sum())
        return count

    def _labels(self, points_P4: Tensor, target: Targets) -> tuple[Tensor, Tensor]:
        """Return class targets (P, K) and offsets (P, 2) of one video's points."""
        if self.delay:
            return label_points_after(points_P4, target, classes=self.num_classes, delay=self.delay)
        return label_points(points_P4, target, classes=self.num_classes, radius=self.radius)

    def normalise(self, positives: int) -> None:
        """Update the loss normaliser, a moving average of the number of positive points per batch."""
        self.loss_norm = 0.9 * self.loss_norm + 0.1 * self.loss_norm.new_tensor(max(positives, 1))

    def loss(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the losses of a training batch: `cls`, `reg` and `total` = cls + loss_weight · reg, scalars.

        Args:
            feats_BTC: float32, T ≤ max_length.
            lengths_B: int64, snippets of each video.
            targets: one per video; a video may have no instance.
            part: the micro-batch that this is. Losses and gradients of all micro-batches add up to the batch's,
                provided `normalise` was called with the batch's `positives`. None: this is the whole batch, and
                `normalise` is called here while training.
            seen: a list to which the intermediate results are appended: `Observed`, or `Explained` in the phase that
                trains the gates' VAEs.

        Raises:
            TadError: the features have another width or are longer than `max_length`.
        """
        assert len(targets) == feats_BTC.shape[0] == lengths_B.shape[0]
        if self.training and part is None:
            self.normalise(self.positives(lengths_B, targets))
        of_part(self, part, given=len(targets), device=feats_BTC.device)
        longest = part.longest if part else int(lengths_B.max())
        if longest > self.max_length:
            raise TadError(f"features: {longest} snippets: a training window has at most {self.max_length}")
        shorter = self.masked and not self.fixed_length
        padded = self.padded(longest) if shorter else self.max_length
        x_BCT, mask_B1T = self.batch(feats_BTC, lengths_B, padded)
        if self.training and self.settings.input_noise > 0:
            x_BCT = x_BCT + self.settings.input_noise * self.normal(x_BCT, *x_BCT.shape[1:])
            x_BCT = zero_outside(x_BCT, mask_B1T) if self.masked else x_BCT
        videos = part.videos if part else len(targets)
        if self.phase != MAIN.name:
            vae = self.vae_losses([x_BCT], [mask_B1T], seen).sum() / videos
            return {"vae": vae, "total": vae}
        spans, gated = lengths_B.tolist(), self.attend([x_BCT], [mask_B1T])
        observed = self._behind(gated[0].foreground if gated else x_BCT, mask_B1T, spans)
        if seen is not None:
            seen.append(replace(observed, attentions=[g.attention_BCT for g in gated]))
        losses = self._losses(observed.outputs, targets)
        return losses | self._gate_losses(gated, losses, x_BCT, mask_B1T, spans, videos) if gated else losses

    def _gate_losses(
        self,
        gated: list[Gated],
        losses: dict[str, Tensor],
        x_BCT: Tensor,
        mask_B1T: Tensor,
        spans: list[int],
        videos: int,
    ) -> dict[str, Tensor]:
        """Return the gate's background loss (mean over valid points), its reconstruction loss, and the new total."""
        behind = self._behind(gated[0].background, mask_B1T, spans).outputs
        logits_BPK = torch.cat(behind.logits, dim=2).transpose(1, 2)
        valid_BP = torch.cat(behind.masks, dim=2)[:, 0]
        loss_BP = focal_loss(logits_BPK, torch.zeros_like(logits_BPK)).sum(dim=2) * valid_BP
        background = (loss_BP.sum(dim=1) / valid_BP.sum(dim=1)).sum() / videos
        reconstruction = self.reconstruction_losses(gated, [x_BCT.detach()], [mask_B1T]).sum() / videos
        total = losses["total"] + self.gate_losses(background, reconstruction)
        return {"background": background, "reconstruction": reconstruction, "total": total}

    def _losses(self, outputs: Outputs, targets: list[Targets]) -> dict[str, Tensor]:
        lengths = [mask.shape[2] for mask in outputs.masks]
        points_P4 = points_of(lengths, self.ranges, outputs.logits[0].device)
        labelled = [self._labels(points_P4, target) for target in targets]
        classes_BPK = torch.stack([classes for classes, _ in labelled])
        offsets_BP2 = torch.stack([offsets for _, offsets in labelled])
        valid_BP1 = torch.cat(outputs.masks, dim=2).transpose(1, 2)
        classes_BPK = classes_BPK * valid_BP1
        positive_BP = classes_BPK.sum(dim=2) > 0
        chosen, predicted_N2 = self._positives(outputs, classes_BPK if self.class_offsets else positive_BP[:, :, None])
        target_N2 = offsets_BP2[chosen[0], chosen[1]]
        logits_BPK = torch.cat(outputs.logits, dim=2).transpose(1, 2)
        smoothed_BPK = classes_BPK * (1 - self.settings.label_smoothing) + self.settings.label_smoothing / (
            self.num_classes + 1
        )
        class_BPK = focal_loss(logits_BPK, smoothed_BPK) * valid_BP1
        if any(target.doubtful_M2 is not None for target in targets):
            doubtful = [doubtful_points(points_P4, target, classes=self.num_classes) for target in targets]
            class_BPK = class_BPK.masked_fill(torch.stack(doubtful) & (classes_BPK == 0), 0.0)
        if self.iou_weight_power > 0:
            iou_N = offset_iou(predicted_N2, target_N2)
            iou_N = iou_N.clamp(min=EPSILON) if self.delay else iou_N  # segments in the past may be disjoint
            iou_N = iou_N**self.iou_weight_power
            # published: not detached, which rewards smaller overlap where the class is uncertain
            iou_N = iou_N.detach() if self.detach_quality else iou_N
            class_BPK = class_BPK * torch.ones_like(class_BPK).index_put(chosen, iou_N)
        class_loss = class_BPK.sum() / self.loss_norm
        offset_loss = distance_iou_loss(predicted_N2, target_N2, after=self.delay > 0).sum() / self.loss_norm
        return {"cls": class_loss, "reg": offset_loss, "total": class_loss + self.settings.loss_weight * offset_loss}

    def _positives(self, outputs: Outputs, chosen_BPK: Tensor) -> tuple[Chosen, Tensor]:
        """Return the chosen (video, point of all levels, class) triples, each (N,), and their distances (N, 2)."""
        triples, distances, first = [], [], 0
        for level, mask_B1T in enumerate(outputs.masks):
            last = first + mask_B1T.shape[2]
            video_N, point_N, class_N = chosen_BPK[:, first:last].nonzero(as_tuple=True)
            distances.append(self.decode(outputs, level, (video_N, point_N, class_N)))
            triples.append((video_N, point_N + first, class_N))
            first = last
        video_N, point_N, class_N = (torch.cat(part) for part in zip(*triples, strict=True))
        return (video_N, point_N, class_N), torch.cat(distances)

    @torch.no_grad()
    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Return the head outputs of each group of videos with the same padded length, for `decode_candidates`."""
        assert not self.training, "call eval() first"
        lengths: list[int] = lengths_B.tolist()
        groups: dict[int, list[int]] = defaultdict(list)
        for index, length in enumerate(lengths):
            if length > 0:
                groups[0 if self.masked else self.padded(length)].append(index)
        raw = []
        for group, members in groups.items():
            padded = group or self.padded(max(lengths[i] for i in members))
            x_BCT, mask_B1T = self.batch(feats_BTC[members], lengths_B[members], padded)
            spans = [lengths[i] if self.masked else padded for i in members]
            raw.append(Raw(members, lengths_B[members], self.outputs(x_BCT, mask_B1T, spans)))
        return raw

    @torch.no_grad()
    def decode_candidates(
        self, raw: list[Raw], videos: int, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Decode the outputs of `raw` into the candidates of a batch of `videos` videos."""
        device = self.loss_norm.device
        empty = torch.zeros(0, 2, device=device), torch.zeros(0, device=device), torch.zeros(0, device=device).long()
        candidates = [Candidates(*empty) for _ in range(videos)]
        for part in raw:
            for row, index in enumerate(part.rows):
                candidates[index] = self._select(part.outputs, row, score_threshold, topk, min_length)
        return candidates

    def _select(self, outputs: Outputs, row: int, score_threshold: float, topk: int, min_length: float) -> Candidates:
        """Decode the `topk` best (point, class) pairs above the threshold of each level of one video."""
        parts = []
        for level, logits_BKT in enumerate(outputs.logits):
            score_TK = torch.sigmoid(logits_BKT[row].float().T) * outputs.masks[level][row].T
            score_M = score_TK.flatten()
            pair_N = torch.nonzero(score_M > score_threshold)[:, 0]
            score_N, order_N = score_M[pair_N].sort(descending=True, stable=True)
            pair_N, score_N = pair_N[order_N[:topk]], score_N[:topk]
            point_N = torch.div(pair_N, self.num_classes, rounding_mode="floor")
            class_N = pair_N % self.num_classes
            distance_N2 = self.decode(outputs, level, (torch.full_like(point_N, row), point_N, class_N))
            stride = 2**level
            position_N = point_N.to(distance_N2.dtype) * stride
            start_N = position_N - distance_N2[:, 0] * stride
            end_N = position_N + distance_N2[:, 1] * stride
            long_N = end_N - start_N > min_length
            segments_N2 = torch.stack([start_N, end_N], dim=1)
            parts.append((segments_N2[long_N].float(), score_N[long_N], class_N[long_N]))
        segments_N2, scores_N, labels_N = (torch.cat(part) for part in zip(*parts, strict=True))
        return Candidates(segments_N2, scores_N, labels_N)

    @property
    def graph_lengths(self) -> tuple[int, int]:
        """Return the least padded length, and the multiple that longer sequences are padded to; see `padded`."""
        return (self.coarsest, self.coarsest) if self.masked else (self.max_length, self.multiple)

    def dense(self, feats_BTC: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of one padded sequence for all points; see `DetectorBase.dense`."""
        length = feats_BTC.shape[1]
        mask_BT = torch.arange(length, device=feats_BTC.device) < lengths_B[:, None]
        x_BTC = feats_BTC.masked_fill(~mask_BT[:, :, None], 0.0)
        if torch.compiler.is_exporting():  # a tensor, so that the graph computes it
            spans: list[Any] = [lengths_B[0] if self.masked else torch.ones_like(mask_BT[0], dtype=torch.long).sum()]
        else:
            spans = [int(lengths_B[0]) if self.masked else length]
        outputs = self.outputs(x_BTC.transpose(1, 2), mask_BT[:, None], spans)
        segments, levels = [], []
        for level, logits_BKT in enumerate(outputs.logits):
            points, stride = logits_BKT.shape[2], 2**level
            distance_BTJ2 = self.distances(outputs, level).transpose(1, 2).reshape(logits_BKT.shape[0], points, -1, 2)
            position_T1 = torch.arange(points, device=feats_BTC.device)[:, None] * stride
            start_BTJ = position_T1 - distance_BTJ2[..., 0] * stride
            end_BTJ = position_T1 + distance_BTJ2[..., 1] * stride
            segments.append(torch.stack([start_BTJ, end_BTJ], dim=3))
            levels.append(torch.full((points,), level, dtype=torch.long))
        logits_BPK = torch.cat(outputs.logits, dim=2).transpose(1, 2)
        real_BP1 = torch.cat(outputs.masks, dim=2).transpose(1, 2)
        return {
            "logits": logits_BPK,
            "scores": torch.sigmoid(logits_BPK) * real_BP1,
            "segments": torch.cat(segments, dim=1),
            "level": torch.cat(levels),
        }

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """Return a phase's parameter groups: kernels and `decayed` with weight decay, all others without."""
        decay: list[Tensor] = []
        free: list[Tensor] = []
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                kernel = isinstance(module, nn.Conv1d | nn.Linear) and name == "weight"
                (decay if kernel or name in self.decayed else free).append(parameter)
        decay_weight = weight_decay if phase == MAIN.name else 0.0
        groups: list[dict[str, Any]] = [{"params": decay, "weight_decay": decay_weight}]
        return self.of_phase([*groups, {"params": free, "weight_decay": 0.0}], phase)

    def training_state(self) -> dict[str, Tensor]:
        """Return the training state besides the weights: the loss normaliser."""
        return {"loss_norm": self.loss_norm.detach().clone()}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restore a state returned by `training_state`."""
        self.loss_norm = state["loss_norm"].to(self.loss_norm)
