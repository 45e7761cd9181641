"""Conditional imports: modules that a stage only executes if its settings ask for them.

A stage imports such a module inside `if uses("distill", spec):`. The fingerprint evaluates the same condition on the
same settings and ignores imports whose conditions do not hold. So an edit of the distillation only reruns the trainings
with teachers. This is the only way to exclude an import from the fingerprint, and it is safe: if the condition does not
hold, the import is not executed.
"""

from collections.abc import Callable, Mapping
from typing import Any

Spec = Mapping[str, Any]
NAME = "uses"  # name of the function below; the fingerprint searches for calls of it


def _modalities(spec: Spec) -> set[str]:
    """Return the modalities (`rgb`, `flow`) of the frames that a stage, its teachers or the fused run read."""
    readers = [spec, *((spec.get("distill") or {}).get("teachers") or ()), spec.get("fused") or {}]
    given = [reader.get("frames") or "" for reader in readers]
    return {str(frames["modality"] if isinstance(frames, Mapping) else frames) for frames in given} - {""}


def _learns_from_itself(spec: Spec) -> bool:
    return bool(spec.get("labels")) and spec["labels"].get("others") == "pseudo"


CONDITIONS: dict[str, Callable[[Spec], bool]] = {
    "frames": lambda spec: bool(_modalities(spec)),
    "flow": lambda spec: "flow" in _modalities(spec),
    "start": lambda spec: bool(spec.get("start")),
    "texts": lambda spec: bool(spec.get("texts")),
    "adapters": lambda spec: bool(spec.get("adapters")),
    "distill": lambda spec: bool(spec.get("distill")),
    "labels": lambda spec: bool(spec.get("labels")),
    "pseudo": _learns_from_itself,
    "pretext": lambda spec: bool((spec.get("train") or {}).get("pretext_epochs")),
    "fused": lambda spec: bool(spec.get("fused")),
    "external": lambda spec: bool(spec.get("external")),
    "share": lambda spec: spec.get("share", 1) < 1,
}


def uses(condition: str, spec: Any) -> bool:
    """Return whether a condition holds for the settings of a stage.

    Args:
        condition: key of `CONDITIONS`.
        spec: the stage's settings (a `Spec` or its plain dict), or the part of them that the condition reads.
    """
    return CONDITIONS[condition](spec if isinstance(spec, Mapping) else spec.model_dump(mode="json"))


def holding(spec: Spec) -> frozenset[str]:
    """Return all conditions that hold for a stage's settings."""
    return frozenset(name for name, holds in CONDITIONS.items() if holds(spec))
