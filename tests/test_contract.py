"""Every detector of the package keeps the contract of `tad.layers.contract`, whatever its name."""

from typing import Any

import pytest
import torch
from component_tools import laid
from test_detectors import targets
from torch import Tensor

from tad.core.errors import TadError
from tad.layers.contract import DetectorBase
from tad.layers.types import Observed, Part, Targets
from tad.settings import plugins

NAMES = [name for name in plugins.names("detectors") if not plugins.detector_class(name).prompted]  # those that learn
LENGTH = 64
# the least that makes each small enough to train within a second; a key that a detector does not have is left out
SMALL: dict[str, Any] = {
    "embed_dim": 64, "head_dim": 32, "mlp_dim": 48, "width": 16, "heads": 2, "height": 34, "crop": 32, "upsample": 2,
    "regression_ranges": [[0, 8], [8, 10000]], "strides": [1.0, 2.0], "windows": [9, 9], "seeds": 50,
}  # fmt: skip
FRAMES = {"height": 34, "width": 34}


def small_settings(name: str, **changes: Any) -> dict[str, Any]:
    model = plugins.detector_class(name)
    own = {key: value for key, value in (SMALL | changes).items() if key in model.model_fields}
    own |= FRAMES if "height" in model.model_fields else {}
    return laid("detectors", name, own)


def small(name: str, **changes: Any) -> DetectorBase:
    model, settings = plugins.detector_class(name), small_settings(name, **changes)
    height, width = model.model_validate(settings).frame_size
    torch.manual_seed(0)
    sizes = {"feature_dim": height * width * 3 or 12, "num_classes": 2, "max_length": LENGTH}
    detector: DetectorBase = plugins.build("detectors", name, settings, **sizes)
    return detector


def batch(detector: DetectorBase, *lengths: int) -> tuple[Tensor, Tensor, list[Targets]]:
    generator = torch.Generator().manual_seed(1)
    x_BTC = torch.rand(len(lengths), max(lengths), detector.feature_dim, generator=generator)
    x_BTC = x_BTC * 255 if detector.feature_dim > 12 else x_BTC
    for row, length in enumerate(lengths):
        x_BTC[row, length:] = 0
    return x_BTC, torch.tensor(lengths), [targets((5, 20, 0), (30, 44, 1)), targets((8, 30, 1))][: len(lengths)]


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_trains_and_detects(name: str) -> None:
    detector = small(name)
    assert isinstance(detector, DetectorBase)
    x_BTC, lengths_B, wanted = batch(detector, LENGTH, 50)
    losses = detector.train().loss(x_BTC, lengths_B, wanted)
    losses["total"].backward()
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert any(p.grad is not None and bool(p.grad.any()) for p in detector.parameters())
    detector.eval()
    rules: dict[str, Any] = {"score_threshold": 0.0001, "topk": 50, "min_length": 0.0}
    together = detector.candidates(x_BTC, lengths_B, **rules)
    assert len(together) == 2
    assert all(one.segments_N2.shape == (len(one.scores_N), 2) for one in together)
    (alone,) = detector.candidates(x_BTC[1:, :50], lengths_B[1:], **rules)
    assert len(alone.scores_N) == len(together[1].scores_N) > 0  # the batch size changes no result
    assert torch.allclose(alone.scores_N, together[1].scores_N, atol=1e-5)
    assert detector.padded(50) >= 50
    with pytest.raises(TadError, match=r"the detector was built for|values a row"):
        detector.candidates(x_BTC[:, :, :-1], lengths_B, **rules)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_in_one_group_of_one_phase_each(name: str) -> None:
    for gate in ("none", "generative") if "gate" in plugins.detector_class(name).model_fields else ("none",):
        detector = small(name, gate=gate)
        groups = [g for phase in detector.phases for g in detector.parameter_groups(0.1, phase.name)]
        seen = [id(parameter) for group in groups for parameter in group["params"]]
        learning = {id(p) for p in detector.parameters() if p.requires_grad}
        assert len(seen) == len(set(seen))
        assert learning <= set(seen)
        assert len(detector.phases) == (2 if gate == "generative" else 1)
        own = plugins.detector_class(name).model_validate(small_settings(name, gate=gate))
        assert own.gated == (gate == "generative")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_declared_without_torch_is_what_the_class_does(name: str) -> None:
    declared, detector = plugins.detector_class(name), small(name)
    assert declared.exclusive == detector.exclusive
    assert declared.pretext == detector.pretext
    assert declared.geometric == (type(detector).geometric is not DetectorBase.geometric)
    if detector.observable:
        x_BTC, lengths_B, _ = batch(detector, LENGTH, 50)
        seen = detector.eval().observe(x_BTC, lengths_B)
        assert isinstance(seen, Observed)
        assert declared.masks == (not seen.outputs.offsets)
    if detector.pretext:
        x_BTC, lengths_B, _ = batch(detector, LENGTH)
        assert torch.isfinite(detector.train().pretext_loss(x_BTC, lengths_B)["total"])


@pytest.mark.parametrize("name", NAMES)
def test_losses_of_parts_add_up(name: str) -> None:
    detector = small(name, corrections=plugins.defaults("detectors", name).get("corrections", [])).train()
    for module in detector.modules():
        module.training = False  # nothing random; the losses are those of training all the same
    x_BTC, lengths_B, wanted = batch(detector, LENGTH, 50)
    lengths = tuple(lengths_B.tolist())
    detector.normalise(detector.positives(lengths_B, wanted))
    whole = detector.loss(x_BTC, lengths_B, wanted, Part(2, 0, LENGTH, lengths))["total"]
    parts = [
        detector.loss(x_BTC[k : k + 1], lengths_B[k : k + 1], wanted[k : k + 1], Part(2, k, LENGTH, lengths))["total"]
        for k in range(2)
    ]
    assert torch.stack(parts).sum().item() == pytest.approx(whole.item(), rel=1e-4)
