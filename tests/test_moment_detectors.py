"""Detectors of moments: targets, network, mixup and decoding; the encoder of frames; the checks of rows."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from test_contract import small
from torch import Tensor

from tad.core.errors import TadError
from tad.detectors._moments.detector import labels_of_positions
from tad.detectors._moments.network import upsample
from tad.detectors._moments.regnet import PLANS, GateShift, RegNetY
from tad.layers.types import Part, Raw, Targets
from tad.settings.config import Config
from tad.training.data.window_positions import cut_to
from tad.training.data.windows import clean


def moments(*rows: tuple[float, int]) -> Targets:
    times = torch.tensor([time for time, _ in rows])
    return Targets(torch.stack([times, times], 1), torch.tensor([label for _, label in rows], dtype=torch.long))


def test_positions_near_a_moment_have_its_class_and_the_way_to_it() -> None:
    classes, away = labels_of_positions(moments((3.0, 1), (6.5, 0)), 9, 1.0, device=torch.device("cpu"))
    assert classes.tolist() == [0, 0, 2, 2, 2, 0, 1, 1, 0]
    assert away.tolist() == [0, 0, -1, 0, 1, 0, -0.5, 0.5, 0]
    none, _ = labels_of_positions(moments(), 4, 1.0, device=torch.device("cpu"))
    assert none.tolist() == [0] * 4


def test_the_time_of_a_candidate_is_its_position_less_the_displacement() -> None:
    detector = small("spot_moments").eval()
    logits = torch.full((1, 3, 5), -4.0)
    logits[0, 0] = 4.0
    logits[0, 2, 3], logits[0, 0, 3] = 4.0, -4.0
    displacement = torch.tensor([[0.0, 0.0, 0.0, 0.75, 0.0]])
    raw = [Raw([0], torch.tensor([5]), [logits, displacement])]
    (found,) = detector.decode_candidates(raw, 1, score_threshold=0.5, topk=9, min_length=0)
    assert found.segments_N2.tolist() == [[2.25, 2.25]]
    assert found.labels_N.tolist() == [1]


def test_upsampling_meets_the_coarse_positions_and_stays_within_a_video() -> None:
    coarse = torch.tensor([[[0.0, 2.0, 6.0]], [[1.0, 3.0, 99.0]]])
    mask = torch.tensor([[[True, True, True]], [[True, True, False]]])
    fine = upsample(coarse, mask, 5)
    assert fine[0, 0].tolist() == [0, 1, 2, 4, 6]
    assert fine[1, 0, :4].tolist() == [1, 2, 3, 3]


@pytest.mark.parametrize("name", ["spot_moments", "spot_moments_frames"])
def test_micro_batches_draw_the_same_mixtures(name: str) -> None:
    """While training, the losses of the parts of a batch add up to that of the batch."""
    detector = small(name).train()
    dim = detector.feature_dim
    x_BTC = torch.rand(2, 32, dim, generator=torch.Generator().manual_seed(0)) * (255 if dim > 12 else 1)
    lengths, wanted = torch.tensor([32, 25]), [moments((5.0, 0), (20.0, 1)), moments((8.5, 1))]

    def total(rows: slice) -> float:
        torch.manual_seed(3)
        part = Part(2, rows.start, 32)
        with torch.no_grad():
            return float(detector.loss(x_BTC[rows], lengths[rows], wanted[rows], part)["total"])

    assert total(slice(0, 1)) + total(slice(1, 2)) == pytest.approx(total(slice(0, 2)), rel=1e-4)


def test_mixed_shares_follow_the_beta_distribution() -> None:
    """Beta(0.2, 0.2) has mean 1/2 and variance 1 / (4 · 1.4)."""
    detector: Any = small("spot_moments").train()
    torch.manual_seed(0)
    share_B, source_BT = detector.mixture(torch.zeros(4000, 6, 1), torch.full((4000,), 4))
    assert float(share_B.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(share_B.var()) == pytest.approx(1 / 5.6, abs=0.01)
    assert source_BT[:, :4].sort(dim=1).values.eq(torch.arange(4)).all()  # a shift of the real positions
    assert source_BT[:, 4:].eq(torch.tensor([4, 5])).all()


def test_moments_survive_cleaning_and_windows() -> None:
    from tad.annotations.table import Instance
    from tad.core.grid import Grid

    grid = Grid(0.5, 1.0, 10, 10.0)
    rows = [Instance(2.0, 2.0, "x"), Instance(2.0, 2.0, "x"), Instance(11.2, 11.2, "x")]
    segments, labels = clean(rows, {"x": 0}, grid, threshold=0.5, moments=True)
    assert segments.tolist() == [[1.5, 1.5]]
    assert labels.tolist() == [0]
    cut, index = cut_to(np.array([[1.5, 1.5], [7.0, 7.0]]), 1, 4, threshold=0.5, margin=0.0)
    assert cut.tolist() == [[0.5, 0.5]]
    assert index.tolist() == [0]


# -- frames ------------------------------------------------------------------------------------------------------------


def test_sizes_of_the_encoders() -> None:
    """The numbers of parameters of timm's models without their classifiers."""
    counts = {name: sum(p.numel() for p in RegNetY(name, shift=False).parameters()) for name in ("regnety_002",)}
    assert counts == {"regnety_002": 2_793_996}
    assert PLANS["regnety_008"].widths[-1] == 768


def test_the_encoder_is_timms() -> None:
    pytest.importorskip("timm")
    from tad.core.optional import timm_package

    theirs = timm_package().create_model("regnety_002", pretrained=False, num_classes=0).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in theirs.state_dict().items():
        if "bn" in name and value.dtype.is_floating_point:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    own = RegNetY("regnety_002", shift=True).eval()
    own.load(theirs.state_dict())
    x_THWC = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        assert torch.allclose(own(x_THWC[None])[0], theirs(x_THWC), atol=1e-4)


def test_weights_that_do_not_fit_are_said() -> None:
    trunk = RegNetY("regnety_002", shift=True)
    weights: dict[str, Tensor] = {k: v for k, v in trunk.state_dict().items() if ".shift." not in k}
    trunk.load(weights)
    with pytest.raises(TadError, match=r"'stem\.conv\.weight' is missing or not \(32, 3, 3, 3\)"):
        trunk.load({k: v for k, v in weights.items() if k != "stem.conv.weight"})


def test_open_gates_shift_by_a_frame() -> None:
    shift = GateShift(8)
    x = torch.rand(3, 8, 2, 2)  # a video of three frames
    assert torch.equal(shift(x, 3), x)
    with torch.no_grad():
        shift.gate.bias.fill_(50.0)  # type: ignore[union-attr]
    y = shift(x, 3)
    assert torch.allclose(y[1, 0], x[0, 0], atol=1e-6)  # from the frame before
    assert torch.allclose(y[1, 1], x[2, 1], atol=1e-6)  # from the one after
    assert torch.equal(y[:, 2:], x[:, 2:])
    assert torch.allclose(shift(torch.cat([x, x]), 3)[3:], y)  # videos do not meet


def test_flipped_frames_are_averaged() -> None:
    plain, both = (small("spot_moments_frames", mirrored=value).eval() for value in (False, True))
    x_BTC, lengths = torch.rand(1, 8, plain.feature_dim) * 255, torch.tensor([8])
    flipped = x_BTC.unflatten(2, (34, 34, 3)).flip(3).flatten(2)
    with torch.no_grad():
        wanted = [plain.raw(x, lengths)[0].outputs[0] for x in (x_BTC, flipped)]
        assert torch.allclose(both.raw(x_BTC, lengths)[0].outputs[0], (wanted[0] + wanted[1]) / 2, atol=1e-5)


# -- rows --------------------------------------------------------------------------------------------------------------


def row(kind: str, detector: str, **more: Any) -> dict[str, Any]:
    features = {"source": "x", "dim": 8, "clip": {"length": 1, "stride": 1, "policy": "resample", "rate": 25.0}}
    run = {"dataset": "own", "features": "own", "detector": detector, **more}
    return {
        "datasets": {"own": {"format": "csv", "annotations": "x.csv", "kind": kind}},
        "features": {"own": json.loads(json.dumps(features))},
        "runs": {"mine": run},
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (row("segments", "spot_moments"), "detector spot_moments detects moments, and data set own has segments; set"),
        (row("moments", "actionformer"), "detects segments, and data set own has moments; use a detector of moments"),
        (
            row("moments", "spot_moments", nms={"kind": "segments", "method": "hard"}),
            "nms.kind: segments: the detector",
        ),
        (row("moments", "spot_moments", nms={"method": "gaussian"}), "moments are suppressed by hard, soft, none"),
        (row("moments", "spot_moments", nms={"agreement": True}), "agreement: true: moments do not overlap"),
    ],
)
def test_data_detector_and_suppression_are_of_one_kind(values: dict[str, Any], said: str) -> None:
    with pytest.raises(TadError, match=said) as error:
        Config(values)
    assert "\n" not in str(error.value)


def test_a_row_of_moments() -> None:
    config = Config(row("moments", "spot_moments", nms={"window": 2, "method": "hard"}))
    spec = config.spec("suppress", run="mine").model_dump()["nms"]
    assert (spec["kind"], spec["method"], spec["window"]) == ("moments", "hard", 2.0)
    assert config.spec("evaluate", run="mine").model_dump()["eval"]["protocol"] == "moments"
