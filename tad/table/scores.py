"""Read map.json files and group comparable scores into the blocks of a table."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tad.core.errors import TadError
from tad.core.files import read_json
from tad.settings.stages import explain

FEW = 6  # a longer list of thresholds is reduced to SHOWN, as is usual in papers
SHOWN = ("0.5", "0.75", "0.95", "1s", "5s", "60s")
PEEKED = "peeked"  # part of an epoch rule that chose the epoch on the scored split
NONE = "–"
THRESHOLD = re.compile(r"[01](\.\d{1,9})?|\d{1,6}(\.\d{1,9})?[fs]")  # tIoU, or a tolerance in frames or seconds
Share = Annotated[float, Field(ge=0, le=1)]


class _Facts(BaseModel):
    """A part of map.json; keys that no table shows are ignored."""

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
    """The protocol's name, and whether exactly the videos of the protocol were scored."""

    name: str
    complete: bool


class Videos(_Facts):
    """Numbers of videos in the scored split."""

    evaluated: int = Field(ge=0)
    in_split: int = Field(ge=0)


class Missing(_Facts):
    """Videos without detections, each with its cause."""

    videos: dict[str, str] = {}


class Score(_Facts):
    """The contents of a run's map.json. Scores are fractions; `std` exists only for several seeds."""

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
        if wrong := next((t for t in self.mAP if not THRESHOLD.fullmatch(t)), None):
            raise ValueError(f"mAP: {wrong!r:.40} is not a tIoU threshold or a tolerance")
        others = [part.mAP for part in (self.std, self.interval) if part is not None and part.mAP]
        if any(set(other) != set(self.mAP) for other in others):
            raise ValueError("mAP, std and interval are not of the same tIoU thresholds")
        return self

    @property
    def tious(self) -> tuple[str, ...]:
        """The thresholds: tIoU, or tolerances of moments such as 2f and 0.5s."""
        return tuple(self.mAP)

    @property
    def peeked(self) -> bool:
        """Whether the epoch was chosen on the scored split."""
        return PEEKED in self.epoch_rule

    @property
    def block(self) -> tuple[Any, ...]:
        """The key of the block: two scores are comparable if their keys are equal."""
        return (self.dataset, self.split, self.protocol.name, self.protocol.complete, self.tious, self.instances,
                self.classes)  # fmt: skip

    def facts(self) -> dict[str, str]:
        """Return further facts about the score, as texts by name."""
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
    """Describe the use of external class scores, as stated in map.json, in a few words."""
    if isinstance(value, dict) and value.get("used", True):
        shown = {"source": "{}", "topk": "top {}", "combine": "{}"}
        return ", ".join(shown[key].format(value[key]) for key in shown if key in value) or "with"
    if isinstance(value, dict):
        return "without"
    if isinstance(value, str) and value:
        return value
    return "with" if value else "without"


def _numbers(values: Sequence[int]) -> str:
    """Format consecutive integers as `0 to 4`, others as a list."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def read_score(path: Path) -> Score:
    """Read a map.json.

    Raises:
        TadError: the file is missing, damaged or not a map.json.
    """
    value = read_json(path)
    try:
        return Score.model_validate(value)
    except ValidationError as error:
        raise TadError(f"{path}: not a map.json: {explain(error)}; remove it and run 'tad evaluate' again") from None


@dataclass(frozen=True)
class Block:
    """Scores of the same split under the same protocol; `title` names both, `common` has the other shared facts."""

    scores: tuple[Score, ...]

    @property
    def shown(self) -> list[str]:
        """The thresholds that get a column in Markdown and HTML, where space is limited."""
        tious = self.scores[0].tious
        return [t for t in tious if t in SHOWN] if len(tious) > FEW and set(SHOWN) & set(tious) else list(tious)

    @property
    def title(self) -> str:
        """The dataset, split and protocol, as a heading."""
        first = self.scores[0]
        name = first.protocol.name + ("" if first.protocol.complete else " (other videos)")
        return f"{first.dataset}, split {first.split}, protocol {name}"

    @property
    def extent(self) -> str:
        """The numbers of instances and classes, and the range of thresholds."""
        first = self.scores[0]
        classes = f"{first.classes} classes" if isinstance(first.classes, int) else "proposals of one class"
        tious = first.tious
        what = "within" if tious[0][-1] in "fs" else "tIoU"
        return f"{first.instances} instances, {classes}, {what} " + (
            f"{tious[0]} to {tious[-1]}" if len(tious) > 1 else tious[0]
        )

    @property
    def common(self) -> dict[str, str]:
        """The facts that all scores of the block share."""
        every = [score.facts() for score in self.scores]
        return {name: text for name, text in every[0].items() if all(facts[name] == text for facts in every)}

    @property
    def differing(self) -> list[str]:
        """The names of the facts that differ between scores; each gets a column."""
        return [name for name in self.scores[0].facts() if name not in self.common]

    @property
    def level(self) -> str:
        """The column title of the intervals, with their level if there are any."""
        levels = {f"{100 * s.interval.level:g} %" for s in self.scores if s.interval is not None}
        return " and ".join(sorted(levels)) + " interval" if levels else "interval"

    def caption(self) -> str:
        """Return the shared facts as one line of text; facts with their usual value are omitted."""
        usual = {"missing": "0", "excluded": "0"}
        worded = {"features": "features {}", "epoch": "{}", "videos": "{} videos", "missing": "{} videos missing",
                  "excluded": "{} videos excluded", "external scores": "{} external scores",
                  "seeds": "seed {}" if len(self.scores[0].seeds) < 2 else "seeds {}"}  # fmt: skip
        if self.common.get("external scores") not in ("with", "without"):
            worded["external scores"] = "external scores: {}"
        parts = [worded[name].format(text) for name, text in self.common.items() if usual.get(name) != text]
        return ", ".join([self.extent, *parts])


def blocks(scores: Iterable[Score]) -> list[Block]:
    """Group comparable scores into blocks, ordered by dataset, split, protocol and run.

    Raises:
        TadError: a block would contain two scores of the same run.
    """
    groups: dict[tuple[Any, ...], list[Score]] = {}
    for score in sorted(scores, key=lambda s: (s.dataset, s.split, s.protocol.name, s.run)):
        others = groups.setdefault(score.block, [])
        if any(other.run == score.run for other in others):
            raise TadError(f"run {score.run} is given twice; name each map.json once")
        others.append(score)
    return [Block(tuple(members)) for members in groups.values()]
