"""Learning from detectors of another kind: masks teach masks, and what cannot be compared is refused."""

import pytest
import torch
import training_tools as tools
from test_distillation import TERMS, batch, detector_of, distiller

from tad import plugins
from tad.errors import TadError


def test_logits_of_classes_that_exclude_one_another_are_compared_as_such() -> None:
    teacher = detector_of("spot", width=8, heads=2)
    with pytest.raises(TadError, match=r"run two: distill: logits of teacher t \(run one\) are of a softmax.*softmax$"):
        distiller(teacher, TERMS[2:3])
    assert distiller(teacher, [{**TERMS[2], "classes": "softmax"}])


@pytest.mark.parametrize("name", plugins.names("detectors"))
def test_yaml_and_class_agree_on_what_classes_are(name: str) -> None:
    declared = plugins.document("detectors", name)["constraints"].get("exclusive", False)
    assert declared == getattr(plugins.load("detectors", name), "exclusive", False)


def test_a_teacher_that_cannot_see_the_windows_is_named() -> None:
    teacher = plugins.load("detectors", "spot")(
        feature_dim=tools.DIM, num_classes=2, max_length=8, **plugins.document("detectors", "spot")["settings"]
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
    with pytest.raises(TadError, match=r"spot says masks and no offsets; leave terms with target offsets out"):
        distiller(teacher, TERMS[3:]).loss(student, *batch(), None)
    with pytest.raises(TadError, match=r"logits is 2 levels 2 wide .* 1 level 3 wide"):
        distiller(teacher, terms[:1]).loss(detector_of().train(), *batch(), None)
