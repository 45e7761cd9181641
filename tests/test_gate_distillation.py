"""A gated teacher teaches its attention, and in the VAE's pass what its own VAE makes of the student's features."""

from typing import Any

import pytest
import torch
from test_afsd import SIZES as GAF_SIZES
from test_afsd import WANTED
from test_detectors import feats
from test_detectors import small as point_detector
from test_gaf import GATE
from test_gaf import small as gaf

from tad.core.errors import TadError
from tad.layers.gate.attention import video_means
from tad.layers.types import Part
from tad.settings.stages import DistillSpec, Plugin
from tad.training.methods.distillation import Distiller, Teacher

TERMS = [
    {"teacher": "t", "target": "attention", "weight": 10.0},
    {"teacher": "t", "target": "reconstruction", "weight": 0.5},
]


def gated(name: str) -> Any:
    return (
        gaf() if name == "gaf" else point_detector(name, "corrected" if name == "mse" else "", **GATE, input_noise=0.0)
    )


def distiller(teacher: Any, terms: list[dict[str, Any]] = TERMS) -> Distiller:
    taught = {"name": "t", "run": "one", "features": "f", "detector": Plugin(name="gaf"), "resize": 0}
    lesson = DistillSpec.model_validate({"teachers": [taught], "terms": terms})
    columns = slice(0, GAF_SIZES["feature_dim"])
    return Distiller(lesson, [Teacher("t", "one", teacher.eval(), columns)], run="two", columns=columns)


def other(name: str) -> Any:
    """A teacher of other weights."""
    teacher = gated(name)
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in teacher.gates.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return teacher.requires_grad_(False)


@pytest.mark.parametrize("name", ["gaf", "mse"])
def test_each_pass_has_its_term(name: str) -> None:
    student, teacher = gated(name).train(), other(name)
    x_BTC, lengths_B = feats(64, 50)
    own, taught = {}, {}
    for phase in ("vae", "main"):
        student.enter(phase, 0, 1)
        for losses, lesson in ((own, None), (taught, distiller(teacher))):
            if phase == "main" and name == "mse":
                student.load_training_state({"loss_norm": torch.tensor(10.0)})
            torch.manual_seed(2)
            made = (
                lesson.loss(student, x_BTC, lengths_B, WANTED, None)
                if lesson
                else student.loss(x_BTC, lengths_B, WANTED)
            )
            losses[phase] = made
    assert set(taught["vae"]) - set(own["vae"]) == {"reconstruction of t"}
    assert set(taught["main"]) - set(own["main"]) == {"attention of t"}
    for phase, term, weight in (("vae", "reconstruction of t", 0.5), ("main", "attention of t", 10.0)):
        expected = own[phase]["total"] + weight * taught[phase][term]
        assert taught[phase][term] > 1e-4
        assert taught[phase]["total"].item() == pytest.approx(expected.item(), rel=1e-4)
    taught["main"]["total"].backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_its_attention() -> None:
    student, teacher = gaf().train(), gaf()
    student.enter("main", 0, 1)
    losses = distiller(teacher, TERMS[:1]).loss(student, *feats(64, 50), WANTED, None)
    assert losses["attention of t"].item() == pytest.approx(0, abs=1e-10)
    student.enter("vae", 0, 1)
    assert set(distiller(teacher, TERMS[:1]).loss(student, *feats(64, 50), WANTED, None)) == {"vae", "total"}


def test_the_reconstruction_is_of_the_students_features() -> None:
    student, teacher = gaf().train(), other("gaf")
    x_BTC, lengths_B = feats(64)
    student.enter("vae", 0, 1)
    torch.manual_seed(2)
    found = distiller(teacher, TERMS[1:]).loss(student, x_BTC, lengths_B, WANTED[:1], None)["reconstruction of t"]
    torch.manual_seed(2)
    x_BCT = x_BTC.transpose(1, 2)
    _, attention_BCT, ours = student.gates[0].explained(x_BCT, None)
    theirs = teacher.gates[0].vae.explain(x_BCT, attention_BCT)[0]
    assert found.item() == pytest.approx(video_means((ours - theirs).square(), None).item(), rel=1e-5)


def test_parts_add_up() -> None:
    student, teacher, totals = gaf().train(), other("gaf"), []
    for phase in ("vae", "main"):
        student.enter(phase, 0, 1)
        for size in (2, 1):
            total = 0.0
            for row in range(0, 2, size):
                torch.manual_seed(5)
                rows = slice(row, row + size)
                x_BTC, lengths_B = feats(64, 50)
                lesson = distiller(teacher)
                losses = lesson.loss(student, x_BTC[rows], lengths_B[rows], WANTED[rows], Part(2, row, 64))
                total += losses["total"].item()
            totals.append(total)
    assert totals[0] == pytest.approx(totals[1], rel=1e-4)
    assert totals[2] == pytest.approx(totals[3], rel=1e-4)


def test_teachers_without_a_gate_are_named() -> None:
    student = gaf().train()
    student.enter("main", 0, 1)
    with pytest.raises(TadError, match=r"run two: distill: attention needs gate: generative.*teacher t \(run one\)"):
        distiller(gaf(gate="none"), TERMS[:1]).loss(student, *feats(64), WANTED[:1], None)
    student.enter("vae", 0, 1)
    with pytest.raises(TadError, match=r"reconstruction by teacher t \(run one\): gates of widths \[\] cannot"):
        distiller(gaf(gate="none"), TERMS[1:]).loss(student, *feats(64), WANTED[:1], None)
