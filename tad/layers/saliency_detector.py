"""The detector that AFSD is: windows of one length, two heads, losses of both and of borders that stay alike."""

# B videos, T snippets, C channels, K classes (0: background), P points of all levels, F frames, N instances

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.errors import TadError
from tad.layers import consistency
from tad.layers.boundaries import boundary_max_pool, frame_regions
from tad.layers.chance import PerVideo, of_part
from tad.layers.faces import corrections_of
from tad.layers.masked import Mask, padding_of
from tad.layers.saliency import Coarse, CoarseHead, ConvUnit, LevelPyramid, Refined, RefineHead, glorot, narrow
from tad.layers.saliency_losses import Predicted, assign, border_loss, border_marks, video_losses
from tad.layers.saliency_points import FrameGrid, decode
from tad.layers.types import Candidates, Part, Targets

CORRECTIONS = ("masked", "aligned", "detached", "background", "scaled")
BORDER_WEIGHT = 0.1  # of border losses on the branches, beside that on frames
MAP_WEIGHTS = [1.0, 0.1, 0.1]  # of the consistency of frames and of both branches
PUBLISHED_SCALE = 4  # snippet positions are frames divided by this for the consistency, whatever the stride


@dataclass(frozen=True, slots=True)
class Outputs:
    """What both heads say of a batch.

    Attributes:
        coarse, refined: per level.
        frames_BCF: frame-level features.
        masks: per level; None: everything counts.
    """

    coarse: list[Coarse]
    refined: list[Refined]
    frames_BCF: Tensor
    masks: list[Mask]

    def joined(self) -> dict[str, Tensor]:
        """The fields of `Predicted` with a first axis of videos, all levels one after another."""
        return {
            "distances_P2": torch.cat([level.distances_BT2 for level in self.coarse], dim=1),
            "logits_PK": torch.cat([level.logits_BTK for level in self.coarse], dim=1),
            "offsets_P2": torch.cat([level.offsets_BT2 for level in self.refined], dim=1),
            "refined_PK": torch.cat([level.logits_BTK for level in self.refined], dim=1),
            "quality_P": torch.cat([level.quality_BT for level in self.refined], dim=1),
        }


class SaliencyDetector(PerVideo):
    """AFSD behind a sequence of features; the arguments are those of afsd.yaml."""

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
        consistency_weight: float,
        consistency_share: float,
    ) -> None:
        super().__init__()
        levels = len(regression_ranges)
        self.coarsest: int = 2 ** (levels - 1)
        if max_length % self.coarsest:
            raise TadError(
                f"train.max_length: {max_length}: must be a multiple of {self.coarsest}, the stride of the last of"
                f" {levels} levels (settings.regression_ranges)"
            )
        if len(strides) != levels:
            raise TadError(f"settings.strides: {list(strides)}: needs one per level of settings.regression_ranges")
        if embed_dim % 64:
            raise TadError(f"settings.embed_dim: {embed_dim}: must be a multiple of 64")
        self.repaired = corrections_of(face, corrections, known=CORRECTIONS)
        self.masked = "masked" in self.repaired
        self.feature_dim, self.num_classes, self.max_length = feature_dim, num_classes, max_length
        self.grid = FrameGrid(max_length, upsample, regression_ranges, aligned="aligned" in self.repaired)
        self.upsample, self.frames, self.ranges = upsample, self.grid.frames, regression_ranges
        self.piou, self.adaptive_piou, self.smooth_l1 = piou, adaptive_piou, smooth_l1
        self.loss_weight, self.class_weight = loss_weight, class_weight
        self.consistency_weight, self.consistency_share = consistency_weight, consistency_share
        self.embed = ConvUnit(feature_dim, embed_dim, masked=self.masked)
        self.pyramid = LevelPyramid(embed_dim, levels=levels, upsample=upsample, masked=self.masked)
        self.coarse = CoarseHead(embed_dim, outputs=num_classes + 1, strides=strides, masked=self.masked)
        self.refine = RefineHead(embed_dim, outputs=num_classes + 1, masked=self.masked)
        glorot(self.embed)
        glorot(self.pyramid)
        narrow(self.coarse)
        narrow(self.refine)

    # -- network -------------------------------------------------------------------------------------------------------

    def level_zero(self, x_BTC: Tensor, mask_B1T: Mask) -> Tensor:
        """The features' level 0, (B, C, T)."""
        embedded_BCT: Tensor = self.embed(x_BTC.transpose(1, 2), mask_B1T)
        return embedded_BCT

    def _masks(self, lengths_B: Tensor, device: torch.device) -> tuple[list[Mask], Mask, Tensor]:
        """Masks for the pyramid, for the frames, and of the points, all levels joined."""
        mask_BT = torch.arange(self.max_length, device=device) < lengths_B.to(device)[:, None]
        masks = [mask_BT[:, None, :: 2**level] for level in range(len(self.ranges))]
        valid_BP = torch.cat(masks, dim=2)[:, 0]
        if padding_of(masks[0]) is None:
            return [None] * len(masks), None, valid_BP
        return [*masks], masks[0].repeat_interleave(self.upsample, dim=2), valid_BP

    def outputs(self, x_BTC: Tensor, lengths_B: Tensor) -> Outputs:
        """Both heads on a batch of whole windows (B, max_length, …), zero on the padding."""
        masks, mask_B1F, _ = self._masks(lengths_B, x_BTC.device)
        # published: padding is zeroed within the pyramid and nowhere else
        none: list[Mask] = [None] * len(masks)
        inner, inner_F = (masks, mask_B1F) if self.masked else (none, None)
        maps = self.pyramid.levels(self.level_zero(x_BTC, masks[0]), masks)
        frames_BCF = self.pyramid.frame_features(maps[0], inner_F)
        coarse = [self.coarse(x, mask, level) for level, (x, mask) in enumerate(zip(maps, inner, strict=True))]
        refined = [self.refine(said, frames_BCF, mask) for said, mask in zip(coarse, inner, strict=True)]
        return Outputs(coarse, refined, frames_BCF, inner)

    def padded(self, length: int) -> int:
        """Snippets of the windows that a sequence is cut into by detect; no length is refused for that."""
        return -(-length // self.max_length) * self.max_length

    def window(self, feats_BTC: Tensor, lengths_B: Tensor) -> Tensor:
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

    def loss(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None
    ) -> dict[str, Tensor]:
        """Losses of a training batch, means over its videos, and their weighted sum `total`; arguments as
        `tad.layers.detector.PointDetector.loss`."""
        assert len(targets) == feats_BTC.shape[0] == lengths_B.shape[0]
        of_part(self, part, given=len(targets), device=feats_BTC.device)
        x_BTC = self.window(feats_BTC, lengths_B)
        losses = self.losses_of(self.outputs(x_BTC, lengths_B), lengths_B, targets)
        if self.training and self.consistency_weight > 0:
            chance_B4 = self.uniform(x_BTC, 4)
            losses["consistency"] = self.consistency(x_BTC, lengths_B, targets, chance_B4)
        videos = part.videos if part else len(targets)
        losses = {name: value / videos for name, value in losses.items()}
        located = losses["loc"] + losses["refined_loc"]
        classed = losses["cls"] + losses["refined_cls"] + losses["quality"]
        total = self.loss_weight * located + self.class_weight * classed + losses["borders"]
        return losses | {"total": total + self.consistency_weight * losses.get("consistency", 0.0)}

    def losses_of(self, outputs: Outputs, lengths_B: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Sums over the videos of their losses."""
        joined, device = outputs.joined(), outputs.frames_BCF.device
        points_P3 = self.grid.points(device)
        valid_BP = self._masks(lengths_B, device)[2] if self.masked else torch.ones_like(joined["quality_P"]).bool()
        sums: dict[str, Tensor] = {}
        for row, target in enumerate(targets):
            segments_N2 = self.grid.to_frames(target.segments_N2)
            said = Predicted(**{name: value[row][valid_BP[row]] for name, value in joined.items()})
            found = video_losses(
                said,
                assign(points_P3[valid_BP[row]], segments_N2, target.labels_N),
                piou=self.piou,
                adaptive=self.adaptive_piou,
                smooth=self.smooth_l1,
                detach_quality="detached" in self.repaired,
            )
            found["borders"] = self._border_losses(outputs, row, segments_N2)
            for name, value in found.items():
                sums[name] = sums.get(name, 0) + value
        return sums

    def _border_losses(self, outputs: Outputs, row: int, segments_N2: Tensor) -> Tensor:
        marks_2F = border_marks(segments_N2, frames=self.frames)
        mask_B1T, valid_T, valid_F = outputs.masks[0], None, None
        if mask_B1T is not None:
            valid_T = mask_B1T[row, 0]
            valid_F = valid_T.repeat_interleave(self.upsample)
        loss = border_loss(outputs.frames_BCF[row], marks_2F, valid_F)
        for near_BCT in (outputs.refined[0].loc_BCT, outputs.refined[0].cls_BCT):
            loss = loss + BORDER_WEIGHT * border_loss(near_BCT[row], marks_2F[:, :: self.upsample], valid_T)
        return loss

    def consistency(self, x_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], chance_B4: Tensor) -> Tensor:
        """Sum over the videos of the triplet loss on their augmented windows; 0 for those that cannot be cut."""
        cuts = {}
        for row, target in enumerate(targets):
            shortest = target.shortest or min((end - start for start, end in target.segments_N2.tolist()), default=0.0)
            made = consistency.cut(
                target.segments_N2,
                chance_B4[row],
                length=int(lengths_B[row]) if self.masked else self.max_length,
                width=consistency.width_of(shortest, self.consistency_share),
                background="background" in self.repaired,
            )
            if made is not None:
                cuts[row] = made
        if not cuts:
            return x_BTC.new_zeros(())
        rows = list(cuts)
        cut_BTC = torch.stack([x_BTC[row][made.source_T] for row, made in cuts.items()])
        maps = self.border_maps(cut_BTC, lengths_B[rows])
        loss = x_BTC.new_zeros(())
        near = self.upsample if "scaled" in self.repaired else PUBLISHED_SCALE
        for row, made in enumerate(cuts.values()):
            start_13, end_13 = self.grid.to_frames(made.parts_32).T[:, None]
            regions_134 = frame_regions(start_13, end_13)
            scales = [1, near, near]
            pooled = [boundary_max_pool(m[row][None], regions_134 / s)[0] for m, s in zip(maps, scales, strict=True)]
            loss = loss + consistency.triplet(pooled, MAP_WEIGHTS)
        return loss

    def border_maps(self, x_BTC: Tensor, lengths_B: Tensor) -> list[Tensor]:
        """Frame-level features and the border features of both branches on level 0."""
        masks, mask_B1F, _ = self._masks(lengths_B, x_BTC.device)
        inner, inner_F = (masks[0], mask_B1F) if self.masked else (None, None)
        zero_BCT = self.level_zero(x_BTC, masks[0])
        frames_BCF = self.pyramid.frame_features(zero_BCT, inner_F)
        loc_BCT = self.refine.loc_branch.border(self.coarse.loc_tower(zero_BCT, inner), inner)
        cls_BCT = self.refine.cls_branch.border(self.coarse.cls_tower(zero_BCT, inner), inner)
        return [frames_BCF, loc_BCT, cls_BCT]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """All parameters, all with weight decay."""
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]

    # -- candidates ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def candidates(
        self, feats_BTC: Tensor, lengths_B: Tensor, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Candidates of each window before suppression, in its snippets; as `PointDetector.candidates`."""
        assert not self.training, "call eval() first"
        empty = Candidates(feats_BTC.new_zeros(0, 2), feats_BTC.new_zeros(0), lengths_B.new_zeros(0))
        found = [empty] * len(lengths_B)
        rows = torch.nonzero(lengths_B)[:, 0].tolist()
        if not rows:
            return found
        x_BTC = self.window(feats_BTC[rows], lengths_B[rows])
        raw = self.raw(x_BTC, lengths_B[rows])
        valid_BP = self._masks(lengths_B[rows], x_BTC.device)[2]
        for place, row in enumerate(rows):
            said = Predicted(**{name: value[place] for name, value in raw.items()})
            valid_P = valid_BP[place] if self.masked else None
            found[row] = decode(
                said, self.grid, valid_P, score_threshold=score_threshold, topk=topk, min_length=min_length
            )
        return found

    def raw(self, x_BTC: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """The raw outputs of whole windows, fields of `Predicted` with a first axis of videos."""
        return self.outputs(x_BTC, lengths_B).joined()
