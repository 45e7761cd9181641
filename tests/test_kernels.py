"""The forms that a CPU runs fastest equal torch's own, values and gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.detectors._points.heads import join
from tad.layers.group_norms import group_norm_relu
from tad.layers.kernels import convolve, norm_relu, norm_relu_convolve
from tad.layers.masked import group_norm, max_pool, padding_of, zero_outside
from tad.layers.recomputed import gelu_linear, norm_linear


def innermost(*shape: int) -> Tensor:
    """Random (B, C, T) with the channels innermost in memory."""
    batch, channels, length = shape
    return torch.randn(batch, length, channels).transpose(1, 2)


def gradients(y: Tensor, grad: Tensor, *of: Tensor) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad(y, of, grad)]


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert float((one - other).norm()) <= 1e-6 * float(other.norm()) + 1e-12


@pytest.mark.parametrize("length", [1, 3, 6, 24, 300])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "groups"),
    [(8, 12, 3, 1, 1), (8, 12, 5, 1, 1), (6, 6, 1, 1, 6), (6, 6, 3, 1, 6), (6, 6, 3, 2, 6), (6, 6, 11, 1, 6)],
)
def test_convolution(length: int, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
    torch.manual_seed(0)
    x, bias = innermost(3, inputs, length * stride).requires_grad_(), torch.randn(outputs, requires_grad=True)
    weight = torch.randn(outputs, inputs // groups, kernel, requires_grad=True)
    expected = F.conv1d(x, weight, bias, stride, kernel // 2, groups=groups)
    grad = innermost(*expected.shape)
    ours = convolve(x, weight, bias, stride=stride, groups=groups)
    assert ours.transpose(1, 2).is_contiguous()
    assert_equal(gradients(ours, grad, x, weight, bias), gradients(expected, grad, x, weight, bias))
    with torch.no_grad():
        assert_equal([convolve(x, weight, None, stride=stride, groups=groups)], [expected - bias[:, None]])


def test_norm_relu() -> None:
    torch.manual_seed(0)
    x, weight, bias = innermost(2, 8, 20).requires_grad_(), torch.randn(8).requires_grad_(), torch.randn(8)
    bias.requires_grad_()
    norm = F.layer_norm(x.transpose(1, 2), (8,), weight, bias, 1e-5).transpose(1, 2)
    live = torch.ones(20)
    live[3:5] = live[19:] = 0
    grad = innermost(2, 8, 20)
    ours = norm_relu(x, weight, bias, [(3, 5), (19, 20)])
    assert_equal(gradients(ours, grad, x, weight, bias), gradients(F.relu(norm) * live, grad, x, weight, bias))


def test_convolution_that_computes_its_input_again() -> None:
    torch.manual_seed(0)
    x, weight = innermost(2, 8, 20).requires_grad_(), torch.randn(6, 8, 3, requires_grad=True)
    scale, shift, zeros = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True), [(3, 5), (19, 20)]
    grad, bias = innermost(2, 6, 20), torch.randn(6, requires_grad=True)
    ours = norm_relu_convolve(x, scale, shift, zeros, weight, bias)
    plain = convolve(norm_relu(x, scale, shift, zeros), weight, bias)
    torch.testing.assert_close(ours, plain)
    of = (x, scale, shift, weight, bias)
    assert_equal(gradients(ours, grad, *of), gradients(plain, grad, *of))
    alone = norm_relu_convolve(x.detach(), scale.detach(), shift.detach(), zeros, weight, bias)
    assert_equal(
        gradients(alone, grad, weight),
        gradients(convolve(norm_relu(x, scale, shift, zeros), weight, bias), grad, weight),
    )
    with torch.no_grad():
        torch.testing.assert_close(norm_relu_convolve(x, scale, shift, zeros, weight, bias), plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm_relu_convolve(x, scale, shift, zeros, weight, bias).dtype == torch.bfloat16


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["norm", "gelu"])
def test_linear_layers_that_compute_their_input_again(name: str, half: bool) -> None:
    """Equal to the plain layers to rounding, also with bfloat16 products; less is kept for the gradient."""
    torch.manual_seed(0)
    x = torch.randn(2, 20, 8, requires_grad=True)
    scale, shift, bias = (torch.randn(size, requires_grad=True) for size in (8, 8, 6))
    weight, grad = torch.randn(6, 8, requires_grad=True), torch.randn(2, 20, 6)
    own = (scale, shift) if name == "norm" else ()
    kept: list[list[int]] = [[], []]
    found = []
    for k in range(2):
        noted = torch.autograd.graph.saved_tensors_hooks(lambda t, k=k: kept[k].append(t.numel()) or t, lambda t: t)
        with torch.autocast("cpu", torch.bfloat16, enabled=half), noted:
            if k:
                inner = F.layer_norm(x, (8,), *own, 1e-5) if name == "norm" else F.gelu(x)
                y = F.linear(inner, weight, bias)
            else:
                y = (norm_linear if name == "norm" else gelu_linear)(x, *own, weight, bias)
        found.append(gradients(y, grad.to(y.dtype), x, *own, weight, bias))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        assert float((one - other).norm()) <= (1e-2 if half else 1e-6) * float(other.norm())
    assert sum(size == x.numel() for size in kept[0]) == 1 < sum(size == x.numel() for size in kept[1])
    with torch.no_grad():
        plain = F.linear(F.gelu(x), weight, bias)
        assert name == "norm" or torch.equal(gelu_linear(x, weight, bias), plain)


def test_pooling_takes_the_first_of_equals() -> None:
    torch.manual_seed(0)
    x = innermost(2, 8, 20).round().requires_grad_()
    grad = innermost(2, 8, 10)
    expected = F.max_pool1d(x, 3, stride=2, padding=1)
    assert_equal(gradients(max_pool(x, None, masked=False), grad, x), gradients(expected, grad, x))


def test_levels_are_joined_by_gaps() -> None:
    levels = [innermost(2, 4, 8), innermost(2, 4, 4), innermost(2, 4, 2)]
    full = [torch.ones(2, 1, x.shape[2], dtype=torch.bool) for x in levels]
    joined = join(levels, full, gap=1)
    assert joined.mask_B1T is None
    assert joined.x_BCT.shape == (2, 4, 16)
    assert all(not joined.x_BCT[:, :, first:last].any() for first, last in joined.gaps)
    assert all(torch.equal(x, y) for x, y in zip(levels, joined.split(joined.x_BCT), strict=True))
    conv = nn.Conv1d(4, 3, 3, padding=1)
    for x, y in zip(levels, joined.split(convolve(joined.x_BCT, conv.weight, conv.bias)), strict=True):
        assert torch.allclose(conv(x), y, atol=1e-6)
    full[0][1, :, 5:] = False
    padded = join(levels, full, gap=1)
    assert padding_of(full[0]) is full[0]
    assert padded.mask_B1T is not None
    assert padded.mask_B1T[1, 0].tolist() == [True] * 5 + [False] * 4 + [True] * 4 + [False] + [True] * 2


@pytest.mark.parametrize("relative_mean", [0.0, 30.0])
def test_masked_group_norm_and_relu(relative_mean: float) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 12).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(12))
    x = (innermost(3, 12, 20).double() + relative_mean).requires_grad_()
    mask_B1T = torch.arange(20) < torch.tensor([20, 7, 1])[:, None, None]
    expected = zero_outside(F.relu(group_norm(x, mask_B1T, norm, masked=True)), mask_B1T)
    ours = group_norm_relu(x, mask_B1T, norm, masked=True)
    grad = innermost(3, 12, 20).double()
    assert ours.transpose(1, 2).is_contiguous()
    assert not ours[2, :, 1:].any()
    assert_equal(gradients(ours, grad, x, *norm.parameters()), gradients(expected, grad, x, *norm.parameters()))
    if not relative_mean:  # what is summed in 16 bits is far off
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_equal([group_norm_relu(x.float(), mask_B1T, norm.float(), masked=True)], [expected.float()])
        norm.double()
    (of_padding,) = torch.autograd.grad(group_norm_relu(x, mask_B1T, norm, masked=True).square().sum(), x)
    assert not of_padding[1, :, 7:].any()
