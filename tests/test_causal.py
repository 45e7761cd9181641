"""`causal: true`: networks, targets and settings of detectors that look at the past only."""

from typing import Any

import pytest
import torch
from component_tools import laid
from torch import Tensor, nn

from tad.core.errors import TadError
from tad.detectors._points.heads import past_trident_offsets
from tad.layers.causal import past_max, past_pair_mean, window_group_norm, window_mean
from tad.layers.point_losses import distance_iou_loss, label_points_after
from tad.layers.types import Outputs, Targets
from tad.settings import plugins

SIZES = {"feature_dim": 6, "num_classes": 3, "max_length": 64}
SMALL = {"embed_dim": 32, "head_dim": 16, "mlp_dim": 24, "regression_ranges": [[0, 4], [4, 8], [8, 16], [16, 10000]]}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "actionformer": ("actionformer", {"windows": [5, 9, 5, 3]}),
    "tridet": ("tridet", {"causal_window": 5, "kernel": 3, "kernel_factor": 1.5, "head_kernel": 5}),
    "tridet-avg": ("tridet", {"causal_window": 70, "pooling": "avg", "boundary_kernel": 1, "num_bins": 7}),
    "tridet-plain": ("tridet", {"causal_window": 3, "trident": False, "embed_norm": False, "head_norm": False}),
}


def causal(variant: str, *, seed: int = 0, **changes: Any) -> Any:
    """A narrow causal detector whose weights, biases and scales all matter."""
    name, own = VARIANTS[variant]
    torch.manual_seed(seed)
    detector = plugins.build(
        "detectors", name, laid("detectors", name, SMALL | own | {"causal": True} | changes), **SIZES
    )
    with torch.no_grad():
        for key, parameter in detector.named_parameters():
            if "drop_path" in key:
                parameter.fill_(0.5)
            elif "cls_head.cls_head" in key and key.endswith("bias"):
                parameter.fill_(-1.0)
            elif key.startswith(("backbone.stem", "backbone.branch", "neck")) or "norm" in key:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return detector.eval()


def outputs_of(detector: Any, feats_BTC: Tensor) -> Outputs:
    """The outputs of one pass over whole videos of equal length."""
    with torch.no_grad():
        outputs: Outputs = detector.raw(feats_BTC, torch.full((len(feats_BTC),), feats_BTC.shape[1]))[0].outputs
        return outputs


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_do_not_depend_on_the_future(variant: str) -> None:
    detector = causal(variant)
    feats_BTC = torch.randn(1, 64, 6, generator=torch.Generator().manual_seed(1))
    plain = outputs_of(detector, feats_BTC)
    for now in (0, 7, 32, 62):
        changed = feats_BTC.clone()
        changed[:, now + 1 :] = 100.0
        after = outputs_of(detector, changed)
        for level in range(4):
            known = now // 2**level + 1  # points at positions up to `now`
            for name in ("logits", "offsets", "starts", "ends"):
                a, b = ([x[:, :, :known] for x in getattr(o, name)[level : level + 1]] for o in (plain, after))
                for x, y in zip(a, b, strict=True):
                    torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
            every = torch.arange(known)
            chosen = (torch.zeros(known).long(), every, torch.zeros(known).long())
            distances = [detector.decode(o, level, chosen) for o in (plain, after)]
            torch.testing.assert_close(*distances, rtol=0, atol=1e-5)
            assert (distances[0][:, 1] <= 0).all()
            assert (distances[0].sum(dim=1) >= 0).all()  # no segment has a negative length
    assert not torch.allclose(plain.logits[0][..., -1], after.logits[0][..., -1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_depend_on_the_whole_window_of_the_past(variant: str) -> None:
    """The present is read, and so is the past: a detector that sees nothing would pass the test above."""
    detector = causal(variant)
    feats_BTC = torch.randn(1, 64, 6, generator=torch.Generator().manual_seed(1))
    plain = outputs_of(detector, feats_BTC)
    for back in (0, 1, 5):
        changed = feats_BTC.clone()
        changed[:, 40 - back] += 1.0
        assert (outputs_of(detector, changed).logits[0][..., 40] - plain.logits[0][..., 40]).abs().max() > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_length_and_padding_do_not_matter(variant: str) -> None:
    """A video of any length is accepted, and gives the outputs of a longer one's beginning."""
    detector = causal(variant)
    feats_BTC = torch.randn(1, 3 * 64 + 8, 6, generator=torch.Generator().manual_seed(2))
    long, short = outputs_of(detector, feats_BTC), outputs_of(detector, feats_BTC[:, :37])
    for level in range(4):
        points = -(-37 // 2**level)
        torch.testing.assert_close(
            short.logits[level][..., :points], long.logits[level][..., :points], rtol=0, atol=1e-5
        )


def test_windows_of_the_past() -> None:
    x_BCT = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))
    mean, norm = window_mean(x_BCT, 3), nn.GroupNorm(2, 4)
    normed = window_group_norm(x_BCT, norm, 3)
    for t in range(12):
        past = x_BCT[:, :, max(t - 2, 0) : t + 1]
        torch.testing.assert_close(mean[:, :, t], past.mean(dim=2))
        torch.testing.assert_close(normed[:, :, t], norm(past)[:, :, -1], rtol=1e-4, atol=1e-5)
    for i in range(6):
        torch.testing.assert_close(past_max(x_BCT)[:, :, i], x_BCT[:, :, max(2 * i - 2, 0) : 2 * i + 1].amax(dim=2))
        before = x_BCT[:, :, 2 * i - 1] if i else torch.zeros(2, 4)
        torch.testing.assert_close(past_pair_mean(x_BCT)[:, :, i], (before + x_BCT[:, :, 2 * i]) / 2)


def test_points_of_an_instance_come_after_its_end() -> None:
    """Offsets lead from now back to both borders; the level is that of the instance's length."""
    positions = [(p, low, high, s) for s, (low, high) in ((1, (0, 4)), (2, (4, 8))) for p in range(0, 32, s)]
    points_P4 = torch.tensor(positions, dtype=torch.float32)
    target = Targets(torch.tensor([[3.5, 9.5], [6.0, 20.0]]), torch.tensor([1, 2]))
    classes_PK, offsets_P2 = label_points_after(points_P4, target, classes=3, delay=2.0)
    found = {
        (int(p[3]), int(p[0])): (int(c.argmax()), o.tolist())
        for p, c, o in zip(points_P4, classes_PK, offsets_P2, strict=True)
        if c.any()
    }
    assert found == {
        (1, 10): (1, [6.5, -0.5]), (1, 11): (1, [7.5, -1.5]),
        (2, 20): (2, [7.0, 0.0]), (2, 22): (2, [8.0, -1.0]),
    }  # fmt: skip
    nothing, _ = label_points_after(points_P4, Targets(torch.zeros(0, 2), torch.zeros(0).long()), classes=3, delay=2.0)
    assert not nothing.any()


def test_loss_of_segments_in_the_past() -> None:
    """Disjoint segments have tIoU 0, and their loss still has a gradient towards the target."""
    target_N2 = torch.tensor([[7.0, -1.0]])
    assert float(distance_iou_loss(target_N2, target_N2, after=True)) == 0.0
    far = torch.tensor([[30.0, -20.0]], requires_grad=True)
    loss = distance_iou_loss(far, target_N2, after=True)
    torch.autograd.backward(loss.sum())
    assert 1 < loss.item() <= 2
    assert far.grad is not None
    assert far.grad[0, 1] < 0  # an end nearer to the target's is better
    half = distance_iou_loss(torch.tensor([[4.0, -1.0]]), target_N2, after=True)
    assert float(half) == pytest.approx(1 - 0.5 + (1.5 / 6) ** 2)


def test_trident_borders_lie_before_the_point() -> None:
    """A certain bin is the border; before the first point there is the logit 0."""
    start, end, centre = torch.zeros(1, 1, 10), torch.zeros(1, 1, 10), torch.zeros(1, 5 + 3, 10)
    start[0, 0, 3], end[0, 0, 5] = 50.0, 50.0
    chosen = (torch.zeros(1).long(), torch.tensor([6]), torch.zeros(1).long())
    assert past_trident_offsets(start, end, centre, chosen, bins=4).tolist() == [[3.0, -1.0]]
    chosen = (torch.zeros(1).long(), torch.tensor([0]), torch.zeros(1).long())
    assert past_trident_offsets(start * 0, end * 0, centre, chosen, bins=4)[0].tolist() == pytest.approx([2.0, -1.0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_step_reaches_all_weights(variant: str) -> None:
    detector = causal(variant).train()
    feats_BTC = torch.randn(2, 64, 6, generator=torch.Generator().manual_seed(3))
    segments = [[2.0, 6.0], [8.0, 20.0], [10.0, 34.0], [12.0, 55.0]]
    target = Targets(torch.tensor(segments), torch.tensor([0, 1, 2, 1]))
    assert detector.positives(torch.tensor([64, 64]), [target, target]) >= 8
    losses = detector.loss(feats_BTC, torch.tensor([64, 64]), [target, target])
    losses["total"].backward()
    assert torch.isfinite(losses["total"])
    unreached = {n for n, p in detector.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()}
    assert unreached <= {n for n in unreached if "drop_path_attn" in n and "tridet" in variant}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("actionformer", {"windows": [9, 9, 9, 9, 9, -1]}),
        ("actionformer", {"encoder": "conv", "windows": [9] * 6}),
        ("actionformer", {"temporal_se": "masked"}),
        ("actionformer", {"use_position": True}),
        ("tridet", {"encoder": "conv"}),
        ("tridet", {"neck": "fpn"}),
        ("tridet", {"gate": "generative"}),
    ],
)
def test_settings_that_see_the_future_are_refused(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(TadError, match=r"causal: true: .* is not restricted to the past"):
        laid("detectors", name, changes | {"causal": True})
    laid("detectors", name, changes)
