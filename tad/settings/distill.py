"""Settings of knowledge distillation (`distill:` of a run): the teachers and the terms of the loss."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.settings.base import Plugin, Positive, Spec
from tad.settings.frames import Frames


class TermSpec(Spec):
    """One term of the distillation loss: the distance between an output of the student and of a teacher."""

    teacher: str = Field(description="name of the teacher under `teachers`")
    target: Literal["input", "stem", "logits", "offsets", "attention", "reconstruction"] = Field(
        description="input: the encoder's input features, including hallucinated ones; stem: the encoder's output at "
        "full resolution; logits and offsets: at every level; attention: of the gates; reconstruction: outputs of both "
        "VAEs for the student's features and attention. The loss is the squared difference; for logits, the KL "
        "divergence"
    )
    weight: Positive
    temperature: Positive = Field(default=1.0, description="divisor of the logits; the loss is not rescaled")
    classes: Literal["sigmoid", "softmax"] = Field(
        default="sigmoid",
        description="logits: sigmoid: independent classes, as the detectors score them; softmax: a distribution over "
        "the classes",
    )
    reduction: Literal["masked", "padded", "batch"] = Field(
        default="masked",
        description="over time: masked: mean over a video's own snippets; padded: sum divided by the padded length; "
        "batch: sum. Then mean over the batch's videos and over levels; padding never contributes",
    )

    @model_validator(mode="after")
    def _of_logits(self) -> Self:
        if self.target != "logits" and (self.temperature != 1 or self.classes != "sigmoid"):
            raise ValueError(f"temperature and classes need target logits, not {self.target}")
        return self


class DistillationLoss(Spec):
    """The distillation loss: its terms and weights."""

    terms: tuple[TermSpec, ...] = Field(min_length=1)
    hard: float = Field(default=1.0, ge=0, description="weight of the detector's own loss")
    soft: Positive = Field(default=1.0, description="weight of the sum of the terms")
    start: str = Field(
        default="", description="teacher whose averaged weights of equal name and shape initialise the student"
    )

    def check_names(self, teachers: set[str]) -> None:
        """Check that every term has a known teacher and every teacher is used; raise ValueError otherwise."""
        used = {term.teacher for term in self.terms}
        for name in sorted(used | {self.start} - {""}):
            if name not in teachers:
                raise ValueError(f"unknown teacher '{name}'; teachers: {', '.join(sorted(teachers)) or 'none'}")
        if idle := teachers - used - {self.start}:
            raise ValueError(f"teacher '{min(idle)}' has no term; add one or remove the teacher")


class DistillRow(DistillationLoss):
    """The settings `runs.<name>.distill`."""

    teachers: dict[str, str] = Field(description="name → a run, trained first, or one of its seeds: run/seed-0")

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        self.check_names(set(self.teachers))
        return self


class TeacherSpec(Spec):
    """A trained run as a teacher; models and features are passed to `tad train` in the order of the teachers."""

    name: str
    run: str
    features: str
    detector: Plugin
    resize: int
    frames: Frames = ""


class DistillSpec(DistillationLoss):
    """The resolved settings of distillation that `tad train` receives."""

    teachers: tuple[TeacherSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        self.check_names({teacher.name for teacher in self.teachers})
        return self
