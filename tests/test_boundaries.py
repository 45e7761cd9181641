"""Boundary max pooling against the definition, position by position."""

import pytest
import torch
from torch import Tensor

from tad.detectors._afsd.boundaries import boundary_max_pool, boundary_regions, frame_regions


def definition(x_BCT: Tensor, regions_BN4: Tensor) -> tuple[Tensor, Tensor]:
    """Values, and how often each position is the first maximum of a region."""
    batch, channels, length = x_BCT.shape
    out, hits = torch.zeros(batch, channels, regions_BN4.shape[1]), torch.zeros_like(x_BCT)
    for b in range(batch):
        for c in range(channels):
            for n, edges in enumerate(regions_BN4[b].tolist()):
                left, right = (min(max(int(e), 0), length - 1) for e in edges[2 * (c >= channels // 2) :][:2])
                row = x_BCT[b, c, left : max(right, left) + 1].tolist()
                out[b, c, n] = max(row)
                hits[b, c, left + row.index(max(row))] += 1
    return out, hits


def test_regions_of_the_reference() -> None:
    x_BCT = torch.tensor([3.0, 1, 2, 9, 4, 0, 5, 7, 6, 8]).expand(1, 2, 10)
    regions_BN4 = torch.tensor([[[-3.0, 2, 5, 12], [4, 1, 7, 7]]])
    assert boundary_max_pool(x_BCT, regions_BN4).tolist() == [[[3, 4], [8, 7]]]


@pytest.mark.parametrize("length", [1, 2, 7, 33])
def test_values_and_gradients_are_those_of_the_definition(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    # few values, so that many are equal; borders beyond both ends and between positions, and right before left
    x_BCT = torch.randint(0, 3, (2, 4, length), generator=generator).float().requires_grad_()
    regions_BN4 = (torch.rand(2, 9, 4, generator=generator) * 2 - 0.5) * length
    pooled = boundary_max_pool(x_BCT, regions_BN4.requires_grad_())
    expected, hits = definition(x_BCT.detach(), regions_BN4.detach())
    assert torch.equal(pooled, expected)
    pooled.sum().backward()
    assert torch.equal(x_BCT.grad, hits)
    assert regions_BN4.grad is None


def test_regions_around_the_borders() -> None:
    start, end = torch.tensor([[10.0, 5.0]]), torch.tensor([[50.0, 6.0]])
    assert boundary_regions(start, end, end - start).tolist() == [[[6, 20, 40, 54], [4, 6, 5, 7]]]
    assert frame_regions(start, end)[0, 0].tolist() == [6, 20, 40, 54]  # of 41 frames: 4.1 outwards, 10.25 inwards
