"""A detector that learns from trained ones as well: from their inputs, stems, logits and offsets.

The terms of Yu, Wang, Shi: Enhancing temporal action localization through cross-modal and cross-structural knowledge
distillation, J. Vis. Commun. Image Represent. 116 (2026), each with its teacher, weight and reduction in the settings.
Teachers are in evaluation mode and without gradient; what is padding never counts as a difference.
"""

# B videos, T snippets, C channels, K classes, L levels

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.distill import DistillSpec, TermSpec
from tad.errors import TadError
from tad.layers.chance import of_part
from tad.layers.gated import sum_of
from tad.layers.generative import video_means
from tad.layers.kernels import at_least_float32
from tad.layers.types import Explained, Observed, Part, Targets
from tad.training.strategy import Strategy


@dataclass(frozen=True)
class Teacher:
    """A trained detector, and where its features lie in a batch.

    Attributes:
        name: in the terms.
        run: that it was trained as.
        detector: in evaluation mode.
        columns: its channels of a batch's features.
    """

    name: str
    run: str
    detector: Any
    columns: slice


class Distiller(Strategy):
    """The detector's own loss and the weighted sum of the terms.

    Args:
        lesson: weights and terms.
        teachers: at least those that the terms name.
        run: that is taught.
        columns: the student's channels of a batch's features.

    Raises:
        TadError: a softmax over one class, which teaches nothing; logits of a softmax taken for those of classes by
            themselves.
    """

    def __init__(self, lesson: DistillSpec, teachers: list[Teacher], *, run: str, columns: slice) -> None:
        self.lesson, self.run, self.columns = lesson, run, columns
        self.teachers = {teacher.name: teacher for teacher in teachers}
        for term in lesson.terms:
            teacher = self.teachers[term.teacher]
            called, exclusive = f"teacher {term.teacher} (run {teacher.run})", _exclusive(teacher.detector)
            if term.classes == "softmax" and teacher.detector.num_classes == 1 and not exclusive:
                raise TadError(
                    f"run {run}: distill: a softmax over the one class of {called} is always 1 and teaches nothing;"
                    " choose classes: sigmoid"
                )
            if term.target == "logits" and term.classes == "sigmoid" and exclusive:
                raise TadError(
                    f"run {run}: distill: logits of {called} are of a softmax over its classes and the background;"
                    " choose classes: softmax"
                )

    def loss(
        self, detector: Any, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> dict[str, Tensor]:
        """The detector's `cls`, `reg` and so on, each term by itself, and `total` with the weights of the lesson.

        Raises:
            TadError: student and teacher do not agree in a width or in the number of levels.
        """
        own_BTC = feats_BTC[:, :, self.columns]
        if not detector.training:
            return super().loss(detector, own_BTC, lengths_B, targets, part)
        looks: list[Observed | Explained] = []
        losses: dict[str, Tensor] = detector.loss(own_BTC, lengths_B, targets, part, seen=looks)
        (student,) = looks
        videos = part.videos if part else len(targets)
        for teacher in self.teachers.values():
            of_part(teacher.detector, part, given=len(targets), device=feats_BTC.device)
        if isinstance(student, Explained):
            return self._explained(losses, student, videos)
        soft = torch.zeros((), device=feats_BTC.device)
        terms = [term for term in self.lesson.terms if term.target != "reconstruction"]
        used = {term.teacher: self.teachers[term.teacher] for term in terms}
        seen = {name: self._observed(name, feats_BTC, lengths_B, part, student) for name in used}
        for term in terms:
            ours = _tensors(term.target, detector, student)
            with torch.no_grad():
                theirs = _tensors(term.target, used[term.teacher].detector, seen[term.teacher])
            self._agree(term, ours, theirs)
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
        return {**losses, "total": self.lesson.hard * losses["total"] + self.lesson.soft * soft}

    def refined(
        self, detector: Any, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> int:
        """The student's."""
        return super().refined(detector, feats_BTC[:, :, self.columns], lengths_B, targets, part)

    def _explained(self, losses: dict[str, Tensor], student: Explained, videos: int) -> dict[str, Tensor]:
        """The VAEs' pass: what teachers' VAEs make of the student's features and attention, summed over the maps."""
        terms = [term for term in self.lesson.terms if term.target == "reconstruction"]
        if not terms:
            return losses  # a pass that teachers have nothing to say about
        soft = losses["total"].new_zeros(())
        for term in terms:
            try:
                with torch.no_grad():
                    theirs = self.teachers[term.teacher].detector.explain_like(student)
            except TadError as error:
                taught = f"teacher {term.teacher} (run {self.teachers[term.teacher].run})"
                raise TadError(f"run {self.run}: distill: reconstruction of {taught}: {error}") from None
            parts = zip(student.reconstructions, theirs, student.masks, strict=True)
            value = sum_of([video_means((ours - other).square(), mask).sum() / videos for ours, other, mask in parts])
            losses[f"reconstruction of {term.teacher}"] = value.detach()
            soft = soft + term.weight * value
        return {**losses, "total": self.lesson.hard * losses["total"] + self.lesson.soft * soft}

    def _observed(
        self, name: str, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None, student: Observed
    ) -> Observed:
        """What a teacher computes of its channels."""
        teacher = self.teachers[name]
        try:
            seen: Observed = teacher.detector.observe(feats_BTC[:, :, teacher.columns], lengths_B, part, student.choice)
        except TadError as error:
            raise TadError(f"run {self.run}: distill: teacher {name} (run {teacher.run}): {error}") from None
        return seen

    def _agree(self, term: TermSpec, ours: list[Tensor], theirs: list[Tensor]) -> None:
        if not (ours and theirs):
            raise TadError(
                f"run {self.run}: distill: {term.target} needs gate: generative in the student and in teacher"
                f" {term.teacher} (run {self.teachers[term.teacher].run})"
            )
        found = [(len(tensors), tensors[0].shape[1]) for tensors in (ours, theirs)]
        if found[0] != found[1]:
            said = [f"{levels} level{'s' if levels > 1 else ''} {width} wide" for levels, width in found]
            raise TadError(
                f"run {self.run}: distill: {term.target} is {said[0]} and of teacher {term.teacher} (run"
                f" {self.teachers[term.teacher].run}) {said[1]}: they cannot be compared; make detectors and features"
                " alike, or leave the term out"
            )


def _exclusive(detector: Any) -> bool:
    """Whether a detector scores by a softmax over the classes and the background."""
    return bool(getattr(detector, "exclusive", False))


def _by_level(
    term: TermSpec, ours: list[Tensor], theirs: list[Tensor], masks: list[Tensor], *, videos: int
) -> list[Tensor]:
    """Differences of each level, or of each map that makes a level, as far as both sides have it."""
    return [
        reduced(difference(mine_BCT, other_BCT, term), mask_B1T, term.reduction, videos=videos)
        for mine_BCT, other_BCT, mask_B1T in zip(ours, theirs, masks, strict=False)
    ]


def _tensors(target: str, detector: Any, observed: Observed) -> list[Tensor]:
    """What a term looks at, (B, C, T): by level, or once at full resolution."""
    if target == "logits":
        return observed.outputs.logits
    if target == "attention":
        return observed.attentions
    if target == "offsets":
        return [detector.distances(observed.outputs, level) for level in range(len(observed.outputs.logits))]
    return [observed.inputs_BCT if target == "input" else observed.stem_BCT]


def difference(student_BCT: Tensor, teacher_BCT: Tensor, term: TermSpec) -> Tensor:
    """By how much each snippet differs, (B, T): mean square over the channels, or of logits the KL divergence.

    Where the two are padded to different lengths, up to the shorter one.
    """
    length = min(student_BCT.shape[2], teacher_BCT.shape[2])
    student_BCT, teacher_BCT = (at_least_float32(x[:, :, :length]) for x in (student_BCT, teacher_BCT))
    if term.target != "logits":
        return (student_BCT - teacher_BCT).square().mean(dim=1)
    return divergence(student_BCT / term.temperature, teacher_BCT / term.temperature, classes=term.classes)


def divergence(student_BKT: Tensor, teacher_BKT: Tensor, *, classes: str) -> Tensor:
    """KL divergence (B, T) of the teacher's distribution from the student's, both given as logits: one over the classes
    (softmax), or the sum of those of each class against its absence (sigmoid)."""
    if classes == "softmax":
        ours_BKT, theirs_BKT = F.log_softmax(student_BKT, dim=1), F.log_softmax(teacher_BKT, dim=1)
        return (theirs_BKT.exp() * (theirs_BKT - ours_BKT)).sum(dim=1)
    there_BKT = torch.sigmoid(teacher_BKT) * (F.logsigmoid(teacher_BKT) - F.logsigmoid(student_BKT))
    absent_BKT = torch.sigmoid(-teacher_BKT) * (F.logsigmoid(-teacher_BKT) - F.logsigmoid(-student_BKT))
    return (there_BKT + absent_BKT).sum(dim=1)


def reduced(value_BT: Tensor, mask_B1T: Tensor, reduction: str, *, videos: int) -> Tensor:
    """One number of a batch of `videos`, of which the B given ones are a part: the parts' numbers add up.

    `masked`: mean of each video's own snippets; `padded`: sum over its own snippets divided by the padded length;
    `batch`: the sum. All are divided by `videos`.
    """
    mask_BT = mask_B1T[:, 0, : value_BT.shape[1]]
    sum_B = (value_BT * mask_BT).sum(dim=1)
    if reduction == "masked":
        sum_B = sum_B / mask_BT.sum(dim=1).clamp(min=1)
    elif reduction == "padded":
        sum_B = sum_B / mask_B1T.shape[2]
    return sum_B.sum() / videos
