"""AFSD's losses divided by numbers of the whole batch: against plain loops, and whichever way a batch is divided."""

import math
from typing import Any

import pytest
import torch
from test_afsd import FACES, small
from test_detectors import feats, targets

from tad.core.errors import TadError
from tad.layers.types import Part

WANTED = [targets((5, 21, 0), (30, 36, 1)), targets((8, 44, 2))]
NAMES = ("loc", "cls", "refined_loc", "refined_cls", "quality")


def detector_of(face: str, normaliser: str = "batch", **changes: Any) -> Any:
    return small(face, normaliser=normaliser, consistency_weight=0.0, piou=0.2, **changes).train()


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    inner = min(one[1], other[1]) - max(one[0], other[0])
    return max(inner, 0.0) / (max(one[1], other[1]) - min(one[0], other[0]))


def focal(logits: list[float], label: int) -> float:
    chance = math.exp(logits[label]) / sum(map(math.exp, logits))
    return -(0.75 if label else 0.25) * (1 - chance) ** 2 * math.log(chance)


def plain(detector: Any, feats_BTC: torch.Tensor, lengths_B: torch.Tensor) -> tuple[dict[str, float], list[int]]:
    """The five losses by loops over the points of all videos [the reference, A.7]."""
    with torch.no_grad():
        masks = detector.network.masks(lengths_B, feats_BTC.device)
        x_BTC = detector.window(feats_BTC, lengths_B)
        said = {k: v.double().tolist() for k, v in detector.network([x_BTC.transpose(1, 2)], masks).joined().items()}
    sums, counts = dict.fromkeys(NAMES, 0.0), [0, 0]
    centres = [(c + 0.5) * 128 / n for n in (64, 32, 16, 8, 4, 2) for c in range(n)]
    for row, target in enumerate(WANTED):
        truth = detector.grid.to_frames(target.segments_N2).tolist()
        for p, centre in enumerate(centres):
            if not masks.valid_BP[row, p]:
                continue
            within = [k for k, (start, end) in enumerate(truth) if start <= centre <= end]
            label, refined, (left, right) = 0, False, said["distances_P2"][row][p]
            if within:
                best = min(within, key=lambda k: truth[k][1] - truth[k][0])
                label, (start, end) = 1 + int(target.labels_N[best]), truth[best]
                half, (move_left, move_right) = (left + right) / 2, said["offsets_P2"][row][p]
                coarse = overlap((centre - left, centre + right), (start, end))
                refined = coarse >= 0.2
                sums["loc"] += 1 - coarse
                fine = overlap((centre - left - half * move_left, centre + right + half * move_right), (start, end))
                logit = said["quality_P"][row][p]
                sums["quality"] += math.log1p(math.exp(-logit)) * fine + math.log1p(math.exp(logit)) * (1 - fine)
                if refined:
                    goals = (centre - start - left) / half, (end - centre - right) / half
                    sums["refined_loc"] += abs(move_left - goals[0]) + abs(move_right - goals[1])
            counts[0] += label > 0
            counts[1] += refined
            sums["cls"] += focal(said["logits_PK"][row][p], label)
            sums["refined_cls"] += focal(said["refined_PK"][row][p], label if refined else 0)
    return {name: value / counts[name.startswith("refined")] for name, value in sums.items()}, counts


@pytest.mark.parametrize("face", FACES)
def test_a_batch_of_two_is_divided_by_its_own_numbers(face: str) -> None:
    detector = detector_of(face)
    x_BTC, lengths_B = feats(64, 50)
    expected, counts = plain(detector, x_BTC, lengths_B)
    losses = detector.loss(x_BTC, lengths_B, WANTED)
    assert 0 < counts[1] < counts[0]
    assert detector.training_state()["counts"].tolist() == counts
    for name in NAMES:
        assert losses[name].item() == pytest.approx(expected[name], rel=2e-4), name
    whole = 10 * (expected["loc"] + expected["refined_loc"]) + sum(
        expected[n] for n in ("cls", "refined_cls", "quality")
    )
    assert losses["total"].item() == pytest.approx(whole + losses["borders"].item(), rel=2e-4)
    by_video = detector_of(face, "video").loss(x_BTC, lengths_B, WANTED)
    assert by_video["cls"].item() != pytest.approx(expected["cls"], rel=0.01)  # the mean of two quotients
    assert by_video["borders"].item() == pytest.approx(losses["borders"].item(), rel=1e-5)


def test_one_video_is_a_batch_and_what_is_judged_is_judged_by_video() -> None:
    x_BTC, lengths_B = feats(64, 50)
    both = [detector_of("parity", normaliser) for normaliser in ("batch", "video")]
    alone = [d.loss(x_BTC[:1], lengths_B[:1], WANTED[:1])["total"].item() for d in both]
    assert alone[0] == pytest.approx(alone[1], rel=1e-6)
    judged = [d.eval().loss(x_BTC, lengths_B, WANTED)["total"].item() for d in both]
    assert judged[0] == pytest.approx(judged[1], rel=1e-6)
    empty = detector_of("parity").loss(x_BTC, lengths_B, [targets(), targets()])
    assert empty["loc"] == empty["refined_loc"] == 0
    assert torch.isfinite(empty["total"])


def test_parts_need_the_whole_batchs_numbers() -> None:
    x_BTC, lengths_B = feats(64, 50)
    detector = detector_of("parity")
    whole = detector.loss(x_BTC, lengths_B, WANTED)["total"].item()
    detector.normalise(detector.positives(lengths_B, WANTED))
    rows = [slice(0, 1), slice(1, 2)]
    parts = [(x_BTC[r], lengths_B[r], WANTED[r], Part(2, r.start, 64)) for r in rows]
    detector.normalise_by_refined(sum(detector.refined_positives(*part) for part in parts))
    assert sum(detector.loss(*part)["total"].item() for part in parts) == pytest.approx(whole, rel=1e-5)
    with pytest.raises(TadError, match=r"detector\.normaliser: Input should be 'video' or 'batch' \(got 'mean'\)"):
        detector_of("parity", "mean")
