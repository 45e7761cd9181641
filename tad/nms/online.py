"""Suppression of candidates as they are found: emitted candidates are final and suppress later ones."""

from collections import deque
from collections.abc import Iterable
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """Protocol of a candidate: borders in any unit, a score and a class."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def score(self) -> float: ...
    @property
    def label(self) -> int: ...


Kind = TypeVar("Kind", bound=Candidate)


class OnlineSuppression:
    """Hard suppression of one class after the other, in the order of time.

    Args:
        tiou: a candidate is suppressed if it overlaps an emitted one of its class by this much or more.
        memory: number of emitted segments of each class that are compared; older ones are forgotten, so that an endless
            stream needs constant memory.
    """

    def __init__(self, *, tiou: float, memory: int = 64) -> None:
        self._tiou, self._memory = tiou, memory
        self._emitted: dict[int, deque[tuple[float, float]]] = {}

    def push(self, candidates: Iterable[Kind]) -> list[Kind]:
        """Return those of the candidates found at one time that are emitted, best first."""
        emitted = []
        for one in sorted(candidates, key=lambda c: -c.score):  # stable: ties keep their order
            before = self._emitted.setdefault(one.label, deque(maxlen=self._memory))
            if all(overlap(one.start, one.end, *other) < self._tiou for other in before):
                before.append((one.start, one.end))
                emitted.append(one)
        return emitted


def overlap(start: float, end: float, other_start: float, other_end: float) -> float:
    """Return the tIoU of two segments; 0 if both are empty."""
    common = max(min(end, other_end) - max(start, other_start), 0.0)
    union = (end - start) + (other_end - other_start) - common
    return common / union if union > 0 else 0.0
