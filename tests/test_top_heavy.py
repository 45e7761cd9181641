"""The top-heavy student on frames: the whole network's shapes, fewer kernels, and what its gated teacher tells it."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_afsd_frames import TOY, clips, project, toy
from test_detectors import settings, targets
from test_gate_distillation import distiller as lesson_of
from training_tools import train_spec

from tad.core.errors import TadError
from tad.layers.i3d.inception import Inception
from tad.layers.i3d.top_heavy import TopHeavy
from tad.settings.config import Config
from tad.settings.stages import DistillSpec, Plugin
from tad.stages.train import train
from tad.training.io import tensors as checkpoint

__all__ = ["project"]
GATED = {"gate": "generative", "gate_settings": {"hidden": 32}, "taps": ["Mixed_5c"]}
WANTED = [targets((1, 9, 0), (14, 15, 1)), targets((1, 7, 1), (10, 11, 0))]
# of each flat block: input, b1a, b1b, b2a, b2b, counted from the figure of I3D
BLOCKS = [(96, 128, 16, 32), (128, 192, 32, 96), (96, 208, 16, 48), (112, 224, 24, 64)]


def small(**changes: Any) -> Any:
    return toy(**GATED | {"i3d": "top_heavy"} | changes)


def distiller(teacher: Any, **terms: float) -> Any:
    lesson = lesson_of(teacher, [{"teacher": "t", "target": target, "weight": w} for target, w in terms.items()])
    lesson.columns = slice(None)
    lesson.teachers = {"t": type(lesson.teachers["t"])("t", "one", teacher, slice(None))}
    return lesson


def moved(detector: Any, seed: int) -> Any:
    """The same with other weights, for a teacher."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return detector.eval().requires_grad_(False)


# -- the network -------------------------------------------------------------------------------------------------------


def test_every_stage_has_the_whole_networks_shape() -> None:
    with torch.device("meta"):
        whole, flat = (make(channels=3, num_classes=1) for make in (Inception, TopHeavy))
        x_BCTHW = torch.empty(1, 3, 256, 96, 96)
        shapes = [[x.shape for x in network.taps(x_BCTHW, network.order)] for network in (whole, flat)]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 16


def test_the_number_of_parameters() -> None:
    with torch.device("meta"):
        whole, flat = (make(channels=3, num_classes=1) for make in (Inception, TopHeavy))
    counts = [sum(p.numel() for p in network.parameters()) for network in (whole, flat)]
    fewer = 3 * 64 * (7 * 7 * 7 - 7 * 7) + 64 * 192 * (27 - 9)
    fewer += sum((a * b + c * d) * (27 - 9) for a, b, c, d in BLOCKS)
    assert counts[0] - counts[1] == fewer == 1_858_176
    assert counts[1] == 12_287_264 + 1025 - fewer  # with a classifier of one class


def test_each_frame_is_seen_by_itself_up_to_the_fourth_pooling() -> None:
    torch.manual_seed(0)
    network, x_BCTHW = TopHeavy(channels=3, num_classes=1).eval(), torch.rand(1, 3, 16, 16, 16)
    other_BCTHW = x_BCTHW.clone()
    other_BCTHW[:, :, 8] += 1
    with torch.no_grad():
        pairs = [network.taps(x, ["Mixed_3c", "Mixed_4c", "Mixed_4d"]) for x in (x_BCTHW, other_BCTHW)]
    changed = [(a - b).abs().amax(dim=(0, 1, 3, 4)) > 0 for a, b in zip(*pairs, strict=True)]
    assert changed[0].nonzero()[:, 0].tolist() == [4]  # the first convolution's stride is the only thing in time
    assert changed[1].sum() == 2  # the pooling in between reaches over three of these
    assert changed[2].sum() == 4


@pytest.mark.parametrize("face", ["parity", "corrected"])
def test_kernels_that_lost_their_extent(face: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(3)
    given = {name: torch.rand_like(value) for name, value in Inception(channels=3, num_classes=5).state_dict().items()
             if value.is_floating_point()}  # fmt: skip
    detector = small(face=face)
    before = {name: value.clone() for name, value in detector.trunk.state_dict().items()}
    with caplog.at_level(logging.INFO):
        detector.start_from(given)
    begin = "their kernels' sums over time" if face == "corrected" else r"random weights \(settings.i3d\)"
    assert [
        r.message for r in caplog.records if "10 units of I3D" in r.message and begin.replace("\\", "") in r.message
    ]
    after = detector.trunk.state_dict()
    for stage in ("Conv3d_1a_7x7", "Mixed_3b.b1b", "Mixed_4c.b2b"):
        kernel, norm = f"{stage}.conv3d.weight", f"{stage}.bn.running_mean"
        assert given[kernel].shape[2] > 1
        expected = given[kernel].sum(dim=2, keepdim=True) if face == "corrected" else before[kernel]
        assert torch.equal(after[kernel], expected)
        assert torch.equal(after[norm], given[norm] if face == "corrected" else before[norm])
    for name in ("Mixed_4c.b0.conv3d.weight", "Mixed_4d.b1b.conv3d.weight", "Mixed_5c.b3b.bn.running_var"):
        assert torch.equal(after[name], given[name])
    with pytest.raises(TadError, match=r"'Mixed_5c\.b0\.conv3d\.weight' is missing"):
        detector.start_from({name: value for name, value in given.items() if name != "Mixed_5c.b0.conv3d.weight"})
    with pytest.raises(TadError, match=r"detector\.i3d: Input should be 'full' or 'top_heavy'"):
        small(i3d="half")


# -- teacher and student -----------------------------------------------------------------------------------------------


def test_teacher_and_student_see_the_same_crops_and_cut_windows() -> None:
    x_BTC, lengths_B = clips(16, 12)
    for i3d in ("full", "top_heavy"):  # a teacher of equal weights has nothing to say, whatever is cropped and cut
        student, teacher = small(i3d=i3d).train(), small(i3d=i3d).eval()
        teacher.load_state_dict(student.state_dict())
        student.enter("main", 0, 1)
        torch.manual_seed(2)
        found = distiller(teacher, attention=10.0).loss(student, x_BTC, lengths_B, WANTED, None)
        assert found["consistency"] > 0
        assert found["attention of t"].item() == pytest.approx(0, abs=1e-10)


def test_the_term_is_on_the_clip_and_on_the_cut_one() -> None:
    """Against a computation of its own: crops by hand, both clips through both networks."""
    x_BTC, lengths_B = clips(16)
    student, teacher = small(consistency_weight=1.0).train(), moved(small(i3d="full"), 7)
    student.enter("main", 0, 1)
    looks: list[Any] = []
    torch.manual_seed(2)
    student.loss(x_BTC, lengths_B, WANTED[:1], None, seen=looks)
    torch.manual_seed(2)
    found = distiller(teacher, attention=1.0).loss(student, x_BTC, lengths_B, WANTED[:1], None)
    (choice,) = [look.choice for look in looks]
    top, left, mirrored = choice.view_B3[0].tolist()
    height, width, crop = 24, 40, 16
    row, column = int(top * (height - crop + 1)), int(left * (width - crop + 1))
    x_THWC = x_BTC[0].reshape(16, height, width, 3)[:, row : row + crop, column : column + crop] / 127.5 - 1
    x_THWC = x_THWC.flip(2) if mirrored < 0.5 else x_THWC
    expected = torch.zeros(())
    for source_T in (torch.arange(16), choice.cuts[0].source_T):
        clip_BCTHW = x_THWC[source_T].permute(3, 0, 1, 2)[None]
        attentions = [d.gates[0].attention(d.trunk.taps(clip_BCTHW, ["Mixed_5c"])[0], None) for d in (student, teacher)]
        expected = expected + (attentions[0] - attentions[1]).square().mean()
    assert not torch.equal(choice.cuts[0].source_T, torch.arange(16))
    assert found["attention of t"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_two_steps_learn_from_the_teacher_alone() -> None:
    """Both terms have gradients, in both passes the teacher stays as it is, and the student nears its attention."""
    x_BTC, lengths_B = clips(16, 16)
    student, teacher = (
        small(taps=["Mixed_4f", "Mixed_5c"]).train(),
        moved(toy(gate="generative", gate_settings={"hidden": 32}), 7),
    )
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    lesson = distiller(teacher, attention=10.0, reconstruction=0.01)
    lesson.spec = lesson.spec.model_copy(update={"hard": 0.0})
    seen = {"main": [], "vae": []}
    groups = {phase: student.parameter_groups(1e-3, phase) for phase in seen}
    for phase, values in seen.items():
        student.enter(phase, 0, 1)
        student.requires_grad_(False)
        for group in groups[phase]:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        optimiser = torch.optim.Adam(groups[phase], lr=1e-4)
        for _ in range(2):
            torch.manual_seed(2)
            student.zero_grad(set_to_none=True)
            losses = lesson.loss(student, x_BTC, lengths_B, WANTED, None)
            losses["total"].backward()
            if phase == "main":
                assert student.trunk.Conv3d_1a_7x7.conv3d.weight.grad.any()
                assert all(gate.attention.mix.weight.grad.any() for gate in student.gates)
            else:
                assert all(gate.vae.decoder[0].weight.grad.any() for gate in student.gates)
                assert student.trunk.Conv3d_1a_7x7.conv3d.weight.grad is None
            optimiser.step()
            (name,) = [name for name in losses if name.endswith(" of t")]
            values.append(float(losses[name]))
        assert 0 < values[1] < values[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_run_on_frames_teaches_another(project: Path, tmp_path: Path) -> None:
    paths, changes = (project / "f.h5", project / "toy.json"), {"max_length": 16, "window_stride": 12, "epochs": 1}
    changes |= {"warmup_epochs": 0, "batch_size": 4, "ema_decay": 0.0}
    plugins = [Plugin(name="afsd_frames", settings=settings("afsd_frames", **TOY | GATED | {"i3d": i3d}))
               for i3d in ("full", "top_heavy")]  # fmt: skip
    teacher = train_spec(**changes).model_copy(update={"detector": plugins[0], "frames": "rgb"})
    made = train(*paths, tmp_path / "t" / "model.safetensors", spec=teacher, cache=tmp_path / "kept", threads=1)
    taught = {"name": "gaf", "run": teacher.run, "features": "f", "detector": plugins[0].model_dump(), "resize": 0,
              "frames": "rgb"}  # fmt: skip
    terms = [{"teacher": "gaf", "target": "attention", "weight": 10.0, "reduction": "padded"},
             {"teacher": "gaf", "target": "reconstruction", "weight": 0.01}]  # fmt: skip
    lesson = DistillSpec.model_validate({"teachers": [taught], "terms": terms})
    spec = teacher.model_copy(update={"detector": plugins[1], "distill": lesson})
    before = made.read_bytes()
    out = train(*paths, tmp_path / "s" / "model.safetensors", spec=spec, cache=tmp_path / "kept", threads=1,
                teachers=[made], teacher_features=[paths[0]])  # fmt: skip
    assert made.read_bytes() == before
    tensors, _ = checkpoint.read_tensors(out)
    assert tensors["trunk.Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 1, 7, 7)
    assert all(np.isfinite(value.float().numpy()).all() for value in tensors.values())


def test_the_published_recipe_is_a_row() -> None:
    config = Config.read(Path(__file__).parents[1] / "config.yaml")
    spec = config.spec("train", run="thumos-gkd")
    own, recipe = spec.detector.settings, spec.train
    assert (own["i3d"], own["face"], own["gate"]) == ("top_heavy", "parity", "generative")
    assert {key: own["gate_settings"][key] for key in ("lr", "ramp_epochs", "reconstruction_weight")} == {
        "lr": 1e-4, "ramp_epochs": 20, "reconstruction_weight": 0.5}  # fmt: skip
    found = (recipe.lr, recipe.batch_size, recipe.epochs, recipe.weight_decay, recipe.optimizer)
    assert found == (1e-6, 1, 50, 1e-3, "adam")
    assert [(term.target, term.weight) for term in spec.distill.terms] == [("attention", 10), ("reconstruction", 0.01)]
    assert config.spec("suppress", run="thumos-gkd").nms.sigma == 0.1
    assert spec.distill.teachers[0].detector.settings["i3d"] == "full"
    assert config.spec("train", run="demo-gkd").detector.settings["i3d"] == "top_heavy"
