"""Suppression of a whole data set on a CUDA device, on tensors and without synchronisation with the host.

This is the only module of `tad.nms` that imports torch; `tad.nms` imports it for the engine `triton`.
"""

# V videos, N candidates of all videos, G groups (video, class), M kept, R rows of room for them

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tad.core.device import resolve
from tad.core.errors import TadError
from tad.nms.types import Floats, Indices, Kept

try:
    import triton

    from tad.nms import triton_kernels as kernels
except ImportError:
    raise TadError(
        "suppression on CUDA needs triton, which comes with CUDA builds of torch; install the CUDA build, "
        "or use the device cpu"
    ) from None

PICK_BLOCK, DECAY_BLOCK, DECAY_ROWS, VOTE_BLOCK, MOST_VOTE_PARTS = 1024, 128, 16, 128, 32
EXACT = {"enable_fp_fusion": False, "num_warps": 4}  # no fused multiply-add, because the reference has none
LARGEST_KEY = torch.iinfo(torch.int64).max
LARGEST_FLOAT_BITS = 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class KeptTensors:
    """`tad.nms.Kept` on the device, in buffers of R ≥ M rows; the number of kept rows M is offsets[-1].

    Attributes:
        index: (R,) int64. segments: (R, 2) float32. scores: (R,) float32. offsets: (V + 1,) int64.
            R is the smaller of N and V · topk; rows from M on are unused.
    """

    index: Tensor
    segments: Tensor
    scores: Tensor
    offsets: Tensor


@dataclass(frozen=True, slots=True)
class _Groups:
    """Candidates sorted by group: the row of each, and the offset of each group (first[g], up to first[G])."""

    order_N: Tensor
    rank_N: Tensor
    first: Tensor

    @property
    def count(self) -> int:
        return len(self.first) - 1


def _group(
    scores_N: Tensor, labels_N: Tensor, offsets: Tensor, video_N: Tensor, *, classes: int, sort: bool
) -> _Groups:
    """Group candidates by (video, label), sorted by input index or, with `sort`, by descending score, then index."""
    total, device = len(scores_N), scores_N.device
    rows_N = torch.arange(total, device=device)
    order_N = rows_N
    if sort:
        order_N = torch.sort(scores_N, descending=True, stable=True).indices
    if classes > 1 or sort:
        key_N = (video_N * classes + labels_N)[order_N]
        key_N, by_key_N = torch.sort(key_N, stable=True)
        order_N = order_N[by_key_N]
    if classes == 1:
        return _Groups(order_N, video_N, offsets)
    room = min(total, (len(offsets) - 1) * classes)  # all possible groups; some may be empty
    begins_N = torch.ones(total, dtype=torch.bool, device=device)
    begins_N[1:] = key_N[1:] != key_N[:-1]
    rank_N = begins_N.cumsum(0) - 1
    first = torch.full((room + 1,), total, device=device)
    first.scatter_(0, torch.where(begins_N, rank_N, room), torch.where(begins_N, rows_N, total))
    return _Groups(order_N, rank_N, first)


def _candidates_left(
    segments_N2: Tensor, scores_N: Tensor, groups: _Groups, *, method: str, sigma: float, tiou: float, least: float,
    topk: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Suppress every group separately → rows (N,), scores (N,), and a mask of the N places that are used."""
    start_N, end_N = (segments_N2[groups.order_N, side].contiguous() for side in (0, 1))
    work_N = scores_N[groups.order_N] + 0.0  # a copy, without negative zeros
    if method == "none":
        return groups.order_N, work_N, work_N >= least
    value_N, rule = torch.zeros_like(work_N), kernels.METHODS[method]
    if method.startswith("matrix"):
        kernels.decay_groups[(groups.count,)](
            start_N, end_N, work_N, groups.first, torch.zeros_like(work_N), value_N, sigma,
            METHOD=rule, ROWS=DECAY_ROWS, BLOCK=DECAY_BLOCK, **EXACT,
        )  # fmt: skip
        return groups.order_N, value_N, value_N >= least
    pick_N = torch.zeros(len(work_N), dtype=torch.int32, device=work_N.device)
    count_G = torch.zeros(groups.count, dtype=torch.int32, device=work_N.device)
    kernels.pick_groups[(groups.count,)](
        start_N, end_N, work_N, groups.first, pick_N, value_N, count_G, topk, sigma, tiou, least,
        METHOD=rule, BLOCK=PICK_BLOCK, **EXACT,
    )  # fmt: skip
    first_N = groups.first[groups.rank_N]
    held_N = torch.arange(len(work_N), device=work_N.device) - first_N < count_G[groups.rank_N]
    return groups.order_N[first_N + pick_N], value_N, held_N


def _best(
    index_N: Tensor, value_N: Tensor, held_N: Tensor, video_N: Tensor, offsets: Tensor, *, topk: int, ordered: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the topk of each video by score, then input index → index (R,), scores (R,), offsets (V + 1,)."""
    total, videos = len(index_N), len(offsets) - 1
    if not ordered:  # scores are ≥ 0, so the bits of the floats as integers have the same order
        bits_N = LARGEST_FLOAT_BITS - value_N.view(torch.int32).to(torch.int64)
        key_N = torch.where(held_N, (bits_N << 32) | index_N, LARGEST_KEY)
        by_key_N = torch.sort(key_N).indices
        by_video_N = torch.sort(video_N[by_key_N], stable=True).indices
        order_N = by_key_N[by_video_N]
        index_N, value_N, held_N = index_N[order_N], value_N[order_N], held_N[order_N]
    seen = torch.zeros(total + 1, dtype=torch.int64, device=held_N.device)
    seen[1:] = held_N.cumsum(0)
    kept_offsets = torch.zeros_like(offsets)
    kept_offsets[1:] = (seen[offsets[1:]] - seen[offsets[:-1]]).clamp(max=topk).cumsum(0)
    rank_N = torch.arange(total, device=held_N.device) - offsets[video_N]
    room = min(total, videos * topk)
    place_N = torch.where(held_N & (rank_N < topk), kept_offsets[video_N] + rank_N, room)  # the row `room` is dropped
    index = torch.zeros(room + 1, dtype=torch.int64, device=held_N.device).scatter_(0, place_N, index_N)
    scores = torch.zeros(room + 1, device=held_N.device).scatter_(0, place_N, value_N)
    return index[:room], scores[:room], kept_offsets


def _sorted(kept: KeptTensors) -> KeptTensors:
    """Sort the kept rows of each video by score, then input index; unused rows stay behind them."""
    rows_R = torch.arange(len(kept.index), device=kept.index.device)
    video_R = torch.searchsorted(kept.offsets[1:].contiguous(), rows_R, right=True)
    bits_R = LARGEST_FLOAT_BITS - kept.scores.view(torch.int32).to(torch.int64)
    by_key_R = torch.sort((bits_R << 32) | kept.index).indices
    order_R = by_key_R[torch.sort(video_R[by_key_R], stable=True).indices]
    return KeptTensors(kept.index[order_R], kept.segments[order_R], kept.scores[order_R], kept.offsets)


def suppress_tensors(
    segments_N2: Tensor, scores_N: Tensor, labels_N: Tensor, offsets: Tensor, *, classes: int, method: str,
    sigma: float, tiou: float, min_score: float, per_class: bool, topk: int, voting: float, voting_weight: str,
    agreement: bool = False,
) -> KeptTensors:  # fmt: skip
    """Suppress all videos on the device of the tensors, bit-identical to `tad.nms.reference`.

    Args:
        segments_N2: (N, 2) float32, start ≤ end. scores_N: (N,) float32, ≥ 0. labels_N: (N,) integers in
            0 … classes - 1. offsets: (V + 1,) int64, rows of video v are `offsets[v]:offsets[v + 1]`. All values
            must be finite; this is not checked here, because a check would synchronise with the device.
        method … agreement: the fields of `tad.settings.stages.NmsSpec`.

    Returns:
        Tensors on the same device, without synchronisation; `offsets[-1]` is the number of used rows.
    """
    total, videos = len(scores_N), len(offsets) - 1
    offsets, labels_N = offsets.to(torch.int64), labels_N.to(torch.int64)
    if total == 0:
        empty = torch.zeros(0, device=scores_N.device)
        return KeptTensors(empty.to(torch.int64), empty.reshape(0, 2), empty, torch.zeros_like(offsets))
    if not per_class:
        classes, labels_N = 1, torch.zeros_like(labels_N)
    sigma, tiou, least, voting = (float(np.float32(value)) for value in (sigma, tiou, min_score, voting))
    rows_N = torch.arange(total, device=scores_N.device)
    video_N = torch.searchsorted(offsets[1:].contiguous(), rows_N, right=True)
    matrix = method.startswith("matrix")
    groups = _group(scores_N, labels_N, offsets, video_N, classes=classes, sort=matrix)
    index_N, value_N, held_N = _candidates_left(
        segments_N2, scores_N, groups, method=method, sigma=sigma, tiou=tiou, least=least, topk=topk
    )
    ordered = classes == 1 and not matrix and method != "none"  # picks are sorted by score, then index
    index, scores, kept_offsets = _best(index_N, value_N, held_N, video_N, offsets, topk=topk, ordered=ordered)
    kept = KeptTensors(index, segments_N2[index], scores, kept_offsets)
    grid = videos, min(triton.cdiv(topk, VOTE_BLOCK), MOST_VOTE_PARTS)
    start_N, end_N = (segments_N2[:, side].contiguous() for side in (0, 1))
    candidates = start_N, end_N, scores_N, labels_N, offsets, index, kept_offsets
    if voting > 0:
        kernels.vote_videos[grid](
            *candidates, kept.segments, voting,
            TIMES_TIOU=voting_weight == "score*tiou", BLOCK=VOTE_BLOCK, **EXACT,
        )  # fmt: skip
    if agreement:
        kernels.agree_videos[grid](*candidates, kept.scores, BLOCK=VOTE_BLOCK, **EXACT)
        kept = _sorted(kept)
    return kept


def suppress_arrays(
    segments: Floats, scores: Floats, labels: Indices, offsets: Indices, *, device: str, **settings: Any
) -> Kept:
    """Copy arrays to the device, call `suppress_tensors`, and copy the result back.

    Raises:
        TadError: a device that does not exist, or the CPU (which needs Triton's interpreter).
    """
    target = resolve(device)
    if target.type == "cpu" and not triton.knobs.runtime.interpret:
        raise TadError(f"device: {device!r}: the engine triton runs on CUDA; choose cuda, or the engine numba")
    tensors = [torch.from_numpy(values).to(target) for values in (segments, scores, labels, offsets)]
    kept = suppress_tensors(*tensors, classes=int(labels.max(initial=0)) + 1, **settings)
    ends = kept.offsets.cpu().numpy()
    index, borders, values = (part[: ends[-1]].cpu().numpy() for part in (kept.index, kept.segments, kept.scores))
    return Kept(index, borders, values, labels[index], ends)
