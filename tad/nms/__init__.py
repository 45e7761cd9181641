"""Non-maximum suppression of the candidates of one video or of a whole data set; usable on its own.

This package is also a function: `tad.nms(segments, scores, labels)` is `nms`, with the defaults of the workflow.
"""

# V videos, N segments (of all videos), K classes, M kept

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np

from tad.core.errors import TadError
from tad.nms.types import Floats, Indices, Kept, Kind, Method, VotingWeight

__all__ = ["Engine", "Kept", "compile_loops", "nms", "suppress_segments"]

MOST_CLASSES = 4096  # above, labels are renumbered so that the counters of a video stay small
CHUNKS_PER_THREAD = 4  # videos differ in work, so idle threads take further chunks
FEWEST_PER_THREAD = 20_000  # candidates; below, starting a thread costs more than it saves

OF_MOMENTS = ["hard", "soft", "none"]  # methods of kind moments
Engine = Literal["numba", "reference", "triton"]


def _check(segments: Floats, scores: Floats, labels: Indices, offsets: Indices) -> None:
    """Check the shapes and values of the input; invalid data is a TadError, a programming error an assertion."""
    assert segments.shape == (len(scores), 2), f"segments (N, 2), not {segments.shape}"
    assert labels.shape == scores.shape, f"labels (N,), not {labels.shape}"
    assert labels.dtype.kind not in "if" or labels.min(initial=0) >= 0, "labels must be >= 0"
    assert [offsets[0], offsets[-1]] == [0, len(scores)], "offsets must cover all rows"
    assert np.all(np.diff(offsets) >= 0), "offsets must rise"
    refuse_bad(segments, scores)


def _class_ids(labels: Indices) -> Indices:
    """Return the labels, or if one is large other numbers for them, which are small and as different.

    Raises:
        TadError: the labels are not whole numbers.
    """
    if not len(labels):
        return labels.astype(np.int64)
    if labels.dtype.kind not in "iub":
        raise TadError(f"suppression: labels are of type {labels.dtype}; give class ids, which are whole numbers")
    if labels.max() < MOST_CLASSES:
        return labels
    return np.asarray(np.unique(labels, return_inverse=True)[1])


def refuse_bad(segments: Floats, scores: Floats, *, where: Callable[[int], str] = lambda row: "") -> None:
    """Raise a TadError that names the first invalid candidate; `where` describes the origin of a row."""
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
        f"finite with start <= end, scores finite and >= 0; check the source of the candidates ({int(bad.sum())} such)"
    )


def _check_settings(settings: dict[str, Any]) -> None:
    """Check the ranges of `tad.settings.stages.NmsSpec`, for callers that do not use it."""
    methods = OF_MOMENTS if settings["kind"] == "moments" else [m for m in get_args(Method) if m != "soft"]
    allowed = {
        "kind": (settings["kind"] in get_args(Kind), "segments or moments"),
        "method": (settings["method"] in methods, f"one of {', '.join(methods)}"),
        "window": (0 < settings["window"] < np.inf, "a finite number > 0"),
        "sigma": (0 < settings["sigma"] < np.inf, "a finite number > 0"),
        "tiou": (0 < settings["tiou"] <= 1, "> 0 and at most 1"),
        "min_score": (0 <= settings["min_score"] < np.inf, "a finite number >= 0"),
        "topk": (settings["topk"] >= 1, "at least 1"),
        "voting": (0 <= settings["voting"] <= 1, "from 0 (no voting) to 1"),
        "voting_weight": (settings["voting_weight"] in get_args(VotingWeight), "score or score*tiou"),
        "agreement": (
            settings["agreement"] in ([False] if settings["kind"] == "moments" else [False, True]),
            "true or false, and false for moments, which do not overlap",
        ),
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
    agreement: bool = False,
    kind: Kind = "segments",
    window: float = 1.0,
    engine: Engine = "numba",
    threads: int = 0,
    device: str = "cuda",
) -> Kept:
    """Suppress overlapping segments of each video separately; `tad.nms.reference` defines the rules.

    With kind `moments`, segments are points in time, which suppress others within `window`; `tad.nms.moments` defines
    these rules, and its loops run on the CPU for every engine but the reference: there are few moments in a video.

    Args:
        segments: (N, 2) start ≤ end, in any unit (the workflow uses snippets); converted to float32.
        scores: (N,) ≥ 0. labels: (N,) class ids ≥ 0, of any size.
        offsets: (V + 1,) rows of video v are `offsets[v]:offsets[v + 1]`; by default all rows are of one video.
        method … agreement: the fields of `tad.settings.stages.NmsSpec` (`**spec.model_dump()` passes them all).
        engine: numba (CPU), triton (CUDA), or the reference that defines both (slow); all return the same bits.
        threads: of numba, over the videos; 0: `numba.config.NUMBA_NUM_THREADS`.
        device: of triton, "cuda" or "cuda:<index>".

    Returns:
        Per video at most topk segments by descending score, ties by input row.

    Raises:
        TadError: NaN, infinite or negative scores, segments that are not finite or end before they start, labels that
            are not whole numbers, settings out of range, a device that is not there.
    """
    segments = np.ascontiguousarray(segments, np.float32).reshape(-1, 2)
    scores, labels = np.ascontiguousarray(scores, np.float32), np.ascontiguousarray(labels)
    offsets = np.array([0, len(scores)]) if offsets is None else np.asarray(offsets)
    offsets = offsets.astype(np.int64)
    _check(segments, scores, labels, offsets)
    ids = _class_ids(labels)
    settings: dict[str, Any] = {
        "method": method, "sigma": sigma, "tiou": tiou, "min_score": min_score, "per_class": per_class, "topk": topk,
        "voting": voting, "voting_weight": voting_weight, "agreement": agreement,
    }  # fmt: skip
    _check_settings(settings | {"kind": kind, "window": window})
    if kind == "moments":
        kept = _moments(segments, scores, ids, offsets, engine=engine, window=window, **settings)
    elif engine == "reference":
        kept = _by_reference(segments, scores, ids, offsets, **settings)
    elif engine == "triton":
        from tad.nms.cuda import suppress_arrays

        kept = suppress_arrays(segments, scores, ids, offsets, device=device, **settings)
    else:
        kept = _by_numba(segments, scores, ids, offsets, threads=threads, **settings)
    return kept if ids is labels else replace(kept, labels=labels[kept.index])


def nms(
    segments: Floats,
    scores: Floats,
    labels: Indices | None = None,
    *,
    offsets: Indices | None = None,
    method: Method = "gaussian",
    sigma: float = 0.5,
    tiou: float = 0.1,
    min_score: float = 0.001,
    per_class: bool = True,
    topk: int = 2000,
    voting: float = 0.0,
    voting_weight: VotingWeight = "score",
    agreement: bool = False,
    kind: Kind = "segments",
    window: float = 1.0,
    engine: Engine = "numba",
    threads: int = 0,
    device: str = "cuda",
) -> Kept:
    """Suppress overlapping segments with the defaults of `tad.settings.sections.NmsSpec`; see `suppress_segments`.

    Float32 arrays in C order are not copied. Without `labels` all segments have one class.
    """
    if labels is None:
        labels = np.zeros(len(scores), np.int64)
    return suppress_segments(
        segments, scores, labels, offsets=offsets, method=method, sigma=sigma, tiou=tiou, min_score=min_score,
        per_class=per_class, topk=topk, voting=voting, voting_weight=voting_weight, agreement=agreement,
        kind=kind, window=window, engine=engine, threads=threads, device=device,
    )  # fmt: skip


def compile_loops() -> None:
    """Compile the loops and cache them on disk (ten seconds of CPU time, once) to speed up the first suppression."""
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


def _moments(
    segments: Floats, scores: Floats, labels: Indices, offsets: Indices, *, engine: Engine, **settings: Any
) -> Kept:
    from tad.nms import moments

    long = np.flatnonzero(segments[:, 0] != segments[:, 1])
    if len(long):
        raise TadError(
            f"suppression: kind moments: candidate {long[0]}, {segments[long[0]].tolist()}, has a length; use kind"
            " segments, or a detector of moments (spot_moments)"
        )
    rule = {name: settings[name] for name in ("method", "window", "min_score", "per_class", "topk")}
    one_video = moments.reference if engine == "reference" else moments.fast
    index, kept_scores, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)], [0]
    for a, b in pairwise(offsets):
        rows, values = one_video(segments[a:b, 0], scores[a:b], labels[a:b], **rule)
        index.append(rows + a)
        kept_scores.append(values)
        ends.append(ends[-1] + len(rows))
    rows = np.concatenate(index)
    return Kept(rows, segments[rows], np.concatenate(kept_scores), labels[rows], np.array(ends, np.int64))


def _chunks(offsets: Indices, parts: int) -> list[tuple[int, int]]:
    """Split the videos into at most `parts` chunks of about equal numbers of candidates → (first video, last + 1)."""
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
    sigma, tiou, least, voting = (np.float32(settings[name]) for name in ("sigma", "tiou", "min_score", "voting"))
    rule = (METHODS[settings["method"]], sigma, tiou, least)
    vote = (voting, settings["voting_weight"] == "score*tiou", settings["agreement"])
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


class _Callable(ModuleType):
    """Class of this package's module, so that `tad.nms(…)` works although `tad.nms` is a package."""

    def __call__(self, *args: Any, **kwargs: Any) -> Kept:
        return nms(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
