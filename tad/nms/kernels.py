"""Compiled suppression of many videos in one call, with the picks of `tad.nms.reference` and a lazy heap.

Scores can only fall, so outdated scores in the heap are upper bounds. The top candidate is updated with the picks of
its class since its last update; if its score has fallen it sinks, else it is the next pick. All classes of a video
share one heap, and the work ends at the topk-th pick, so candidates that never reach the top are never compared.
The weights are multiplied in the order of picking in float32, so the scores are bit-identical to the reference.
"""

# V videos, N segments (of all videos), K classes, M kept

from typing import Any

import numpy as np

from tad.core.compiled import compiled
from tad.nms.arithmetic import GAUSSIAN, HARD, LINEAR, MATRIX_GAUSSIAN, NONE, ONE, ZERO, exponential, overlap_of
from tad.nms.matrix import suppress_matrix

INDICES = 0xFFFFFFFF  # the lower half of a heap item is INDICES - index, so that ties go to the lowest index


@compiled
def _sink(heap: Any, size: Any, at: Any) -> None:
    item = heap[at]
    child = 2 * at + 1
    while child + 1 < size:
        child += np.int64(heap[child + 1] > heap[child])  # branch-free, because the outcome is unpredictable
        if heap[child] <= item:
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    if child + 1 == size and heap[child] > item:
        heap[at] = heap[child]
        at = child
    heap[at] = item


@compiled
def _refresh(score: Any, segment: Any, picks: Any, rule: Any) -> Any:
    """Update a score with further picks of its class; negative if the segment is removed."""
    method, sigma, tiou, least = rule
    start, end = segment
    for j in range(len(picks)):
        if min(end, picks[j, 1]) <= max(start, picks[j, 0]):  # weight 1
            continue
        overlap = overlap_of(picks[j, 0], picks[j, 1], start, end)
        if method == GAUSSIAN:
            score = score * np.float32(exponential(np.float64(-(overlap * overlap) / sigma)))
        elif overlap >= tiou:
            if method != LINEAR:
                return -ONE
            score = score * (ONE - overlap)
        if score < least and method != HARD:
            return -ONE
    return score


@compiled
def _item(bits: Any, i: Any) -> Any:
    """Return the heap key: the bits of the score, whose integer order is that of the scores, then low indices first."""
    return (np.int64(bits[i]) << 32) | (INDICES - i)


@compiled
def _enter(bits: Any, scores: Any, labels: Any, size_of: Any, rule: Any, heap: Any) -> Any:
    """Fill the heap with candidates that may be kept (the best of a class may be below min_score) → heap size."""
    method, _, _, least = rule
    best = np.full(len(size_of), -1, np.int64)
    size = 0
    for i in range(len(scores)):
        item = _item(bits, i)
        size_of[labels[i]] += 1
        best[labels[i]] = max(best[labels[i]], item)
        if (scores[i] > least or least == ZERO) if method == HARD else scores[i] >= least:
            heap[size] = item
            size += 1
    if method != HARD and method != NONE:
        for c in range(len(size_of)):
            if size_of[c] > 0 and scores[INDICES - (best[c] & INDICES)] < least:
                heap[size] = best[c]
                size += 1
    return size


@compiled
def _suppress_video(
    segments: Any, scores: Any, labels: Any, classes: Any, rule: Any, topk: Any, out_index: Any, out_scores: Any
) -> Any:
    """Write the picks of one video, best first, to the two outputs → their number."""
    total = len(scores)
    key = scores + ZERO  # a copy, without negative zeros
    bits = key.view(np.int32)
    heap = np.empty(total, np.int64)
    size_of = np.zeros(classes, np.int64)
    size = _enter(bits, key, labels, size_of, rule, heap)
    for at in range(size // 2 - 1, -1, -1):
        _sink(heap, size, at)
    block = np.zeros(classes, np.int64)  # picks of class c are rows block[c] … block[c] + count[c]
    for c in range(1, classes):
        block[c] = block[c - 1] + min(size_of[c - 1], topk)
    count = np.zeros(classes, np.int64)
    picks = np.empty((block[-1] + min(size_of[-1], topk), 2), np.float32)
    seen = np.zeros(total, np.int32)
    kept = 0
    while size > 0 and kept < topk:
        i = INDICES - (heap[0] & INDICES)
        c = labels[i]
        score = key[i]
        if rule[0] != NONE:
            met, now = block[c] + seen[i], block[c] + count[c]
            score = _refresh(score, (segments[i, 0], segments[i, 1]), picks[met:now], rule)
        seen[i] = count[c]
        if score >= ZERO and score < key[i]:
            key[i] = score
            heap[0] = _item(bits, i)
        else:
            if score >= ZERO:
                out_index[kept] = i
                out_scores[kept] = score
                kept += 1
                picks[block[c] + count[c], 0] = segments[i, 0]
                picks[block[c] + count[c], 1] = segments[i, 1]
                count[c] += 1
            size -= 1
            heap[0] = heap[size]
        if size > 0:
            _sink(heap, size, 0)
    return kept


@compiled
def _by_class(labels: Any, classes: Any) -> Any:
    """Sort the rows by class → rows of class c, in input order: members[first[c] : first[c + 1]]."""
    first = np.zeros(classes + 1, np.int64)
    for label in labels:
        first[label + 1] += 1
    for c in range(classes):
        first[c + 1] += first[c]
    place = first.copy()
    members = np.empty(len(labels), np.int64)
    for row in range(len(labels)):
        members[place[labels[row]]] = row
        place[labels[row]] += 1
    return members, first


@compiled
def _vote(
    segments: Any, scores: Any, labels: Any, groups: Any, kept: Any, voting: Any, times_tiou: Any, out: Any
) -> None:
    """Replace the boundaries of kept segments by the weighted mean over the segments that overlap them."""
    members, of_class = groups
    for row in range(len(kept)):
        own = kept[row]
        start, end = segments[own, 0], segments[own, 1]
        total = first = last = 0.0
        for k in members[of_class[labels[own]] : of_class[labels[own] + 1]]:
            inter = min(end, segments[k, 1]) - max(start, segments[k, 0])
            if inter <= ZERO:
                continue
            share = inter / ((end - start) + (segments[k, 1] - segments[k, 0]) - inter)
            if share >= voting:
                weight = np.float64(scores[k])
                if times_tiou:
                    weight *= np.float64(share)
                total += weight
                first += weight * np.float64(segments[k, 0])
                last += weight * np.float64(segments[k, 1])
        if total > 0:
            out[row, 0] = first / total
            out[row, 1] = last / total


@compiled
def _agree(segments: Any, scores: Any, labels: Any, groups: Any, kept: Any, borders: Any, values: Any) -> None:
    """Multiply the scores of kept segments by their agreement, and sort all three outputs by score, then index."""
    members, of_class = groups
    for row in range(len(kept)):
        own = kept[row]
        start, end = segments[own, 0], segments[own, 1]
        total = met = 0.0
        for k in members[of_class[labels[own]] : of_class[labels[own] + 1]]:
            share = ONE
            if k != own:
                inter = min(end, segments[k, 1]) - max(start, segments[k, 0])
                if inter <= ZERO:
                    continue
                share = inter / ((end - start) + (segments[k, 1] - segments[k, 0]) - inter)
            weight = np.float64(scores[k])
            total += weight
            met += weight * np.float64(share)
        if total > 0:
            values[row] *= np.float32(met / total)
    by_index = np.argsort(kept, kind="mergesort")
    order = by_index[np.argsort(-values[by_index], kind="mergesort")]
    kept[:] = kept[order]
    borders[:] = borders[order]
    values[:] = values[order]


@compiled
def suppress_ragged(
    segments: Any, scores: Any, labels: Any, offsets: Any, classes: Any, rule: Any, topk: Any, vote: Any
) -> Any:
    """Suppress all videos → index (M,), segments (M, 2), scores (M,), offsets (V + 1,).

    `rule` is (method, sigma, tiou, min_score) and `vote` (minimum tIoU, whether it is a weight, whether agreement
    changes the scores); numbers are float32.
    """
    videos = len(offsets) - 1
    room = 0
    for v in range(videos):
        room += min(topk, offsets[v + 1] - offsets[v])
    index = np.empty(room, np.int64)
    kept_segments = np.empty((room, 2), np.float32)
    kept_scores = np.empty(room, np.float32)
    kept_offsets = np.zeros(videos + 1, np.int64)
    done = 0
    for v in range(videos):
        a, b = offsets[v], offsets[v + 1]
        kept = 0
        if b > a:
            own = segments[a:b], scores[a:b], labels[a:b]
            if rule[0] >= MATRIX_GAUSSIAN:
                kept = suppress_matrix(*own, classes, rule, topk, index[done:], kept_scores[done:])
            else:
                kept = _suppress_video(*own, classes, rule, topk, index[done:], kept_scores[done:])
        rows = index[done : done + kept]
        for row in range(kept):
            kept_segments[done + row] = segments[a + rows[row]]
        if vote[0] > ZERO or vote[2]:
            own, groups = (segments[a:b], scores[a:b], labels[a:b]), _by_class(labels[a:b], classes)
            borders, values = kept_segments[done : done + kept], kept_scores[done : done + kept]
            if vote[0] > ZERO:
                _vote(*own, groups, rows, vote[0], vote[1], borders)
            if vote[2]:
                _agree(*own, groups, rows, borders, values)
        rows += a
        done += kept
        kept_offsets[v + 1] = done
    return index[:done], kept_segments[:done], kept_scores[:done], kept_offsets
