"""What a teacher's detections become: instances, doubt where they score too little, and what doubt does in a loss."""

from dataclasses import replace

import pytest
import torch
from training_tools import real_spec

from tad.detectors._afsd.criterion import Criterion
from tad.detectors._afsd.points import FrameGrid
from tad.layers.types import Candidates, Targets
from tad.settings import plugins
from tad.training.methods.pseudo import as_instances


def test_overlapping_candidates_of_a_class_become_one_instance() -> None:
    segments_N2 = torch.tensor([[1.0, 5.0], [1.5, 5.0], [1.0, 5.0], [-3.0, 0.2], [8.0, 30.0]])
    found = Candidates(segments_N2, torch.tensor([0.6, 0.9, 0.8, 0.9, 0.7]), torch.tensor([0, 0, 1, 0, 0]))
    targets = as_instances(found, 10)
    assert targets is not None
    assert targets.segments_N2.tolist() == [[1.5, 5.0], [1.0, 5.0], [8.0, 10.0]]
    assert targets.labels_N.tolist() == [0, 1, 0]
    assert as_instances(Candidates(segments_N2[3:4], torch.ones(1), torch.zeros(1).long()), 10) is None


def test_a_piece_of_a_detection_is_no_instance_of_its_own() -> None:
    """Its tIoU with the whole is small, but half of it and more lies in there."""
    segments_N2 = torch.tensor([[0.0, 9.0], [1.0, 3.0], [7.5, 11.5], [7.5, 11.5]])
    found = Candidates(segments_N2, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 0, 1]))
    targets = as_instances(found, 20)
    assert targets is not None
    assert targets.segments_N2.tolist() == [[0.0, 9.0], [7.5, 11.5], [7.5, 11.5]]
    assert (targets.doubtful_M2, targets.labels_N.tolist()) == (None, [0, 0, 1])


def test_what_scores_too_little_is_doubtful() -> None:
    segments_N2 = torch.tensor([[0.0, 4.0], [6.0, 9.0], [0.0, 4.0], [1.0, 2.0]])
    found = Candidates(segments_N2, torch.tensor([0.9, 0.3, 0.2, 0.3]), torch.tensor([0, 0, 1, 0]))
    targets = as_instances(found, 10, 0.4)
    assert targets is not None
    assert targets.doubtful_M2 is not None
    assert targets.doubtful_labels_M is not None
    assert targets.segments_N2.tolist() == [[0.0, 4.0]]
    assert targets.doubtful_M2.tolist() == [[6.0, 9.0], [0.0, 4.0]]  # the last one is a piece of the first
    assert targets.doubtful_labels_M.tolist() == [0, 1]
    assert as_instances(found, 10, 0.9) is None  # nothing but doubt teaches nothing


@pytest.mark.parametrize("name", ["mse", "tridet", "actionformer"])
def test_where_there_may_be_an_instance_its_class_learns_nothing(name: str) -> None:
    """Its logits have no gradient there, those of the other classes and elsewhere keep theirs."""
    settings = real_spec(name).detector.settings
    detector = plugins.build("detectors", name, settings, feature_dim=4, num_classes=2, max_length=32)
    feats, lengths = torch.randn(1, 32, 4), torch.tensor([32])
    plain = Targets(torch.tensor([[2.0, 6.0]]), torch.tensor([0]))
    doubt = {"doubtful_M2": torch.tensor([[4.0, 12.0]]), "doubtful_labels_M": torch.tensor([0])}
    detector.eval()
    found = []
    for target in (plain, replace(plain, **doubt)):
        outputs = detector.outputs(*detector.batch(feats, lengths, 32), [32])
        for logits_BKT in outputs.logits:
            logits_BKT.retain_grad()
        detector._losses(outputs, [target])["cls"].backward()
        found.append([logits_BKT.grad[0] for logits_BKT in outputs.logits])
    changed = 0
    for level, (before_KT, after_KT) in enumerate(zip(*found, strict=True)):
        position_T = torch.arange(before_KT.shape[1]) * 2**level
        silent_T = (position_T >= 4) & (position_T <= 12) & (before_KT[0] >= 0)  # negative: it wants a positive point
        assert not after_KT[0, silent_T].any()
        assert torch.equal(after_KT[0, ~silent_T], before_KT[0, ~silent_T])
        assert torch.equal(after_KT[1], before_KT[1])
        changed += int((before_KT[0, silent_T] != 0).sum())
    assert changed > 4


def test_afsd_leaves_out_points_without_an_instance_where_there_may_be_one() -> None:
    grid = FrameGrid(snippets=32, upsample=2, stretch=1, ranges=[(0.0, 1e6)] * 2, aligned=False)
    criterion = Criterion(grid, piou=0.5, adaptive=False, smooth=False, detach_quality=True, normaliser="video")
    target = Targets(
        torch.tensor([[2.0, 6.0]]), torch.tensor([0]),
        doubtful_M2=torch.tensor([[4.0, 12.0]]), doubtful_labels_M=torch.tensor([1]),
    )  # fmt: skip
    position_P = criterion.grid.points(torch.device("cpu"))[:, 0]
    expected_P = (position_P > 2 * 6) & (position_P <= 2 * 12)
    assert torch.equal(criterion._doubtful(target), expected_P)
    assert expected_P.any()
    assert not criterion._doubtful(replace(target, doubtful_M2=None)).any()
