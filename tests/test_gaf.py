"""The generative gate: sizes, scale, what each pass teaches, its place in every detector, training and resuming."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_tools as tools
from component_tools import laid
from test_afsd import SIZES, WANTED
from test_detectors import DETECT, FACES, feats, settings
from test_detectors import small as point_detector
from test_windows_stages import RANGES, SLIDING
from torch import Tensor, nn
from training_tools import train_spec, videos_of, write_inputs

from tad.core.errors import TadError
from tad.detectors._afsd.modules import ConvUnit, glorot
from tad.layers.gate.attention import FeatureCVAE, Gate, GenerativeAttention, video_means
from tad.layers.types import Part
from tad.settings import plugins
from tad.settings.stages import Plugin, TrainStageSpec
from tad.training.data.windows import Batch, Windows
from tad.training.io import tensors as checkpoint

GATE = {"gate": "generative", "gate_settings": {"hidden": 32}}
SIGNS = torch.tensor([-1.0, 1.0, 1.0, 1.0])  # of the logits of a point that says: an action


def small(face: str = "corrected", **changes: Any) -> Any:
    torch.manual_seed(0)
    layers = {"embed_dim": 64, "upsample": 2, "strides": [2.0**level for level in range(6)], "face": face}
    return plugins.build("detectors", "gaf", settings("gaf", **layers | GATE | changes), **SIZES)


def counted(module: nn.Module) -> int:
    """Parameters of convolutions and linear layers."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv3d | nn.ConvTranspose3d | nn.Linear)]
    return sum(p.numel() for layer in layers for p in layer.parameters())


@pytest.mark.parametrize(
    ("channels", "length", "cells", "attention", "pair"),
    [(1024, 32, 3, 6_325_792, 28_320_768), (832, 64, 6, 16_668_032, 56_077_632)],
)
def test_published_sizes(channels: int, length: int, cells: int, attention: int, pair: int) -> None:
    with torch.device("meta"):
        assert counted(GenerativeAttention(channels, length=length, cells=cells)) == attention  # 6.33 M and 16.67 M
        assert counted(FeatureCVAE(channels, cells=cells)) == pair  # 28.3 M and 56.1 M


def test_maps_of_frames_keep_their_shapes() -> None:
    x_BCTHW = torch.rand(2, 64, 8, 3, 3)
    gate = Gate(
        GenerativeAttention(64, length=8, cells=3, hidden=32), FeatureCVAE(64, cells=3), normalised=True, kl_weight=0.1
    )
    gated = gate.attend(x_BCTHW, None)
    assert gated.attention_BCT.shape == (2, 64, 8)
    assert gated.foreground.shape == gated.background.shape == x_BCTHW.shape
    assert gate.vae_loss(x_BCTHW, None).shape == (2,)
    assert gate.reconstruction_loss(gated.attention_BCT, x_BCTHW, None).shape == (2,)


def test_sums_destroy_the_scale_and_means_keep_it() -> None:
    torch.manual_seed(0)
    unit = ConvUnit(1024, 512, masked=False)
    glorot(unit)
    attention, vae, spread = GenerativeAttention(1024, length=32), FeatureCVAE(1024), {}
    for normalised in (True, False):
        gate = Gate(attention, vae, normalised=normalised, kl_weight=0.1)
        for videos in (1, 8):
            x_BCT = torch.randn(videos, 1024, 32, generator=torch.Generator().manual_seed(3)).relu()
            with torch.no_grad():
                foreground = gate.attend(x_BCT, None).foreground
                spread[normalised, videos] = float(unit.norm(unit.conv(foreground)).std())
    assert spread[True, 1] == pytest.approx(1, abs=0.02)
    assert spread[True, 8] == pytest.approx(1, abs=0.02)
    # published: 1.4e-3 of a clip, and 8 times smaller of 8
    assert 5e-4 < spread[False, 1] < 1e-2
    assert spread[False, 1] / spread[False, 8] == pytest.approx(8, rel=0.1)


def test_the_weights_are_means_of_one_and_padding_has_none() -> None:
    torch.manual_seed(0)
    mask_B1T = torch.arange(20) < torch.tensor([[[20]], [[11]]])
    gate = Gate(
        GenerativeAttention(12, length=0, hidden=32, masked=True), FeatureCVAE(12), normalised=True, kl_weight=0.1
    )
    x_BCT = torch.randn(2, 12, 20) * mask_B1T
    ones = gate.attend(torch.where(mask_B1T, 1.0, 0.0).expand(2, 12, 20), mask_B1T)
    for part in (ones.foreground, ones.background):
        assert video_means(part, mask_B1T).tolist() == pytest.approx([1, 1])
        assert not part[1, :, 11:].any()
    (alone,) = gate.attend(x_BCT[1:, :, :11], None).attention_BCT
    together = gate.attend(x_BCT, mask_B1T).attention_BCT[1]
    assert torch.allclose(alone, together[:, :11], atol=1e-5)
    assert not together[:, 11:].any()
    torch.manual_seed(1)
    loss_B = gate.vae_loss(x_BCT, mask_B1T)
    torch.manual_seed(1)
    noisy_BCT = torch.where(mask_B1T, x_BCT, 100.0)
    assert torch.allclose(loss_B, gate.vae_loss(noisy_BCT, mask_B1T), rtol=0.2)  # attention alone sees a border


@pytest.mark.parametrize("normalised", [True, False])
def test_padding_is_no_background(normalised: bool) -> None:
    """Whatever stands in the padding: the background of a padded video is that of the video alone."""
    torch.manual_seed(0)
    attention = GenerativeAttention(12, length=0, hidden=32, masked=True)
    gate = Gate(attention, FeatureCVAE(12), normalised=normalised, kl_weight=0.1)
    x_BCT, mask_B1T = torch.randn(1, 12, 20), torch.arange(20)[None, None] < 11
    alone = gate.attend(x_BCT[:, :, :11], None).background
    # zeros reach the attention of the last snippets, so that they alone differ if something else stands there
    for padding in (0.0, 3.0):
        padded = gate.attend(torch.where(mask_B1T, x_BCT, padding), mask_B1T).background
        assert not padded[:, :, 11:].any()
        assert torch.allclose(padded[:, :, :11], alone, atol=1e-5)


@pytest.mark.parametrize("method", ["gaf", "mse"])
def test_points_of_the_padding_are_no_background(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Whatever the heads say of points in the padding: the background's loss does not count them."""
    losses = []
    x_BTC, lengths_B = feats(64, 40)
    for beyond in (0.0, 9.0):
        detector: Any = small(consistency_weight=0.0) if method == "gaf" else point_detector("mse", "corrected", **GATE)
        if method == "gaf":
            network, logits_of = detector.network, detector.network.class_logits
            valid_BP1 = network.masks(lengths_B, x_BTC.device).valid_BP[:, :, None]
            replaced = lambda maps, masks: torch.where(valid_BP1, logits_of(maps, masks), beyond * SIGNS)  # noqa: B023, E731
            monkeypatch.setattr(network, "class_logits", replaced)
        else:
            detector.eval()
            behind = detector._behind

            def said(x_BCT: Tensor, mask_B1T: Tensor, spans: list[int]) -> Any:
                observed = behind(x_BCT, mask_B1T, spans)  # noqa: B023
                pairs = zip(observed.outputs.logits, observed.outputs.masks, strict=True)
                logits = [torch.where(mask_B1T, logits_BKT, beyond) for logits_BKT, mask_B1T in pairs]  # noqa: B023
                return replace(observed, outputs=replace(observed.outputs, logits=logits))

            monkeypatch.setattr(detector, "_behind", said)
        losses.append(detector.loss(x_BTC, lengths_B, WANTED)["background"].item())
    assert losses[0] == losses[1] > 0


def test_a_perfect_vae_has_no_divergence() -> None:
    gate = Gate(GenerativeAttention(4, length=6, hidden=32), FeatureCVAE(4), normalised=True, kl_weight=1.0)
    x_BCT = torch.randn(2, 4, 6)
    with torch.no_grad():
        attention = gate.attention(x_BCT, None)
    gate.vae.encode = lambda x, a: (attention, torch.zeros_like(attention))  # type: ignore[method-assign]
    gate.vae.decode = lambda z, a: x_BCT  # type: ignore[method-assign]
    assert gate.vae_loss(x_BCT, None).tolist() == [0, 0]
    gate.vae.encode = lambda x, a: (attention + 1, torch.zeros_like(attention))  # type: ignore[method-assign]
    assert gate.vae_loss(x_BCT, None).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("face", ["parity", "corrected"])
def test_each_pass_teaches_its_part(face: str) -> None:
    detector = small(face).train()
    assert [phase.name for phase in detector.phases] == ["vae", "main"]
    groups = {
        name: {id(p) for g in detector.parameter_groups(0.1, name) for p in g["params"]} for name in ("vae", "main")
    }
    assert not groups["vae"] & groups["main"]
    assert groups["vae"] | groups["main"] == {id(p) for p in detector.parameters()}
    assert [g["weight_decay"] for g in detector.parameter_groups(0.1, "vae")] == [0.0]
    detector.enter("vae", 0, 4)
    losses = detector.loss(*feats(64, 50), WANTED)
    assert set(losses) == {"vae", "total"}
    losses["total"].backward()
    assert {id(p) for p in detector.parameters() if p.grad is not None} == groups["vae"]
    detector.zero_grad(set_to_none=True)
    detector.enter("main", 0, 4)
    assert detector.ramp == 0.25
    losses = detector.loss(*feats(64, 50), WANTED)
    weights = {"background": 35.0, "reconstruction": 0.125, "consistency": 0.1, "borders": 1, "loc": 10, "cls": 1}
    weights |= {"refined_loc": 10, "refined_cls": 1, "quality": 1}
    whole = sum(weight * losses[name] for name, weight in weights.items())
    assert losses["total"].item() == pytest.approx(whole.item(), rel=1e-5)
    losses["reconstruction"].backward()
    assert all(p.grad is not None for p in detector.gates[0].attention.parameters())


def test_published_reconstruction_is_of_what_came_last() -> None:
    losses = {}
    for correction in ([], ["target"]):
        detector = small(
            "corrected" if correction else "parity", corrections=correction, consistency_weight=0.0
        ).train()
        torch.manual_seed(1)
        losses[bool(correction)] = detector.loss(*feats(64), WANTED[:1])["reconstruction"].item()
        x_BCT = feats(64)[0].transpose(1, 2)
        torch.manual_seed(1)
        gated = detector.gates[0].attend(x_BCT, None)
        target = x_BCT if correction else gated.background
        expected = detector.gates[0].reconstruction_loss(gated.attention_BCT, target, None)
        assert losses[bool(correction)] == pytest.approx(expected.item(), rel=1e-5)
    assert losses[False] < 0.5 * losses[True]  # a tiny background against features of 1


def test_background_is_a_sum_as_published_or_a_mean() -> None:
    found = {}
    for averaged in (False, True):
        for videos in (1, 2):
            names = ["normalised", "averaged"] if averaged else ["normalised"]
            detector = small(corrections=names, consistency_weight=0.0).train()
            x_BTC = feats(64)[0].expand(videos, -1, -1)
            losses = detector.loss(x_BTC, torch.tensor([64] * videos), WANTED[:1] * videos)
            found[averaged, videos] = losses["background"].item()
    assert found[False, 2] == pytest.approx(2 * found[False, 1], rel=1e-5)
    assert found[True, 2] == pytest.approx(found[True, 1], rel=1e-5)
    assert found[True, 1] == pytest.approx(found[False, 1], rel=1e-5)


@pytest.mark.parametrize(("method", "face"), FACES)
def test_any_detector_can_have_the_gate(method: str, face: str) -> None:
    detector = point_detector(method, face, **GATE, input_noise=0.0).train()
    assert set(detector.state_dict()) - set(point_detector(method, face).state_dict()) == {
        name for name in detector.state_dict() if name.startswith("gates.")
    }
    detector.enter("vae", 0, 2)
    assert detector.loss(*feats(96, 40), WANTED)["vae"] > 0
    detector.enter("main", 1, 2)
    losses = detector.loss(*feats(96, 40), WANTED)
    added = losses["background"] + 0.5 * losses["reconstruction"]
    plain = losses["cls"] + detector.settings.loss_weight * losses["reg"]
    assert losses["total"].item() == pytest.approx((plain + added).item(), rel=1e-5)
    losses["total"].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in detector.gates[0].attention.parameters())
    detector.eval()
    x_BTC, lengths_B = feats(75, 130)
    together = detector.candidates(x_BTC, lengths_B, **DETECT)
    (alone,) = detector.candidates(x_BTC[:1, :75], lengths_B[:1], **DETECT)
    assert len(alone.scores_N) == len(together[0].scores_N) > 50


def test_parts_add_up_to_the_batch() -> None:
    for make in (small, lambda: point_detector("mse", "corrected", **GATE)):
        totals = []
        for size in (2, 1):
            detector = make().train()
            detector.enter("main", 0, 1)
            detector.normalise(10)
            total = 0.0
            for row in range(0, 2, size):
                torch.manual_seed(5)
                rows = slice(row, row + size)
                x_BTC, lengths_B = feats(64, 50)
                total += detector.loss(x_BTC[rows], lengths_B[rows], WANTED[rows], Part(2, row, 64))["total"].item()
            totals.append(total)
        assert totals[0] == pytest.approx(totals[1], rel=1e-4)


def test_bad_settings_are_named() -> None:
    with pytest.raises(TadError, match=r"detector\.gate: Input should be 'none' or 'generative'"):
        small(gate="on")


# -- training ----------------------------------------------------------------------------------------------------------


def gaf_spec(name: str) -> TrainStageSpec:
    own = {"embed_dim": 64, "upsample": 2, "strides": [1.0, 2.0], "regression_ranges": RANGES}
    own = own if name == "gaf" else {k: v for k, v in tools.real_spec(name).detector.settings.items()}
    values = laid("detectors", name, own | GATE)
    changes = SLIDING if name == "gaf" else {"max_length": 16}
    spec = train_spec(**changes | {"epochs": 2, "warmup_epochs": 0, "batch_size": 8 if name == "gaf" else 4})
    return spec.model_copy(update={"detector": Plugin(name=name, settings=values)})


@pytest.mark.parametrize("name", ["gaf", "actionformer"])
def test_two_passes_an_epoch_continue_with_equal_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    spec, logged = gaf_spec(name), []
    monkeypatch.setattr("tad.training.loop.engine.log.info", lambda text, *values: logged.append(text % values))
    for folder in (tmp_path, tmp_path / "whole"):
        write_inputs(folder, videos_of(np.random.default_rng(0)))
    whole = tools.run(tmp_path / "whole", spec, seconds=1000)
    epochs = [line.partition(":")[0] for line in logged if line.startswith("epoch")]
    assert epochs == [f"epoch {e} of 2{p}" for e in (1, 2) for p in (", vae", "")]
    make = Windows.training_batch

    def interrupted(self: Windows, epoch: int, k: int, *share: Callable[[int], range]) -> Batch:
        if (epoch, k) == (2, 0):  # the second VAE's pass
            raise KeyboardInterrupt
        return make(self, epoch, k, *share)

    monkeypatch.setattr(Windows, "training_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tools.run(tmp_path, spec)
    monkeypatch.undo()
    (state,) = (tmp_path / "kept").glob("*.state.safetensors")
    tensors, metadata = checkpoint.read_tensors(state)
    assert json.loads(metadata["state"])["step"] > 1
    assert any(key.startswith("optimizer-vae.") for key in tensors)
    assert tools.run(tmp_path, spec).read_bytes() == whole.read_bytes()
