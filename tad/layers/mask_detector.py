"""The detector that SPOT is: windows of one length, a class and a mask per snippet, losses with and without labels."""

# B videos, T snippets, C channels, K classes (the background is class K), N instances

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.errors import TadError
from tad.layers.chance import of_part
from tad.layers.faces import corrections_of
from tad.layers.gated import GatedDetector
from tad.layers.generative import Gated
from tad.layers.global_mask import MaskNetwork, MaskOutputs, swap_halves
from tad.layers.mask_contrast import boundary_contrast
from tad.layers.mask_decoder import decode_masks
from tad.layers.mask_losses import class_loss, mask_loss, reconstruction_loss, stacked
from tad.layers.mask_targets import IGNORED, blocks, confident, label_snippets, random_foregrounds
from tad.layers.masked import Mask, padding_of
from tad.layers.types import MAIN, Candidates, Choice, Observed, Outputs, Part, Raw, Targets

CORRECTIONS = ("masked", "summed", "focal", "whole", "dice")
PRETEXT_REC = 2.0  # weight of the reconstruction in the pretext task
PRETEXT_DROP = 0.1  # share of feature values that are to be reconstructed


class MaskDetector(GatedDetector):
    """SPOT on features, behind a generative attention with a gate; the arguments are those of spot.yaml."""

    exclusive = True  # classes are scored by a softmax that the background takes part in

    def __init__(
        self,
        *,
        feature_dim: int,
        num_classes: int,
        max_length: int,
        face: str,
        corrections: Sequence[str],
        width: int,
        heads: int,
        attention_dropout: float,
        dropout: float,
        use_position: bool,
        reconstruction_weight: float,
        contrast_weight: float,
        seeds: int,
        one_class: bool,
        gate: str,
        gate_settings: Mapping[str, Any],
    ) -> None:
        super().__init__(gate, gate_settings)
        self.repaired = corrections_of(face, corrections, known=CORRECTIONS)
        self.masked = "masked" in self.repaired
        self.feature_dim, self.num_classes, self.max_length = feature_dim, num_classes, max_length
        self.reconstruction_weight, self.contrast_weight = reconstruction_weight, contrast_weight
        self.seeds, self.one_class = seeds, one_class
        self.network = MaskNetwork(
            feature_dim=feature_dim, num_classes=num_classes, length=max_length, width=width, heads=heads,
            attention_dropout=attention_dropout, dropout=dropout, use_position=use_position,
        )  # fmt: skip
        self.add_gate(feature_dim, length=max_length, masked=self.masked)

    # -- windows -------------------------------------------------------------------------------------------------------

    def padded(self, length: int) -> int:
        """Snippets of the windows that a sequence is cut into by detect; no length is refused for that."""
        return -(-length // self.max_length) * self.max_length

    def window(self, feats_BTC: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, max_length), zero on the padding, and where there is data, bool (B, 1, max_length).

        Raises:
            TadError: features of another width or longer than a window.
        """
        longest, size = int(lengths_B.max()), self.max_length
        if feats_BTC.shape[2] != self.feature_dim:
            raise TadError(
                f"features: {feats_BTC.shape[2]} channels: the detector was made for {self.feature_dim}; use the"
                " feature set it was trained on"
            )
        if longest > size:
            raise TadError(
                f"features: {longest} snippets: SPOT sees {size} at once; set train.resize to {size}, or"
                " detect.window_stride so that longer videos are cut into windows"
            )
        real_BT = torch.arange(size, device=feats_BTC.device) < lengths_B.to(feats_BTC.device)[:, None]
        x_BTC = F.pad(feats_BTC[:, :size], (0, 0, 0, max(size - feats_BTC.shape[1], 0)))
        return x_BTC.masked_fill(~real_BT[:, :, None], 0.0).transpose(1, 2), real_BT[:, None]

    def _mask(self, real_B1T: Tensor) -> Mask:
        """What the network is told of the padding: nothing, as published."""
        return padding_of(real_B1T) if self.masked else None

    def _counted(self, real_B1T: Tensor) -> Tensor:
        """Snippets that losses see: padding is background, as published."""
        return real_B1T if self.masked else torch.ones_like(real_B1T)

    # -- training ------------------------------------------------------------------------------------------------------

    def positives(self, lengths_B: Tensor, targets: list[Targets]) -> int:
        """Not needed: losses are divided video by video."""
        return 0

    def normalise(self, positives: int) -> None:
        """Nothing is kept from batch to batch."""

    def training_state(self) -> dict[str, Tensor]:
        """Nothing besides the weights."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restores `training_state`."""
        assert not state

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """The parameters of a pass, all with weight decay; those of the VAE without."""
        decay = weight_decay if phase == MAIN.name else 0.0
        return self.of_phase([{"params": list(self.parameters()), "weight_decay": decay}], phase)

    def _begin(self, part: Part | None, given: int, device: torch.device) -> int:
        """Tell the layers which videos these are; the number of the whole batch.

        Raises:
            TadError: a part of a batch, with losses that are of the whole batch.
        """
        of_part(self, part, given=given, device=device)
        videos = part.videos if part else given
        if videos != given and "summed" not in self.repaired:
            raise TadError(
                f"detector.face parity: its losses are of a whole batch, and {given} of {videos} videos are computed at"
                " once; lower train.batch_size, use one process, or add summed to the corrections of face corrected"
            )
        return videos

    def _said(self, x_BCT: Tensor, real_B1T: Tensor) -> tuple[MaskOutputs, list[Gated]]:
        """What the network says of the features that the gate lets through, and what the gate says."""
        mask = self._mask(real_B1T)
        gated = self.attend([x_BCT], [mask])
        said: MaskOutputs = self.network(gated[0].foreground if gated else x_BCT, mask)
        return said, gated

    def loss(
        self,
        feats_BTC: Tensor,
        lengths_B: Tensor,
        targets: list[Targets],
        part: Part | None = None,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a training batch, means over its videos, and their weighted sum `total`, of which `unsupervised`
        needs no labels; arguments as `tad.layers.detector.PointDetector.loss`.

        Targets may also be `MaskTargets`, made of a teacher's output.
        """
        assert len(targets) == feats_BTC.shape[0] == lengths_B.shape[0]
        videos = self._begin(part, len(targets), feats_BTC.device)
        x_BCT, real_B1T = self.window(feats_BTC, lengths_B)
        if self.phase != MAIN.name:
            vae = self.vae_losses([x_BCT], [self._mask(real_B1T)], seen).sum() / videos
            return {"vae": vae, "unsupervised": vae, "total": vae}
        said, gated = self._said(x_BCT, real_B1T)
        if seen is not None:
            seen.append(_observed(said, gated, real_B1T))
        counted_B1T, shrunk = self._counted(real_B1T), "whole" not in self.repaired
        lengths = counted_B1T.sum(dim=2)[:, 0].tolist()
        labelled = [
            label_snippets(one, length=length, size=self.max_length, classes=self.num_classes, shrunk=shrunk)
            for one, length in zip(targets, lengths, strict=True)
        ]
        classes_BT, masks_BTT, valid_BTT = stacked(labelled)
        summed, dice = "summed" in self.repaired, "dice" in self.repaired
        losses = {
            "cls": class_loss(said.logits_BKT, classes_BT, focal="focal" in self.repaired, summed=summed),
            "mask": mask_loss(said.masks_BTT, masks_BTT, valid_BTT, dice=dice, summed=summed),
            "rec": reconstruction_loss(said.embedded_BCT, said.x_BCT, counted_B1T),
            "contrast": self._contrast(said, lengths),
        }
        if gated:
            losses |= self._gate_losses(gated[0], x_BCT, real_B1T)
        losses = {name: value / videos for name, value in losses.items()}
        free = self.reconstruction_weight * losses["rec"] + self.contrast_weight * losses["contrast"]
        if gated:
            free = free + self.gate_losses(losses["background"], losses["reconstruction"])
        return {**losses, "unsupervised": free, "total": losses["cls"] + losses["mask"] + free}

    def _gate_losses(self, gated: Gated, x_BCT: Tensor, real_B1T: Tensor) -> dict[str, Tensor]:
        """That all snippets of what the gate holds back are background, and the reconstruction; sums over videos."""
        mask = self._mask(real_B1T)
        logits_BKT: Tensor = self.network(gated.background, mask).logits_BKT
        none_BT = torch.where(self._counted(real_B1T)[:, 0], self.num_classes, IGNORED)
        background = class_loss(logits_BKT, none_BT, focal="focal" in self.repaired, summed="summed" in self.repaired)
        reconstruction = self.reconstruction_losses([gated], [x_BCT.detach()], [mask]).sum()
        return {"background": background, "reconstruction": reconstruction}

    def _contrast(self, said: MaskOutputs, lengths: list[int]) -> Tensor:
        chance_BT = self.uniform(said.embedded_BCT, self.max_length) if self.training else None
        loss = said.embedded_BCT.new_zeros(())
        for row, length in enumerate(lengths if self.contrast_weight else ()):
            loss = loss + boundary_contrast(
                said.embedded_BCT[row, :, :length].T,
                said.logits_BKT[row, :, :length],
                said.masks_BTT[row, :length, :length],
                None if chance_BT is None else chance_BT[row, :length],
            )
        return loss

    def pretext_loss(self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None) -> dict[str, Tensor]:
        """What is learnt without labels before the task, all from embeddings of changed features: which random
        foreground was kept (the rest is zero), what was dropped, and whether the halves were swapped."""
        videos = self._begin(part, len(lengths_B), feats_BTC.device)
        x_BCT, real_B1T = self.window(feats_BTC, lengths_B)
        mask, counted_B1T = self._mask(real_B1T), self._counted(real_B1T)
        if gated := self.attend([x_BCT], [mask]):
            x_BCT = gated[0].foreground
        lengths_B = counted_B1T.sum(dim=2)[:, 0]
        spans_B22 = random_foregrounds(self.uniform(x_BCT, 4), lengths_B)
        targets_BTT = torch.stack([blocks(spans_22, self.max_length) for spans_22 in spans_B22])
        kept_B1T = targets_BTT.diagonal(dim1=1, dim2=2)[:, None]
        masks_BTT = self.network.masks(self.network.embed(x_BCT * kept_B1T, mask)[1], mask)
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

    # -- for others to learn from --------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(
        self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None, choice: Choice | None = None
    ) -> Observed:
        """What a trained detector computes of a batch or a part of one; as `PointDetector.observe`."""
        assert not self.training, "call eval() first"
        x_BCT, real_B1T = self.window(feats_BTC, lengths_B)
        return _observed(*self._said(x_BCT, real_B1T), real_B1T)

    def distances(self, outputs: Outputs, level: int) -> Tensor:
        """Snippets have masks, no distances.

        Raises:
            TadError: always.
        """
        raise TadError("distill: spot says masks and no offsets; leave terms with target offsets out")

    # -- what it says --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def candidates(
        self, feats_BTC: Tensor, lengths_B: Tensor, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Candidates of each window before suppression, in its snippets; as `PointDetector.candidates`."""
        raw = self.raw(feats_BTC, lengths_B)
        return self.found(raw, len(lengths_B), score_threshold=score_threshold, topk=topk, min_length=min_length)

    @torch.no_grad()
    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Class logits and masks of the windows that are not empty."""
        assert not self.training, "call eval() first"
        rows = torch.nonzero(lengths_B)[:, 0].tolist()
        if not rows:
            return []
        said, _ = self._said(*self.window(feats_BTC[rows], lengths_B[rows]))
        return [Raw(rows, lengths_B[rows], {"logits_BKT": said.logits_BKT, "masks_BTT": said.masks_BTT})]

    @torch.no_grad()
    def found(
        self, raw: list[Raw], videos: int, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Candidates of a batch of so many windows from what `raw` gives."""
        device = self.network.classifier.weight.device
        empty = torch.zeros(0, 2, device=device), torch.zeros(0, device=device), torch.zeros(0, device=device).long()
        found = [Candidates(*empty) for _ in range(videos)]
        for part in raw:
            for place, (row, length) in enumerate(zip(part.rows, part.lengths_B.tolist(), strict=True)):
                found[row] = decode_masks(
                    part.outputs["logits_BKT"][place, :, :length].softmax(dim=0),
                    part.outputs["masks_BTT"][place, :length, :length],
                    seeds=self.seeds,
                    one_class=self.one_class,
                    score_threshold=score_threshold,
                    topk=topk,
                    min_length=min_length,
                )
        return found

    @torch.no_grad()
    def pseudo_targets(
        self, feats_BTC: Tensor, lengths_B: Tensor, *, confidence: float, mask: float
    ) -> list[Targets | None]:
        """What it is sure of in windows without labels: classes of probability `confidence`, masks of `mask`.

        A window without any still teaches reconstruction and contrast.
        """
        x_BCT, real_B1T = self.window(feats_BTC, lengths_B)
        said, _ = self._said(x_BCT, real_B1T)
        lengths = self._counted(real_B1T).sum(dim=2)[:, 0].tolist()
        sure = confident(said.logits_BKT.softmax(dim=1), said.masks_BTT, lengths, confidence=confidence, mask=mask)
        return [*sure]


def _observed(said: MaskOutputs, gated: list[Gated], real_B1T: Tensor) -> Observed:
    """Projected features, embeddings and classes; one level, without offsets."""
    outputs = Outputs(masks=[real_B1T], logits=[said.logits_BKT], offsets=[])
    return Observed(said.x_BCT, said.embedded_BCT, outputs, [g.attention_BCT for g in gated])
