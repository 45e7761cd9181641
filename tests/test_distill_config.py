"""`distill:` in config.yaml: which training teaches which, what the rules get, and mistakes that stop a dry run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tad.commands.show import show
from tad.core.errors import TadError
from tad.provenance.stamps import stamp
from tad.settings.config import Config
from tad.training.io.tensors import write_tensors
from tad.workflow.rules import Workflow

ROOT = Path(__file__).parents[1]
TERM = {"teacher": "t", "target": "logits", "weight": 1.0}
BOTH = {"recipe": "thumos14-i3d-center_crop", "weights": "weights"}
SPOT = {"detector": "spot"}
RGB = {"recipe": {"name": "thumos14-i3d-center_crop", "streams": "rgb"}, "weights": "weights"}


def values(*, student: dict[str, Any] | None = None, teacher: dict[str, Any] | None = None, **distill: Any) -> Any:
    row = {"dataset": "mine", "features": "both", "detector": "actionformer"}
    lesson = {"teachers": {"t": "teacher"}, "terms": [TERM]} | distill
    return {
        "datasets": {"mine": {"format": "csv", "videos": "videos", "annotations": "a.csv"}, "demo": {}},
        "features": {"both": BOTH, "rgb": RGB, "clips": {"backbone": "r2plus1d_small"}},
        "runs": {
            "teacher": row | (teacher or {}),
            "student": row | {"features": "rgb", "distill": lesson} | (student or {}),
        },
    }


def test_a_lesson_says_who_teaches_with_what() -> None:
    config = Config(values(start="t", soft=0.6))
    lesson = config.spec("train", run="student").model_dump()["distill"]
    (teacher,) = lesson["teachers"]
    assert (teacher["name"], teacher["run"], teacher["features"]) == ("t", "teacher", "both")
    assert teacher["detector"] == config.spec("train", run="teacher").model_dump()["detector"]
    assert (lesson["hard"], lesson["soft"], lesson["start"]) == (1.0, 0.6, "t")
    assert lesson["terms"][0]["classes"] == "sigmoid"
    assert config.spec("train", run="teacher").model_dump()["distill"] is None


def test_seeds_are_taught_seed_by_seed() -> None:
    config = Config(values(student={"seeds": 3}, teacher={"seeds": 3}))
    runs = [config.spec("train", run=f"student/seed-{k}").distill.teachers[0].run for k in range(3)]
    assert runs == [f"teacher/seed-{k}" for k in range(3)]
    for changes in ({"student": {"seeds": 2}}, {"teacher": {"seeds": 4}, "teachers": {"t": "teacher/seed-3"}}):
        config = Config(values(**changes))
        one = {config.spec("train", run=run).distill.teachers[0].run for run in config.trainings("student")}
        assert one in ({"teacher"}, {"teacher/seed-3"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": {"t": "techer"}}, r"runs\.student\.distill\.teachers\.t: no run is called 'techer'; known: "),
        ({"teachers": {"t": "student"}}, r"runs\.student\..*cannot teach itself \(student ← student\)"),
        ({"teacher": {"seeds": 2}}, r"run teacher has 2 seeds and run student 1; .*teacher/seed-0"),
        ({"teacher": {"dataset": "demo"}}, "dataset of run teacher is demo, of run student mine; teacher and"),
        ({"teacher": {"train": {"resize": 64}}}, "resize of run teacher is 64, of run student 0"),
        ({"teacher": {"train": {"class_agnostic": True}}}, "class_agnostic of run teacher is True, of run student"),
        ({"terms": [TERM | {"teacher": "u"}]}, "unknown teacher 'u'; teachers: t"),
        ({"start": "u"}, "unknown teacher 'u'; teachers: t"),
        ({"teachers": {"t": "teacher", "u": "teacher"}}, "teacher 'u' has no term"),
        ({"terms": []}, r"runs\.student\.distill\.terms"),
        ({"terms": [TERM | {"wieght": 1.0}]}, r"unknown key 'wieght'; did you mean 'weight'\?"),
        ({"terms": [TERM | {"target": "logit"}]}, r"distill\.terms\.0\.target"),
        ({"terms": [TERM | {"weight": 0.0}]}, r"distill\.terms\.0\.weight"),
        ({"terms": [TERM | {"target": "stem", "temperature": 2.0}]}, "temperature and classes need target logits"),
        ({"lerning": 1}, r"unknown key 'lerning'"),
        (
            {"terms": [TERM | {"target": "attention"}]},
            "distill: run teacher has no gate, which attention needs; set gate: generative in its detector",
        ),
        ({"teacher": SPOT, "student": SPOT}, "run teacher has a softmax .* set classes: softmax"),
        (
            {"teacher": SPOT, "student": SPOT, "terms": [TERM | {"target": "offsets"}]},
            "run teacher predicts masks, not offsets; remove the term",
        ),
        (
            {"teacher": {"detector": "afsd"}, "student": {"detector": "afsd", "train": {"max_length": 96}}},
            "max_length of run teacher is 64, of run student 96; teacher and",
        ),
    ],
)  # fmt: skip
def test_a_lesson_that_cannot_be_stops_a_dry_run(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TadError, match=message) as caught:
        Config(values(**changes))
    assert "\n" not in str(caught.value)
    assert "config.yaml" in str(caught.value)


def test_a_circle_of_teachers_is_named() -> None:
    tree = values()
    tree["runs"]["teacher"]["distill"] = {"teachers": {"t": "student"}, "terms": [TERM]}
    with pytest.raises(TadError, match="teacher ← student ← teacher"):
        Config(tree)


def test_channels_that_are_not_there_are_named() -> None:
    source = {"source": "f", "dim": 8, "clip": {"length": 1, "stride": 1, "policy": "resample", "rate": 1.0}}
    for channels in ([4, 9], [4, 4], [2]):
        tree = values() | {"features": {"rgb": source | {"channels": channels}, "both": BOTH}}
        with pytest.raises(TadError, match=rf"channels \[{channels[0]}.*dim 8"):
            Config(tree)


def test_rules_get_the_teachers_files_until_the_student_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights for RGB alone the teacher cannot be made, and a trained student does not ask for it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "a.csv").touch()
    (tmp_path / "weights/rgb_imagenet.pt").touch()
    student = SimpleNamespace(run="student")
    flow = Workflow(values(), tmp_path, tmp_path / "hashes.json")
    assert flow.ready_runs() == []
    with pytest.raises(TadError, match=r"run student is distilled from run teacher: .*flow_imagenet"):
        flow.teachers(student)
    with pytest.raises(TadError, match="flow_imagenet"):
        flow.require_targets(["results/student/map.json"])
    model = tmp_path / "results/student/model.safetensors"
    write_tensors(model, {"w": torch.zeros(1)}, {"tad_stamp": stamp("train", {}, {})})
    assert flow.ready_runs() == ["student"]
    flow.require_targets(["results/student/map.json"])
    assert flow.teachers(student) == flow.teacher_features(student) == []
    assert flow.final(student)
    assert flow.features_of(student) == "results/features/mine/rgb.h5"
    (tmp_path / "weights/flow_imagenet.pt").touch()
    flow = Workflow(values(), tmp_path, tmp_path / "hashes.json")
    assert flow.ready_runs() == ["teacher", "student"]
    assert flow.teachers(student) == ["results/teacher/model.safetensors"]
    assert not flow.final(student)
    assert flow.teacher_features(student) == ["results/features/mine/both.h5"]
    assert flow.teachers(SimpleNamespace(run="teacher")) == []


def test_unreadable_model_of_a_finished_run_is_reported(tmp_path, monkeypatch, caplog) -> None:
    """Snakemake drops the error of an input function if the output exists, and would say that nothing is to be done."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/student").mkdir(parents=True)
    (tmp_path / "results/student/model.safetensors").write_bytes(b"\0" * 100)
    flow = Workflow(values(), tmp_path, tmp_path / "hashes.json")
    for targets in ([], ["results/student/map.json"], ["--cores", "2"]):
        with pytest.raises(TadError, match=r"results/student/model\.safetensors"):
            flow.require_targets(targets)
    with pytest.raises(TadError, match=r"videos|weights"):  # its own inputs are missing
        flow.require_targets(["results/teacher/map.json"])
    assert "results/student/model.safetensors" in caplog.text


def test_the_published_stages_are_rows() -> None:
    config = Config.read(ROOT / "config.yaml")
    stages = {name: config.spec("train", run=f"thumos-c2ms-{name}") for name in ("modal", "structure", "both")}
    found = {
        name: (
            spec.distill.hard, spec.distill.soft, spec.distill.start, spec.detector.settings["encoder"],
            {(t.target, t.teacher, t.weight) for t in spec.distill.terms},
        )
        for name, spec in stages.items()
    }  # fmt: skip
    assert found["modal"] == (
        0.4, 0.6, "modal", "conv", {("input", "modal", 5.0), ("offsets", "modal", 1.0), ("logits", "modal", 0.4)},
    )  # fmt: skip
    assert found["structure"] == (
        0.4, 0.6, "", "conv_dw",
        {("offsets", "structure", 1.0), ("logits", "structure", 0.04), ("stem", "structure", 1.0)},
    )  # fmt: skip
    assert found["both"] == (
        0.4, 2.4, "structure", "conv_dw",
        {("input", "modal", 5.0), ("stem", "structure", 1.0), ("offsets", "structure", 0.2), ("offsets", "modal", 0.8),
         ("logits", "structure", 0.02), ("logits", "modal", 0.08)},
    )  # fmt: skip
    for spec in stages.values():
        assert spec.features == "i3d_thumos_rgb"
        assert spec.detector.settings["hallucinate"] == spec.detector.settings["temporal_se"] == "published"
        for term in spec.distill.terms:
            logits = ("batch", 2.0, "softmax")
            wanted = logits if term.target == "logits" else ("padded", 1.0, "sigmoid")
            assert (term.reduction, term.temperature, term.classes) == wanted
    taught = {name: [t.run for t in spec.distill.teachers] for name, spec in stages.items()}
    assert taught["modal"] == ["thumos-c2ms-conv"]
    assert taught["structure"] == ["thumos-c2ms-modal"]
    assert taught["both"] == ["thumos-c2ms-transformer", "thumos-c2ms-conv"]
    assert list(show("thumos-rgb", config=ROOT / "config.yaml"))[1].startswith("distill: modal thumos-actionformer")


def test_rgb_alone_lies_on_the_grid_of_both_streams() -> None:
    config = Config.read(ROOT / "config.yaml")
    both, rgb = (config.spec("extract", dataset="thumos14", features=name).model_dump() for name in ("i3d", "i3d_rgb"))
    assert rgb["clip"] == both["clip"]
    changed = {key for key, value in rgb["backbone"]["settings"].items() if value != both["backbone"]["settings"][key]}
    assert changed == {"streams"}
    assert rgb["backbone"]["settings"]["streams"] == "rgb"
