"""The detector that AFSD is: windows of one length, two heads, losses of both and of borders that stay alike."""

# B videos, T snippets, C channels, K classes (0: background), P points of all levels, F frames, N instances

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.errors import TadError
from tad.layers import consistency
from tad.layers.chance import of_part
from tad.layers.faces import corrections_of
from tad.layers.gated import GatedDetector
from tad.layers.generative import Gated
from tad.layers.masked import Mask
from tad.layers.saliency import FeatureEmbedding, TapEmbedding
from tad.layers.saliency_criterion import UNKNOWN, Criterion
from tad.layers.saliency_losses import Predicted, softmax_focal
from tad.layers.saliency_network import HEAD_INITS, Augmented, Masks, Outputs, SaliencyNetwork
from tad.layers.saliency_points import FrameGrid, between, decode
from tad.layers.types import MAIN, Candidates, Choice, Cut, Observed, Part, Raw, Targets
from tad.layers.types import Outputs as RawOutputs

GATED = ("normalised", "target", "averaged")
CORRECTIONS = ("masked", "aligned", "detached", "background", "scaled", "padded", "summed", "turned", "he", *GATED)
MAP_WEIGHTS = [1.0, 0.1, 0.1]  # of the consistency of frames and of both branches
PUBLISHED_SCALE = 4  # snippet positions are frames divided by this for the consistency, whatever the stride


class SaliencyDetector(GatedDetector):
    """AFSD behind a sequence of features, and GAF with a gate; the arguments are those of afsd.yaml."""

    exclusive = True  # classes are scored by a softmax that the background takes part in

    def __init__(
        self,
        *,
        feature_dim: int,
        num_classes: int,
        max_length: int,
        face: str,
        corrections: Sequence[str],
        embed_dim: int,
        upsample: int,
        strides: Sequence[float],
        regression_ranges: Sequence[Sequence[float]],
        piou: float,
        adaptive_piou: bool,
        smooth_l1: bool,
        loss_weight: float,
        class_weight: float,
        normaliser: str,
        head_init: str,
        consistency_weight: float,
        consistency_share: float,
        gate: str,
        gate_settings: Mapping[str, Any],
    ) -> None:
        super().__init__(gate, gate_settings)
        levels = len(regression_ranges)
        if max_length % 2 ** (levels - 1):
            raise TadError(
                f"train.max_length: {max_length}: must be a multiple of {2 ** (levels - 1)}, the stride of the last of"
                f" {levels} levels (settings.regression_ranges)"
            )
        if len(strides) != levels:
            raise TadError(f"settings.strides: {list(strides)}: needs one per level of settings.regression_ranges")
        if embed_dim % 64:
            raise TadError(f"settings.embed_dim: {embed_dim}: must be a multiple of 64")
        if head_init not in HEAD_INITS:
            raise TadError(f"settings.head_init: '{head_init}': choose {' or '.join(HEAD_INITS)}")
        self.repaired = corrections_of(face, corrections, known=CORRECTIONS)
        self.masked = "masked" in self.repaired
        self.feature_dim, self.num_classes, self.max_length = feature_dim, num_classes, max_length
        self.grid = self.grid_of(max_length, upsample, regression_ranges, aligned="aligned" in self.repaired)
        self.criterion = Criterion(
            self.grid,
            piou=piou,
            adaptive=adaptive_piou,
            smooth=smooth_l1,
            detach_quality="detached" in self.repaired,
            normaliser=normaliser,
        )
        self.loss_weight, self.class_weight = loss_weight, class_weight
        self.consistency_weight, self.consistency_share = consistency_weight, consistency_share
        self.network = SaliencyNetwork(
            self.embedding(feature_dim, embed_dim),
            channels=embed_dim,
            outputs=num_classes + 1,
            strides=list(strides),
            grid=self.grid,
            masked=self.masked,
            head_init=head_init,
        )

    # -- what a detector on frames does in another way -----------------------------------------------------------------

    def grid_of(self, length: int, upsample: int, ranges: Sequence[Sequence[float]], *, aligned: bool) -> FrameGrid:
        """Snippets, frames and points of a window."""
        return FrameGrid(length, upsample, upsample, ranges, aligned=aligned)

    def embedding(self, inputs: int, channels: int) -> FeatureEmbedding | TapEmbedding:
        """What makes level 0 of the maps; the gates of these maps are made here too."""
        normalised = "normalised" in self.repaired
        self.add_gate(inputs, length=self.max_length, masked=self.masked, normalised=normalised)
        return FeatureEmbedding(inputs, channels, masked=self.masked)

    def maps_of(self, x_BTC: Tensor) -> list[Tensor]:
        """The feature maps of whole windows, which gates weigh."""
        return [x_BTC.transpose(1, 2)]

    def map_masks(self, masks: Masks) -> list[Mask]:
        """What counts of each map where padding is to change nothing."""
        return [masks.inner[0]]

    # -- windows -------------------------------------------------------------------------------------------------------

    def seen(self, maps: list[Tensor], masks: Masks) -> tuple[list[Tensor], list[Gated]]:
        """What the network sees of the maps, and all that the gates say of them."""
        gated = self.attend(maps, self.map_masks(masks))
        return [g.foreground for g in gated] or maps, gated

    def padded(self, length: int) -> int:
        """Snippets of the windows that a sequence is cut into by detect; no length is refused for that."""
        return -(-length // self.max_length) * self.max_length

    def view(self, feats_BTC: Tensor) -> Tensor | None:
        """What is chosen at random of each window while training, (B, 3) in [0, 1); None: nothing."""
        return None

    def window(self, feats_BTC: Tensor, lengths_B: Tensor, view_B3: Tensor | None = None) -> Tensor:
        """Features padded with zeros to whole windows.

        Raises:
            TadError: features of another width or longer than a window.
        """
        if feats_BTC.shape[2] != self.feature_dim:
            raise TadError(
                f"features: {feats_BTC.shape[2]} channels: the detector was made for {self.feature_dim};"
                " use the feature set it was trained on"
            )
        longest = int(lengths_B.max())
        if longest > self.max_length:
            raise TadError(
                f"features: {longest} snippets: this detector sees windows of {self.max_length}; set"
                " detect.window_stride, so that longer videos are cut into them, or raise train.max_length"
            )
        x_BTC = feats_BTC[:, : self.max_length]
        x_BTC = F.pad(x_BTC, (0, 0, 0, self.max_length - x_BTC.shape[1]))
        mask_BT1 = (
            torch.arange(self.max_length, device=x_BTC.device)[:, None] < lengths_B.to(x_BTC.device)[:, None, None]
        )
        return x_BTC.masked_fill(~mask_BT1, 0.0)

    # -- training ------------------------------------------------------------------------------------------------------

    def positives(self, lengths_B: Tensor, targets: list[Targets]) -> int:
        """Points with a class in a batch, known before any loss; not counted where losses are divided by video."""
        if self.criterion.normaliser == "video":
            return 0
        valid_BP = self.network.masks(lengths_B, targets[0].segments_N2.device).valid_BP
        return self.criterion.positives(valid_BP, targets)

    def normalise(self, positives: int) -> None:
        """A batch's `positives`; how many are refined the next loss counts, if it is of the whole batch."""
        self.criterion.counts_2 = torch.tensor([float(positives), UNKNOWN])

    @property
    def counts_ahead(self) -> bool:
        """Whether a loss of a part needs to know how many points are refined in the whole batch."""
        return self.criterion.normaliser == "batch" and self.phase == MAIN.name

    def normalise_refined(self, refined: int) -> None:
        """The sum of `refined` over a batch's parts."""
        self.criterion.counts_2[1] = float(refined)

    @torch.no_grad()
    def refined(self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None) -> int:
        """Points that the loss of these videos, with the same random stream, is going to refine."""
        of_part(self, part, given=len(targets), device=feats_BTC.device)
        x_BTC = self.window(feats_BTC, lengths_B, self.view(feats_BTC))
        masks = self.network.masks(lengths_B, x_BTC.device)
        outputs = self.network(self.seen(self.maps_of(x_BTC), masks)[0], masks)
        return self.criterion.refined(outputs, masks, targets)

    def training_state(self) -> dict[str, Tensor]:
        """What a batch's losses are divided by, where that is of the whole batch."""
        return {"counts": self.criterion.counts_2.clone()} if self.criterion.normaliser == "batch" else {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restores `training_state`."""
        self.criterion.counts_2 = state.get("counts", self.criterion.counts_2).cpu()

    def loss(
        self,
        feats_BTC: Tensor,
        lengths_B: Tensor,
        targets: list[Targets],
        part: Part | None = None,
        *,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a training batch, means over its videos, and their weighted sum `total`; arguments as
        `tad.layers.detector.PointDetector.loss`."""
        assert len(targets) == feats_BTC.shape[0] == lengths_B.shape[0]
        if self.training and part is None:
            self.normalise(self.positives(lengths_B, targets))
        of_part(self, part, given=len(targets), device=feats_BTC.device)
        view_B3 = self.view(feats_BTC)
        x_BTC = self.window(feats_BTC, lengths_B, view_B3)
        videos = part.videos if part else len(targets)
        masks, maps = self.network.masks(lengths_B, x_BTC.device), self.maps_of(x_BTC)
        if self.phase != MAIN.name:
            vae = self.vae_losses(maps, self.map_masks(masks), seen).sum() / videos
            return {"vae": vae, "total": vae}
        weighed, gated = self.seen(maps, masks)
        outputs = self.network(weighed, masks)
        losses = self.losses_of(outputs, masks, targets, videos=videos)
        cuts: dict[int, Cut] = {}
        again: Augmented | None = None
        if self.training and self.consistency_weight > 0:
            cuts = consistency.cuts(
                targets,
                self.uniform(x_BTC, 4),
                lengths=lengths_B.tolist() if self.masked else [self.max_length] * len(targets),
                share=self.consistency_share,
                background="background" in self.repaired,
            )
            again = self.augmented(x_BTC, lengths_B, cuts)
            losses["consistency"] = self._consistency_loss(again, cuts)
        if seen is not None:
            seen.append(self._observed(weighed, gated, outputs, lengths_B, again, Choice(view_B3, cuts)))
        if gated:
            losses["background"] = self._background_loss(gated, masks, videos)
            losses["reconstruction"] = self._reconstruction_loss(maps, gated, masks, again, list(cuts))
        losses = {name: value / videos for name, value in losses.items()}
        located = losses["loc"] + losses["refined_loc"]
        classed = losses["cls"] + losses["refined_cls"] + losses["quality"]
        total = self.loss_weight * located + self.class_weight * classed + losses["borders"]
        total = total + self.consistency_weight * losses.get("consistency", 0.0)
        if gated:
            total = total + self.gate_losses(losses["background"], losses["reconstruction"])
        return losses | {"total": total}

    def _background_loss(self, gated: list[Gated], masks: Masks, videos: int) -> Tensor:
        """Coarse classes of what the gates call background: all points are to say so. Mean over those that count, as if
        all did; published: the sum, over a batch's videos as well."""
        logits_BPK = self.network.class_logits([g.background for g in gated], masks)
        labels_BP = torch.zeros(logits_BPK.shape[:2], dtype=torch.long, device=logits_BPK.device)
        loss_BP = softmax_focal(logits_BPK.flatten(0, 1), labels_BP.flatten()).view(labels_BP.shape)
        loss_BP = self.class_weight * loss_BP
        if "averaged" not in self.repaired:
            return loss_BP.sum() * videos  # what divides by the number of videos is not to
        return ((loss_BP * masks.valid_BP).sum(dim=1) / masks.valid_BP.sum(dim=1) * loss_BP.shape[1]).sum()

    def _reconstruction_loss(
        self, maps: list[Tensor], gated: list[Gated], masks: Masks, again: Augmented | None, rows: list[int]
    ) -> Tensor:
        """Generated features against the true ones; published: against those of the background or of the augmented
        window, whichever had overwritten them last."""
        wanted = [x.detach() for x in maps]
        if "target" not in self.repaired:
            places = {row: place for place, row in enumerate(rows)}
            wanted = [
                torch.stack(
                    [again.maps[k][places[row]] if again and row in places else x for row, x in enumerate(g.background)]
                )
                for k, g in enumerate(gated)
            ]
        return self.reconstruction_losses(gated, wanted, self.map_masks(masks)).sum()

    def losses_of(
        self, outputs: Outputs, masks: Masks, targets: list[Targets], *, videos: int = 0
    ) -> dict[str, Tensor]:
        """Sums over the videos of their losses; `videos` of the whole batch, 0: these."""
        return self.criterion.losses(outputs, masks, targets, videos=videos or len(targets), training=self.training)

    def augmented(self, x_BTC: Tensor, lengths_B: Tensor, cuts: Mapping[int, Cut]) -> Augmented | None:
        """What the gates make of the windows that are cut, one after another; None without any."""
        if not cuts:
            return None
        rows = list(cuts)
        cut_BTC = x_BTC[rows].clone()  # padding behind a shorter video stays
        for place, (row, made) in enumerate(cuts.items()):
            cut_BTC[place, : len(made.source_T)] = x_BTC[row][made.source_T]
        masks = self.network.masks(lengths_B[rows], x_BTC.device)
        return Augmented(*self.seen(self.maps_of(cut_BTC), masks), masks)

    def _consistency_loss(self, again: Augmented | None, cuts: Mapping[int, Cut]) -> Tensor:
        """Sum over the videos of the triplet loss on their augmented windows; 0 for those that cannot be cut."""
        if again is None:
            return torch.zeros((), device=next(self.parameters()).device)
        maps = self.network.border_maps(again.maps, again.masks)
        near = self.grid.stretch if "scaled" in self.repaired else PUBLISHED_SCALE
        frames = [self.grid.to_frames(made.parts_32) for made in cuts.values()]
        return consistency.triplets(maps, frames, scales=[1, near, near], weights=MAP_WEIGHTS)

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """The parameters of a pass, all with weight decay; those of the VAE without."""
        decay = weight_decay if phase == MAIN.name else 0.0
        return self.of_phase([{"params": list(self.parameters()), "weight_decay": decay}], phase)

    # -- for others to learn from --------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(
        self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None, choice: Choice | None = None
    ) -> Observed:
        """What a trained detector computes of a batch or a part of one; as for `loss`.

        `choice`: what the student chose at random, for which it is computed too: the same crops and cut windows.
        """
        assert not self.training, "call eval() first"
        chosen = choice or Choice()
        x_BTC = self.window(feats_BTC, lengths_B, chosen.view_B3)
        masks = self.network.masks(lengths_B, x_BTC.device)
        weighed, gated = self.seen(self.maps_of(x_BTC), masks)
        again = self.augmented(x_BTC, lengths_B, chosen.cuts)
        return self._observed(weighed, gated, self.network(weighed, masks), lengths_B, again, chosen)

    def _observed(
        self,
        maps: list[Tensor],
        gated: list[Gated],
        outputs: Outputs,
        lengths_B: Tensor,
        again: Augmented | None,
        choice: Choice,
    ) -> Observed:
        """The coarse head's classes and distances stand for logits and offsets."""
        count, device = self.grid.counts()[0], outputs.zero_BCT.device
        real_B1 = -(-lengths_B.to(device) * self.grid.upsample // self.grid.stretch)[:, None]
        mask_B1T = (torch.arange(count, device=device) < real_B1)[:, None]
        said = RawOutputs(
            masks=[mask_B1T[:, :, :: 2**level] for level in range(len(outputs.coarse))],
            logits=[level.logits_BTK.transpose(1, 2) for level in outputs.coarse],
            offsets=[level.distances_BT2.transpose(1, 2) for level in outputs.coarse],
        )
        attentions, augmented = ([g.attention_BCT for g in some] for some in (gated, again.gated if again else []))
        return Observed(maps[0], outputs.zero_BCT, said, attentions, choice, augmented)

    def distances(self, outputs: RawOutputs, level: int) -> Tensor:
        """Both distances of every point of a level, (B, 2, T)."""
        return outputs.offsets[level]

    # -- candidates ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def candidates(
        self, feats_BTC: Tensor, lengths_B: Tensor, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Candidates of each window before suppression, in its snippets; as `PointDetector.candidates`."""
        raw = self.raw(feats_BTC, lengths_B)
        return self.found(raw, len(lengths_B), score_threshold=score_threshold, topk=topk, min_length=min_length)

    @torch.no_grad()
    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Fields of `Predicted` with a first axis of videos, of all videos with a snippet."""
        assert not self.training, "call eval() first"
        rows = torch.nonzero(lengths_B)[:, 0].tolist()
        if not rows:
            return []
        x_BTC = self.window(feats_BTC[rows], lengths_B[rows])
        masks = self.network.masks(lengths_B[rows], x_BTC.device)
        outputs: Outputs = self.network(self.seen(self.maps_of(x_BTC), masks)[0], masks)
        return [Raw(rows, lengths_B[rows], outputs.joined())]

    def geometric(self, raws: Sequence[Raw]) -> dict[str, Tensor]:
        """Fields of the outputs that make each point's segment the geometric mean of several networks' (`between`)."""
        return between(self.grid, [raw.outputs for raw in raws])

    @torch.no_grad()
    def found(
        self, raw: list[Raw], videos: int, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Candidates of a batch of so many windows from what `raw` gives."""
        device = next(self.parameters()).device
        empty = torch.zeros(0, 2, device=device), torch.zeros(0, device=device), torch.zeros(0, device=device).long()
        found = [Candidates(*empty) for _ in range(videos)]
        for part in raw:
            valid_BP = self.network.masks(part.lengths_B, device).valid_BP
            for place, row in enumerate(part.rows):
                said = Predicted(**{name: value[place] for name, value in part.outputs.items()})
                found[row] = decode(
                    said,
                    self.grid,
                    valid_BP[place],
                    score_threshold=score_threshold,
                    topk=topk,
                    min_length=min_length,
                )
        return found
