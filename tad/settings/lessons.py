"""Resolve `distill:` of a run: find its teachers and check them against the student."""

from tad.core.errors import TadError
from tad.settings.base import Settings
from tad.settings.components import DetectorSettings
from tad.settings.config import Config
from tad.settings.distill import TermSpec

GATED = ("attention", "reconstruction")  # targets of detectors with a generative gate


def teachers_of(config: Config, run: str) -> dict[str, str]:
    """Return teacher's name → training; a student's seed k uses the teacher's seed k if both have as many seeds.

    Raises:
        TadError: no such run, or another number of seeds.
    """
    base, _, part = run.partition("/")
    row, where = config.run(base), f"{config.where('runs', base)}.distill.teachers"
    teachers = {}
    for name, teacher in sorted(row.distill.teachers.items() if row.distill else ()):
        if teacher.partition("/")[0] not in config.file.runs:
            known = ", ".join(sorted(config.file.runs))
            raise TadError(f"{where}.{name}: no run is called '{teacher}'; known: {known}")
        if config.run(teacher.partition("/")[0]).adapters is not None:
            raise TadError(f"{where}.{name}: {teacher} has adapters; teach with features of its encoder (`run:`)")
        trained = [teacher] if "/" in teacher else config.trainings(teacher)
        if len(trained) not in (1, row.seeds):
            raise TadError(
                f"{where}.{name}: run {teacher} has {len(trained)} seeds and run {base} {row.seeds}; make them equal,"
                f" or name one: {teacher}/seed-0"
            )
        seed = int(part.removeprefix("seed-") or 0)
        teachers[name] = trained[seed if len(trained) > 1 else 0]
    return teachers


def check_chain(config: Config, run: str, behind: tuple[str, ...] = ()) -> None:
    """Raise a TadError if a run is, directly or indirectly, its own teacher."""
    if run in behind:
        chain = " ← ".join((*behind, run))
        raise TadError(f"{config.where('runs', run)}.distill.teachers: a run cannot teach itself ({chain})")
    for teacher in teachers_of(config, run).values():
        check_chain(config, teacher.partition("/")[0], (*behind, run))


def _unfit(term: TermSpec, settings: DetectorSettings) -> str:
    """Describe why a detector (teacher or student) does not support a term; empty if it does."""
    if term.target == "logits" and term.classes == "sigmoid" and settings.exclusive:
        return "has a softmax over classes and background; set classes: softmax"
    if term.target == "offsets" and settings.masks:
        return "predicts masks, not offsets; remove the term"
    if term.target in GATED and not settings.gated:
        return f"has no gate, which {term.target} needs; set gate: generative in its detector, or remove the term"
    return ""


def distillation_of(config: Config, run: str) -> Settings:
    """Return the fields of the `DistillSpec` of a run, the student.

    Raises:
        TadError: a teacher with another dataset, grid, window length or classes than the student, or one that does not
            support a term; the message names both runs.
    """
    check_chain(config, run.partition("/")[0])
    distilled = config.run(run).distill
    assert distilled is not None
    teachers, ours = [], {"dataset": config.run(run).dataset, **config.resolve_run(run).sections["train"]}
    for name, training in teachers_of(config, run).items():
        row, recipe = config.run(training), config.resolve_run(training).sections["train"]
        sides = {training: config.detector_settings(training), run: config.detector_settings(run)}
        theirs = {"dataset": row.dataset, **recipe}
        windows = ["max_length"] if sides[training].whole_windows else []
        for key in ("dataset", "resize", "class_agnostic", *windows):
            if theirs[key] != ours[key]:
                raise TadError(
                    f"{config.where('runs', run)}.distill.teachers.{name}: {key} of run {training} is {theirs[key]}, of"
                    f" run {run} {ours[key]}; teacher and student must agree, so make them equal"
                )
        for term in distilled.terms:
            if term.teacher != name:
                continue
            for who, settings in sides.items():
                if problem := _unfit(term, settings):
                    raise TadError(f"{config.where('runs', run)}.distill: run {who} {problem}")
        known = {"run": training, "features": row.features, "detector": config.detector(training)}
        frames = config.frames(row.features)["frames"]
        teachers.append({"name": name, **known, "resize": recipe["resize"], "frames": frames})
    return {**distilled.model_dump(exclude={"teachers"}), "teachers": teachers}
