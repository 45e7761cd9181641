"""What every detector must do beyond the published numbers: settings, sizes, padding, batches, empty and bad input."""

from typing import Any

import pytest
import torch
from component_tools import laid
from golden_tools import still, unmatched
from torch import Tensor, nn

from tad.core.errors import TadError
from tad.detectors._points.heads import trident_offsets
from tad.detectors._points.pyramid import points_of
from tad.detectors._points.sgp import odd_kernel
from tad.layers.masked import ScaledDropPath
from tad.layers.point_losses import distance_iou_loss, focal_loss, label_points, offset_iou
from tad.layers.types import Targets
from tad.settings import plugins

METHODS = ["actionformer", "mse", "tridet"]
FACES = [("actionformer", ""), ("mse", "parity"), ("mse", "corrected"), ("tridet", "parity"), ("tridet", "corrected")]
SMALL = {"embed_dim": 32, "head_dim": 32, "mlp_dim": 48}
SIZES = {"feature_dim": 12, "num_classes": 3, "max_length": 96}
DETECT = {"score_threshold": 0.001, "topk": 2000, "min_length": 0.05}


def settings(method: str, dataset: str = "", **changes: Any) -> dict[str, Any]:
    return laid("detectors", method, changes, *dict.fromkeys((dataset.partition("-")[0], dataset)))


def small(method: str, face: str = "", *, size: dict[str, int] = SIZES, **changes: Any) -> Any:
    """A narrow detector whose weights, biases and scales all matter."""
    own: dict[str, Any] = {"face": face} if face else {"windows": [9] * 6}
    if face == "corrected":
        own["corrections"] = ["masked", "living", "detached"]  # all, whatever the default leaves out
    torch.manual_seed(0)
    detector = plugins.build("detectors", method, settings(method, **(SMALL | own | changes)), **size)
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if "drop_path" in name:
                parameter.fill_(0.5)
            elif "cls_head.cls_head" in name and name.endswith("bias"):
                parameter.fill_(-1.0)
            elif name.startswith(("backbone.stem", "backbone.branch", "neck")) or "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return detector


def feats(*lengths: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_BTC = torch.randn(len(lengths), max(lengths), SIZES["feature_dim"], generator=generator)
    for row, length in enumerate(lengths):
        x_BTC[row, length:] = 0.0
    return x_BTC, torch.tensor(lengths)


def targets(*segments: tuple[float, float, int]) -> Targets:
    table = torch.tensor(segments, dtype=torch.float32).view(-1, 3)
    return Targets(table[:, :2], table[:, 2].long())


def raw(detector: Any, x_BTC: Tensor, lengths_B: Tensor, padded: int) -> list[Tensor]:
    """Class logits and decoded distances of every point and class, per level."""
    with torch.no_grad():
        x_BCT, mask_B1T = detector.batch(x_BTC, lengths_B, padded)
        outputs = detector.outputs(x_BCT, mask_B1T, lengths_B.tolist())
        results = []
        for level, logits_BKT in enumerate(outputs.logits):
            real_BKT = outputs.masks[level].expand_as(logits_BKT)
            video_N, class_N, point_N = real_BKT.nonzero(as_tuple=True)
            results += [logits_BKT[real_BKT], detector.decode(outputs, level, (video_N, point_N, class_N))]
    return results


def largest_difference(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_published_data_sets_have_the_published_face(method: str) -> None:
    for dataset in ["", *plugins.document("detectors", method)["for"]]:
        own = settings(method, dataset)
        if "face" in own:  # parity where a paper is reproduced, corrected for everything new
            published = {"thumos14", "activitynet13", "hacs", "hacs-i3d_hacs", "salads"}
            published |= {"epic_verb", "epic_noun"} if method == "tridet" else set()
            assert own["face"] == ("parity" if dataset in published else "corrected")


def test_second_window() -> None:
    widths = [(odd_kernel(w, k), odd_kernel(1, k)) for w, k in ((1, 5), (15, 1.3), (3, 1.2))]
    assert widths == [(11, 11), (21, 3), (5, 3)]


@pytest.mark.parametrize("method", METHODS)
def test_initial_values(method: str) -> None:
    detector = plugins.build("detectors", method, settings(method, **SMALL), **SIZES)
    state = detector.state_dict()
    assert torch.allclose(state["cls_head.cls_head.conv.bias"], torch.tensor(-4.595120))
    assert all(torch.all(v == 1e-4) for k, v in state.items() if "drop_path" in k)
    assert all(v == 1 for k, v in state.items() if k.startswith("reg_head.scale"))
    assert all(torch.all(v == 1) for k, v in state.items() if "dynamic_weight" in k)
    assert not any(torch.any(v) for k, v in state.items() if k.startswith("backbone") and k.endswith("bias"))
    decay, free = detector.parameter_groups(0.05)
    assert (decay["weight_decay"], free["weight_decay"]) == (0.05, 0.0)


def train(detector: Any, steps: int, rate: float = 1e-3) -> list[float]:
    x_BTC, lengths_B = feats(96, 70)
    wanted = [targets((10, 30, 0), (50, 58, 1)), targets((20, 60, 2))]
    optimiser = torch.optim.AdamW(detector.parameter_groups(0.01), lr=rate)
    losses = []
    detector.train()
    for _ in range(steps):
        optimiser.zero_grad()
        loss = detector.loss(x_BTC, lengths_B, wanted)["total"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("method", "face"), FACES)
def test_training_lowers_the_loss(method: str, face: str) -> None:
    detector = small(method, face, init_loss_norm=10.0)
    losses = train(detector, 12)
    assert losses[-1] < 0.8 * losses[0]


LOCAL = ("psi", "fc", "convw", "convkw", "global_fc")


@pytest.mark.parametrize("method", ["mse", "tridet"])
def test_convolution_branches_stay_dead_only_in_parity(method: str) -> None:
    for face in ("parity", "corrected"):
        torch.manual_seed(0)
        detector = plugins.build("detectors", method, settings(method, face=face, **SMALL), **SIZES)
        train(detector, 5)
        kernels = {n: p for n, p in detector.named_parameters() if n.split(".")[-2] in LOCAL}
        assert len(kernels) == 7 * 5 * 2
        if face == "parity":
            assert not any(torch.any(p) for p in kernels.values())
        else:
            assert all(torch.any(p) for n, p in kernels.items() if n.endswith("weight"))


@pytest.mark.parametrize(("method", "face"), [f for f in FACES if f[0] != "actionformer"])
def test_padding_matters_only_in_parity(method: str, face: str) -> None:
    detector = small(method, face, kernel=3, use_position=True).eval()
    x_BTC, lengths_B = feats(75)
    difference = largest_difference(*(raw(detector, x_BTC, lengths_B, n) for n in (96, 384)))
    assert (difference < 1e-5) == (face == "corrected")


@pytest.mark.parametrize("method", ["mse", "tridet"])
def test_corrected_loss_and_gradients_ignore_padding(method: str) -> None:
    results = []
    for length in (96, 288):
        detector = small(method, "corrected", size=SIZES | {"max_length": length}, input_noise=0.0)
        still(detector.train())
        detector.padded = lambda longest, length=length: length  # no trimming: the padding has to be harmless
        loss = detector.loss(*feats(90, 40), [targets((10, 30, 0)), targets((5, 25, 2))])["total"]
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in detector.parameters() if p.grad is not None)])
    scale = max(float(g.abs().max()) for g in results[0])
    assert largest_difference(*results) < 1e-5 * max(scale, 1.0)


def test_actionformer_ignores_padding_but_for_the_last_neighbours() -> None:
    detector = small("actionformer").eval()
    for name, parameter in detector.named_parameters():
        if name.endswith("bias") and ("ln" in name or "norm" in name):
            nn.init.zeros_(parameter)  # with biases, padding is not zero behind a norm: so it is published
    x_BTC, lengths_B = feats(64)
    assert largest_difference(*(raw(detector, x_BTC, lengths_B, n) for n in (96, 288))) < 1e-5


@pytest.mark.parametrize(("method", "face"), FACES)
def test_batch_gives_what_single_videos_give(method: str, face: str) -> None:
    detector = small(method, face, use_position=True).eval()
    lengths = (75, 96, 20, 1, 150)
    x_BTC, lengths_B = feats(*lengths)
    together = detector.candidates(x_BTC, lengths_B, **DETECT)
    for row, length in enumerate(lengths):
        (alone,) = detector.candidates(x_BTC[row : row + 1, :length], lengths_B[row : row + 1], **DETECT)
        assert len(alone.scores_N) == len(together[row].scores_N)
        assert length == 1 or len(alone.scores_N) > 50
        stored = (t.numpy() for t in (alone.segments_N2, alone.scores_N, alone.labels_N))
        assert unmatched(together[row], *stored) == 0


@pytest.mark.parametrize("method", ["mse", "tridet"])
def test_quality_weight_is_detached_in_corrected(method: str) -> None:
    for face in ("parity", "corrected"):
        detector = small(method, face).train()
        detector.loss(*feats(96), [targets((10, 30, 0))])["cls"].backward()
        touched = any(p.grad is not None and bool(torch.any(p.grad)) for p in detector.start_head.parameters())
        assert touched == (face == "parity")


@pytest.mark.parametrize(("method", "face"), FACES)
def test_no_instances_and_no_candidates(method: str, face: str) -> None:
    detector = small(method, face).train()
    losses = detector.loss(*feats(96, 30), [targets(), targets((0.2, 0.3, 1))])
    assert losses["reg"].item() == 0
    assert losses["cls"].item() > 0
    losses["total"].backward()
    x_BTC, _ = feats(96, 30)
    for candidates in detector.eval().candidates(x_BTC, torch.tensor([96, 0]), **DETECT | {"score_threshold": 0.9999}):
        assert candidates.segments_N2.shape == (0, 2)
        assert candidates.scores_N.shape == candidates.labels_N.shape == (0,)
        assert candidates.labels_N.dtype == torch.int64


@pytest.mark.parametrize(("method", "face"), FACES)
def test_candidates_keep_their_promises(method: str, face: str) -> None:
    detector = small(method, face).eval()
    x_BTC, lengths_B = feats(96)
    (everything,) = detector.candidates(x_BTC, lengths_B, score_threshold=0.0, topk=10_000, min_length=0.0)
    (few,) = detector.candidates(x_BTC, lengths_B, score_threshold=0.2, topk=5, min_length=3.0)
    assert 0 < len(few.scores_N) <= 6 * 5
    assert bool((few.scores_N > 0.2).all())
    assert bool((few.segments_N2[:, 1] - few.segments_N2[:, 0] > 3.0).all())
    assert few.segments_N2.dtype == few.scores_N.dtype == torch.float32
    assert set(few.labels_N.tolist()) <= set(range(SIZES["num_classes"]))
    assert float(few.scores_N.max()) <= float(everything.scores_N.max())
    assert not few.scores_N.requires_grad


@pytest.mark.parametrize(("method", "face"), FACES)
def test_bad_input_is_named(method: str, face: str) -> None:
    detector = small(method, face, buffer_factor=2.0)
    with pytest.raises(TadError, match=r"10 channels.* 12"):
        detector.loss(torch.zeros(1, 96, 10), torch.tensor([96]), [targets()])
    with pytest.raises(TadError, match="128 snippets"):
        detector.loss(*feats(128), [targets()])
    detector.eval()
    if face == "corrected":
        assert len(detector.candidates(*feats(300), **DETECT)) == 1
    else:
        with pytest.raises(TadError, match=r"300 snippets.*buffer_factor"):
            detector.candidates(*feats(300), **DETECT)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("mse", {"face": "fixed"}, "detector.face"),
        ("mse", {"num_heads": 5}, "num_heads"),
        ("tridet", {"embed_dim": 40}, "embed_dim"),
        ("actionformer", {"windows": [9]}, "windows"),
        ("actionformer", {"num_heads": 5}, "num_heads"),
    ],
)
def test_bad_settings_are_named(method: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TadError, match=message):
        plugins.build("detectors", method, settings(method, **SMALL | changes), **SIZES)


@pytest.mark.parametrize("method", METHODS)
def test_window_must_fit_the_levels(method: str) -> None:
    with pytest.raises(TadError, match=r"max_length: 100: must be a multiple of 32"):
        plugins.build("detectors", method, settings(method, **SMALL), **SIZES | {"max_length": 100})


@pytest.mark.parametrize(("method", "face"), FACES)
def test_randomness_is_torchs_generator_alone(method: str, face: str) -> None:
    detector = small(method, face, input_noise=0.1, droppath=0.5).train()
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(detector.loss(*feats(96, 60), [targets((10, 30, 0)), targets()])["cls"].item())
        detector.load_training_state({"loss_norm": torch.tensor(100.0)})
    assert losses[0] == losses[1] != losses[2]


def test_stochastic_depth_drops_whole_videos() -> None:
    layer = ScaledDropPath(4, probability=0.25).train()
    torch.manual_seed(0)
    y_BCT = layer(torch.ones(4000, 4, 2))
    assert all(len(set(video.flatten().tolist())) == 1 for video in y_BCT[:50])
    assert (y_BCT[:, 0, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert y_BCT.mean().item() == pytest.approx(1e-4, rel=0.03)
    assert torch.equal(layer.eval()(torch.ones(2, 4, 2)), torch.full((2, 4, 2), 1e-4))


def test_loss_normaliser_survives_a_restart() -> None:
    detector = small("mse", "parity").train()
    assert not any("loss_norm" in key for key in detector.state_dict())
    detector.loss(*feats(96), [targets((10, 30, 0))])
    state = detector.training_state()
    assert 90 < float(state["loss_norm"]) < 100
    other = small("mse", "parity")
    other.load_training_state(state)
    assert torch.equal(other.training_state()["loss_norm"], state["loss_norm"])


@pytest.mark.parametrize("masked", [False, True])
def test_equal_logits_decode_to_the_middle_bin(masked: bool) -> None:
    flat, mask = torch.zeros(1, 2, 40), torch.ones(1, 1, 40, dtype=torch.bool)
    chosen = (torch.tensor([0, 0]), torch.tensor([20, 0]), torch.tensor([1, 0]))
    distances = trident_offsets(flat, flat, torch.zeros(1, 18, 40), mask, chosen, bins=8, masked=masked)
    assert distances[0].tolist() == pytest.approx([4.0, 4.0])
    # at the first snippet nothing lies to the left but the border: published, all outside is as likely as the inside
    assert distances[1].tolist() == pytest.approx([0.5 if masked else 4.0, 4.0])


def test_labels_follow_the_definition() -> None:
    ranges = [[0, 4], [4, 8], [8, 10000]]
    points = points_of([64, 32, 16], ranges, torch.device("cpu"))
    segments = [(3.0, 9.5, 0), (3.0, 9.5, 1), (2.0, 40.0, 2), (30.0, 33.0, 1), (50.2, 50.4, 0)]
    classes, offsets = label_points(points, targets(*segments), classes=3, radius=1.5)
    for row, (p, low, high, stride) in enumerate(points.tolist()):
        fitting = []
        for start, end, label in segments:
            centre = (start + end) / 2
            inside = max(centre - 1.5 * stride, start) < p < min(centre + 1.5 * stride, end)
            if inside and low <= max(p - start, end - p) <= high:
                fitting.append((end - start, start, end, label))
        expected = torch.zeros(3)
        if fitting:
            length, start, end, _ = min(fitting, key=lambda item: item[0])
            expected[[item[3] for item in fitting if item[0] <= length + 1e-3]] = 1
            assert offsets[row].tolist() == pytest.approx([(p - start) / stride, (end - p) / stride])
        assert torch.equal(classes[row], expected)
    assert classes.sum() > 5
    assert bool((classes.sum(dim=1) == 2).any())


def test_losses_by_hand() -> None:
    ours, truth = torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.tensor([[2.0, 2.0], [2.0, 2.0]])
    assert offset_iou(ours, truth).tolist() == pytest.approx([3 / 5, 1.0])
    assert distance_iou_loss(ours, truth).tolist() == pytest.approx([1 - 3 / 5 + (1 / 5) ** 2, 0.0])
    assert focal_loss(torch.zeros(1), torch.ones(1)).item() == pytest.approx(0.25 * 0.25 * 0.6931472)
    assert focal_loss(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(0.75 * 0.25 * 0.6931472)


@pytest.mark.parametrize(("method", "face"), FACES)
def test_bfloat16_stays_near(method: str, face: str) -> None:
    detector = small(method, face, input_noise=0.0, init_loss_norm=10.0).train()
    still(detector)
    window = (*feats(96, 40), [targets((10, 30, 0), (50, 58, 1)), targets((5, 25, 2))])
    exact = detector.loss(*window)["total"].item()
    detector.load_training_state({"loss_norm": torch.tensor(10.0)})
    with torch.autocast("cpu", torch.bfloat16):
        loss = detector.loss(*window)["total"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.02)
    assert all(bool(torch.isfinite(p.grad).all()) for p in detector.parameters() if p.grad is not None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("method", "face"), FACES)
def test_compiled_equals_eager_on_a_gpu(method: str, face: str) -> None:
    x_BTC, lengths_B = feats(96, 70)
    wanted = [targets((10, 30, 0), (50, 58, 1)), targets((20, 60, 2))]
    on_gpu = [Targets(t.segments_N2.cuda(), t.labels_N.cuda()) for t in wanted]
    results = []
    for compiled in (False, True):
        detector = still_detector(method, face).cuda()
        if compiled:
            for part in detector.children():
                part.compile()
        loss = detector.loss(x_BTC.cuda(), lengths_B, on_gpu)["total"]
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in detector.parameters() if p.grad is not None)])
    scale = max(float(g.abs().max()) for g in results[0])
    assert largest_difference(*results) < 1e-4 * max(scale, 1.0)


def still_detector(method: str, face: str) -> Any:
    """A training detector without random numbers."""
    detector = small(method, face, input_noise=0.0)
    still(detector.train())
    return detector
