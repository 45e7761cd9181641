"""Triton kernels of suppression: one program per (video, class) group, with the arithmetic of `tad.nms.reference`.

The launches in `tad.nms.cuda` forbid fused multiply-add (`enable_fp_fusion=False`) and divide with `div_rn`, so that
every result is bit-identical to the reference. Groups may have any size: a program processes its group in blocks and
keeps the scores in device memory. Triton's interpreter runs the same code on a CPU.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# (Triton's compiler reads annotations and accepts only constexpr)

# G groups, N candidates of all groups in the order of groups and, within one, of input index

import triton
import triton.language as tl

from tad.nms import reference

HARD, GAUSSIAN, LINEAR, VANILLA, MATRIX_GAUSSIAN, MATRIX_LINEAR = (tl.constexpr(number) for number in range(6))
METHODS = {
    "hard": 0, "gaussian": 1, "linear": 2, "vanilla": 3, "matrix_gaussian": 4, "matrix_linear": 5,
}  # fmt: skip
REMOVED = tl.constexpr(-1.0)
FAR = tl.constexpr(2147483647)
LENGTH_EPSILON = tl.constexpr(float(reference.LENGTH_EPSILON))
LOG2_E, LN2_HIGH = tl.constexpr(reference.LOG2_E), tl.constexpr(reference.LN2_HIGH)
LN2_LOW, SMALLEST = tl.constexpr(reference.LN2_LOW), tl.constexpr(reference.SMALLEST_EXPONENT)
C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11 = (tl.constexpr(value) for value in reference.TAYLOR)


@triton.jit
def exponential(x):
    """Compute exp(x), x ≤ 0, in float32, rounded from float64, as `tad.nms.reference.exponential`."""
    x = tl.maximum(x.to(tl.float64), SMALLEST)
    k = tl.floor(x * LOG2_E + 0.5)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    r2 = r * r
    r4 = r2 * r2
    low = ((C0 + C1 * r) + (C2 + C3 * r) * r2) + ((C4 + C5 * r) + (C6 + C7 * r) * r2) * r4
    high = (C8 + C9 * r) + (C10 + C11 * r) * r2
    power = ((k.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    return ((low + high * (r4 * r4)) * power).to(tl.float32)


@triton.jit
def overlap_of(start, end, other_start, other_end, epsilon):
    """Compute the overlap in float32; 0 if the segments do not intersect."""
    inter = tl.minimum(end, other_end) - tl.maximum(start, other_start)
    union = ((end - start) + epsilon) + ((other_end - other_start) + epsilon) - inter
    return tl.where(inter > 0, tl.div_rn(inter, tl.where(inter > 0, union, 1.0)), 0.0)


@triton.jit
def _lessened(score, overlap, sigma, tiou, least, METHOD: tl.constexpr):
    """Update scores after a pick with this overlap; `REMOVED` marks segments removed now or earlier."""
    now = score
    if METHOD == GAUSSIAN:
        now = score * exponential(tl.div_rn(-(overlap * overlap), sigma + tl.zeros_like(overlap)))
    elif METHOD == LINEAR:
        now = tl.where(overlap >= tiou, score * (1.0 - overlap), score)
    else:
        now = tl.where(overlap >= tiou, REMOVED, score)
    if METHOD != HARD:
        now = tl.where(now < least, REMOVED, now)
    return tl.where(score < 0, REMOVED, now)


@triton.jit
def pick_groups(
    start_ptr, end_ptr, score_ptr, first_ptr, pick_ptr, value_ptr, count_ptr,
    topk, sigma, tiou, least, METHOD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute the picks of one group, in order.

    Group g has rows first[g] … first[g + 1] of start, end and score (N,), float32; score is overwritten.
    Row first[g] + m of pick (N,) int32 and value (N,) float32 becomes the m-th pick's place in the group and its
    score, count[g] (int32) their number, at most topk.
    """
    g = tl.program_id(0)
    first = tl.load(first_ptr + g)
    total = (tl.load(first_ptr + g + 1) - first).to(tl.int32)
    lanes = tl.arange(0, BLOCK)
    kept = 0
    own_start = 0.0
    own_end = 0.0
    at = -1
    more = total > 0
    while more:
        best = tl.full([BLOCK], REMOVED, tl.float32)
        best_at = tl.full([BLOCK], FAR, tl.int32)
        for block in range(0, total, BLOCK):
            place = block + lanes
            inside = place < total
            score = tl.load(score_ptr + first + place, mask=inside, other=REMOVED)
            if at < 0:  # nothing is picked yet; only hard NMS removes by score beforehand
                if METHOD == HARD:
                    score = tl.where((least > 0) & (score <= least), REMOVED, score)
            else:
                start = tl.load(start_ptr + first + place, mask=inside, other=0.0)
                end = tl.load(end_ptr + first + place, mask=inside, other=0.0)
                overlap = overlap_of(own_start, own_end, start, end, LENGTH_EPSILON)
                score = _lessened(score, overlap, sigma, tiou, least, METHOD)
                score = tl.where(place == at, REMOVED, score)
            tl.store(score_ptr + first + place, score, mask=inside)
            better = score > best  # strict comparison: among equal scores of a lane the lowest place wins
            best = tl.where(better, score, best)
            best_at = tl.where(better, place, best_at)
        tl.debug_barrier()
        value = tl.max(best, axis=0)
        at = tl.min(tl.where(best == value, best_at, FAR), axis=0)
        more = value >= 0
        if more:
            tl.store(pick_ptr + first + kept, at)
            tl.store(value_ptr + first + kept, value)
            own_start = tl.load(start_ptr + first + at)
            own_end = tl.load(end_ptr + first + at)
            kept += 1
            more = kept < topk
    tl.store(count_ptr + g, kept)


@triton.jit
def decay_groups(
    start_ptr, end_ptr, score_ptr, first_ptr, compensation_ptr, value_ptr,
    sigma, METHOD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Apply matrix NMS to one group, whose rows are sorted by descending score, then input index.

    start, end, score (N,) float32 are read; compensation and value (N,), the decayed scores, are written.
    """
    g = tl.program_id(0)
    first = tl.load(first_ptr + g)
    total = (tl.load(first_ptr + g + 1) - first).to(tl.int32)
    start_ptr, end_ptr, compensation_ptr = start_ptr + first, end_ptr + first, compensation_ptr + first
    lanes, rows = tl.arange(0, BLOCK), tl.arange(0, ROWS)
    for second in tl.static_range(2):  # first the compensations of all rows, then the scores
        for block in range(0, total, BLOCK):
            place = block + lanes
            inside = place < total
            start = tl.load(start_ptr + place, mask=inside, other=0.0)[None, :]
            end = tl.load(end_ptr + place, mask=inside, other=0.0)[None, :]
            found = tl.zeros([BLOCK], tl.float32)
            if second == 1 and METHOD == MATRIX_LINEAR:
                found += 1.0
            for other in range(0, tl.minimum(block + BLOCK, total), ROWS):
                earlier = other + rows
                there = earlier < total
                other_start = tl.load(start_ptr + earlier, mask=there, other=0.0)[:, None]
                other_end = tl.load(end_ptr + earlier, mask=there, other=0.0)[:, None]
                overlap = overlap_of(other_start, other_end, start, end, LENGTH_EPSILON)
                overlap = tl.where(there[:, None] & (earlier[:, None] < place[None, :]), overlap, 0.0)
                if second == 0:
                    found = tl.maximum(found, tl.max(overlap, axis=0))
                else:
                    own = tl.load(compensation_ptr + earlier, mask=there, other=0.0)[:, None]
                    if METHOD == MATRIX_LINEAR:
                        share = tl.div_rn(1.0 - overlap, tl.where(overlap > own, 1.0 - own, 1.0))
                        found = tl.minimum(found, tl.min(tl.where(overlap > own, share, 1.0), axis=0))
                    else:
                        excess = tl.where(overlap > own, (overlap - own) * (overlap + own), 0.0)
                        found = tl.maximum(found, tl.max(excess, axis=0))
            if second == 0:
                tl.store(compensation_ptr + place, found, mask=inside)
            else:
                weight = found
                if METHOD == MATRIX_GAUSSIAN:
                    weight = exponential(tl.div_rn(-found, sigma + tl.zeros_like(found)))
                score = tl.load(score_ptr + first + place, mask=inside, other=0.0)
                tl.store(value_ptr + first + place, score * weight, mask=inside)
        tl.debug_barrier()


@triton.jit
def _kept_rows(start_ptr, end_ptr, label_ptr, place_ptr, inside):
    """Load the candidates that `place_ptr` names: their rows, starts, ends and labels."""
    at = tl.load(place_ptr, mask=inside, other=0)
    start = tl.load(start_ptr + at, mask=inside, other=0.0)
    end = tl.load(end_ptr + at, mask=inside, other=0.0)
    label = tl.load(label_ptr + at, mask=inside, other=-1)
    return at, start, end, label


@triton.jit
def vote_videos(
    start_ptr, end_ptr, score_ptr, label_ptr, offset_ptr, index_ptr, kept_ptr,
    out_ptr, voting, TIMES_TIOU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Vote on the boundaries of the kept segments of one video, by all of its candidates in input order.

    Candidates (N,) of video v are rows offset[v] … offset[v + 1]. Rows kept[v] … kept[v + 1] of index (M,) are the kept
    candidates, and the same rows of out (M, 2) receive their boundaries. The second program index splits the kept rows.
    """
    video, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    first_kept = tl.load(kept_ptr + video)
    count = (tl.load(kept_ptr + video + 1) - first_kept).to(tl.int32)
    for block in range(part * BLOCK, count, parts * BLOCK):
        row = block + tl.arange(0, BLOCK)
        inside = row < count
        _, start, end, label = _kept_rows(start_ptr, end_ptr, label_ptr, index_ptr + first_kept + row, inside)
        weights = tl.zeros([BLOCK], tl.float64)
        starts = tl.zeros([BLOCK], tl.float64)
        ends = tl.zeros([BLOCK], tl.float64)
        for voter in range(tl.load(offset_ptr + video), tl.load(offset_ptr + video + 1)):
            its_start = tl.load(start_ptr + voter)
            its_end = tl.load(end_ptr + voter)
            share = overlap_of(start, end, its_start, its_end, 0.0)
            weight = tl.load(score_ptr + voter).to(tl.float64) + tl.zeros([BLOCK], tl.float64)
            if TIMES_TIOU:
                weight = weight * share.to(tl.float64)
            votes = (share >= voting) & (label == tl.load(label_ptr + voter))
            weights = tl.where(votes, weights + weight, weights)
            starts = tl.where(votes, starts + weight * its_start.to(tl.float64), starts)
            ends = tl.where(votes, ends + weight * its_end.to(tl.float64), ends)
        voted = weights > 0
        divisor = tl.where(voted, weights, 1.0)
        out = out_ptr + 2 * (first_kept + row)
        tl.store(out, tl.where(voted, (starts / divisor).to(tl.float32), start), mask=inside)
        tl.store(out + 1, tl.where(voted, (ends / divisor).to(tl.float32), end), mask=inside)


@triton.jit
def agree_videos(
    start_ptr, end_ptr, score_ptr, label_ptr, offset_ptr, index_ptr, kept_ptr, value_ptr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Multiply the scores of the kept segments of one video by their agreement with all of its candidates.

    The arguments are those of `vote_videos`; value (M,) holds the scores of the kept rows, which are changed in place.
    """
    video, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    first_kept = tl.load(kept_ptr + video)
    count = (tl.load(kept_ptr + video + 1) - first_kept).to(tl.int32)
    for block in range(part * BLOCK, count, parts * BLOCK):
        row = block + tl.arange(0, BLOCK)
        inside = row < count
        at, start, end, label = _kept_rows(start_ptr, end_ptr, label_ptr, index_ptr + first_kept + row, inside)
        total = tl.zeros([BLOCK], tl.float64)
        met = tl.zeros([BLOCK], tl.float64)
        for other in range(tl.load(offset_ptr + video), tl.load(offset_ptr + video + 1)):
            share = overlap_of(start, end, tl.load(start_ptr + other), tl.load(end_ptr + other), 0.0)
            share = tl.where(at == other, 1.0, share)
            weight = tl.load(score_ptr + other).to(tl.float64) + tl.zeros([BLOCK], tl.float64)
            counts = (share > 0) & (label == tl.load(label_ptr + other))
            total = tl.where(counts, total + weight, total)
            met = tl.where(counts, met + weight * share.to(tl.float64), met)
        some = total > 0
        factor = tl.where(some, (met / tl.where(some, total, 1.0)).to(tl.float32), 1.0)
        value = tl.load(value_ptr + first_kept + row, mask=inside, other=0.0)
        tl.store(value_ptr + first_kept + row, value * factor, mask=inside)
