"""SPOT: published sizes, targets, losses, decoding, pretext task, and trainings with few labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import training_tools as tools
from training_tools import real_spec, run, videos_of, write_inputs

from tad.annotations.table import read_table
from tad.core.errors import TadError
from tad.detectors._spot.contrast import bands, boundary_contrast
from tad.detectors._spot.decoder import decode_masks, extents, run_around
from tad.detectors._spot.losses import class_loss, mask_loss
from tad.detectors._spot.targets import IGNORED, blocks, confident, inside, label_snippets, random_foregrounds
from tad.detectors.spot import Detector
from tad.features.store import FeatureReader
from tad.layers.fusion import fused
from tad.layers.types import Part, Targets
from tad.provenance.stamps import read_stamp
from tad.settings.labels import LabelsSpec
from tad.settings.plugins import build, defaults
from tad.settings.stages import TrainStageSpec
from tad.training.data.roles import roles_of
from tad.training.io import tensors as checkpoint

SETTINGS = defaults("detectors", "spot")


def small(**changes: object) -> Detector:
    torch.manual_seed(0)
    settings = SETTINGS | {"heads": 2, "seeds": 20, "one_class": False} | changes
    detector = build("detectors", "spot", settings, feature_dim=6, num_classes=2, max_length=16)
    assert isinstance(detector, Detector)
    return detector


def targets_of(*spans: tuple[float, float, int]) -> Targets:
    segments_N2 = torch.tensor([span[:2] for span in spans]).reshape(-1, 2)
    return Targets(segments_N2, torch.tensor([span[2] for span in spans], dtype=torch.int64))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, list[Targets]]:
    torch.manual_seed(1)
    feats_BTC = torch.randn(3, 16, 6)
    targets = [targets_of((2.0, 7.0, 0), (10.0, 13.5, 1)), targets_of((0.0, 9.0, 1)), targets_of()]
    return feats_BTC, torch.tensor([16, 11, 16]), targets


def spot_spec(**changes: object) -> TrainStageSpec:
    spec = real_spec("spot", **{"pretext_epochs": 1, "epochs": 3, "warmup_epochs": 0} | changes)
    settings = spec.detector.settings | {"heads": 2}
    return spec.model_copy(update={"detector": spec.detector.model_copy(update={"settings": settings})})


# -- network -----------------------------------------------------------------------------------------------------------


def test_published_numbers_of_parameters() -> None:
    network = build("detectors", "spot", SETTINGS, feature_dim=400, num_classes=200, max_length=100).network
    counts = [
        sum(p.numel() for p in part.parameters())
        for part in (network.project, network.embedding, network.classifier, network.mask_head, network.order_head)
    ]
    assert counts == [0, 2_561_200, 80_601, 333_056, 1_201 + 202]


def test_padding_changes_nothing_unless_published(batch: tuple[torch.Tensor, torch.Tensor, list[Targets]]) -> None:
    feats_BTC = batch[0]
    for face, same in (("corrected", True), ("parity", False)):
        network = small(face=face).eval()
        x_BCT, real_B1T = network.window(feats_BTC[:1, :9], torch.tensor([9]))
        said = network.network(x_BCT, network._mask(real_B1T))
        other = network.network(torch.where(real_B1T, x_BCT, 3.0), network._mask(real_B1T))
        assert torch.allclose(said.logits_BKT[..., :9], other.logits_BKT[..., :9], atol=1e-5) == same


def test_with_positions_equal_snippets_have_masks_of_their_own() -> None:
    feats_BTC, lengths_B = torch.ones(1, 16, 6), torch.tensor([16])
    for use_position in (False, True):
        detector = small(use_position=use_position).eval()
        (raw,) = detector.raw(feats_BTC, lengths_B)
        inner_TT = raw.outputs["masks_BTT"][0, 1:-1]  # a border of the window tells itself by its padding
        assert bool((inner_TT - inner_TT[0]).abs().max() > 1e-3) == use_position


# -- targets -----------------------------------------------------------------------------------------------------------


def test_snippets_whose_middle_lies_in_an_instance_have_its_class_and_mask() -> None:
    targets = targets_of((2.0, 8.0, 0), (4.5, 6.2, 1), (9.6, 9.8, 1), (14.2, 30.0, 0))
    spans = inside(targets.segments_N2, length=16, shrunk=False)
    assert spans.tolist() == [[2, 8], [5, 7], [10, 11], [15, 16]]
    assert inside(targets.segments_N2, length=16, shrunk=True).tolist() == [[3, 7], [6, 6], [11, 10], [16, 15]]
    labelled = label_snippets(targets, length=16, size=18, classes=2, shrunk=False)
    assert labelled.classes_T.tolist() == [2, 2, 0, 0, 0, 1, 1, 0, 2, 2, 1, 2, 2, 2, 2, 0, IGNORED, IGNORED]
    assert labelled.masks_TT[2].nonzero()[:, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert torch.equal(labelled.masks_TT, labelled.masks_TT.T)
    assert int(labelled.valid_TT.sum()) == 16 * 16
    shrunk = label_snippets(targets, length=16, size=18, classes=2, shrunk=True)
    assert shrunk.classes_T.tolist()[:16] == [2, 2, 2, 0, 0, 0, 0, *[2] * 9]


def test_a_teacher_is_believed_where_it_is_sure() -> None:
    probability_KT = torch.tensor([[0.9, 0.5, 0.1, 0.8], [0.0, 0.3, 0.1, 0.1], [0.1, 0.2, 0.8, 0.1]])
    masks_TT = torch.tensor([[0.8, 0.5, 0.1, 0.0]] * 4)  # in, not known, out, and padding
    (found,) = confident(probability_KT[None], masks_TT[None], [3], confidence=0.7, mask=0.7)
    assert found.classes_T.tolist() == [0, IGNORED, 2, IGNORED]
    assert found.masks_TT.tolist() == [[1, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    assert found.valid_TT.tolist() == [[True, False, True, False], [False] * 4, [True, True, True, False], [False] * 4]
    assert found.labels_N.tolist() == [0]


def test_random_foregrounds_lie_in_the_window_and_have_all_sizes() -> None:
    torch.manual_seed(0)
    lengths_B = torch.tensor([100, 30, 8, 3] * 300)
    spans_BN2 = random_foregrounds(torch.rand(1200, 4), lengths_B)
    first_BN, last_BN = spans_BN2.unbind(2)
    assert bool((first_BN >= 0).all())
    assert bool((last_BN <= lengths_B[:, None]).all())
    sizes = (last_BN - first_BN)[lengths_B == 100]
    assert int(sizes.min()) >= 5
    assert int(sizes.max()) > 80
    assert int((last_BN - first_BN).min()) >= 1


# -- losses ------------------------------------------------------------------------------------------------------------


def test_losses_of_masks_by_hand() -> None:
    truth_11 = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    said = torch.tensor([[[0.8, 0.3], [0.4, 0.9]]])
    valid = torch.tensor([[[True, True], [True, False]]])
    ratio = (10 + 11 + 2) / 11
    entropy = -(0.5 * ratio * np.log(0.8) + 0.5 * ratio / (ratio - 1) * (np.log(0.7) + np.log(0.6))) / 23
    dice = 1 - (2 * 0.8 + 1) / (0.64 + 0.09 + 0.16 + 1 + 1)
    wanted = 0.4 * entropy + 0.6 * dice
    assert float(mask_loss(said, truth_11, valid, dice=True, summed=True)) == pytest.approx(wanted, rel=1e-4)
    perfect = torch.eye(50)[None]
    everywhere = torch.ones_like(perfect).bool()
    for factor_two, low in ((False, 0.29), (True, 0.0)):  # published: a perfect mask scores about a half
        found = mask_loss(perfect, perfect, everywhere, dice=factor_two, summed=True)
        assert float(found) == pytest.approx(low, abs=0.01)
    assert float(mask_loss(said, truth_11, ~everywhere[:, :2, :2], dice=True, summed=True)) == 0


def test_the_class_loss_is_a_number_of_the_batch_or_of_each_snippet() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5)
    classes = torch.tensor([[0, 1, 2, IGNORED, 0], [2, 2, 2, 2, 1]])
    entropy = torch.nn.functional.cross_entropy(logits, classes, ignore_index=IGNORED)
    published = class_loss(logits, classes, focal=False, summed=False) / 2
    assert float(published) == pytest.approx(float(0.5 * (1 - torch.exp(-entropy)) ** 2 * entropy), rel=1e-5)
    each = torch.nn.functional.cross_entropy(logits, classes, ignore_index=IGNORED, reduction="none")
    focal = 0.5 * (1 - torch.exp(-each)) ** 2 * each
    assert float(class_loss(logits, classes, focal=True, summed=True)) == pytest.approx(
        float(focal[0].sum() / 4 + focal[1].mean()), rel=1e-5
    )
    assert float(class_loss(logits, torch.full_like(classes, IGNORED), focal=True, summed=True)) == 0


def test_contrast_takes_snippets_over_time_along_the_borders() -> None:
    torch.manual_seed(0)
    masks_TT = blocks(torch.tensor([[10, 30]]), 40) * 0.9 + 0.05
    near_T, far_T = bands(masks_TT)
    assert {*range(12, 14), *range(26, 28)} <= set(near_T.nonzero()[:, 0].tolist()) <= set(range(10, 30))
    assert set(far_T.nonzero()[:, 0].tolist()) - set(range(10, 30))
    logits_KT = torch.zeros(3, 40)
    logits_KT[0, 12:28], logits_KT[2, :8], logits_KT[2, 32:] = 4.0, 4.0, 4.0
    embedded_TC = torch.randn(40, 400, requires_grad=True)
    boundary_contrast(embedded_TC, logits_KT, masks_TT, None).backward()
    moved = set(embedded_TC.grad.abs().sum(dim=1).nonzero()[:, 0].tolist())
    assert moved & set(range(10, 14))
    assert moved & {*range(8), *range(32, 40)}
    assert float(boundary_contrast(embedded_TC, logits_KT, torch.zeros(40, 40), None)) == 0


def test_losses_of_parts_add_up_to_the_batch(batch: tuple[torch.Tensor, torch.Tensor, list[Targets]]) -> None:
    feats_BTC, lengths_B, targets = batch
    detector = small().train()

    def gradient(parts: list[range], pretext: bool) -> tuple[float, torch.Tensor]:
        detector.zero_grad()
        total = 0.0
        for rows in parts:
            torch.manual_seed(3)
            part, chosen = Part(3, rows.start, 16), slice(rows.start, rows.stop)
            if pretext:
                losses = detector.pretext_loss(feats_BTC[chosen], lengths_B[chosen], part)
            else:
                losses = detector.loss(feats_BTC[chosen], lengths_B[chosen], targets[chosen], part)
            losses["total"].backward()
            total += float(losses["total"].detach())
        kept = [p.grad.flatten() for p in detector.parameters() if p.grad is not None]
        return total, torch.cat(kept)

    for pretext in (False, True):
        whole, parts = gradient([range(3)], pretext), gradient([range(2), range(2, 3)], pretext)
        assert parts[0] == pytest.approx(whole[0], rel=1e-4)
        torch.testing.assert_close(parts[1], whole[1], rtol=1e-3, atol=1e-5)
    with pytest.raises(TadError, match=r"whole batch at once, not 2 of 3 videos.*train\.batch_size"):
        small(face="parity").loss(feats_BTC[:2], lengths_B[:2], targets[:2], Part(3, 0, 16))
    assert small(face="parity").loss(feats_BTC, lengths_B, targets)["total"].isfinite()


def test_the_pretext_task_leaves_the_classifier_alone(batch: tuple[torch.Tensor, torch.Tensor, list[Targets]]) -> None:
    detector = small().train()
    losses = detector.pretext_loss(batch[0], batch[1])
    assert set(losses) == {"mask", "rec", "order", "total"}
    losses["total"].backward()
    network = detector.network
    assert network.classifier.weight.grad is None
    for layer in (network.embedding.query, network.mask_head.rows, network.order_head.out):
        assert float(layer.weight.grad.abs().sum()) > 0


# -- decoding ----------------------------------------------------------------------------------------------------------


def test_extents_and_runs() -> None:
    rows = torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    first, last, longest = extents(rows)
    assert (first.tolist(), last.tolist(), longest.tolist()) == ([1, 5, 0], [4, -1, 4], [2, 0, 5])
    first, last = run_around(rows, torch.tensor([2, 3, 0]))
    assert (first.tolist(), last.tolist()) == ([1, 4, 0], [2, 2, 4])


def test_perfect_masks_and_classes_are_found() -> None:
    masks_TT = blocks(torch.tensor([[5, 15], [30, 36]]), 50)
    probability_KT = torch.full((3, 50), 0.05)
    probability_KT[2] = 0.9
    probability_KT[:, 5:15] = torch.tensor([0.95, 0.03, 0.02])[:, None]
    probability_KT[:, 30:36] = torch.tensor([0.02, 0.92, 0.06])[:, None]
    settings = {"score_threshold": 0.3, "topk": 10, "min_length": 0.0}
    found = decode_masks(probability_KT, masks_TT, seeds=50, one_class=False, **settings)
    assert found.segments_N2.tolist() == [[4.5, 14.5], [29.5, 35.5]]
    assert found.labels_N.tolist() == [0, 1]
    assert found.scores_N.tolist() == pytest.approx([0.95, 0.92])
    one = decode_masks(probability_KT, masks_TT, seeds=10, one_class=True, **settings)
    assert one.labels_N.tolist() == [0]
    few = decode_masks(probability_KT, masks_TT, seeds=50, one_class=False, **settings | {"topk": 1})
    assert few.segments_N2.tolist() == [[4.5, 14.5]]
    none = decode_masks(probability_KT, masks_TT, seeds=50, one_class=False, **settings | {"score_threshold": 0.99})
    assert none.segments_N2.shape == (0, 2)


def test_candidates_do_not_depend_on_the_batch_and_bad_input_is_named() -> None:
    detector = small().eval()
    feats_BTC = torch.randn(3, 16, 6)
    settings = {"score_threshold": 0.0, "topk": 50, "min_length": 0.0}
    lengths_B = torch.tensor([16, 0, 7])
    together = detector.candidates(feats_BTC, lengths_B, **settings)
    alone = detector.candidates(feats_BTC[2:, :7], torch.tensor([7]), **settings)[0]
    assert len(together[1].scores_N) == 0
    assert len(alone.scores_N) > 0
    torch.testing.assert_close(together[2].scores_N, alone.scores_N, rtol=1e-4, atol=1e-6)
    assert float(together[2].segments_N2.max()) <= 6.5
    same = detector.decode_candidates(fused([detector.raw(feats_BTC, lengths_B)] * 2, detector), 3, **settings)
    torch.testing.assert_close(same[2].scores_N, together[2].scores_N)
    with pytest.raises(TadError, match=r"17 snippets.*train\.resize to 16"):
        detector.candidates(torch.randn(1, 17, 6), torch.tensor([17]), **settings)
    with pytest.raises(TadError, match="5 channels"):
        detector.candidates(torch.randn(1, 16, 5), torch.tensor([16]), **settings)
    with pytest.raises(TadError, match="face"):
        small(face="original")


# -- the gate, and learning from others --------------------------------------------------------------------------------


GATE = {"gate": "generative", "gate_settings": {**SETTINGS["gate_settings"], "hidden": 8}}


@pytest.mark.parametrize("face", ["parity", "corrected"])
def test_the_gate_is_judged_in_a_pass_of_its_own(
    batch: tuple[torch.Tensor, torch.Tensor, list[Targets]], face: str
) -> None:
    feats_BTC, lengths_B, targets = batch
    detector = small(face=face, **GATE).train()
    assert set(detector.state_dict()) - set(small(face=face).state_dict()) == {
        name for name in detector.state_dict() if name.startswith("gates.")
    }
    own = {name: {id(p) for g in detector.parameter_groups(0.1, name) for p in g["params"]} for name in ("vae", "main")}
    detector.enter("vae", 0, 2)
    vae = detector.loss(feats_BTC, lengths_B, targets)
    vae["total"].backward()
    assert {id(p) for p in detector.parameters() if p.grad is not None} == own["vae"]
    detector.zero_grad(set_to_none=True)
    detector.enter("main", 1, 2)
    assert vae["unsupervised"] == vae["total"]  # what needs no labels is learnt from all videos in full
    losses = detector.loss(feats_BTC, lengths_B, targets)
    added = losses["background"] + 0.5 * losses["reconstruction"]
    plain = losses["cls"] + losses["mask"] + losses["rec"] + losses["contrast"]
    assert losses["total"].item() == pytest.approx((plain + added).item(), rel=1e-5)
    assert losses["unsupervised"].item() == pytest.approx((losses["rec"] + losses["contrast"] + added).item(), rel=1e-5)
    losses["background"].backward()
    assert all(bool(p.grad.any()) for p in detector.gates[0].attention.parameters())


def test_what_the_gate_holds_back_is_to_be_background(batch: tuple[torch.Tensor, torch.Tensor, list[Targets]]) -> None:
    feats_BTC, lengths_B, targets = batch
    detector, found = small(**GATE).train(), []
    for logit in (-9.0, 9.0):  # of the background
        with torch.no_grad():
            detector.network.classifier.weight.zero_()
            detector.network.classifier.bias.copy_(torch.tensor([0.0, 0.0, logit]))
        found.append(detector.loss(feats_BTC, lengths_B, targets)["background"].item())
    assert found[1] < 1e-6 < 1 < found[0]


def test_padding_does_not_count_behind_the_gate() -> None:
    detector, settings = small(**GATE).eval(), {"score_threshold": 0.0, "topk": 50, "min_length": 0.0}
    feats_BTC = torch.randn(2, 16, 6)
    together = detector.candidates(feats_BTC, torch.tensor([16, 7]), **settings)[1]
    (alone,) = detector.candidates(feats_BTC[1:, :7], torch.tensor([7]), **settings)
    torch.testing.assert_close(together.scores_N, alone.scores_N, rtol=1e-4, atol=1e-6)


# -- trainings ---------------------------------------------------------------------------------------------------------


def test_the_term_without_labels_gives_the_classifier_a_gradient(tmp_path: Path) -> None:
    """The reference's check 8, which the released code fails: labelled losses are left out, the classifier learns."""
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    spec = spot_spec(max_length=32, batch_size=2)
    spec = spec.model_copy(update={"labels": LabelsSpec(share=0.5, confidence=0.4, teacher="self")})
    with FeatureReader(tmp_path / "f.h5") as reader:
        roles = roles_of(reader, read_table(tmp_path / "toy.json"), spec)
        mixed, detector, taught = tools.mixed(reader, roles, spec)
        with torch.no_grad():
            detector.network.classifier.weight.mul_(20)  # sure of itself
        for losses in taught.additional_losses(detector, mixed, 2, step=100, averages=detector.state_dict):
            if losses["total"].requires_grad:
                losses["total"].backward()
    assert float(detector.network.classifier.weight.grad.abs().sum()) > 0
    assert float(detector.network.mask_head.rows.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("gate", ["none", "generative"])
def test_a_training_with_pretext_and_few_labels_resumes_in_equal_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: str
) -> None:
    spec = spot_spec(max_length=32, batch_size=2)
    settings = spec.detector.settings | GATE | {"gate": gate}
    spec = spec.model_copy(update={"detector": spec.detector.model_copy(update={"settings": settings})})
    spec = spec.model_copy(update={"labels": LabelsSpec(share=0.5, confidence=0.4, teacher="self")})
    for name in ("whole", "cut"):
        write_inputs(tmp_path / name, videos_of(np.random.default_rng(0)))
    whole = run(tmp_path / "whole", spec, seconds=1000)
    assert read_stamp(whole)["labels"]["labelled"] == 3
    for wanted, method, count in (("pretext.state", "pretext_loss", 3), ("state", "loss", 4)):
        calls = [0]
        make = getattr(Detector, method)

        def interrupted(self: Detector, *args: object, told=(calls, make, count)) -> object:
            calls, make, count = told
            calls[0] += 1
            if calls[0] == count:
                raise KeyboardInterrupt
            return make(self, *args)

        monkeypatch.setattr(Detector, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", spec)
        monkeypatch.undo()
        names = [p for p in (tmp_path / "cut/kept").iterdir() if p.name.endswith(f".{wanted}.safetensors")]
        (state,) = [p for p in names if (".pretext." in p.name) == (wanted == "pretext.state")]
        assert json.loads(checkpoint.read_tensors(state)[1]["state"])["step"] > 0
    assert run(tmp_path / "cut", spec).read_bytes() == whole.read_bytes()
    assert len(list((tmp_path / "cut/kept").iterdir())) == 1


def test_a_detector_without_a_pretext_task_says_so(tmp_path: Path) -> None:
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    with pytest.raises(TadError, match=r"train\.pretext_epochs: 1: this detector has no pretext task"):
        run(tmp_path, real_spec("actionformer", pretext_epochs=1, epochs=1))
