"""Base of SPOT: fixed-length windows, a class and a mask per snippet, supervised and unsupervised losses."""

# B videos, T snippets, C channels, K classes (the background is class K), N instances

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.detectors._faces import corrections_of
from tad.detectors._spot.contrast import boundary_contrast
from tad.detectors._spot.decoder import decode_masks
from tad.detectors._spot.dense import decode_dense
from tad.detectors._spot.losses import class_loss, mask_loss, reconstruction_loss, stacked
from tad.detectors._spot.network import MaskNetwork, MaskOutputs, swap_halves
from tad.detectors._spot.settings import MaskSettings
from tad.detectors._spot.targets import IGNORED, blocks, confident, label_snippets, random_foregrounds
from tad.layers.chance import of_part
from tad.layers.gate.attention import Gated
from tad.layers.gate.detector import GatedDetector
from tad.layers.masked import Mask, padding_of
from tad.layers.types import MAIN, Candidates, Choice, Observed, Outputs, Part, Raw, Targets

PRETEXT_REC = 2.0  # weight of the reconstruction in the pretext task
PRETEXT_DROP = 0.1  # fraction of feature values that are dropped and must be reconstructed


class MaskDetector(GatedDetector):
    """SPOT on features, optionally behind a generative attention gate. For the settings see `_spot/settings.py`."""

    exclusive = True  # class scores are a softmax that includes the background
    pretext = True
    observable = True
    graphable = True
    windowed = True
    graph_outputs = ("logits", "probabilities", "masks", "scores", "segments", "level")
    graph_raw = ("probabilities", "masks")

    def __init__(self, settings: MaskSettings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        super().__init__(settings.gate_settings, gated=settings.gated)
        self.settings, self.repaired = settings, corrections_of(settings)
        self.masked = "masked" in self.repaired
        self.feature_dim, self.num_classes, self.max_length = feature_dim, num_classes, max_length
        self.network = MaskNetwork(settings, feature_dim=feature_dim, num_classes=num_classes, length=max_length)
        self.add_gate(feature_dim, length=max_length, masked=self.masked)

    # -- windows -------------------------------------------------------------------------------------------------------

    def padded(self, length: int) -> int:
        """Round a length up to whole windows, into which detection cuts a sequence; any length is accepted."""
        return -(-length // self.max_length) * self.max_length

    def window(self, feats_BTC: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, C, max_length), zero on the padding, and the mask of the data, bool (B, 1, max_length).

        Raises:
            TadError: the features have another width or are longer than a window.
        """
        longest, size = int(lengths_B.max()), self.max_length
        self.expect_width(feats_BTC)
        if longest > size:
            raise TadError(
                f"features: {longest} snippets: SPOT accepts windows of {size}; set train.resize to {size}, or"
                " detect.window_stride to cut longer videos into windows"
            )
        real_BT = torch.arange(size, device=feats_BTC.device) < lengths_B.to(feats_BTC.device)[:, None]
        x_BTC = F.pad(feats_BTC[:, :size], (0, 0, 0, max(size - feats_BTC.shape[1], 0)))
        return x_BTC.masked_fill(~real_BT[:, :, None], 0.0).transpose(1, 2), real_BT[:, None]

    def _mask(self, real_B1T: Tensor) -> Mask:
        """Return the mask that the network uses; published: None, padding is not masked."""
        return padding_of(real_B1T) if self.masked else None

    def _counted(self, real_B1T: Tensor) -> Tensor:
        """Return the snippets that losses cover; published: all, padding is background."""
        return real_B1T if self.masked else torch.ones_like(real_B1T)

    # -- training ------------------------------------------------------------------------------------------------------

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """Return a phase's parameter groups: all parameters with weight decay, except the VAE's."""
        decay = weight_decay if phase == MAIN.name else 0.0
        return self.of_phase([{"params": list(self.parameters()), "weight_decay": decay}], phase)

    def _begin(self, part: Part | None, given: int, device: torch.device) -> int:
        """Tell the layers which videos of the batch these are; return the size of the whole batch.

        Raises:
            TadError: this is a micro-batch, but the losses need the whole batch.
        """
        of_part(self, part, given=given, device=device)
        videos = part.videos if part else given
        if videos != given and "summed" not in self.repaired:
            raise TadError(
                f"detector.face parity: its losses need the whole batch at once, not {given} of {videos} videos; lower"
                " train.batch_size, use one process, or add summed to the corrections of face corrected"
            )
        return videos

    def _forward(self, x_BCT: Tensor, real_B1T: Tensor) -> tuple[MaskOutputs, list[Gated]]:
        """Run the gate and the network; return the outputs and the gate's results."""
        mask = self._mask(real_B1T)
        gated = self.attend([x_BCT], [mask])
        outputs: MaskOutputs = self.network(gated[0].foreground if gated else x_BCT, mask)
        return outputs, gated

    def loss(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the losses of a training batch, means over its videos, and their weighted sum `total`.

        `unsupervised` is the part of the total that needs no labels. Arguments as for
        `tad.detectors._points.detector.PointDetector.loss`; targets may also be `MaskTargets` computed by a teacher.
        """
        assert len(targets) == feats_BTC.shape[0] == lengths_B.shape[0]
        videos = self._begin(part, len(targets), feats_BTC.device)
        x_BCT, real_B1T = self.window(feats_BTC, lengths_B)
        if self.phase != MAIN.name:
            vae = self.vae_losses([x_BCT], [self._mask(real_B1T)], seen).sum() / videos
            return {"vae": vae, "unsupervised": vae, "total": vae}
        outputs, gated = self._forward(x_BCT, real_B1T)
        if seen is not None:
            seen.append(_observed(outputs, gated, real_B1T))
        counted_B1T, shrunk = self._counted(real_B1T), "whole" not in self.repaired
        lengths = counted_B1T.sum(dim=2)[:, 0].tolist()
        labelled = [
            label_snippets(one, length=length, size=self.max_length, classes=self.num_classes, shrunk=shrunk)
            for one, length in zip(targets, lengths, strict=True)
        ]
        classes_BT, masks_BTT, valid_BTT = stacked(labelled)
        summed, dice = "summed" in self.repaired, "dice" in self.repaired
        losses = {
            "cls": class_loss(outputs.logits_BKT, classes_BT, focal="focal" in self.repaired, summed=summed),
            "mask": mask_loss(outputs.masks_BTT, masks_BTT, valid_BTT, dice=dice, summed=summed),
            "rec": reconstruction_loss(outputs.embedded_BCT, outputs.x_BCT, counted_B1T),
            "contrast": self._contrast(outputs, lengths),
        }
        if gated:
            losses |= self._gate_losses(gated[0], x_BCT, real_B1T)
        losses = {name: value / videos for name, value in losses.items()}
        free = self.settings.reconstruction_weight * losses["rec"] + self.settings.contrast_weight * losses["contrast"]
        if gated:
            free = free + self.gate_losses(losses["background"], losses["reconstruction"])
        return {**losses, "unsupervised": free, "total": losses["cls"] + losses["mask"] + free}

    def _gate_losses(self, gated: Gated, x_BCT: Tensor, real_B1T: Tensor) -> dict[str, Tensor]:
        """Return the loss that makes suppressed features background, and the reconstruction; sums over videos."""
        mask = self._mask(real_B1T)
        logits_BKT: Tensor = self.network(gated.background, mask).logits_BKT
        none_BT = torch.where(self._counted(real_B1T)[:, 0], self.num_classes, IGNORED)
        background = class_loss(logits_BKT, none_BT, focal="focal" in self.repaired, summed="summed" in self.repaired)
        reconstruction = self.reconstruction_losses([gated], [x_BCT.detach()], [mask]).sum()
        return {"background": background, "reconstruction": reconstruction}

    def _contrast(self, outputs: MaskOutputs, lengths: list[int]) -> Tensor:
        chance_BT = self.uniform(outputs.embedded_BCT, self.max_length) if self.training else None
        loss = outputs.embedded_BCT.new_zeros(())
        for row, length in enumerate(lengths if self.settings.contrast_weight else ()):
            loss = loss + boundary_contrast(
                outputs.embedded_BCT[row, :, :length].T,
                outputs.logits_BKT[row, :, :length],
                outputs.masks_BTT[row, :length, :length],
                None if chance_BT is None else chance_BT[row, :length],
            )
        return loss

    def pretext_loss(self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None) -> dict[str, Tensor]:
        """Return the losses of the self-supervised pretext tasks, each computed from embeddings of altered features.

        The tasks are: segment a random foreground while the rest is zeroed, reconstruct dropped values, and detect
        swapped halves.
        """
        videos = self._begin(part, len(lengths_B), feats_BTC.device)
        x_BCT, real_B1T = self.window(feats_BTC, lengths_B)
        mask, counted_B1T = self._mask(real_B1T), self._counted(real_B1T)
        if gated := self.attend([x_BCT], [mask]):
            x_BCT = gated[0].foreground
        lengths_B = counted_B1T.sum(dim=2)[:, 0]
        spans_B22 = random_foregrounds(self.uniform(x_BCT, 4), lengths_B)
        targets_BTT = torch.stack([blocks(spans_22, self.max_length) for spans_22 in spans_B22])
        foreground_B1T = targets_BTT.diagonal(dim1=1, dim2=2)[:, None]
        masks_BTT = self.network.masks(self.network.embed(x_BCT * foreground_B1T, mask)[1], mask)
        valid_BTT = counted_B1T & counted_B1T.transpose(1, 2)
        whole_BCT = self.network.embed(x_BCT, mask)[0]
        seen_BCT = (self.uniform(x_BCT, *x_BCT.shape[1:]) >= PRETEXT_DROP).to(x_BCT.dtype) / (1 - PRETEXT_DROP)
        swapped_B = self.uniform(x_BCT, 1)[:, 0] < 0.5
        order_B2 = self.network.order_head(self.network.embed(swap_halves(x_BCT, swapped_B, lengths_B), mask)[1])
        dice, summed = "dice" in self.repaired, "summed" in self.repaired
        losses = {
            "mask": mask_loss(masks_BTT, targets_BTT, valid_BTT, dice=dice, summed=summed),
            "rec": reconstruction_loss(self.network.embed(x_BCT * seen_BCT, mask)[1], whole_BCT, counted_B1T),
            "order": F.cross_entropy(order_B2.float(), (~swapped_B).long(), reduction="sum"),
        }
        losses = {name: value / videos for name, value in losses.items()}
        return losses | {"total": losses["mask"] + PRETEXT_REC * losses["rec"] + losses["order"]}

    # -- distillation --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(
        self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None, choice: Choice | None = None
    ) -> Observed:
        """Return a trained detector's features and outputs for distillation; see `PointDetector.observe`."""
        assert not self.training, "call eval() first"
        x_BCT, real_B1T = self.window(feats_BTC, lengths_B)
        return _observed(*self._forward(x_BCT, real_B1T), real_B1T)

    def distances(self, outputs: Outputs, level: int) -> Tensor:
        """Refuse: SPOT predicts masks instead of distances.

        Raises:
            TadError: always.
        """
        raise TadError("distill: spot predicts masks, not offsets; remove terms with target offsets")

    # -- inference -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Return class logits and masks of the windows that are not empty."""
        rows = self.filled(lengths_B)
        if not rows:
            return []
        outputs, _ = self._forward(*self.window(feats_BTC[rows], lengths_B[rows]))
        return [Raw(rows, lengths_B[rows], {"logits_BKT": outputs.logits_BKT, "masks_BTT": outputs.masks_BTT})]

    def dense(self, feats_BTC: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of windows for all seeds and levels of their masks; see `DetectorBase.dense`.

        `logits` (B, T, K + 1) and the further output `probabilities` are those of snippets, with the background as last
        class; row i of `masks` (B, T, T) is the mask of snippet i.
        """
        real_BT = torch.arange(self.max_length, device=feats_BTC.device) < lengths_B[:, None]
        x_BTC = feats_BTC.masked_fill(~real_BT[:, :, None], 0.0)
        outputs, _ = self._forward(x_BTC.transpose(1, 2), real_BT[:, None])
        logits_BTK = outputs.logits_BKT.transpose(1, 2)
        raw = {"probabilities": logits_BTK.softmax(dim=2), "masks": outputs.masks_BTT}
        return {"logits": logits_BTK, **raw, **self.decode_dense(raw, lengths_B)}

    def decode_dense(self, raw: Mapping[str, Tensor], lengths_B: Tensor) -> dict[str, Tensor]:
        """Decode probabilities and masks; see `tad.detectors._spot.dense`."""
        choice: dict[str, Any] = {"seeds": self.settings.seeds, "one_class": self.settings.one_class}
        return decode_dense(raw["probabilities"], raw["masks"], lengths_B, **choice)

    @torch.no_grad()
    def decode_candidates(
        self, raw: list[Raw], videos: int, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Decode the outputs of `raw` into the candidates of a batch of `videos` windows."""
        device = self.network.classifier.weight.device
        empty = torch.zeros(0, 2, device=device), torch.zeros(0, device=device), torch.zeros(0, device=device).long()
        candidates = [Candidates(*empty) for _ in range(videos)]
        for part in raw:
            for index, (row, length) in enumerate(zip(part.rows, part.lengths_B.tolist(), strict=True)):
                candidates[row] = decode_masks(
                    part.outputs["logits_BKT"][index, :, :length].softmax(dim=0),
                    part.outputs["masks_BTT"][index, :length, :length],
                    seeds=self.settings.seeds,
                    one_class=self.settings.one_class,
                    score_threshold=score_threshold,
                    topk=topk,
                    min_length=min_length,
                )
        return candidates

    @torch.no_grad()
    def pseudo_targets(
        self, feats_BTC: Tensor, lengths_B: Tensor, *, confidence: float, mask: float
    ) -> list[Targets | None]:
        """Compute pseudo-targets for unlabelled windows: classes of at least `confidence`, masks of at least `mask`.

        A window without any still contributes to the reconstruction and contrast losses.
        """
        x_BCT, real_B1T = self.window(feats_BTC, lengths_B)
        outputs, _ = self._forward(x_BCT, real_B1T)
        lengths = self._counted(real_B1T).sum(dim=2)[:, 0].tolist()
        sure = confident(
            outputs.logits_BKT.softmax(dim=1), outputs.masks_BTT, lengths, confidence=confidence, mask=mask
        )
        return [*sure]


def _observed(predicted: MaskOutputs, gated: list[Gated], real_B1T: Tensor) -> Observed:
    """Collect projected features, embeddings and class logits; one level, without offsets."""
    outputs = Outputs(masks=[real_B1T], logits=[predicted.logits_BKT], offsets=[])
    return Observed(predicted.x_BCT, predicted.embedded_BCT, outputs, [g.attention_BCT for g in gated])
