"""The detectors are the published functions: outputs, losses, gradients and 24 optimiser steps on golden weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_tools import CASES, Golden, gradient_errors, relative, unmatched
from torch import Tensor
from torch.nn import functional as F

from tad.training.loop.optim import Ema, adamw, clip_gradients, learning_rate

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=CASES)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return Golden(shared, request.param)


def test_state_dict_has_the_published_names(golden: Golden) -> None:
    detector = golden.detector()
    theirs = golden.group("state/")
    assert {k: v.shape for k, v in detector.state_dict().items()} == {k: v.shape for k, v in theirs.items()}
    assert len(theirs) == {"mse": 323, "tridet": 192, "actionformer": 229}[golden.method]


def test_encoder_and_heads(golden: Golden) -> None:
    detector = golden.detector().eval()
    for video in golden.test_videos:
        feats, lengths, _ = golden.batch([video])
        padded = detector.padded(int(lengths))
        with torch.no_grad():
            x_BCT, mask_B1T = detector.batch(feats, lengths, padded)
            features, masks = detector.encode(x_BCT, mask_B1T, [padded])
            outputs = detector.outputs(x_BCT, mask_B1T, [padded])
        ours = {"backbone": features, "cls": outputs.logits, "reg": outputs.offsets}
        if outputs.starts:
            ours |= {"start": outputs.starts, "end": outputs.ends}
        for level, mask in enumerate(masks):
            assert np.array_equal(mask.numpy(), golden.arrays[f"out/{video}/mask/{level}"])
            for name, levels in ours.items():
                theirs = torch.from_numpy(golden.arrays[f"out/{video}/{name}/{level}"])
                assert relative(levels[level], theirs) < 1e-5, (video, name, level)


def test_candidates(golden: Golden) -> None:
    detector = golden.detector().eval()
    test = golden.config["test_cfg"]
    feats, lengths, _ = golden.batch(golden.test_videos)
    found = detector.candidates(
        feats,
        lengths,
        score_threshold=test["pre_nms_thresh"],
        topk=test["pre_nms_topk"],
        min_length=test["duration_thresh"],
    )
    for video, ours in zip(golden.test_videos, found, strict=True):
        stored = (golden.arrays[f"out/{video}/pre_nms_{key}"] for key in ("segments", "scores", "labels"))
        assert len(ours.scores_N) == len(golden.arrays[f"out/{video}/pre_nms_scores"])
        assert unmatched(ours, *stored) == 0


def test_losses(golden: Golden) -> None:
    losses = golden.detector().train().loss(*golden.batch(["train_a", "train_b"]))
    for ours, theirs in {"cls": "cls_loss", "reg": "reg_loss", "total": "final_loss"}.items():
        assert losses[ours].item() == pytest.approx(float(golden.arrays[f"loss/{theirs}"]), rel=1e-5)


def gradients(golden: Golden, dtype: torch.dtype) -> dict[str, Tensor]:
    detector = golden.detector().train().to(dtype)
    feats, lengths, targets = golden.batch(["train_a", "train_b"])
    detector.loss(feats.to(dtype), lengths, targets)["total"].backward()
    return {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}


def test_gradients(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, where our rounding decides nothing; then in float32.

    Where two values of a max-pooling window are equal up to rounding, rounding decides which of them the gradient goes
    to. So float32 is given the winners of float64, and its own may differ only where two are that near.
    """
    theirs = golden.group("grad/")
    pool, winners = F.max_pool2d, []

    def recorded(x_BC1T: Tensor, *window: Any, **settings: Any) -> Tensor:
        y_BC1T, at = pool(x_BC1T, *window, **settings, return_indices=True)
        winners.append(at)
        return y_BC1T

    def repeated(x_BC1T: Tensor, *window: Any, **settings: Any) -> Tensor:
        own_BC1T, at = pool(x_BC1T, *window, **settings), winners.pop(0)
        y_BC1T = x_BC1T.flatten(2).gather(2, at.flatten(2)).view_as(own_BC1T)
        assert float((own_BC1T - y_BC1T).detach().max()) <= 1e-5 * float(own_BC1T.detach().std())
        return y_BC1T

    for dtype, replaced in ((torch.float64, recorded), (torch.float32, repeated)):
        monkeypatch.setattr(F, "max_pool2d", replaced)
        ours = gradients(golden, dtype)
        assert set(ours) == set(theirs)
        assert {g.dtype for g in ours.values()} == {dtype}
        worst = max(gradient_errors(ours, theirs).items(), key=lambda item: item[1])
        assert worst[1] < 1e-4, (dtype, worst)
    assert not winners


TRAJECTORIES = [n if n.endswith("_thumos") else pytest.param(n, marks=pytest.mark.wide) for n in CASES]


@pytest.mark.parametrize("golden", TRAJECTORIES, indirect=True, scope="module")
def test_trajectory(golden: Golden) -> None:
    detector = golden.detector().train()
    used, plan = golden.config["opt_used"], golden.config["trajectory"]
    iterations = plan["iters_per_epoch"]
    warmup = used["warmup_epochs"] * iterations
    schedule = {"base": used["learning_rate"], "eta_min": used.get("eta_min", 1e-8), "warmup": warmup}
    optimiser = adamw(detector, lr=used["learning_rate"], weight_decay=used["weight_decay"])
    ema = Ema(detector, 0.999)
    rows = []
    for step in range(plan["steps"]):
        rate = learning_rate(step, **schedule, total=warmup + used["epochs"] * iterations)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        losses = detector.loss(*golden.batch([plan["videos"][i] for i in plan["batches"][step % iterations]]))
        losses["total"].backward()
        norm = clip_gradients(detector.parameters(), golden.config["train_cfg"]["clip_grad_l2norm"])
        optimiser.step()
        ema.update(detector)
        rows.append([*(losses[k].item() for k in ("cls", "reg", "total")), float(norm), rate])
    ours, theirs = np.array(rows), golden.arrays["traj/losses"]
    np.testing.assert_allclose(ours[:, :3], theirs[:, :3], rtol=1e-4)
    np.testing.assert_allclose(ours[:, 3], theirs[:, 3], rtol=1e-3)
    np.testing.assert_allclose(ours[:, 4], theirs[:, 4], rtol=1e-12)
    for kind, values in {"state": detector.state_dict(), "ema": ema.values}.items():
        for name, stored in golden.group(f"traj/{kind}/").items():
            tolerance = 1e-2 if name.startswith(("start_head", "end_head")) else 1e-3
            assert relative(values[name], stored) < tolerance, (kind, name)
