"""Suppression of overlapping candidates, usable alone: segments → the kept ones, of one video or a data set."""

# V videos, N segments (of all videos), K classes, M kept

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np

from tad.errors import TadError
from tad.nms.types import Floats, Indices, Kept, Method, VotingWeight

__all__ = ["Engine", "Kept", "compile_loops", "suppress_segments"]

MOST_CLASSES = 4096  # above, labels are renumbered so that the counters of a video stay small
CHUNKS_PER_THREAD = 4  # videos differ in work: who is done early takes another chunk
FEWEST_PER_THREAD = 20_000  # candidates; below, starting a thread costs more than it saves

Engine = Literal["numba", "reference", "triton"]


def _check(segments: Floats, scores: Floats, labels: Indices, offsets: Indices) -> None:
    """One line for data that cannot be suppressed; programmers' mistakes are assertions."""
    assert segments.shape == (len(scores), 2), f"segments (N, 2), not {segments.shape}"
    assert labels.shape == scores.shape, f"labels (N,), not {labels.shape}"
    assert labels.min(initial=0) >= 0, "labels must be >= 0"
    assert [offsets[0], offsets[-1]] == [0, len(scores)], "offsets must cover all rows"
    assert np.all(np.diff(offsets) >= 0), "offsets must rise"
    refuse_bad(segments, scores)


def refuse_bad(segments: Floats, scores: Floats, *, where: Callable[[int], str] = lambda row: "") -> None:
    """Raise a TadError that names the first candidate that is none; `where` says in words where a row is from."""
    if len(scores) == 0:
        return
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = segments[:, 1] - segments[:, 0]  # NaN or infinite where a border is
        if lengths.min() >= 0 and lengths.max() < np.inf and scores.min() >= 0 and scores.max() < np.inf:
            return
        bad = ~((scores >= 0) & (scores < np.inf) & (lengths >= 0) & (lengths < np.inf))
    row = int(np.flatnonzero(bad)[0])
    raise TadError(
        f"{where(row)}candidate {row}: segment {segments[row].tolist()} with score {scores[row]}: segments must be "
        f"finite with start <= end, scores finite and >= 0; check what made the candidates ({int(bad.sum())} such)"
    )


def _check_settings(settings: dict[str, Any]) -> None:
    """The ranges of `tad.specs.NmsSpec`, for callers that come without one."""
    allowed = {
        "method": (settings["method"] in get_args(Method), f"one of {', '.join(get_args(Method))}"),
        "sigma": (0 < settings["sigma"] < np.inf, "a finite number > 0"),
        "tiou": (0 < settings["tiou"] <= 1, "> 0 and at most 1"),
        "min_score": (0 <= settings["min_score"] < np.inf, "a finite number >= 0"),
        "topk": (settings["topk"] >= 1, "at least 1"),
        "voting": (0 <= settings["voting"] <= 1, "from 0 (no voting) to 1"),
        "voting_weight": (settings["voting_weight"] in get_args(VotingWeight), "score or score*tiou"),
    }
    for name, (fits, wanted) in allowed.items():
        if not fits:
            raise TadError(f"suppression: {name}: {settings[name]!r}: must be {wanted}")


def suppress_segments(
    segments: Floats,
    scores: Floats,
    labels: Indices,
    *,
    offsets: Indices | None = None,
    method: Method,
    sigma: float,
    tiou: float,
    min_score: float,
    per_class: bool,
    topk: int,
    voting: float,
    voting_weight: VotingWeight,
    engine: Engine = "numba",
    threads: int = 0,
    device: str = "cuda",
) -> Kept:
    """Suppress overlapping segments, each video by itself; `tad.nms.reference` states the rules.

    Args:
        segments: (N, 2) start ≤ end in any one unit (the pipeline: snippets); converted to float32.
        scores: (N,) ≥ 0. labels: (N,) class ids ≥ 0.
        offsets: (V + 1,) rows of video v are `offsets[v]:offsets[v + 1]`; without it all rows are one video.
        method … voting_weight: the fields of `tad.specs.NmsSpec` (`**spec.model_dump()` passes them all).
        engine: numba (CPU), triton (CUDA), or the reference that defines both (slow); all return the same bits.
        threads: of numba, over the videos; 0: `numba.config.NUMBA_NUM_THREADS`.
        device: of triton, "cuda" or "cuda:<index>".

    Returns:
        Per video at most topk segments by descending score, ties by input row.

    Raises:
        TadError: NaN, infinite or negative scores, segments that are not finite or end before they start, settings
            out of range, a device that is not there.
    """
    segments = np.ascontiguousarray(segments, np.float32).reshape(-1, 2)
    scores, labels = np.ascontiguousarray(scores, np.float32), np.ascontiguousarray(labels)
    offsets = np.array([0, len(scores)]) if offsets is None else np.asarray(offsets)
    offsets = offsets.astype(np.int64)
    _check(segments, scores, labels, offsets)
    settings: dict[str, Any] = {
        "method": method, "sigma": sigma, "tiou": tiou, "min_score": min_score, "per_class": per_class, "topk": topk,
        "voting": voting, "voting_weight": voting_weight,
    }  # fmt: skip
    _check_settings(settings)
    if engine == "reference":
        return _by_reference(segments, scores, labels, offsets, **settings)
    if engine == "triton":
        from tad.nms.cuda import suppress_arrays

        return suppress_arrays(segments, scores, labels, offsets, device=device, **settings)
    return _by_numba(segments, scores, labels, offsets, threads=threads, **settings)


def compile_loops() -> None:
    """Have the compiled loops on disk (ten seconds of CPU time, once), so that no first suppression waits for them."""
    one = np.ones(1, np.float32)
    suppress_segments(
        np.ones((1, 2), np.float32), one, np.zeros(1, int), method="gaussian", sigma=0.5, tiou=0.5, min_score=0.0,
        per_class=True, topk=1, voting=0.5, voting_weight="score",
    )  # fmt: skip


def _by_reference(segments: Floats, scores: Floats, labels: Indices, offsets: Indices, **settings: Any) -> Kept:
    from tad.nms.reference import suppress_video

    index, kept_segments, kept_scores, ends = [], [], [], [0]
    for a, b in pairwise(offsets):
        rows, borders, values = suppress_video(segments[a:b], scores[a:b], labels[a:b], **settings)
        index.append(rows + a)
        kept_segments.append(borders)
        kept_scores.append(values)
        ends.append(ends[-1] + len(rows))
    rows = np.concatenate([np.zeros(0, np.int64), *index])
    return Kept(
        rows,
        np.concatenate([np.zeros((0, 2), np.float32), *kept_segments]),
        np.concatenate([np.zeros(0, np.float32), *kept_scores]),
        labels[rows],
        np.array(ends, np.int64),
    )


def _chunks(offsets: Indices, parts: int) -> list[tuple[int, int]]:
    """Neighbouring videos in at most `parts` chunks of about as many candidates → (first video, last + 1)."""
    wanted = np.linspace(0, offsets[-1], parts + 1)
    edges = np.unique([0, *np.searchsorted(offsets, wanted[1:-1]), len(offsets) - 1])
    return list(pairwise(edges.tolist()))


def _by_numba(
    segments: Floats, scores: Floats, labels: Indices, offsets: Indices, *, threads: int, **settings: Any
) -> Kept:
    import numba

    from tad.nms.arithmetic import METHODS
    from tad.nms.kernels import suppress_ragged

    groups = labels.astype(np.int32) if settings["per_class"] else np.zeros(len(labels), np.int32)
    if groups.max(initial=0) >= MOST_CLASSES:
        groups = np.unique(groups, return_inverse=True)[1].astype(np.int32)
    sigma, tiou, least, voting = (np.float32(settings[name]) for name in ("sigma", "tiou", "min_score", "voting"))
    rule = (METHODS[settings["method"]], sigma, tiou, least)
    vote = (voting, settings["voting_weight"] == "score*tiou")
    classes = int(groups.max(initial=0)) + 1
    # Threads that call compiled loops, not numba's own: those bring an OpenMP runtime into the process, which must not
    # be forked afterwards, and take seconds longer to compile.
    threads = min(threads or numba.config.NUMBA_NUM_THREADS, max(len(scores) // FEWEST_PER_THREAD, 1))

    def run(chunk: tuple[int, int]) -> tuple[Any, ...]:
        first, last = chunk
        a, b = offsets[first], offsets[last]
        own = offsets[first : last + 1] - a
        return suppress_ragged(segments[a:b], scores[a:b], groups[a:b], own, classes, rule, settings["topk"], vote)  # type: ignore[no-any-return]

    if threads == 1:
        index, borders, values, ends = run((0, len(offsets) - 1))
        return Kept(index, borders, values, labels[index], ends)
    chunks = _chunks(offsets, threads * CHUNKS_PER_THREAD)
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(run, chunks))
    index = np.concatenate([part[0] + offsets[first] for part, (first, _) in zip(parts, chunks, strict=True)])
    borders, values = (np.concatenate([part[column] for part in parts]) for column in (1, 2))
    counts = np.concatenate([np.diff(part[3]) for part in parts])
    return Kept(index, borders, values, labels[index], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
