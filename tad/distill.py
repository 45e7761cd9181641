"""`distill:` of a run → which trainings teach it, and what it learns from each; torch-free."""

from typing import Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from tad.errors import TadError
from tad.spec_base import Plugin, Positive, Settings, Spec

GATED = ("attention", "reconstruction")  # targets of detectors with a generative gate


class TermSpec(Spec):
    """One thing that the student's differs from a teacher's, as a part of the loss."""

    teacher: str = Field(description="its name under `teachers`")
    target: Literal["input", "stem", "logits", "offsets", "attention", "reconstruction"] = Field(
        description="input: the features that the encoder sees, hallucinated ones included; stem: the encoder at full "
        "resolution; logits and offsets: of every level; attention: of the gates; reconstruction: what both VAEs make "
        "of the student's features and attention. Differences are squared, of logits a KL divergence"
    )
    weight: Positive
    temperature: Positive = Field(default=1.0, description="logits are divided by it; no factor comes with it")
    classes: Literal["sigmoid", "softmax"] = Field(
        default="sigmoid",
        description="logits: each class by itself, as the detectors score them; or a distribution over the classes",
    )
    reduction: Literal["masked", "padded", "batch"] = Field(
        default="masked",
        description="over time: mean of a video's own snippets; sum divided by the padded length; the sum itself. Then "
        "the mean over the batch's videos and over levels; what is padding never differs",
    )

    @model_validator(mode="after")
    def _of_logits(self) -> Self:
        if self.target != "logits" and (self.temperature != 1 or self.classes != "sigmoid"):
            raise ValueError(f"temperature and classes go with target logits only, not with {self.target}")
        return self


class Lesson(Spec):
    """What the loss is made of."""

    terms: tuple[TermSpec, ...] = Field(min_length=1)
    hard: float = Field(default=1.0, ge=0, description="weight of the detector's own loss")
    soft: Positive = Field(default=1.0, description="weight of the sum of the terms")
    start: str = Field(
        default="", description="teacher whose averaged weights of equal name and shape the student starts with"
    )

    def check_names(self, teachers: set[str]) -> None:
        """Raise what is wrong with the teachers' names."""
        used = {term.teacher for term in self.terms}
        for name in sorted(used | {self.start} - {""}):
            if name not in teachers:
                raise ValueError(f"no teacher is called '{name}'; teachers: {', '.join(sorted(teachers)) or 'none'}")
        if idle := teachers - used - {self.start}:
            raise ValueError(f"no term is of teacher '{min(idle)}'; add one or leave the teacher out")


class DistillRow(Lesson):
    """`runs.<name>.distill`."""

    teachers: dict[str, str] = Field(description="name → run that is trained first, or one of its seeds: run/seed-0")

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        self.check_names(set(self.teachers))
        return self


class TeacherSpec(Spec):
    """A trained run as a teacher; its model and its features are handed over in this order."""

    name: str
    run: str
    features: str
    detector: Plugin
    resize: int


class DistillSpec(Lesson):
    """What `tad train` receives."""

    teachers: tuple[TeacherSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        self.check_names({teacher.name for teacher in self.teachers})
        return self


class Runs(Protocol):
    """What is asked of the configuration."""

    source: str
    file: Any

    def run(self, name: str) -> Any:
        """The row of a run."""

    def trainings(self, run: str) -> list[str]:
        """What is trained for a run."""

    def spec(self, stage: str, *, run: str) -> Any:
        """The settings of a stage."""

    def constraints(self, detector: str) -> Settings:
        """What is declared of a detector."""


def teachers_of(runs: Runs, run: str) -> dict[str, str]:
    """Teacher's name → the training that it is; a student's seed k has the teachers' seed k where they have as many.

    Raises:
        TadError: no such run, a run that teaches itself, or another number of seeds.
    """
    base, _, part = run.partition("/")
    row, where = runs.run(base), f"{runs.source}: runs.{base}.distill.teachers"
    found = {}
    for name, teacher in sorted(row.distill.teachers.items() if row.distill else ()):
        if teacher.partition("/")[0] not in runs.file.runs:
            known = ", ".join(sorted(runs.file.runs))
            raise TadError(f"{where}.{name}: no run is called '{teacher}'; known: {known}")
        trained = [teacher] if "/" in teacher else runs.trainings(teacher)
        if len(trained) not in (1, row.seeds):
            raise TadError(
                f"{where}.{name}: run {teacher} has {len(trained)} seeds and run {base} {row.seeds}; make them equal,"
                f" or name one: {teacher}/seed-0"
            )
        seed = int(part.removeprefix("seed-") or 0)
        found[name] = trained[seed if len(trained) > 1 else 0]
    return found


def check_chain(runs: Runs, run: str, behind: tuple[str, ...] = ()) -> None:
    """Raise a TadError where a run is taught by what it teaches."""
    if run in behind:
        chain = " ← ".join((*behind, run))
        raise TadError(f"{runs.source}: runs.{run}.distill.teachers: a run cannot teach itself ({chain})")
    for teacher in teachers_of(runs, run).values():
        check_chain(runs, teacher.partition("/")[0], (*behind, run))


def _unfit(term: TermSpec, settings: Settings, declared: Settings) -> str:
    """Why a term cannot be of a detector, teacher or student, in words; empty where it can."""
    if term.target == "logits" and term.classes == "sigmoid" and declared.get("exclusive"):
        return "has logits of a softmax over its classes and the background; choose classes: softmax"
    if term.target == "offsets" and declared.get("masks"):
        return "says masks and no offsets; leave the term out"
    if term.target in GATED and settings.get("gate") != "generative":
        return f"has no gate, which {term.target} is of; set gate: generative in its detector, or leave the term out"
    return ""


def lesson_of(runs: Runs, run: str, detector: Settings, train: Settings) -> Settings:
    """Fields of the `DistillSpec` of a run.

    Args:
        runs: the configuration.
        run: the student.
        detector: the student's, name and settings.
        train: its training recipe.

    Raises:
        TadError: a teacher of another dataset, grid, windows or classes than the student, or without the gate that a
            term looks at; both runs are named.
    """
    check_chain(runs, run.partition("/")[0])
    teachers, ours = [], {"dataset": runs.run(run).dataset, **train}
    for name, training in teachers_of(runs, run).items():
        taught = runs.spec("train", run=training)
        theirs = {"dataset": taught.dataset, **taught.train.model_dump()}
        whole = runs.constraints(taught.detector.name).get("whole_windows", False)
        for key in ("dataset", "resize", "class_agnostic", *(["max_length"] if whole else [])):
            if theirs[key] != ours[key]:
                raise TadError(
                    f"{runs.source}: runs.{run}.distill.teachers.{name}: {key} of run {training} is {theirs[key]}, of"
                    f" run {run} {ours[key]}: a teacher has the student's videos, grid and classes; make them equal"
                )
        sides = {training: taught.detector.model_dump(), run: detector}
        for term in [term for term in runs.run(run).distill.terms if term.teacher == name]:
            for who, one in sides.items():
                if problem := _unfit(term, one["settings"], runs.constraints(one["name"])):
                    raise TadError(f"{runs.source}: runs.{run}.distill: run {who} {problem}")
        resize = taught.train.resize
        settings = {"run": training, "features": taught.features, "detector": taught.detector, "resize": resize}
        teachers.append({"name": name, **settings})
    lesson = runs.run(run).distill.model_dump(exclude={"teachers"})
    return {**lesson, "teachers": teachers}
