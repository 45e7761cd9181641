"""AFSD: sizes, the two faces, targets and losses by definition, boundary consistency, and its windows."""

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_tools import unmatched
from test_detectors import DETECT, feats, settings, targets

from tad.core.errors import TadError
from tad.detectors._afsd.consistency import cut, triplet, width_of
from tad.detectors._afsd.consistency import cuts as cuts_of
from tad.detectors._afsd.losses import (
    FOCAL_EPSILON,
    assign,
    border_loss,
    border_marks,
    generalised_iou_loss,
    softmax_focal,
)
from tad.detectors._afsd.modules import saliency_regions
from tad.layers.types import Part, Targets
from tad.settings import plugins
from tad.training.data.window_positions import sliding, window_starts

ANNOTATIONS = Path(__file__).parents[2] / "shared/data/annotations/afsd_thumos14"
SIZES = {"feature_dim": 12, "num_classes": 3, "max_length": 64}
FACES = ("parity", "corrected")
WANTED = [targets((5, 21, 0), (30, 36, 1)), targets((8, 30, 2))]


def small(face: str = "corrected", **changes: Any) -> Any:
    """A narrow detector whose weights all matter."""
    torch.manual_seed(0)
    layers = {"embed_dim": 64, "upsample": 2, "strides": [2.0**level for level in range(6)], "face": face}
    detector = plugins.build("detectors", "afsd", settings("afsd", **layers | changes), **SIZES)
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if "scale" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return detector


@pytest.mark.parametrize("method", ["afsd", "gaf"])
def test_published_data_sets_have_the_published_face(method: str) -> None:
    for dataset in ["", *plugins.document("detectors", method)["for"]]:
        expected = "parity" if dataset in ("thumos14", "activitynet13") else "corrected"
        assert settings(method, dataset)["face"] == expected


@pytest.mark.parametrize(
    ("dataset", "dim", "classes", "length", "count", "points"),
    [("thumos14", 2048, 20, 64, 14_239_797, 126), ("activitynet13", 512, 1, 96, 13_414_415, 189)],
)
def test_published_sizes(dataset: str, dim: int, classes: int, length: int, count: int, points: int) -> None:
    with torch.device("meta"):
        detector = plugins.build(
            "detectors", "afsd", settings("afsd", dataset), feature_dim=dim, num_classes=classes, max_length=length
        )
    assert sum(p.numel() for p in detector.parameters()) == count  # counted in OpenTAD's modules too
    assert len(detector.state_dict()) == 100
    assert sum(detector.grid.counts()) == points
    assert detector.grid.frames == {64: 256, 96: 768}[length]


def test_points_lie_in_the_middle_of_their_cells() -> None:
    points_P3 = small().grid.points(torch.device("cpu"))
    assert points_P3[:3, 0].tolist() == [1, 3, 5]
    assert points_P3[-2:, 0].tolist() == [32, 96]


@pytest.mark.parametrize("face", FACES)
def test_training_lowers_the_loss(face: str) -> None:
    detector = small(face).train()
    optimiser = torch.optim.AdamW(detector.parameter_groups(1e-3), lr=1e-3)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = detector.loss(*feats(64, 50), WANTED)["total"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None for p in detector.parameters())


@pytest.mark.parametrize("face", FACES)
def test_parts_add_up_to_the_batch(face: str) -> None:
    x_BTC, lengths_B = feats(64, 50, 40)
    wanted, results = [*WANTED, targets((2, 12, 1), (20, 35, 0))], []
    for size in (3, 1):
        detector = small(face).train()
        sums: dict[str, float] = defaultdict(float)
        for row in range(0, 3, size):
            torch.manual_seed(5)
            rows = slice(row, row + size)
            losses = detector.loss(x_BTC[rows], lengths_B[rows], wanted[rows], Part(3, row, 64))
            losses["total"].backward()
            for name, value in losses.items():
                sums[name] += value.item()
        results.append((dict(sums), [p.grad for p in detector.parameters()]))
    (whole, gradients), (added, others) = results
    assert added == pytest.approx(whole, rel=1e-5)
    assert whole["consistency"] > 0
    scale = max(float(g.abs().max()) for g in gradients)
    assert max(float((a - b).abs().max()) for a, b in zip(gradients, others, strict=True)) < 1e-4 * scale


@pytest.mark.parametrize("face", FACES)
def test_padding_matters_only_in_parity(face: str) -> None:
    x_BTC, lengths_B = feats(40)
    noisy_BTC = torch.cat([x_BTC, torch.randn(1, 24, SIZES["feature_dim"])], dim=1)
    detector = small(face).train()
    masks = detector.network.masks(lengths_B, x_BTC.device)
    plain, noisy = (
        detector.losses_of(detector.network([x.transpose(1, 2)], masks), masks, [targets((5, 21, 0))])["cls"].item()
        for x in (detector.window(x_BTC, lengths_B), noisy_BTC)
    )
    assert (abs(plain - noisy) < 1e-5) == (face == "corrected")
    (found,) = detector.eval().candidates(x_BTC, lengths_B, **DETECT | {"score_threshold": 0.0, "min_length": -1.0})
    assert len(found.scores_N) == 3 * ((40 + 20 + 10 + 5 + 3 + 2) if face == "corrected" else 126)


@pytest.mark.parametrize("face", FACES)
def test_batch_gives_what_single_videos_give(face: str) -> None:
    detector = small(face).eval()
    x_BTC, lengths_B = feats(50, 64, 20)
    together = detector.candidates(x_BTC, lengths_B, **DETECT)
    for row, length in enumerate((50, 64, 20)):
        (alone,) = detector.candidates(x_BTC[row : row + 1, :length], lengths_B[row : row + 1], **DETECT)
        assert len(alone.scores_N) == len(together[row].scores_N) > 2
        assert unmatched(together[row], *(t.numpy() for t in (alone.segments_N2, alone.scores_N, alone.labels_N))) == 0
        assert float(alone.segments_N2.min()) >= -0.5
        assert float(alone.segments_N2.max()) <= 64


def test_nothing_to_learn_and_nothing_to_find() -> None:
    detector = small().train()
    background = replace(targets(), shortest=float("inf"))  # of a video without instances
    losses = detector.loss(*feats(64, 1), [background, targets((0.2, 0.3, 1))])
    assert losses["loc"] == losses["refined_loc"] == losses["quality"] == losses["consistency"] == 0
    assert losses["cls"] > 0
    losses["total"].backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in detector.parameters() if p.grad is not None)
    for found in detector.eval().candidates(*feats(64, 0), **DETECT | {"score_threshold": 0.9999}):
        assert found.segments_N2.shape == (0, 2)
        assert found.labels_N.dtype == torch.int64


def test_bad_input_is_named() -> None:
    detector = small()
    with pytest.raises(TadError, match=r"10 channels.* 12"):
        detector.loss(torch.zeros(1, 64, 10), torch.tensor([64]), [targets()])
    with pytest.raises(TadError, match=r"80 snippets.*detect\.window_stride"):
        detector.eval().candidates(*feats(80), **DETECT)
    for changes, said in [({"face": "fixed"}, "detector.face"), ({"corrections": ["live"]}, "detector.corrections"),
                          ({"embed_dim": 40}, "embed_dim"), ({"strides": [1.0]}, "strides")]:  # fmt: skip
        with pytest.raises(TadError, match=said):
            small(**changes)
    with pytest.raises(TadError, match=r"max_length: 80: must be a multiple of 32"):
        plugins.build("detectors", "afsd", settings("afsd"), **SIZES | {"max_length": 80})


def test_the_quality_target_is_detached_in_corrected_only() -> None:
    for face in FACES:
        detector = small(face).train()
        x_BTC, lengths_B = feats(64)
        masks = detector.network.masks(lengths_B, x_BTC.device)
        outputs = detector.network([x_BTC.transpose(1, 2)], masks)
        detector.losses_of(outputs, masks, [targets((5, 21, 0))])["quality"].backward()
        assert (detector.network.refine.loc.conv.weight.grad is not None) == (face == "parity")


def test_bfloat16_stays_near() -> None:
    detector = small(consistency_weight=0.0).train()
    exact = detector.loss(*feats(64, 50), WANTED)["total"].item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = detector.loss(*feats(64, 50), WANTED)["total"]
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.03)


# -- targets and losses ------------------------------------------------------------------------------------------------


def test_points_belong_to_the_shortest_instance_and_to_the_first_of_equal_ones() -> None:
    points_P3 = torch.tensor([[5.0, 0, 100], [12, 0, 100], [12, 0, 9], [30, 0, 100], [8, 0, 100]])
    segments_N2 = torch.tensor([[0.0, 20], [4, 6], [4, 6], [8, 18], [30, 60]])
    found = assign(points_P3, segments_N2, torch.tensor([0, 1, 2, 3, 4]))
    assert found.labels_P.tolist() == [2, 4, 4, 5, 4]  # borders belong to the instance
    assert found.distances_P2[:2].tolist() == [[1, 1], [4, 6]]
    assert assign(points_P3, segments_N2[:1], torch.tensor([0])).labels_P.tolist() == [1, 1, 0, 0, 1]
    assert not assign(points_P3, segments_N2[:0], torch.tensor([], dtype=torch.long)).labels_P.any()


def test_a_levels_range_holds_its_upper_end_alone() -> None:
    points_P3 = torch.tensor([[10.0, 4, 8], [10, 4, 7.5], [10, 8, 16], [10, 7.5, 16]])
    found = assign(points_P3, torch.tensor([[4.0, 18]]), torch.tensor([0]))  # 6 and 8 away
    assert found.labels_P.tolist() == [1, 0, 0, 1]


def test_losses_by_hand() -> None:
    even = softmax_focal(torch.zeros(2, 3), torch.tensor([0, 2]))
    assert even.tolist() == pytest.approx([w * (2 / 3) ** 2 * np.log(3) for w in (0.25, 0.75)])
    sure = torch.tensor([[0.0, 60.0, 0.0]], requires_grad=True)  # of a wrong class
    rounded = softmax_focal(sure, torch.tensor([2]), epsilon=FOCAL_EPSILON)
    assert rounded.item() == pytest.approx(0.75 * (1 - 1e-6) ** 2 * np.log(1e6))
    assert softmax_focal(sure, torch.tensor([2])).item() == pytest.approx(0.75 * 60)
    (gradient,) = torch.autograd.grad(rounded, sure)
    assert float(gradient.abs().max()) < 1e-12
    ours, truth = torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.tensor([[2.0, 2.0], [2.0, 2.0]])
    assert generalised_iou_loss(ours, truth).tolist() == pytest.approx([1 - 3 / 5 + 0 / 5, 0.0])
    nested, apart = torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, -4.0]])  # a quarter of it; 2 of a hull of 7 between
    assert generalised_iou_loss(nested, truth[:1]).item() == pytest.approx(1 - 1 / 4)
    assert generalised_iou_loss(apart, truth[:1]).item() == pytest.approx(1 + 2 / 7)


@pytest.mark.parametrize("face", FACES)
def test_only_parity_adds_to_probabilities(face: str) -> None:
    """In every class loss, and nowhere else."""
    detector = small(face).eval()
    assert detector.criterion.epsilon == (FOCAL_EPSILON if face == "parity" else 0.0)
    x_BTC, lengths_B = torch.randn(1, 64, detector.feature_dim), torch.tensor([64])
    wanted = [Targets(torch.tensor([[10.0, 30.0]]), torch.tensor([1]))]
    with torch.no_grad():
        losses = detector.loss(x_BTC, lengths_B, wanted)
        detector.criterion.epsilon = 0.1
        moved = detector.loss(x_BTC, lengths_B, wanted)
    assert moved["cls"] < losses["cls"]
    assert moved["refined_cls"] < losses["refined_cls"]
    assert moved["loc"] == losses["loc"]


def test_border_marks_are_a_tenth_and_two_frames_at_least() -> None:
    marks_2F = border_marks(torch.tensor([[10.0, 60.0], [30, 34]]), frames=64)
    assert marks_2F[0].nonzero()[:, 0].tolist() == [8, 9, 10, 11, 12, 29, 30, 31]  # 7.5 and 12.5 are rounded to even
    assert marks_2F[1].nonzero()[:, 0].tolist() == [33, 34, 35, 58, 59, 60, 61, 62]
    assert not border_marks(torch.zeros(0, 2), frames=8).any()


def test_border_loss_is_a_cross_entropy_of_means() -> None:
    features_CF, marks_2F = torch.rand(6, 10), (torch.rand(2, 10) > 0.5).float()
    answer = [half.tanh().mean(dim=0) for half in features_CF.chunk(2)]
    expected = sum(torch.nn.functional.binary_cross_entropy(a, m) for a, m in zip(answer, marks_2F, strict=True))
    assert border_loss(features_CF, marks_2F, None).item() == pytest.approx(float(expected), rel=1e-5)
    dead = torch.zeros(6, 10, requires_grad=True)
    border_loss(dead.relu(), marks_2F, None).backward()
    assert bool(torch.isfinite(dead.grad).all())


def test_saliency_regions() -> None:
    near, fine = saliency_regions(torch.tensor([[[8.0, 16.0], [40.0, 40.0]]]), frames=16)  # positions 0 and 1 of 2
    assert near[0, 0].tolist() == [-2, 0, 1, 3]  # -1 and 2, a margin of 1 inwards and outwards
    assert fine[0, 0].tolist() == [-6, 2, 14, 22]  # -4 and 20: 25 frames, 6.25 inwards and 2.5 outwards


# -- boundary consistency ----------------------------------------------------------------------------------------------


def test_cut_actions_keep_their_halves_and_hold_background() -> None:
    segments_N2, width, ways = torch.tensor([[10.0, 30.0], [50.0, 55.0]]), 4, set()
    for seed in range(40):
        torch.manual_seed(seed)
        made = cut(segments_N2, torch.rand(4), length=64, width=width, background=True)
        (left, at), (again, right), inserted = made.parts_32.tolist()
        source_T = made.source_T.tolist()
        assert again - at == width
        assert inserted == [at + 1, again - 1]
        assert right - left == 20 + width
        whole = [*source_T[int(left) : int(at)], *source_T[int(again) : int(right)]]
        assert whole == list(range(10, 30))  # nothing of the action is lost
        assert at - left >= width
        assert right - again >= width - 1
        middle = source_T[int(at) : int(again)]
        assert middle == list(range(middle[0], middle[0] + width))
        assert not any(10 <= position < 30 or 50 <= position < 55 for position in middle)
        assert source_T[: int(left)] == list(range(int(left))) or left != 10
        ways.add(left == 10)
    assert ways == {True, False}  # background from behind and from before


def test_what_cannot_be_cut() -> None:
    chance_4 = torch.tensor([0.3, 0.3, 0.3, 0.3])
    assert cut(torch.zeros(0, 2), chance_4, length=64, width=1, background=True) is None
    assert cut(torch.tensor([[10.0, 17.0]]), chance_4, length=64, width=4, background=True) is None  # too short
    assert cut(torch.tensor([[2.0, 62.0]]), chance_4, length=64, width=4, background=True) is None  # no background
    overlapping = torch.tensor([[0.0, 40.0], [20.0, 63.0]])
    assert cut(overlapping, chance_4, length=64, width=4, background=True) is None
    ways = set()
    for seed in range(40):  # published: the overlap is background too, unless it is under the knife
        torch.manual_seed(seed)
        made = cut(overlapping, torch.rand(4), length=64, width=4, background=False)
        ways.add(made is None)
        if made is not None:
            (_, at), (again, _), _ = made.parts_32.int().tolist()
            inserted = made.source_T[at:again].tolist()
            assert inserted == list(range(inserted[0], inserted[0] + 4))
            assert not inserted[0] < at < inserted[-1]
    assert ways == {True, False}
    assert (width_of(2.3, 1.0), width_of(9.7, 0.25), width_of(0.2, 0.25), width_of(0.2, 1.0)) == (3, 2, 1, 1)


@pytest.mark.parametrize("face", FACES)
def test_short_windows_are_cut_too(face: str) -> None:
    detector, wanted = small(face).train(), [targets((2, 20, 0), (25, 28, 1))] * 2
    x_BTC, lengths_B = feats(50, 40)
    losses = detector.loss(x_BTC, lengths_B, wanted)
    assert losses["consistency"] > 0
    cuts = cuts_of(wanted, torch.rand(2, 4), lengths=[50, 40], share=1.0, background=True)
    again = detector.augmented(detector.window(x_BTC, lengths_B), lengths_B, cuts)
    assert sorted(cuts) == [0, 1]
    for row, (length, made) in enumerate(zip((50, 40), cuts.values(), strict=True)):
        assert torch.equal(again.maps[0][row].T[:length], x_BTC[row][made.source_T])
        assert not again.maps[0][row].T[length:].any()


def test_triplet_compares_the_cuts_with_the_background() -> None:
    same_C3 = torch.tensor([[0.0, 1, 5], [1, 0, 0]])  # starts of the parts; ends of the parts
    assert triplet([same_C3, same_C3], [1.0, 0.1]).item() == 0
    wrong_C3 = torch.tensor([[0.0, 4, 1], [1, 0, 0]])
    assert triplet([wrong_C3, wrong_C3], [1.0, 0.1]).item() == pytest.approx(1.1 * 4, rel=1e-4)


def test_randomness_is_torchs_generator_alone() -> None:
    detector, found = small().train(), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(detector.loss(*feats(64, 60), WANTED)["consistency"].item())
    assert found[0] == found[1] != found[2]


# -- windows -----------------------------------------------------------------------------------------------------------


def test_windows_slide_and_the_last_one_is_right_aligned() -> None:
    assert window_starts(256, 256, 30) == window_starts(100, 256, 30) == [0]
    assert window_starts(320, 256, 30) == [0, 30, 60, 64]
    assert window_starts(316, 256, 30) == [0, 30, 60]
    segments_N2 = np.array([[5.0, 20.0], [35.0, 50.0]])
    common = {"length": 60, "width": 30, "stride": 10, "threshold": 0.5, "margin": 0.0}
    for rule, expected in {"part": [0, 10, 20, 30], "whole": [0, 20, 30], "any": [0, 10, 20, 30]}.items():
        windows = list(sliding(segments_N2, **common, rule=rule))
        assert [first for first, _, _, used in windows if used] == expected
        assert [first for first, *_ in windows] == [0, 10, 20, 30]
    _, cut_N2, kept, _ = windows[1]
    assert (cut_N2.tolist(), kept.tolist()) == ([[0.0, 10.0]], [0])


@pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="needs the official annotation files")
@pytest.mark.parametrize(("part", "count"), [("val", 143), ("test", 217)])
def test_every_cliff_dive_is_a_dive_as_well_and_comes_first(part: str, count: int) -> None:
    with open(ANNOTATIONS / f"{part}_Annotation_ours.csv", encoding="utf-8") as file:
        rows = [(row["type"], (row["video"], row["start"], row["end"])) for row in csv.DictReader(file)]
    names = ("CliffDiving", "Diving")
    cliffs, dives = ({where: k for k, (label, where) in enumerate(rows) if label == name} for name in names)
    assert len(cliffs) == count
    assert all(where in dives and k < dives[where] for where, k in cliffs.items())
