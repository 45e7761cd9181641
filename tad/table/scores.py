"""map.json → the facts that a table shows, and the scores that may stand side by side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tad.errors import TadError
from tad.files import read_json
from tad.specs import explain

FEW = 6  # of longer lists of thresholds only these are shown, as papers do
SHOWN = ("0.5", "0.75", "0.95")
PEEKED = "peeked"  # an epoch rule that says so has seen the split that is scored
NONE = "–"
Share = Annotated[float, Field(ge=0, le=1)]


class _Facts(BaseModel):
    """A part of map.json; keys that no table shows are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Spread(_Facts):
    """Standard deviations over seeds."""

    average_mAP: float = Field(ge=0)
    mAP: dict[str, float]


class Interval(_Facts):
    """Bootstrap intervals over videos."""

    level: float = Field(gt=0, lt=1)
    average_mAP: tuple[float, float]
    mAP: dict[str, tuple[float, float]] = {}


class Conventions(_Facts):
    """The protocol's name, and whether the videos are the ones that it stands for."""

    name: str
    complete: bool


class Videos(_Facts):
    """Of the scored split."""

    evaluated: int = Field(ge=0)
    in_split: int = Field(ge=0)


class Missing(_Facts):
    """Videos without detections, with their causes."""

    videos: dict[str, str] = {}


class Score(_Facts):
    """A run's map.json. Scores are fractions; `std` is there with several seeds."""

    run: str
    dataset: str
    split: str = "test"
    features: str
    detector: str
    face: str = ""
    average_mAP: Share
    mAP: dict[str, Share] = Field(min_length=1)
    std: Spread | None = None
    interval: Interval | None = None
    seeds: tuple[int, ...] = ()
    seed: int | str = ""
    epoch_rule: str
    protocol: Conventions
    videos: Videos
    missing_videos: Missing = Missing()
    excluded: dict[str, str] = {}
    instances: int = Field(default=0, ge=0)
    classes: int | str = ""
    external_scores: Any = False

    @model_validator(mode="after")
    def _same_thresholds(self) -> "Score":
        others = [part.mAP for part in (self.std, self.interval) if part is not None and part.mAP]
        if any(set(other) != set(self.mAP) for other in others):
            raise ValueError("mAP, std and interval are not of the same tIoU thresholds")
        return self

    @property
    def tious(self) -> tuple[str, ...]:
        """The thresholds."""
        return tuple(self.mAP)

    @property
    def peeked(self) -> bool:
        """Whether the epoch was chosen on the split that is scored."""
        return PEEKED in self.epoch_rule

    @property
    def block(self) -> tuple[Any, ...]:
        """What must be equal for two scores to be compared."""
        return (self.dataset, self.split, self.protocol.name, self.protocol.complete, self.tious, self.instances,
                self.classes)  # fmt: skip

    def facts(self) -> dict[str, str]:
        """What else belongs to a score, in words."""
        shown = {
            "features": self.features,
            "seeds": _numbers(self.seeds) if self.seeds else str(self.seed),
            "epoch": self.epoch_rule,
            "videos": f"{self.videos.evaluated} of {self.videos.in_split}",
            "missing": str(len(self.missing_videos.videos)),
            "excluded": str(len(self.excluded)),
            "external scores": external(self.external_scores),
        }
        return {name: text or NONE for name, text in shown.items()}


def external(value: Any) -> str:
    """What map.json says of scores from elsewhere, in a word or two."""
    if isinstance(value, dict) and value.get("used", True):
        shown = {"source": "{}", "topk": "top {}", "combine": "{}"}
        return ", ".join(shown[key].format(value[key]) for key in shown if key in value) or "with"
    if isinstance(value, dict):
        return "without"
    if isinstance(value, str) and value:
        return value
    return "with" if value else "without"


def _numbers(values: Sequence[int]) -> str:
    """`0 to 4` for neighbours, else all of them."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def read_score(path: Path) -> Score:
    """A map.json.

    Raises:
        TadError: absent, broken, or another kind of file.
    """
    value = read_json(path)
    try:
        return Score.model_validate(value)
    except ValidationError as error:
        raise TadError(f"{path}: not a map.json: {explain(error)}; remove it and run 'tad evaluate' again") from None


@dataclass(frozen=True)
class Block:
    """Scores of the same split under the same protocol; `title` says which, `common` what else they share."""

    scores: tuple[Score, ...]

    @property
    def shown(self) -> list[str]:
        """The thresholds that have a column where space is short."""
        tious = self.scores[0].tious
        return [t for t in tious if t in SHOWN] if len(tious) > FEW and set(SHOWN) & set(tious) else list(tious)

    @property
    def title(self) -> str:
        """Dataset, split and protocol."""
        first = self.scores[0]
        name = first.protocol.name + ("" if first.protocol.complete else " (other videos)")
        return f"{first.dataset}, split {first.split}, protocol {name}"

    @property
    def extent(self) -> str:
        """Instances, classes and thresholds."""
        first = self.scores[0]
        classes = f"{first.classes} classes" if isinstance(first.classes, int) else "proposals of one class"
        tious = first.tious
        return f"{first.instances} instances, {classes}, tIoU " + (
            f"{tious[0]} to {tious[-1]}" if len(tious) > 1 else tious[0]
        )

    @property
    def common(self) -> dict[str, str]:
        """Facts that all scores share."""
        every = [score.facts() for score in self.scores]
        return {name: text for name, text in every[0].items() if all(facts[name] == text for facts in every)}

    @property
    def differing(self) -> list[str]:
        """Names of the facts that are a column, because they differ."""
        return [name for name in self.scores[0].facts() if name not in self.common]

    @property
    def level(self) -> str:
        """The level of the intervals, where there are any."""
        levels = {f"{100 * s.interval.level:g} %" for s in self.scores if s.interval is not None}
        return " and ".join(sorted(levels)) + " interval" if levels else "interval"

    def caption(self) -> str:
        """What all scores share, in words; facts that say nothing unusual are left out."""
        usual = {"missing": "0", "excluded": "0"}
        worded = {"features": "features {}", "epoch": "{}", "videos": "{} videos", "missing": "{} videos missing",
                  "excluded": "{} videos excluded", "external scores": "{} external scores",
                  "seeds": "seed {}" if len(self.scores[0].seeds) < 2 else "seeds {}"}  # fmt: skip
        if self.common.get("external scores") not in ("with", "without"):
            worded["external scores"] = "external scores: {}"
        parts = [worded[name].format(text) for name, text in self.common.items() if usual.get(name) != text]
        return ", ".join([self.extent, *parts])


def blocks(scores: Iterable[Score]) -> list[Block]:
    """Scores that may stand side by side, in the order of dataset, protocol and run.

    Raises:
        TadError: two scores of one run in one block.
    """
    groups: dict[tuple[Any, ...], list[Score]] = {}
    for score in sorted(scores, key=lambda s: (s.dataset, s.split, s.protocol.name, s.run)):
        others = groups.setdefault(score.block, [])
        if any(other.run == score.run for other in others):
            raise TadError(f"run {score.run} is given twice; name each map.json once")
        others.append(score)
    return [Block(tuple(members)) for members in groups.values()]
