"""Edges of what detectors of points learn from: ranges of levels, distances between centres, padding in pooling."""

import pytest
import torch

from tad.layers.masked import max_pool
from tad.layers.point_losses import distance_iou_loss, label_points
from tad.layers.types import Targets


@pytest.mark.parametrize(("end", "positive"), [(7.9, False), (8.0, True), (12.0, True), (16.0, True), (16.1, False)])
def test_a_levels_range_holds_both_of_its_ends(end: float, positive: bool) -> None:
    """The point at 0 with the range [8, 16], and an instance from -1 to `end`."""
    points_P4 = torch.tensor([[0.0, 8.0, 16.0, 1.0]])
    target = Targets(torch.tensor([[-1.0, end]]), torch.tensor([0]))
    classes_PK, _ = label_points(points_P4, target, classes=2, radius=100.0)
    assert classes_PK[0].tolist() == [float(positive), 0.0]


def test_distances_of_centres_have_a_sign() -> None:
    """Offsets from one point: [-1, 3] and [-3, 1] have centres 2 apart in a hull of 6 and share 2 of 6."""
    apart = distance_iou_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0, 1.0]]))
    assert apart.item() == pytest.approx(1 - 2 / 6 + (2 / 6) ** 2)
    # [-1, 3] and [-1, 5]: centres 1 apart in a hull of 6
    longer = distance_iou_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 5.0]]))
    assert longer.item() == pytest.approx(1 - 4 / 6 + (1 / 6) ** 2)
    assert distance_iou_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 3.0]])).item() == pytest.approx(0)


def test_padding_never_wins_a_maximum() -> None:
    x_BCT, mask_B1T = torch.full((1, 2, 8), -2.0), torch.arange(8)[None, None] < 5
    padded = max_pool(x_BCT * mask_B1T, mask_B1T, masked=True)
    assert padded[0, :, :3].tolist() == [[-2.0] * 3] * 2
    assert not padded[0, :, 3:].any()
