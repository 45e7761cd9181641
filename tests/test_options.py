"""Options of the published point detectors that hardly a recipe uses: what each does, by hand and by property."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_detectors import DETECT, SIZES, feats, largest_difference, raw, small, targets, train
from torch import Tensor
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.detectors._points.pyramid import TopDown
from tad.layers.attention import ConvAttention, local_attention
from tad.layers.masked import mean_pool, position_table

STREAMS = {"stream_dims": [7, 3, 2], "stream_embed_dims": [16, 8, 8]}
FPN = {"neck": "fpn", "fpn_dim": 24}
SHARED: dict[str, dict[str, Any]] = {
    "fpn": FPN,
    "fpn without norms": FPN | {"neck_norm": False},
    "neck without norms": {"neck_norm": False},
    "embedding without norm": {"embed_norm": False},
    "heads without norms": {"head_norm": False},
    "streams": STREAMS,
}
TRIDENT: dict[str, dict[str, Any]] = {
    "plain head": {"trident": False},
    "plain head, fpn": FPN | {"trident": False},
    "average pooling": {"pooling": "avg"},
    "kernels": {"kernels": [1, 3, 5, 1, 3, 1]},
}
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "actionformer": SHARED | {"relative": {"use_relative_position": True}, "conv": {"encoder": "conv"} | STREAMS},
    "mse": SHARED | TRIDENT,
    "tridet": SHARED | TRIDENT | {"conv": {"encoder": "conv"}, "conv, fpn": {"encoder": "conv"} | FPN},
}
FACES = {"actionformer": [""], "mse": ["parity", "corrected"], "tridet": ["parity", "corrected"]}
CASES = [(m, f, o) for m, options in OPTIONS.items() for o in options for f in FACES[m]]


@torch.no_grad()
def whole_loss(detector: Any) -> float:
    """Of the batch that `train` trains on, with nothing random and one number that it is divided by."""
    detector.eval().loss_norm = torch.tensor(100.0)
    wanted = [targets((10, 30, 0), (50, 58, 1)), targets((20, 60, 2))]
    return float(detector.loss(*feats(96, 70), wanted)["total"])


# -- every option ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "face", "option"), CASES)
def test_an_option_changes_the_network_learns_and_keeps_videos_apart(method: str, face: str, option: str) -> None:
    changes = OPTIONS[method][option]
    detector, plain = small(method, face, **changes), small(method, face)
    assert {k: v.shape for k, v in detector.state_dict().items()} != {k: v.shape for k, v in plain.state_dict().items()}
    detector.eval()
    x_BTC, lengths_B = feats(96, 67)
    with torch.no_grad():
        both = detector.candidates(x_BTC, lengths_B, **DETECT)
        one = detector.candidates(x_BTC[1:, :67], lengths_B[1:], **DETECT)[0]
    assert len(one.scores_N)
    assert torch.allclose(both[1].scores_N, one.scores_N, atol=1e-5)
    assert torch.allclose(both[1].segments_N2, one.segments_N2, atol=1e-3)
    before = whole_loss(detector)
    train(detector, 8)
    assert whole_loss(detector) < before
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in detector.parameters())


@pytest.mark.parametrize(("method", "option"), [(m, o) for m, f, o in CASES if f == "corrected"])
def test_padding_changes_nothing_in_corrected(method: str, option: str) -> None:
    detector = small(method, "corrected", **OPTIONS[method][option]).eval()
    x_BTC, lengths_B = feats(67)
    near, far = (raw(detector, x_BTC, lengths_B, padded) for padded in (96, 224))
    assert largest_difference(near, far) < 2e-4
    moved = feats(67, seed=2)[0]
    assert largest_difference(near, raw(detector, moved, lengths_B, 96)) > 1e-2


@pytest.mark.parametrize("method", list(OPTIONS))
def test_every_weight_of_an_option_learns(method: str) -> None:
    """All but what no gradient reaches in the published networks either."""
    for option, changes in OPTIONS[method].items():
        detector = small(method, FACES[method][0], **changes).train()
        x_BTC, lengths_B = feats(96, 70)
        detector.loss(x_BTC, lengths_B, [targets((10, 30, 0)), targets((20, 60, 2))])["total"].backward()
        unused = {n for n, p in detector.named_parameters() if p.grad is None}
        assert all("drop_path_attn" in name for name in unused), (option, unused)


# -- relative position code --------------------------------------------------------------------------------------------


def test_a_code_of_zeros_is_none() -> None:
    plain, coded = small("actionformer").eval(), small("actionformer", use_relative_position=True).eval()
    added = coded.state_dict().keys() - plain.state_dict().keys()
    assert added == {f"backbone.{part}.attn.rel_pe" for part in
                     ("stem.0", "stem.1", *(f"branch.{k}" for k in range(5)))}  # fmt: skip
    assert {coded.state_dict()[name].shape for name in added} == {(1, 1, 4, 9)}
    coded.load_state_dict(plain.state_dict(), strict=False)
    x_BTC, lengths_B = feats(96, 67)
    before = raw(coded, x_BTC, lengths_B, 96)
    with torch.no_grad():
        for name in added:
            coded.get_parameter(name).zero_()
    assert largest_difference(raw(plain, x_BTC, lengths_B, 96), raw(coded, x_BTC, lengths_B, 96)) < 1e-6
    assert largest_difference(before, raw(coded, x_BTC, lengths_B, 96)) > 1e-3


@pytest.mark.parametrize("length", [1, 7, 64, 130])
def test_a_code_is_added_by_the_distance_of_key_and_query(length: int) -> None:
    torch.manual_seed(0)
    reach, heads = 3, 2
    q, k, v = torch.randn(3, 2, heads, length, 4)
    bias_HW = torch.randn(heads, 2 * reach + 1)
    mask = torch.arange(length) < torch.tensor([[[length]], [[max(length // 2, 1)]]])
    logits = q @ k.transpose(2, 3) / 4**0.5
    expected = torch.full_like(logits, float("-inf"))
    for query in range(length):
        for key in range(max(query - reach, 0), min(query + reach + 1, length)):
            expected[:, :, query, key] = logits[:, :, query, key] + bias_HW[:, key - query + reach]
    expected = expected.masked_fill(~mask[:, :, None], float("-inf")).softmax(3).nan_to_num() @ v
    real = mask[:, :, :, None].expand_as(v)
    found = local_attention(q, k, v, mask, reach=reach, bias_HW=bias_HW)
    assert torch.allclose(found[real], expected[real], atol=1e-6)


def test_a_code_begins_as_published_and_only_where_attention_is_local() -> None:
    torch.manual_seed(0)
    code = ConvAttention(64, heads=16, window=401, relative=True).rel_pe
    assert code is not None
    assert float(code.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert ConvAttention(64, heads=16, window=-1, relative=True).rel_pe is None
    detector = small("actionformer", use_relative_position=True)
    _, free = detector.parameter_groups(0.05)
    assert any(p is detector.backbone.stem[0].attn.rel_pe for p in free["params"])


# -- neck --------------------------------------------------------------------------------------------------------------


def test_a_pyramid_by_hand() -> None:
    neck = TopDown(1, 1, levels=3, masked=False, normed=False)
    with torch.no_grad():
        for k in range(3):
            neck.lateral_convs[k].conv.weight.fill_(10.0**k)  # type: ignore[union-attr,operator]
            neck.fpn_convs[k].conv.weight.copy_(torch.tensor([[[0.0, 1.0, 0.0]]]))  # type: ignore[union-attr,operator]
            neck.fpn_convs[k].conv.bias.fill_(0.5)  # type: ignore[union-attr,operator]
    features = [torch.tensor([[x]]) for x in ([1.0, 2, 3, 4], [1.0, 2], [3.0])]
    masks = [torch.tensor([[m]]) for m in ([True, True, True, False], [True, True], [True])]
    levels = [x_BCT.flatten().tolist() for x_BCT in neck(features, masks)]
    # 300; 10 + 300, 20 + 300; and these twice each, with what is padding at zero
    assert levels == [[311.5, 312.5, 323.5, 0.0], [310.5, 320.5], [300.5]]


@pytest.mark.parametrize(("method", "face"), [("actionformer", ""), ("tridet", "parity"), ("mse", "corrected")])
def test_names_and_shapes_behind_a_pyramid(method: str, face: str) -> None:
    state = small(method, face, **FPN).state_dict()
    neck = {name: tuple(value.shape) for name, value in state.items() if name.startswith("neck.")}
    assert neck == {
        **{f"neck.lateral_convs.{k}.conv.weight": (24, 32, 1) for k in range(6)},
        **{f"neck.fpn_convs.{k}.conv.weight": (24, 1, 3) for k in range(6)},
        **{f"neck.fpn_norms.{k}.{part}": (1, 24, 1) for k in range(6) for part in ("weight", "bias")},
    }
    assert state["cls_head.head.0.conv.weight"].shape == state["reg_head.head.0.conv.weight"].shape == (32, 24, 3)


# -- embedding ---------------------------------------------------------------------------------------------------------


def test_projections_of_streams_are_one_block_diagonal_convolution() -> None:
    pyramid = small("tridet", "corrected", **STREAMS).backbone
    with torch.no_grad():
        for conv in pyramid.proj:
            conv.conv.bias.normal_()
    dense = torch.block_diag(*(conv.conv.weight[:, :, 0] for conv in pyramid.proj))
    bias = torch.cat([conv.conv.bias for conv in pyramid.proj])
    x_BCT, mask_B1T = torch.randn(2, 12, 20), torch.arange(20) < torch.tensor([[[20]], [[13]]])
    expected = F.conv1d(x_BCT, dense[:, :, None], bias) * mask_B1T
    assert torch.allclose(pyramid._project(x_BCT, mask_B1T), expected, atol=1e-6)
    assert [tuple(conv.conv.weight.shape) for conv in pyramid.proj] == [(16, 7, 1), (8, 3, 1), (8, 2, 1)]
    assert pyramid.embd[0].conv.weight.shape == (32, 32, 3)


def test_an_embedding_without_norm_has_a_bias() -> None:
    pyramid = small("actionformer", embed_norm=False).backbone
    assert {n for n in pyramid.state_dict() if n.startswith("embd")} == {
        f"embd.{k}.conv.{part}" for k in range(2) for part in ("weight", "bias")
    }
    assert not any(conv.conv.bias.any() for conv in pyramid.embd)
    with torch.no_grad():
        for conv in pyramid.embd:
            conv.conv.bias.normal_()
    x_BCT, mask_B1T = torch.randn(2, 12, 20), torch.arange(20) < torch.tensor([[[20]], [[13]]])
    expected = x_BCT
    for conv in pyramid.embd:
        expected = F.conv1d(expected, conv.conv.weight, conv.conv.bias, padding=1).relu() * mask_B1T
    assert torch.allclose(pyramid._embed(x_BCT, mask_B1T), expected, atol=1e-5)


@pytest.mark.parametrize(("channels", "length"), [(32, 256), (1024, 960)])
def test_the_position_code_is_the_definition_rounded(channels: int, length: int) -> None:
    """Frequencies in float32 would be off by position times rounding: 5e-5 of the code at 960."""
    position, channel = torch.arange(length).double()[:, None], torch.arange(channels)
    angle = position / 10000.0 ** ((channel - channel % 2).double() / channels)
    exact = torch.where(channel % 2 == 0, angle.sin(), angle.cos()).T / channels**0.5
    assert float((position_table(channels, length)[0].double() - exact).abs().max()) < 1e-7 * channels**-0.5


# -- TriDet and MSE ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mse", "tridet"])
def test_a_plain_head_predicts_two_distances_for_all_classes(method: str) -> None:
    detector = small(method, "parity", trident=False, iou_weight_power=0.2)
    names = detector.state_dict()
    assert not any(name.startswith(("start_head", "end_head")) for name in names)
    assert names["reg_head.offset_head.conv.weight"].shape[0] == 2
    assert detector.settings.units()["num_bins"] == 0
    assert detector.rectified
    x_BTC, lengths_B = feats(96, 70)
    wanted = [targets((10, 30, 0), (50, 58, 1)), targets((20, 60, 2))]
    other = small(method, "parity", trident=False, iou_weight_power=5.0)
    first, second = (d.eval().loss(x_BTC, lengths_B, wanted)["cls"].item() for d in (detector, other))
    assert first == second  # published: with the trident head alone, tIoU weighs classes


def test_both_detectors_share_the_conv_encoder() -> None:
    ours, theirs = small("tridet", "parity", encoder="conv"), small("actionformer", encoder="conv")
    encoders = [{k: v.shape for k, v in d.backbone.state_dict().items()} for d in (ours, theirs)]
    assert encoders[0] == encoders[1]
    assert small("tridet", "parity", encoder="conv", use_position=True).backbone.position is None  # as published
    assert small("tridet", "parity", use_position=True).backbone.position is not None


def naive_mean(x_BCT: Tensor, lengths: list[int]) -> Tensor:
    y_BCT = torch.zeros(*x_BCT.shape[:2], x_BCT.shape[2] // 2)
    for row, length in enumerate(lengths):
        for t in range(y_BCT.shape[2]):
            real = [k for k in (2 * t, 2 * t + 1) if k < length]
            if real:
                y_BCT[row, :, t] = x_BCT[row, :, real].mean(dim=1)
    return y_BCT


@given(half=st.integers(1, 9), lengths=st.lists(st.integers(1, 18), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_average_pooling(half: int, lengths: list[int], seed: int) -> None:
    lengths = [min(length, 2 * half) for length in lengths]
    x_BCT = torch.randn(len(lengths), 3, 2 * half, generator=torch.Generator().manual_seed(seed))
    mask_B1T = torch.arange(2 * half) < torch.tensor(lengths)[:, None, None]
    assert torch.allclose(mean_pool(x_BCT, mask_B1T, masked=True), naive_mean(x_BCT, lengths), atol=1e-6)
    assert torch.allclose(mean_pool(x_BCT, mask_B1T, masked=False), F.avg_pool1d(x_BCT, 2), atol=1e-6)
    assert torch.allclose(mean_pool(x_BCT, None, masked=True), F.avg_pool1d(x_BCT, 2), atol=1e-6)


def test_a_long_video_is_padded_so_that_all_levels_halve() -> None:
    detector = small("tridet", "parity", kernels=[7, 3, 1, 5, 1, 1])  # the published code stops here: 40 is no 32
    assert detector.padded(97) % 32 == detector.padded(97) % 40 == 0
    x_BTC, lengths_B = feats(97)
    assert len(detector.eval().candidates(x_BTC, lengths_B, **DETECT)[0].scores_N)


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("actionformer", {"stream_dims": [7, 5]}, "stream_embed_dims: .*needs one entry per entry of stream_dims"),
        ("mse", {"stream_dims": [7, 5], "stream_embed_dims": [16, 8]}, r"add up to 24, which must be embed_dim \(32\)"),
        ("tridet", {"stream_dims": [7, 4], "stream_embed_dims": [16, 16]}, "add up to 11, but the features have 12"),
        ("tridet", {"fpn_dim": 16}, "fpn_dim: 16: without neck fpn"),
        ("mse", {"kernels": [1, 3]}, "kernels: .*needs one entry per level"),
        ("mse", {"kernels": [1, 3, 2, 1, 1, 1]}, "odd"),
        ("actionformer", {"use_relative_position": True, "windows": [-1] * 6}, "only local attention has such a code"),
        ("actionformer", {"use_relative_position": True, "encoder": "conv"}, "only local attention has such a code"),
        ("actionformer", {"neck": "fpn", "temporal_se": "masked"}, "no squeeze-and-excitation"),
    ],
)
def test_options_that_do_not_fit_are_named(method: str, changes: dict[str, Any], message: str) -> None:
    assert SIZES["feature_dim"] == 12
    with pytest.raises(TadError, match=message):
        small(method, FACES[method][0], **changes)
