"""Offset heads that predict two distances stay alive: a dead side recovers, and nothing else changes by a bit."""

from typing import Any

import pytest
import torch
from test_detectors import SIZES, SMALL, feats, settings, small, targets
from torch import Tensor
from torch.nn import functional as F

from tad.detectors._points.heads import relu_keeping_alive
from tad.layers.types import Part
from tad.settings import plugins

HEADS = [("actionformer", {}), ("tridet", {"trident": False}), ("mse", {"trident": False})]
WANTED = [targets((10, 30, 0), (50, 58, 1)), targets((20, 60, 2))]


def trained(method: str, changes: dict[str, Any], *, living: bool, dead: bool, steps: int) -> tuple[Any, list[float]]:
    """Train a narrow detector; its distances to the end start at 0 everywhere if `dead`, otherwise all well above 0."""
    torch.manual_seed(0)
    detector = plugins.build("detectors", method, settings(method, **SMALL, **changes, living=living), **SIZES).train()
    with torch.no_grad():
        detector.reg_head.offset_head.conv.bias.copy_(torch.tensor([0.0, -8.0] if dead else [3.0, 3.0]))
    x_BTC, lengths_B = feats(96, 70)
    optimiser = torch.optim.AdamW(detector.parameter_groups(0.01), lr=1e-2 if dead else 1e-3)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        optimiser.zero_grad()
        losses.append(detector.loss(x_BTC, lengths_B, WANTED))
        losses[-1]["total"].backward()
        optimiser.step()
    return detector.eval(), [loss["reg"].item() for loss in losses]


def largest(detector: Any) -> Tensor:
    """The largest distance to the start and to the end of any point."""
    x_BTC, lengths_B = feats(96, 70)
    outputs = detector.observe(x_BTC, lengths_B).outputs
    return torch.stack([offsets_B2T.amax(dim=(0, 2)) for offsets_B2T in outputs.offsets]).amax(dim=0)


@pytest.mark.parametrize(("method", "changes"), HEADS)
def test_a_head_that_would_stay_dead_recovers(method: str, changes: dict[str, Any]) -> None:
    without, lost = trained(method, changes, living=False, dead=True, steps=20)
    assert largest(without)[1] == 0
    assert largest(without)[0] > 0
    revived, won = trained(method, changes, living=True, dead=True, steps=20)
    assert largest(revived).min() > 1
    assert won[0] == lost[0]  # values do not change, only gradients
    assert won[-1] < 0.8 * lost[-1]


@pytest.mark.parametrize(("method", "changes"), HEADS)
def test_a_training_in_which_nothing_dies_is_equal_to_the_bit(method: str, changes: dict[str, Any]) -> None:
    (one, losses), (other, equal) = (trained(method, changes, living=k, dead=False, steps=6) for k in (True, False))
    assert losses == equal
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert largest(one).min() > 0


def test_the_gradient_is_that_of_relu_but_for_dead_outputs_of_a_video() -> None:
    torch.manual_seed(0)
    levels = [torch.randn(2, 2, length) for length in (8, 4)]
    for level in levels:
        level[1, 0] = -level[1, 0].abs()  # the second video's start is dead on both levels
    levels[0][0, 1] = -1.0  # on one level alone: alive
    gradients = []
    for rectify in (relu_keeping_alive, lambda parts: [F.relu(x) for x in parts]):
        inputs = [level.clone().requires_grad_() for level in levels]
        outputs = rectify(inputs)
        weights = [torch.arange(1.0, x.numel() + 1).view_as(x) for x in outputs]
        sum((x * weight).sum() for x, weight in zip(outputs, weights, strict=True)).backward()
        gradients.append(([x.detach() for x in outputs], [x.grad for x in inputs]))
    (values, kept), (plain, published) = gradients
    assert all(map(torch.equal, values, plain))
    for grad, usual, weight in zip(kept, published, weights, strict=True):
        assert torch.equal(grad[0], usual[0])
        assert torch.equal(grad[1, 1], usual[1, 1])
        assert torch.equal(grad[1, 0], weight[1, 0])
        assert not usual[1, 0].any()


def test_parts_of_a_batch_add_up_with_one_dead_video() -> None:
    """Whether an output is dead is decided for each video alone, so micro-batches cannot matter."""
    detector = small("actionformer", input_noise=0.0, droppath=0.0, dropout=0.0).train()
    x_BTC, lengths_B = feats(96, 96)
    bias = detector.reg_head.offset_head.conv.bias
    with torch.no_grad():
        bias[1] = 50.0
        offsets = detector.eval().observe(x_BTC, lengths_B).outputs.offsets
        low, high = torch.stack([o[:, 1].amax(dim=1) for o in offsets]).amax(dim=0).sort().values.tolist()
        bias[1] -= (low + high) / 2
        offsets = detector.observe(x_BTC, lengths_B).outputs.offsets
    assert sorted(any(bool(o[row, 1].any()) for o in offsets) for row in range(2)) == [False, True]
    detector.train().normalise(detector.positives(lengths_B, WANTED))
    grads = []
    for parts in ([(0, 2)], [(0, 1), (1, 2)]):
        detector.zero_grad()
        for first, last in parts:
            part = Part(2, first, 96)
            detector.loss(x_BTC[first:last], lengths_B[first:last], WANTED[first:last], part)["total"].backward()
        grads.append({n: p.grad.clone() for n, p in detector.named_parameters() if p.grad is not None})
    for name, grad in grads[0].items():
        assert torch.allclose(grad, grads[1][name], atol=1e-5 * max(float(grad.abs().max()), 1.0)), name
