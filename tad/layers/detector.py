"""What the point-based detectors do alike: pad, encode, label points, sum the losses, decode candidates."""

# B videos, T snippets, C channels, K classes, L levels, P points of all levels, N chosen points

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.errors import TadError
from tad.layers.chance import of_part
from tad.layers.gated import GatedDetector
from tad.layers.generative import Gated
from tad.layers.losses import distance_iou_loss, doubtful_points, focal_loss, label_points, offset_iou
from tad.layers.masked import zero_outside
from tad.layers.pyramid import points_of
from tad.layers.types import MAIN, Candidates, Choice, Observed, Outputs, Part, Raw, Targets

Chosen = tuple[Tensor, Tensor, Tensor]


class PointDetector(GatedDetector):
    """Base of the detectors that classify and regress from every point of a pyramid.

    A subclass sets `backbone` and `neck` and defines `heads` and `decode`.

    Args:
        feature_dim: width of the features.
        num_classes: K.
        max_length: snippets of a training window, which shorter inputs are padded to.
        multiple: lengths above `max_length` are padded to a multiple of it.
        ranges: per level, the [low, high] of `points_of`.
        radius: centre sampling, in strides.
        label_smoothing: of the class targets.
        loss_weight: of the regression loss.
        init_loss_norm: first value of the running number of positive points that losses are divided by.
        input_noise: standard deviation of the noise on training features.
        iou_weight_power: class losses of positives are multiplied by tIoU to this power; 0: not at all.
        buffer_factor: the longest sequence is this times `max_length`; 0: no limit.
        masked: padding changes nothing, so it may be as short as the batch allows.
        gate: `generative`: features pass an attention first (`GatedDetector`); `none`.
        gate_settings: of the gate.
        detach_quality: the tIoU that class losses are weighted by has no gradient.
    """

    class_offsets: ClassVar[bool]  # whether each class of a point has offsets of its own
    decayed: ClassVar[tuple[str, ...]] = ()  # parameters with weight decay besides those of convolutions

    def __init__(
        self,
        *,
        feature_dim: int,
        num_classes: int,
        max_length: int,
        multiple: int,
        ranges: Sequence[Sequence[float]],
        radius: float,
        label_smoothing: float,
        loss_weight: float,
        init_loss_norm: float,
        input_noise: float,
        iou_weight_power: float,
        buffer_factor: float,
        masked: bool,
        gate: str,
        gate_settings: Mapping[str, Any],
        detach_quality: bool = False,
    ) -> None:
        super().__init__(gate, gate_settings)
        self.coarsest: int = 2 ** (len(ranges) - 1)
        if max_length % self.coarsest:
            raise TadError(
                f"train.max_length: {max_length}: must be a multiple of {self.coarsest}, the stride of the last of"
                f" {len(ranges)} levels (settings.regression_ranges)"
            )
        self.feature_dim, self.num_classes, self.max_length = feature_dim, num_classes, max_length
        self.multiple, self.ranges, self.radius = multiple, ranges, radius
        self.label_smoothing, self.loss_weight = label_smoothing, loss_weight
        self.input_noise, self.iou_weight_power = input_noise, iou_weight_power
        self.buffer_factor, self.masked, self.detach_quality = buffer_factor, masked, detach_quality
        self.whole_windows = False  # compiled graphs want batches of one length, also where padding changes nothing
        self.add_gate(feature_dim, length=0, masked=True)
        self.backbone: nn.Module
        self.neck: nn.Module
        self.register_buffer("loss_norm", torch.tensor(float(init_loss_norm)), persistent=False)
        self.loss_norm: Tensor

    def heads(self, features: list[Tensor], masks: list[Tensor]) -> Outputs:
        """Head outputs of the normalised levels."""
        raise AssertionError("a detector defines its heads")

    def decode(self, outputs: Outputs, level: int, chosen: Chosen) -> Tensor:
        """Distances (N, 2) to both borders, in strides, of the chosen videos, points of the level, and classes."""
        raise AssertionError("a detector defines its decoding")

    def encode(self, x_BCT: Tensor, mask_B1T: Tensor, spans: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Encoder features and masks per level, before the neck."""
        features: tuple[list[Tensor], list[Tensor]] = self.backbone(x_BCT, mask_B1T, spans)
        return features

    def outputs(self, x_BCT: Tensor, mask_B1T: Tensor, spans: list[int]) -> Outputs:
        """Head outputs of a padded batch; `spans` as in `Pyramid.forward`."""
        return self._observe(x_BCT, mask_B1T, spans).outputs

    def _observe(self, x_BCT: Tensor, mask_B1T: Tensor, spans: list[int]) -> Observed:
        gated = self.attend([x_BCT], [mask_B1T])
        behind = self._behind(gated[0].foreground if gated else x_BCT, mask_B1T, spans)
        return replace(behind, attentions=[g.attention_BCT for g in gated])

    def _behind(self, x_BCT: Tensor, mask_B1T: Tensor, spans: list[int]) -> Observed:
        """What is computed of features behind the gate."""
        x_BCT = self.complete(x_BCT, mask_B1T)
        features, masks = self.encode(x_BCT, mask_B1T, spans)
        return Observed(x_BCT, features[0], self.heads(self.neck(features, masks), masks))

    def complete(self, x_BCT: Tensor, mask_B1T: Tensor) -> Tensor:
        """The features that the encoder sees, of a detector that makes up some of them itself."""
        return x_BCT

    @torch.no_grad()
    def observe(
        self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None, choice: Choice | None = None
    ) -> Observed:
        """What a trained detector computes of a batch or a part of one, for others to learn from; as for `loss`. What
        students choose at random (`choice`) is not of features."""
        assert not self.training, "call eval() first"
        padded = self.padded(part.longest if part else int(lengths_B.max()))
        x_BCT, mask_B1T = self.batch(feats_BTC, lengths_B, padded)
        return self._observe(x_BCT, mask_B1T, lengths_B.tolist() if self.masked else [padded] * len(feats_BTC))

    def distances(self, outputs: Outputs, level: int) -> Tensor:
        """Both distances of every point of a level, and of every class where each has its own: (B, 2 or 2 K, T)."""
        (batch, _, length), device = outputs.logits[level].shape, outputs.logits[level].device
        classes = self.num_classes if self.class_offsets else 1
        places = [torch.arange(count, device=device) for count in (batch, classes, length)]
        video_N, class_N, point_N = (place.flatten() for place in torch.meshgrid(*places, indexing="ij"))
        found_N2 = self.decode(outputs, level, (video_N, point_N, class_N))
        return found_N2.view(batch, classes, length, 2).transpose(2, 3).flatten(1, 2)

    def padded(self, length: int) -> int:
        """Snippets to which a sequence is padded for inference.

        Raises:
            TadError: the sequence is longer than the published buffers.
        """
        if self.masked:
            return math.ceil(length / self.coarsest) * self.coarsest
        padded = self.max_length if length <= self.max_length else math.ceil(length / self.multiple) * self.multiple
        limit = int(self.max_length * self.buffer_factor)
        if limit and padded > limit:
            raise TadError(
                f"features: {length} snippets: the detector's points end at {limit}; raise settings.buffer_factor"
                f" (now {self.buffer_factor:g}) or train.max_length"
            )
        return padded

    def batch(self, feats_BTC: Tensor, lengths_B: Tensor, padded: int) -> tuple[Tensor, Tensor]:
        """Features (B, C, padded), zero on the padding, and their mask (B, 1, padded)."""
        if feats_BTC.shape[2] != self.feature_dim:
            raise TadError(
                f"features: {feats_BTC.shape[2]} channels: the detector was made for {self.feature_dim};"
                " use the feature set it was trained on"
            )
        mask_BT = torch.arange(padded, device=feats_BTC.device) < lengths_B.to(feats_BTC.device)[:, None]
        x_BTC = feats_BTC[:, :padded]
        if int(lengths_B.min()) < padded:
            x_BTC = F.pad(x_BTC, (0, 0, 0, padded - x_BTC.shape[1])).masked_fill(~mask_BT[:, :, None], 0.0)
        return x_BTC.transpose(1, 2), mask_BT[:, None]

    def positives(self, lengths_B: Tensor, targets: list[Targets]) -> int:
        """The number of points with a class in a batch; a function of its labels alone, so known before any loss."""
        count = 0
        for length, target in zip(lengths_B.tolist(), targets, strict=True):
            lengths = [math.ceil(length / 2**level) for level in range(len(self.ranges))]
            points_P4 = points_of(lengths, self.ranges, target.segments_N2.device)
            classes_PK, _ = label_points(points_P4, target, classes=self.num_classes, radius=self.radius)
            count += int((classes_PK.sum(dim=1) > 0).sum())
        return count

    def normalise(self, positives: int) -> None:
        """Take a batch's `positives` into the running number that losses are divided by."""
        self.loss_norm = 0.9 * self.loss_norm + 0.1 * self.loss_norm.new_tensor(max(positives, 1))

    def loss(
        self,
        feats_BTC: Tensor,
        lengths_B: Tensor,
        targets: list[Targets],
        part: Part | None = None,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a training batch: `cls`, `reg` and `total` = cls + loss_weight · reg, scalars.

        Args:
            feats_BTC: float32, T ≤ max_length.
            lengths_B: int64, snippets of each video.
            targets: one per video; no instance is allowed.
            part: which part of a batch this is. The losses of its parts, and their gradients, then add up to the
                batch's, provided `normalise` was called with the batch's `positives`. None: it is the batch, and while
                training its positives are taken in here.
            seen: gets what the losses are of: `Observed`, and in the pass of the gates' VAEs `Explained`.

        Raises:
            TadError: features of another width or longer than `max_length`.
        """
        assert len(targets) == feats_BTC.shape[0] == lengths_B.shape[0]
        if self.training and part is None:
            self.normalise(self.positives(lengths_B, targets))
        of_part(self, part, given=len(targets), device=feats_BTC.device)
        longest = part.longest if part else int(lengths_B.max())
        if longest > self.max_length:
            raise TadError(f"features: {longest} snippets: a training window has at most {self.max_length}")
        shorter = self.masked and not self.whole_windows
        padded = self.padded(longest) if shorter else self.max_length
        x_BCT, mask_B1T = self.batch(feats_BTC, lengths_B, padded)
        if self.training and self.input_noise > 0:
            x_BCT = x_BCT + self.input_noise * self.normal(x_BCT, *x_BCT.shape[1:])
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
        """That the background is none, per point that counts; the reconstruction; and the total with both."""
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
        labelled = [label_points(points_P4, target, classes=self.num_classes, radius=self.radius) for target in targets]
        classes_BPK = torch.stack([classes for classes, _ in labelled])
        offsets_BP2 = torch.stack([offsets for _, offsets in labelled])
        valid_BP1 = torch.cat(outputs.masks, dim=2).transpose(1, 2)
        classes_BPK = classes_BPK * valid_BP1
        positive_BP = classes_BPK.sum(dim=2) > 0
        chosen, predicted_N2 = self._positives(outputs, classes_BPK if self.class_offsets else positive_BP[:, :, None])
        target_N2 = offsets_BP2[chosen[0], chosen[1]]
        logits_BPK = torch.cat(outputs.logits, dim=2).transpose(1, 2)
        smoothed_BPK = classes_BPK * (1 - self.label_smoothing) + self.label_smoothing / (self.num_classes + 1)
        class_BPK = focal_loss(logits_BPK, smoothed_BPK) * valid_BP1
        if any(target.doubtful_M2 is not None for target in targets):
            doubtful = [doubtful_points(points_P4, target, classes=self.num_classes) for target in targets]
            class_BPK = class_BPK.masked_fill(torch.stack(doubtful) & (classes_BPK == 0), 0.0)
        if self.iou_weight_power > 0:
            iou_N = offset_iou(predicted_N2, target_N2) ** self.iou_weight_power
            # published: not detached, which teaches the offsets to overlap less where the class is uncertain
            iou_N = iou_N.detach() if self.detach_quality else iou_N
            class_BPK = class_BPK * torch.ones_like(class_BPK).index_put(chosen, iou_N)
        class_loss = class_BPK.sum() / self.loss_norm
        offset_loss = distance_iou_loss(predicted_N2, target_N2).sum() / self.loss_norm
        return {"cls": class_loss, "reg": offset_loss, "total": class_loss + self.loss_weight * offset_loss}

    def _positives(self, outputs: Outputs, chosen_BPK: Tensor) -> tuple[Chosen, Tensor]:
        """The chosen (video, point of all levels, class) triples, each (N,), and their decoded distances (N, 2)."""
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
    def candidates(
        self, feats_BTC: Tensor, lengths_B: Tensor, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Candidates of each video before suppression, in snippets of its grid; a video without any has empty ones.

        Videos of a batch do not influence one another: those whose own padding differs go through the network
        separately (unless padding changes nothing), so the batch size changes no result.

        Args:
            feats_BTC: float32; rows beyond a video's length are ignored.
            lengths_B: int64.
            score_threshold: scores must exceed it.
            topk: candidates kept per level.
            min_length: segments must be longer, in snippets.

        Raises:
            TadError: features of another width, or longer than the detector's buffers.
        """
        raw = self.raw(feats_BTC, lengths_B)
        return self.found(raw, len(lengths_B), score_threshold=score_threshold, topk=topk, min_length=min_length)

    @torch.no_grad()
    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Head outputs of each group of videos that goes through the network together, as `candidates` takes them."""
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
    def found(
        self, raw: list[Raw], videos: int, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Candidates of a batch of so many videos from what `raw` gives."""
        device = self.loss_norm.device
        empty = torch.zeros(0, 2, device=device), torch.zeros(0, device=device), torch.zeros(0, device=device).long()
        found = [Candidates(*empty) for _ in range(videos)]
        for part in raw:
            for row, index in enumerate(part.rows):
                found[index] = self._select(part.outputs, row, score_threshold, topk, min_length)
        return found

    def _select(self, outputs: Outputs, row: int, score_threshold: float, topk: int, min_length: float) -> Candidates:
        """Per level, the `topk` best (point, class) pairs of one video above the threshold, decoded."""
        parts = []
        for level, logits_BKT in enumerate(outputs.logits):
            score_TK = torch.sigmoid(logits_BKT[row].float().T) * outputs.masks[level][row].T
            score_M = score_TK.flatten()
            kept_N = torch.nonzero(score_M > score_threshold)[:, 0]
            score_N, order_N = score_M[kept_N].sort(descending=True, stable=True)
            kept_N, score_N = kept_N[order_N[:topk]], score_N[:topk]
            point_N = torch.div(kept_N, self.num_classes, rounding_mode="floor")
            class_N = kept_N % self.num_classes
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

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """Parameters for AdamW: convolution weights (and `decayed`) with weight decay, all else without; of a pass."""
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
        """What training continues from besides the weights: the loss normaliser."""
        return {"loss_norm": self.loss_norm.detach().clone()}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restores `training_state`."""
        self.loss_norm = state["loss_norm"].to(self.loss_norm)
