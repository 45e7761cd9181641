"""Base of AFSD and GAF: fixed-length windows, a coarse and a refining head, boundary consistency, optional gate."""

# B videos, T snippets, C channels, K classes (0: background), P points of all levels, F frames, N instances

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.detectors._afsd import consistency
from tad.detectors._afsd.criterion import UNKNOWN, Criterion
from tad.detectors._afsd.losses import FOCAL_EPSILON, Predicted, refine, softmax_focal
from tad.detectors._afsd.modules import FeatureEmbedding, TapEmbedding
from tad.detectors._afsd.network import Augmented, Masks, Outputs, SaliencyNetwork
from tad.detectors._afsd.points import FrameGrid, between, decode
from tad.detectors._afsd.settings import SaliencyFeatureSettings, SaliencySettings
from tad.detectors._faces import corrections_of
from tad.layers.chance import of_part
from tad.layers.gate.attention import Gated
from tad.layers.gate.detector import GatedDetector
from tad.layers.masked import Mask
from tad.layers.types import MAIN, Candidates, Choice, Cut, Observed, Part, Raw, Targets
from tad.layers.types import Outputs as RawOutputs

MAP_WEIGHTS = [1.0, 0.1, 0.1]  # of the consistency losses on frames and on both branches
PUBLISHED_SCALE = 4  # published: frames per position in the consistency loss, whatever the stride


class SaliencyDetector(GatedDetector):
    """AFSD on a sequence of features; with a gate, GAF. For the settings see `_afsd/settings.py`."""

    exclusive = True  # class scores are a softmax that includes the background
    observable = True
    graphable = True
    windowed = True

    def __init__(self, settings: SaliencySettings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        super().__init__(settings.gate_settings, gated=settings.gated)
        if max_length % settings.last_stride:
            raise TadError(
                f"train.max_length: {max_length}: must be a multiple of {settings.last_stride}, the stride of the last"
                f" of {settings.levels} levels (settings.regression_ranges)"
            )
        self.settings, self.repaired = settings, corrections_of(settings)
        self.masked = "masked" in self.repaired
        self.feature_dim, self.num_classes, self.max_length = feature_dim, num_classes, max_length
        self.grid = self.grid_of(max_length)
        self.criterion = Criterion(
            self.grid,
            piou=settings.piou,
            adaptive=settings.adaptive_piou,
            smooth=settings.smooth_l1,
            detach_quality="detached" in self.repaired,
            normaliser=settings.normaliser,
            epsilon=0.0 if settings.face == "corrected" else FOCAL_EPSILON,
        )
        self.network = SaliencyNetwork(
            self.embedding(feature_dim, settings.embed_dim),
            channels=settings.embed_dim,
            outputs=num_classes + 1,
            strides=list(settings.strides),
            grid=self.grid,
            masked=self.masked,
            head_init=settings.head_init,
        )

    # -- hooks that a detector on frames overrides ---------------------------------------------------------------------

    def grid_of(self, length: int) -> FrameGrid:
        """Return the `FrameGrid` of a window of `length` snippets."""
        assert isinstance(self.settings, SaliencyFeatureSettings)
        upsample, aligned = self.settings.upsample, "aligned" in self.repaired
        return FrameGrid(length, upsample, upsample, self.settings.regression_ranges, aligned=aligned)

    def embedding(self, inputs: int, channels: int) -> FeatureEmbedding | TapEmbedding:
        """Create the module that computes the first levels from the feature maps, and the gates of these maps."""
        normalised = "normalised" in self.repaired
        self.add_gate(inputs, length=self.max_length, masked=self.masked, normalised=normalised)
        return FeatureEmbedding(inputs, channels, masked=self.masked)

    def maps_of(self, x_BTC: Tensor) -> list[Tensor]:
        """Compute the feature maps of whole windows, which the gates weight."""
        return [x_BTC.transpose(1, 2)]

    def map_masks(self, masks: Masks) -> list[Mask]:
        """Return the mask of each feature map; None: padding is not masked."""
        return [masks.inner[0]]

    # -- windows -------------------------------------------------------------------------------------------------------

    def seen(self, maps: list[Tensor], masks: Masks) -> tuple[list[Tensor], list[Gated]]:
        """Apply the gates; return the maps that the network sees and the gates' results (none without a gate)."""
        gated = self.attend(maps, self.map_masks(masks))
        return [g.foreground for g in gated] or maps, gated

    def padded(self, length: int) -> int:
        """Round a length up to whole windows, into which detection cuts a sequence; any length is accepted."""
        return -(-length // self.max_length) * self.max_length

    def view(self, feats_BTC: Tensor) -> Tensor | None:
        """Draw the random augmentation of each training window, (B, 3) in [0, 1); None: no augmentation."""
        return None

    def window(self, feats_BTC: Tensor, lengths_B: Tensor, view_B3: Tensor | None = None) -> Tensor:
        """Pad features with zeros to a whole window.

        Raises:
            TadError: the features have another width or are longer than a window.
        """
        self.expect_width(feats_BTC)
        longest = int(lengths_B.max())
        if longest > self.max_length:
            raise TadError(
                f"features: {longest} snippets: this detector accepts windows of {self.max_length}; set"
                " detect.window_stride to cut longer videos into windows, or raise train.max_length"
            )
        x_BTC = feats_BTC[:, : self.max_length]
        x_BTC = F.pad(x_BTC, (0, 0, 0, self.max_length - x_BTC.shape[1]))
        mask_BT1 = (
            torch.arange(self.max_length, device=x_BTC.device)[:, None] < lengths_B.to(x_BTC.device)[:, None, None]
        )
        return x_BTC.masked_fill(~mask_BT1, 0.0)

    # -- training ------------------------------------------------------------------------------------------------------

    def positives(self, lengths_B: Tensor, targets: list[Targets]) -> int:
        """Count the positive points of a batch from its labels; 0 if losses are normalised per video."""
        if self.criterion.normaliser == "video":
            return 0
        valid_BP = self.network.masks(lengths_B, targets[0].segments_N2.device).valid_BP
        return self.criterion.positives(valid_BP, targets)

    def normalise(self, positives: int) -> None:
        """Set the batch's `positives`; a loss on the whole batch then counts the refined points itself."""
        self.criterion.counts_2 = torch.tensor([float(positives), UNKNOWN])

    @property
    def counts_ahead(self) -> bool:
        """Whether micro-batch losses need the number of refined points of the whole batch in advance."""
        return self.criterion.normaliser == "batch" and self.phase == MAIN.name

    def normalise_by_refined(self, count: int) -> None:
        """Set the normaliser to the sum of `refined_positives` over the batch."""
        self.criterion.counts_2[1] = float(count)

    @torch.no_grad()
    def refined_positives(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None
    ) -> int:
        """Count the points that the loss of these videos will refine, given the same random stream."""
        of_part(self, part, given=len(targets), device=feats_BTC.device)
        x_BTC = self.window(feats_BTC, lengths_B, self.view(feats_BTC))
        masks = self.network.masks(lengths_B, x_BTC.device)
        outputs = self.network(self.seen(self.maps_of(x_BTC), masks)[0], masks)
        return self.criterion.refined_positives(outputs, masks, targets)

    def training_state(self) -> dict[str, Tensor]:
        """Return the training state besides the weights: the loss normaliser, if it covers the whole batch."""
        return {"counts": self.criterion.counts_2.clone()} if self.criterion.normaliser == "batch" else {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restore a state returned by `training_state`."""
        self.criterion.counts_2 = state.get("counts", self.criterion.counts_2).cpu()

    def loss(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the losses of a training batch, means over its videos, and their weighted sum `total`.

        Arguments as for `tad.detectors._points.detector.PointDetector.loss`.
        """
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
        if self.training and self.settings.consistency_weight > 0:
            cuts = consistency.cuts(
                targets,
                self.uniform(x_BTC, 4),
                lengths=lengths_B.tolist() if self.masked else [self.max_length] * len(targets),
                share=self.settings.consistency_share,
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
        total = self.settings.loss_weight * located + self.settings.class_weight * classed + losses["borders"]
        total = total + self.settings.consistency_weight * losses.get("consistency", 0.0)
        if gated:
            total = total + self.gate_losses(losses["background"], losses["reconstruction"])
        return losses | {"total": total}

    def _background_loss(self, gated: list[Gated], masks: Masks, videos: int) -> Tensor:
        """Compute the loss that makes the coarse head classify features suppressed by the gates as background.

        It is the mean over valid points times the number of all points, summed over videos. Published: the sum over
        points, and over a batch's videos as well.
        """
        logits_BPK = self.network.class_logits([g.background for g in gated], masks)
        labels_BP = torch.zeros(logits_BPK.shape[:2], dtype=torch.long, device=logits_BPK.device)
        loss_BP = softmax_focal(logits_BPK.flatten(0, 1), labels_BP.flatten(), epsilon=self.criterion.epsilon)
        loss_BP = loss_BP.view(labels_BP.shape)
        loss_BP = self.settings.class_weight * loss_BP
        if "averaged" not in self.repaired:
            return loss_BP.sum() * videos  # cancels the division by the number of videos
        return ((loss_BP * masks.valid_BP).sum(dim=1) / masks.valid_BP.sum(dim=1) * loss_BP.shape[1]).sum()

    def _reconstruction_loss(
        self, maps: list[Tensor], gated: list[Gated], masks: Masks, again: Augmented | None, rows: list[int]
    ) -> Tensor:
        """Compute the reconstruction loss between generated and true features, summed over videos.

        Published: the target is the suppressed features or those of the augmented window, whichever had overwritten the
        true ones last.
        """
        targets = [x.detach() for x in maps]
        if "target" not in self.repaired:
            places = {row: index for index, row in enumerate(rows)}
            targets = [
                torch.stack(
                    [again.maps[k][places[row]] if again and row in places else x for row, x in enumerate(g.background)]
                )
                for k, g in enumerate(gated)
            ]
        return self.reconstruction_losses(gated, targets, self.map_masks(masks)).sum()

    def losses_of(
        self, outputs: Outputs, masks: Masks, targets: list[Targets], *, videos: int = 0
    ) -> dict[str, Tensor]:
        """Return the losses summed over these videos; `videos` is the size of the whole batch, 0: of this one."""
        return self.criterion.losses(outputs, masks, targets, videos=videos or len(targets), training=self.training)

    def augmented(self, x_BTC: Tensor, lengths_B: Tensor, cuts: Mapping[int, Cut]) -> Augmented | None:
        """Apply the cuts and compute maps and gates of the augmented windows; None without cuts."""
        if not cuts:
            return None
        rows = list(cuts)
        cut_BTC = x_BTC[rows].clone()  # padding after a shorter video is unchanged
        for index, (row, cut) in enumerate(cuts.items()):
            cut_BTC[index, : len(cut.source_T)] = x_BTC[row][cut.source_T]
        masks = self.network.masks(lengths_B[rows], x_BTC.device)
        return Augmented(*self.seen(self.maps_of(cut_BTC), masks), masks)

    def _consistency_loss(self, again: Augmented | None, cuts: Mapping[int, Cut]) -> Tensor:
        """Compute the triplet loss on the augmented windows, summed over videos; uncut videos contribute 0."""
        if again is None:
            return torch.zeros((), device=next(self.parameters()).device)
        maps = self.network.border_maps(again.maps, again.masks)
        near = self.grid.stretch if "scaled" in self.repaired else PUBLISHED_SCALE
        frames = [self.grid.to_frames(cut.parts_32) for cut in cuts.values()]
        return consistency.triplets(maps, frames, scales=[1, near, near], weights=MAP_WEIGHTS)

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """Return a phase's parameter groups: all parameters with weight decay, except the VAE's."""
        decay = weight_decay if phase == MAIN.name else 0.0
        return self.of_phase([{"params": list(self.parameters()), "weight_decay": decay}], phase)

    # -- distillation --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(
        self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None, choice: Choice | None = None
    ) -> Observed:
        """Return a trained detector's features and outputs for distillation; arguments as for `loss`.

        `choice`: the student's random augmentation, which is replayed: the same crops and cuts.
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
        """Collect the intermediate results; logits and offsets are the coarse head's classes and distances."""
        count, device = self.grid.counts()[0], outputs.zero_BCT.device
        real_B1 = -(-lengths_B.to(device) * self.grid.upsample // self.grid.stretch)[:, None]
        mask_B1T = (torch.arange(count, device=device) < real_B1)[:, None]
        coarse = RawOutputs(
            masks=[mask_B1T[:, :, :: 2**level] for level in range(len(outputs.coarse))],
            logits=[level.logits_BTK.transpose(1, 2) for level in outputs.coarse],
            offsets=[level.distances_BT2.transpose(1, 2) for level in outputs.coarse],
        )
        attentions, augmented = ([g.attention_BCT for g in some] for some in (gated, again.gated if again else []))
        return Observed(maps[0], outputs.zero_BCT, coarse, attentions, choice, augmented)

    def distances(self, outputs: RawOutputs, level: int) -> Tensor:
        """Return both distances of every point of a level, (B, 2, T)."""
        return outputs.offsets[level]

    # -- candidates ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Return the fields of `Predicted` for all videos that are not empty, with videos as the first axis."""
        rows = self.filled(lengths_B)
        if not rows:
            return []
        x_BTC = self.window(feats_BTC[rows], lengths_B[rows])
        masks = self.network.masks(lengths_B[rows], x_BTC.device)
        outputs: Outputs = self.network(self.seen(self.maps_of(x_BTC), masks)[0], masks)
        return [Raw(rows, lengths_B[rows], outputs.joined())]

    def prepared(self, x_BTC: Tensor, real_BT: Tensor) -> Tensor:
        """Prepare whole windows for the network; their padding is 0."""
        return x_BTC

    def dense(self, feats_BTC: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of windows for all points; see `DetectorBase.dense`.

        The logits are those of the refining head, with the background as class 0, so they have one class more.
        """
        real_BT = torch.arange(self.max_length, device=feats_BTC.device) < lengths_B[:, None]
        x_BTC = self.prepared(feats_BTC.masked_fill(~real_BT[:, :, None], 0.0), real_BT)
        masks = self.network.masks(lengths_B, x_BTC.device)
        raw = self.network(self.seen(self.maps_of(x_BTC), masks)[0], masks).joined()
        mean_BPK = 0.5 * (raw["logits_PK"].softmax(dim=2) + raw["refined_PK"].softmax(dim=2))[:, :, 1:]
        score_BPK = mean_BPK * raw["quality_P"].sigmoid()[:, :, None] * masks.valid_BP[:, :, None]
        centre_P = self.grid.points(x_BTC.device)[:, 0]
        left_BP, right_BP = refine(raw["distances_P2"], raw["offsets_P2"]).unbind(2)
        frames_BP2 = torch.stack([centre_P - left_BP, centre_P + right_BP], dim=2).clamp(0, self.grid.frames)
        counts = self.grid.counts()
        level = torch.cat([torch.full((count,), k, dtype=torch.long) for k, count in enumerate(counts)])
        segments_BP12 = self.grid.to_snippets(frames_BP2)[:, :, None]
        return {"logits": raw["refined_PK"], "scores": score_BPK, "segments": segments_BP12, "level": level}

    def geometric(self, raws: Sequence[Raw]) -> dict[str, Tensor]:
        """Fuse several networks' segments by their geometric mean (`between`); return the outputs that change."""
        return between(self.grid, [raw.outputs for raw in raws])

    @torch.no_grad()
    def decode_candidates(
        self, raw: list[Raw], videos: int, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Decode the outputs of `raw` into the candidates of a batch of `videos` windows."""
        device = next(self.parameters()).device
        empty = torch.zeros(0, 2, device=device), torch.zeros(0, device=device), torch.zeros(0, device=device).long()
        candidates = [Candidates(*empty) for _ in range(videos)]
        for part in raw:
            valid_BP = self.network.masks(part.lengths_B, device).valid_BP
            for index, row in enumerate(part.rows):
                predicted = Predicted(**{name: value[index] for name, value in part.outputs.items()})
                candidates[row] = decode(
                    predicted,
                    self.grid,
                    valid_BP[index],
                    score_threshold=score_threshold,
                    topk=topk,
                    min_length=min_length,
                )
        return candidates
