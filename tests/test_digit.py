"""DiGIT: attention, assignment, resampling and padding against plain definitions, and detections that need no NMS."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from component_tools import laid
from test_detectors import targets
from torch import Tensor
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.detectors._digit.assignment import assign, borders, match, overlap
from tad.detectors._digit.attention import DeformableAttention, Memory, first_offsets, sample
from tad.detectors._digit.losses import Predictions, layer_losses
from tad.detectors._digit.time import resample, sine_code
from tad.detectors.digit_settings import Settings
from tad.layers.types import Part, Targets
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.resolved import of_component
from tad.settings.sections import DetectSpec, TrainSpec
from tad.training.loop.compile import compile_networks

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {
    "embed_dim": 32, "mlp_dim": 32, "heads": 2, "levels": 3, "encoder_layers": 2, "decoder_layers": 2,
}  # fmt: skip
STEPS = 160
SIZES = [("thumos14", 20, 188_809_751), ("activitynet13", 200, 50_625_227), ("hacs", 200, 22_523_595)]


def detector_of(*, rough: bool = False, **changes: Any) -> Any:
    """A small detector; `rough`: with weights that let every part show."""
    torch.manual_seed(0)
    sizes = {"feature_dim": 8, "num_classes": 2, "max_length": 64}
    detector = plugins.build("detectors", "digit", laid("detectors", "digit", SMALL | changes), **sizes)
    for name, parameter in detector.named_parameters():
        if rough:
            torch.nn.init.normal_(parameter, 0.0, 0.05 if "borders" in name else 0.3)
    return detector


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- parts -------------------------------------------------------------------------------------------------------------


def read(values_TD: Tensor, at: float) -> Tensor:
    """Interpolate linearly between the middles of positions; 0 outside."""
    low = int(np.floor(at))
    share, result = at - low, torch.zeros_like(values_TD[0])
    for position, weight in ((low, 1 - share), (low + 1, share)):
        if 0 <= position < len(values_TD):
            result = result + weight * values_TD[position]
    return result


@pytest.mark.parametrize("exporting", [False, True])
def test_sampling_is_interpolation_place_by_place(exporting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every video, query, head, level and place, with places far outside; and the form that graphs have."""
    batch, queries, heads, points, dim, padded, lengths = 2, 3, 2, 4, 5, (8, 4), ((7, 4), (3, 2))
    memory = Memory(torch.empty(0), (0, 8), torch.tensor(lengths))
    values = torch.randn(batch, sum(padded), heads, dim, generator=rng(), dtype=torch.float64)
    places = 3 * torch.rand(batch, queries, heads, 2, points, generator=rng(1), dtype=torch.float64) - 1
    weights = torch.randn(places.shape, generator=rng(2), dtype=torch.float64)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    found = sample(values, memory, places, weights)
    for b, q, h in itertools.product(range(batch), range(queries), range(heads)):
        wanted = torch.zeros(dim, dtype=torch.float64)
        for level, (first, length) in enumerate(zip((0, 8), lengths[b], strict=True)):
            own_TD = values[b, first : first + length, h]
            for p in range(points):
                at = float(places[b, q, h, level, p]) * length - 0.5
                wanted += weights[b, q, h, level, p] * read(own_TD, at)
        assert torch.allclose(found[b, q, h], wanted, atol=1e-12)


def test_gradients_of_sampling_are_its_slopes() -> None:
    memory = Memory(torch.empty(0), (0, 6), torch.tensor([[5, 3]]))
    values, places, weights = (
        torch.rand(shape, generator=rng(k), dtype=torch.float64).requires_grad_()
        for k, shape in enumerate([(1, 9, 2, 3), (1, 2, 2, 2, 2), (1, 2, 2, 2, 2)])
    )
    assert torch.autograd.gradcheck(lambda *x: sample(x[0], memory, x[1], x[2]), (values, places, weights))


def test_first_places_cover_the_segment_or_surround_its_borders() -> None:
    """In units of half the segment's length, from its centre: ±1 are the borders."""
    central, adjacent = (first_offsets(8, 4, adjacent=k) / 4 for k in (False, True))
    assert (central.min(), central.max(), len(central)) == (-1, 1, 32)
    assert torch.allclose(central.sort().values, -central.sort().values.flip(0))
    starts, ends = adjacent.chunk(2)
    assert (starts.min(), starts.max()) == (-1.5, -0.5)
    assert torch.allclose(ends, starts + 2)
    assert not (adjacent.abs() == 1).any()
    attention = DeformableAttention(16, heads=8, points=4, levels=3, adjacent=True)
    assert torch.allclose(attention.offsets.bias.view(8, 3, 4)[:, 1], 4 * adjacent.view(8, 4))


def cost_of(cost: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> float:
    return float(cost[rows, columns].sum())


def test_assignment_is_the_cheapest_of_all() -> None:
    """Against all permutations: both orientations, ties, negative and empty costs."""
    random = np.random.default_rng(0)
    for case in range(200):
        count, width = int(random.integers(0, 5)), int(random.integers(0, 7))
        cost = random.normal(size=(count, width))
        if case % 3 == 0:
            cost = np.round(cost)  # with ties
        rows, columns = assign(cost)
        few, many = sorted((count, width))
        assert len(rows) == len(columns) == few
        assert len(set(rows)) == len(set(columns)) == few
        assert (np.diff(rows) > 0).all()
        table = cost if count <= width else cost.T
        best = min(
            (float(table[np.arange(few), list(chosen)].sum()) for chosen in itertools.permutations(range(many), few)),
            default=0.0,
        )
        assert cost_of(cost, rows, columns) == pytest.approx(best, abs=1e-9)


def test_assignment_of_many_cannot_be_improved() -> None:
    """By another column for a row, or by exchanging the columns of two rows."""
    cost = np.random.default_rng(1).normal(size=(40, 300))
    rows, columns = assign(cost)
    free = np.setdiff1d(np.arange(300), columns)
    assert (cost[rows, columns][:, None] <= cost[rows][:, free]).all()
    total = cost[rows, columns]
    swapped = cost[rows[:, None], columns] + cost[rows, columns[:, None]]
    assert (swapped >= total[:, None] + total - 1e-9).all()


def test_assignment_equals_that_of_scipy() -> None:
    scipy = pytest.importorskip("scipy.optimize")
    for seed in range(20):
        cost = np.random.default_rng(seed).normal(size=(30, 400) if seed % 2 else (90, 60))
        assert cost_of(cost, *assign(cost)) == pytest.approx(cost_of(cost, *scipy.linear_sum_assignment(cost)))


def test_costs_that_are_not_finite_end_too() -> None:
    cost = np.array([[np.nan, np.inf, np.nan], [np.nan, 1.0, -np.inf]])
    rows, columns = assign(cost)
    assert (list(rows), len(set(columns)), columns[1]) == ([0, 1], 2, 2)


@pytest.mark.parametrize("length", [1, 2, 5, 7, 8, 13, 16])
def test_resampling_is_that_of_the_sequence_without_its_padding(length: int) -> None:
    x_BTC = torch.randn(1, 16, 3, generator=rng(), dtype=torch.float64)
    half = -(-length // 2)
    found = resample(x_BTC, torch.tensor([length]), torch.tensor([half]))
    wanted = F.interpolate(x_BTC[:, :length].transpose(1, 2), size=half, mode="linear")[0].T
    assert found.shape == (1, 8, 3)
    assert torch.allclose(found[0, :half], wanted, atol=1e-12)
    assert not found[0, half:].any()


def test_codes_of_times() -> None:
    code = sine_code(torch.tensor([0.0, 1.5], dtype=torch.float64), 4)
    wanted = [[0, 1, 0, 1], [np.sin(1.5), np.cos(1.5), np.sin(0.015), np.cos(0.015)]]
    assert torch.allclose(code, torch.tensor(wanted, dtype=torch.float64))


def test_overlap_by_hand() -> None:
    segment = torch.tensor([5.0, np.log(4.0)])  # 3 to 7
    assert borders(segment).tolist() == pytest.approx([3, 7])
    others = torch.tensor([[3.0, 7.0], [5.0, 9.0], [8.0, 9.0]])
    assert overlap(borders(segment), others, distance=False).tolist() == pytest.approx([1, 1 / 3, 0])
    distances = [0, (2 / 6) ** 2, (3.5 / 6) ** 2]
    wanted = [1, 1 / 3, 0] - np.array(distances)
    assert overlap(borders(segment), others, distance=True).tolist() == pytest.approx(wanted.tolist())


def test_an_instance_takes_the_query_that_fits_it() -> None:
    segments_LQ2 = torch.tensor([[[5.0, 1.0], [20.0, 1.0], [5.0, 1.0]]])
    logits_LQK = torch.tensor([[[-3.0, 0.0], [0.0, -3.0], [0.0, -3.0]]])
    target = targets((19, 22, 0), (4, 7, 0))
    layer, query, instance = match(logits_LQK, segments_LQ2, target, weights=(2.0, 2.0, 0.0), distance=False)
    assert dict(zip(instance.tolist(), query.tolist(), strict=True)) == {0: 1, 1: 2}  # 2 has the class, 0 has not
    assert layer.tolist() == [0, 0]
    none = match(logits_LQK, segments_LQ2, targets(), weights=(2.0, 2.0, 1.0), distance=True)
    assert none.shape == (3, 0)


# -- losses ------------------------------------------------------------------------------------------------------------


def two_queries() -> Predictions:
    logits = torch.tensor([[[[0.5, -1.0], [-2.0, 0.3], [9.0, 9.0]]]])
    segments = torch.tensor([[[[5.0, np.log(4.0)], [20.0, np.log(2.0)], [5.0, 1.0]]]], dtype=torch.float32)
    return Predictions(logits, segments, torch.tensor([[True, True, False]]))


def test_losses_by_hand() -> None:
    """One of two queries has the instance; the third does not exist, although it would fit better."""
    settings = Settings()
    found = layer_losses(
        two_queries(), [targets((3, 6, 0))], settings=settings, instances=4.0, mean=torch.tensor(5.0), encoder=False
    )
    p = 1 / (1 + np.exp(-np.array([0.5, -1.0, -2.0, 0.3])))
    focal = 0.75 * p**2 * -np.log(1 - p)
    focal[0] = 0.25 * (1 - p[0]) ** 2 * -np.log(p[0])
    assert found["cls"].tolist() == pytest.approx([focal.sum() / 2 * 5 / 4])
    assert found["reg"].tolist() == pytest.approx([(1 - 3 / 4) / 4])
    assert found["length"].tolist() == pytest.approx([0.5 * np.log(4 / 3) ** 2 / 4])


def test_doubtful_segments_are_no_negatives() -> None:
    """Queries whose centre lies in one have no loss of its class, unless an instance is theirs."""
    options: dict[str, Any] = {"settings": Settings(), "instances": 1.0, "mean": torch.tensor(2.0), "encoder": False}
    plain = layer_losses(two_queries(), [targets((3, 7, 0))], **options)["cls"]
    doubtful = Targets(*targets_of((3, 7, 0)), 0.0, torch.tensor([[18.0, 22.0], [4.0, 6.0]]), torch.tensor([1, 0]))
    some = layer_losses(two_queries(), [doubtful], **options)["cls"]
    p = 1 / (1 + np.exp(-0.3))
    assert (plain - some).tolist() == pytest.approx([0.75 * p**2 * -np.log(1 - p)])


def targets_of(*segments: tuple[float, float, int]) -> tuple[Tensor, Tensor]:
    made = targets(*segments)
    return made.segments_N2, made.labels_N


def test_a_part_of_a_batch_must_say_the_lengths_of_all() -> None:
    detector, x_BTC = detector_of().train(), torch.randn(1, 40, 8, generator=rng())
    with pytest.raises(AssertionError, match="the batch's lengths"):
        detector.loss(x_BTC, torch.tensor([40]), [targets((3, 9, 0))], Part(2, 0, 40))


def test_every_parameter_learns() -> None:
    detector, x_BTC = detector_of(rough=True).train(), torch.randn(2, 40, 8, generator=rng())
    detector.loss(x_BTC, torch.tensor([40, 33]), [targets((3, 9, 0)), targets()])["total"].backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.any()] == []


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_padding_changes_nothing() -> None:
    """The outputs of a video alone, beside a longer one, and with values on its padding."""
    detector = detector_of(rough=True).double().eval()
    x_BTC = torch.randn(2, 61, 8, generator=rng(), dtype=torch.float64)
    for length in (1, 2, 21, 32, 33):
        with torch.inference_mode():
            alone, beside = (
                detector.network(*detector.batch(x, torch.tensor(lengths), max(lengths)))
                for x, lengths in ((x_BTC[:1, :length], [length]), (x_BTC, [length, 61]))
            )
        count = int(alone.real_BQ.sum())
        assert 0 < count == int(beside.real_BQ[0].sum())
        assert torch.allclose(alone.segments_LBQ2[:, 0, :count], beside.segments_LBQ2[:, 0, :count], atol=1e-9)
        assert torch.allclose(alone.logits_LBQK[:, 0, :count], beside.logits_LBQK[:, 0, :count], atol=1e-9)


def test_queries_are_the_best_share_of_the_points() -> None:
    detector = detector_of(rough=True, query_share=0.4, max_queries=15).eval()
    x_BTC, lengths_B = torch.randn(2, 40, 8, generator=rng()), torch.tensor([40, 5])
    with torch.inference_mode():
        outputs = detector.network(*detector.batch(x_BTC, lengths_B, 40))
    assert outputs.real_BS.sum(dim=1).tolist() == [40 + 20 + 10, 5 + 3 + 2]
    assert outputs.real_BQ.sum(dim=1).tolist() == [15, 4]
    for row, count in enumerate((15, 4)):
        index_BQ, _ = detector.network.select(outputs.points_BS, outputs.real_BS, 15)
        chosen = index_BQ[row, :count].tolist()
        assert chosen == sorted(set(chosen))
        assert set(chosen) == set(
            outputs.points_BS[row].masked_fill(~outputs.real_BS[row], -9e9).topk(count).indices.tolist()
        )


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 1.0])
def test_no_video_has_more_queries_than_there_is_space_for(share: float) -> None:
    """One count is of tensors and one of numbers."""
    network = detector_of(query_share=share).network
    for length in range(4, 400, 4):
        points = sum(length >> level for level in range(3))
        assert network.most(length) == int(network.count(torch.tensor(points)))


def test_a_compiled_network_and_half_precision_give_the_same_loss() -> None:
    detector, x_BTC = detector_of(rough=True).train(), torch.randn(2, 40, 8, generator=rng())
    batch = x_BTC, torch.tensor([40, 33]), [targets((3, 9, 0)), targets((11, 30, 1))]
    plain = detector.loss(*batch)["total"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = detector.loss(*batch)["total"]
    assert float(half.detach()) == pytest.approx(float(plain.detach()), rel=0.1)
    compile_networks(detector, torch.device("cpu"), backend="aot_eager")
    compiled = detector.loss(*batch)["total"]
    assert float(compiled.detach()) == pytest.approx(float(plain.detach()), rel=1e-4)
    compiled.backward()
    assert all(bool(p.grad.isfinite().all()) for p in detector.parameters() if p.grad is not None)


def planted(count: int, generator: torch.Generator) -> tuple[Tensor, list[Targets]]:
    """Windows of 64 snippets with some actions of two classes, each in a channel of its own."""
    x_BTC, wanted = 0.3 * torch.randn(count, 64, 8, generator=generator), []
    for row in range(count):
        time, segments = 0, []
        while True:
            gap, length, label = (
                int(torch.randint(a, b, (1,), generator=generator)) for a, b in ((4, 12), (5, 15), (0, 2))
            )
            if time + gap + length > 62:
                break
            x_BTC[row, time + gap : time + gap + length, label] += 2
            segments.append((time + gap - 0.5, time + gap + length - 0.5, label))
            time += gap + length
        wanted.append(targets(*segments))
    return x_BTC, wanted


def test_it_learns_and_detects_every_action_once() -> None:
    """Without any suppression: as many confident detections as actions, each on one of them."""
    detector, generator = detector_of(), rng(1)
    optimiser = torch.optim.AdamW(detector.parameter_groups(0.0))
    losses, lengths_B = [], torch.full((8,), 64)
    for step in range(STEPS):
        x_BTC, wanted = planted(8, generator)
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / STEPS)
        optimiser.zero_grad()
        total = detector.train().loss(x_BTC, lengths_B, wanted)["total"]
        total.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 0.5)
        optimiser.step()
        losses.append(total.item())
    assert np.mean(losses[-10:]) < 0.25 * losses[0]
    x_BTC, wanted = planted(24, generator)
    lengths_B = torch.full((24,), 64)
    found = detector.eval().candidates(x_BTC, lengths_B, score_threshold=0.4, topk=100, min_length=0.0)
    hits = twice = missed = 0
    for one, target in zip(found, wanted, strict=True):
        iou_NM = overlap(one.segments_N2[:, None], target.segments_N2, distance=False)
        good_NM = (iou_NM > 0.5) & (one.labels_N[:, None] == target.labels_N)
        hits += int(good_NM.any(dim=1).sum())
        twice += int((good_NM.sum(dim=0) > 1).sum())
        missed += int((good_NM.sum(dim=0) == 0).sum())
    count = sum(len(target.labels_N) for target in wanted)
    assert missed <= 0.12 * count
    assert twice <= 0.12 * count
    assert hits >= 0.9 * sum(len(one.scores_N) for one in found)


@pytest.mark.parametrize(("dataset", "classes", "count"), SIZES)
def test_published_sizes(dataset: str, classes: int, count: int) -> None:
    """Counted in the published network, without the parts that have no effect there."""
    with torch.device("meta"):
        settings = laid("detectors", "digit", {}, dataset)
        detector = plugins.build("detectors", "digit", settings, feature_dim=3200, num_classes=classes, max_length=2048)
    assert sum(p.numel() for p in detector.parameters()) == count


def test_nothing_is_suppressed_unless_asked_for() -> None:
    own = of_component("detectors", "digit", ["thumos14"]).sections["nms"]
    assert (own["method"], own["topk"]) == ("none", 900)
    config = Config.read(ROOT / "config.yaml")
    for run in ("salads-digit", "demo-digit", "thumos-internvideo2-digit"):
        assert config.resolve_run(run).sections["nms"]["method"] == "none"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"embed_dim": 30}, r"embed_dim: 30: must be a multiple of heads \(8\)"),
        ({"mlp_dim": 31}, r"mlp_dim: 31: must be a multiple of dilations \(2\)"),
        ({"heads": 1, "points": 6}, r"points: 6: heads times points must be a multiple of 4, but 1 heads have 6"),
    ],
)
def test_sizes_that_do_not_fit(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(TadError, match=said):
        laid("detectors", "digit", settings)


def test_two_networks_are_not_averaged() -> None:
    with pytest.raises(
        ValueError, match=r"detect\.fuse: 'other': the queries of two networks do not correspond; leave"
    ):
        Settings().check(train=TrainSpec(), detect=DetectSpec(fuse="other"))
    Settings().check(train=TrainSpec(), detect=DetectSpec())
