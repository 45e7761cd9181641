"""Learning from detectors of another kind: masks teach masks, and what cannot be compared is refused."""

import pytest
import torch
import training_tools as tools
from test_distillation import TERMS, batch, detector_of, distiller

from tad.core.errors import TadError
from tad.settings import plugins


def test_logits_of_classes_that_exclude_one_another_are_compared_as_such() -> None:
    teacher = detector_of("spot", width=8, heads=2)
    with pytest.raises(TadError, match=r"run two: distill: teacher t \(run one\) was trained with a softmax.*softmax$"):
        distiller(teacher, TERMS[2:3])
    assert distiller(teacher, [{**TERMS[2], "classes": "softmax"}])


@pytest.mark.parametrize("name", plugins.names("detectors"))
def test_settings_and_class_agree_on_what_classes_are(name: str) -> None:
    declared = plugins.detector_class(name).exclusive
    assert declared == getattr(plugins.load("detectors", name), "exclusive", False)


def test_a_teacher_that_cannot_see_the_windows_is_named() -> None:
    teacher = plugins.build(
        "detectors", "spot", plugins.defaults("detectors", "spot"), feature_dim=tools.DIM, num_classes=2, max_length=8
    )
    student = detector_of("spot", width=0)
    with pytest.raises(TadError, match=r"run two: distill: teacher t \(run one\): features: 16 snippets"):
        distiller(teacher, TERMS[:1]).loss(student.train(), *batch(), None)


def test_masks_teach_masks() -> None:
    torch.manual_seed(0)
    teacher, student = (detector_of("spot", width=8, heads=2) for _ in range(2))
    with torch.no_grad():
        student.network.classifier.bias.add_(1.0)
    terms = [{**TERMS[2], "classes": "softmax"}, *TERMS[:2]]
    found = distiller(teacher, terms).loss(student.train(), *batch(), None)
    assert all(found[f"{term['target']} of t"] > 0 for term in terms)
    same = distiller(teacher, terms)
    student.load_state_dict(teacher.state_dict())
    assert same.loss(student.train(), *batch(), None)["input of t"] == 0
    with pytest.raises(TadError, match=r"spot predicts masks, not offsets; remove terms with target offsets"):
        distiller(teacher, TERMS[3:]).loss(student, *batch(), None)
    with pytest.raises(TadError, match=r"logits has 2 levels of 2 channels .* 1 level of 3 channels"):
        distiller(teacher, terms[:1]).loss(detector_of().train(), *batch(), None)
