"""Knowledge distillation from trained detectors: losses on their inputs, stems, logits, offsets and gates.

The terms follow Yu, Wang, Shi: Enhancing temporal action localization through cross-modal and cross-structural
knowledge distillation, J. Vis. Commun. Image Represent. 116 (2026). The settings give each term its teacher, weight
and reduction. Teachers are in evaluation mode and get no gradient; padding never contributes to a difference.
"""

# B videos, T snippets, C channels, K classes, L levels

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.layers.chance import of_part
from tad.layers.contract import DetectorBase
from tad.layers.gate.attention import video_means
from tad.layers.gate.detector import sum_of
from tad.layers.kernels import at_least_float32
from tad.layers.types import Explained, Observed, Part, Targets
from tad.settings.distill import DistillSpec, TermSpec
from tad.training.loop.strategy import Strategy


@dataclass(frozen=True)
class Teacher:
    """A trained detector and the channels of a batch that are its input.

    Attributes:
        name: name of the teacher in the terms.
        run: run that trained it.
        detector: the detector in evaluation mode.
        columns: range of its channels in a batch's features.
    """

    name: str
    run: str
    detector: DetectorBase
    columns: slice


class Distiller(Strategy):
    """Strategy that adds the weighted distillation terms to the student's own loss.

    Args:
        spec: weights and terms.
        teachers: at least the teachers named in the terms.
        run: name of the student's run.
        columns: range of the student's channels in a batch's features.

    Raises:
        TadError: a term uses a softmax over a single class, or a sigmoid for logits that a softmax was trained on.
    """

    def __init__(self, spec: DistillSpec, teachers: list[Teacher], *, run: str, columns: slice) -> None:
        self.spec, self.run, self.columns = spec, run, columns
        self.teachers = {teacher.name: teacher for teacher in teachers}
        for term in spec.terms:
            teacher = self.teachers[term.teacher]
            title, exclusive = f"teacher {term.teacher} (run {teacher.run})", teacher.detector.exclusive
            if term.classes == "softmax" and teacher.detector.num_classes == 1 and not exclusive:
                raise TadError(
                    f"run {run}: distill: a softmax over the single class of {title} is always 1 and teaches nothing;"
                    " choose classes: sigmoid"
                )
            if term.target == "logits" and term.classes == "sigmoid" and exclusive:
                raise TadError(
                    f"run {run}: distill: {title} was trained with a softmax over its classes and the background;"
                    " choose classes: softmax"
                )

    def loss(
        self, detector: DetectorBase, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> dict[str, Tensor]:
        """Compute the student's own losses, each distillation term, and their weighted sum `total`.

        Raises:
            TadError: student and teacher differ in a width or in the number of levels.
        """
        own_BTC = feats_BTC[:, :, self.columns]
        if not detector.training:
            return super().loss(detector, own_BTC, lengths_B, targets, part)
        observations: list[Observed | Explained] = []
        losses: dict[str, Tensor] = detector.loss(own_BTC, lengths_B, targets, part, seen=observations)
        (student,) = observations
        videos = part.videos if part else len(targets)
        for teacher in self.teachers.values():
            of_part(teacher.detector, part, given=len(targets), device=feats_BTC.device)
        if isinstance(student, Explained):
            return self._reconstruction_losses(losses, student, videos)
        soft = torch.zeros((), device=feats_BTC.device)
        terms = [term for term in self.spec.terms if term.target != "reconstruction"]
        used = {term.teacher: self.teachers[term.teacher] for term in terms}
        seen = {name: self._observed(name, feats_BTC, lengths_B, part, student) for name in used}
        for term in terms:
            ours = _tensors(term.target, detector, student)
            with torch.no_grad():
                theirs = _tensors(term.target, used[term.teacher].detector, seen[term.teacher])
            self._check_shapes(term, ours, theirs)
            masks = student.outputs.masks
            levels = _by_level(term, ours, theirs, masks, videos=videos)
            if term.target == "attention":
                rows = list(student.choice.cuts)
                cut = student.augmented, seen[term.teacher].augmented, [mask[rows] for mask in masks]
                value = sum_of(levels + _by_level(term, *cut, videos=videos))
            else:
                value = torch.stack(levels).mean()
            losses[f"{term.target} of {term.teacher}"] = value.detach()
            soft = soft + term.weight * value
        return {**losses, "total": self.spec.hard * losses["total"] + self.spec.soft * soft}

    def refined_positives(
        self, detector: DetectorBase, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> int:
        """Return the student's `refined_positives`."""
        return super().refined_positives(detector, feats_BTC[:, :, self.columns], lengths_B, targets, part)

    def _reconstruction_losses(self, losses: dict[str, Tensor], student: Explained, videos: int) -> dict[str, Tensor]:
        """Compute the losses of the VAE phase: squared differences between the VAEs' reconstructions.

        Student and teachers reconstruct the student's features from its attention; the losses are summed over the maps.
        """
        terms = [term for term in self.spec.terms if term.target == "reconstruction"]
        if not terms:
            return losses  # no term applies to this phase
        soft = losses["total"].new_zeros(())
        for term in terms:
            try:
                with torch.no_grad():
                    theirs = self.teachers[term.teacher].detector.explain_like(student)
            except TadError as error:
                title = f"teacher {term.teacher} (run {self.teachers[term.teacher].run})"
                raise TadError(f"run {self.run}: distill: reconstruction by {title}: {error}") from None
            parts = zip(student.reconstructions, theirs, student.masks, strict=True)
            value = sum_of([video_means((ours - other).square(), mask).sum() / videos for ours, other, mask in parts])
            losses[f"reconstruction of {term.teacher}"] = value.detach()
            soft = soft + term.weight * value
        return {**losses, "total": self.spec.hard * losses["total"] + self.spec.soft * soft}

    def _observed(
        self, name: str, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None, student: Observed
    ) -> Observed:
        """Compute a teacher's intermediate values on its channels."""
        teacher = self.teachers[name]
        try:
            seen: Observed = teacher.detector.observe(feats_BTC[:, :, teacher.columns], lengths_B, part, student.choice)
        except TadError as error:
            raise TadError(f"run {self.run}: distill: teacher {name} (run {teacher.run}): {error}") from None
        return seen

    def _check_shapes(self, term: TermSpec, ours: list[Tensor], theirs: list[Tensor]) -> None:
        if not (ours and theirs):
            raise TadError(
                f"run {self.run}: distill: {term.target} needs gate: generative in the student and in teacher"
                f" {term.teacher} (run {self.teachers[term.teacher].run})"
            )
        shapes = [(len(tensors), tensors[0].shape[1]) for tensors in (ours, theirs)]
        if shapes[0] != shapes[1]:
            texts = [f"{levels} level{'s' if levels > 1 else ''} of {width} channels" for levels, width in shapes]
            raise TadError(
                f"run {self.run}: distill: {term.target} has {texts[0]} in the student and {texts[1]} in teacher"
                f" {term.teacher} (run {self.teachers[term.teacher].run}); give both the same detector and feature"
                " width, or remove the term"
            )


def _by_level(
    term: TermSpec, ours: list[Tensor], theirs: list[Tensor], masks: list[Tensor], *, videos: int
) -> list[Tensor]:
    """Return the reduced difference of each level (or of each map behind a level) that both sides have."""
    return [
        reduced(difference(mine_BCT, other_BCT, term), mask_B1T, term.reduction, videos=videos)
        for mine_BCT, other_BCT, mask_B1T in zip(ours, theirs, masks, strict=False)
    ]


def _tensors(target: str, detector: DetectorBase, observed: Observed) -> list[Tensor]:
    """Return the tensors (B, C, T) that a term compares: one per level, or one at full resolution."""
    if target == "logits":
        return observed.outputs.logits
    if target == "attention":
        return observed.attentions
    if target == "offsets":
        return [detector.distances(observed.outputs, level) for level in range(len(observed.outputs.logits))]
    return [observed.inputs_BCT if target == "input" else observed.stem_BCT]


def difference(student_BCT: Tensor, teacher_BCT: Tensor, term: TermSpec) -> Tensor:
    """Return the difference (B, T) of each snippet: mean square over channels, or KL divergence for logits.

    If the two are padded to different lengths, the shorter length is used.
    """
    length = min(student_BCT.shape[2], teacher_BCT.shape[2])
    student_BCT, teacher_BCT = (at_least_float32(x[:, :, :length]) for x in (student_BCT, teacher_BCT))
    if term.target != "logits":
        return (student_BCT - teacher_BCT).square().mean(dim=1)
    return divergence(student_BCT / term.temperature, teacher_BCT / term.temperature, classes=term.classes)


def divergence(student_BKT: Tensor, teacher_BKT: Tensor, *, classes: str) -> Tensor:
    """Return the KL divergence (B, T) from the student's to the teacher's distribution, both given as logits.

    With softmax there is one distribution over the classes; with sigmoid the divergences of one binary distribution per
    class are summed.
    """
    if classes == "softmax":
        ours_BKT, theirs_BKT = F.log_softmax(student_BKT, dim=1), F.log_softmax(teacher_BKT, dim=1)
        return (theirs_BKT.exp() * (theirs_BKT - ours_BKT)).sum(dim=1)
    there_BKT = torch.sigmoid(teacher_BKT) * (F.logsigmoid(teacher_BKT) - F.logsigmoid(student_BKT))
    absent_BKT = torch.sigmoid(-teacher_BKT) * (F.logsigmoid(-teacher_BKT) - F.logsigmoid(-student_BKT))
    return (there_BKT + absent_BKT).sum(dim=1)


def reduced(value_BT: Tensor, mask_B1T: Tensor, reduction: str, *, videos: int) -> Tensor:
    """Reduce differences of a micro-batch to a scalar; the scalars of micro-batches add up to that of the batch.

    `masked`: mean over each video's snippets; `padded`: sum over its snippets divided by the padded length; `batch`:
    sum. All are divided by `videos`, the number of videos in the batch.
    """
    mask_BT = mask_B1T[:, 0, : value_BT.shape[1]]
    sum_B = (value_BT * mask_BT).sum(dim=1)
    if reduction == "masked":
        sum_B = sum_B / mask_BT.sum(dim=1).clamp(min=1)
    elif reduction == "padded":
        sum_B = sum_B / mask_B1T.shape[2]
    return sum_B.sum() / videos
