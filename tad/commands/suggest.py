"""Suggest settings for a run from the lengths in its dataset, each with its reason, as YAML for config.yaml.

The published settings are tuned to THUMOS14, ActivityNet and HACS. These rules give similar settings there and
reasonable ones on other datasets. They are a starting point for tuning, not a result.
"""

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from tad.annotations.table import Table, Video, read_table
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.settings.config import Config
from tad.settings.paths import command_of, path_of

Array = NDArray[np.float64]

OPEN_END = 10000  # upper end of the last level's range; in effect unbounded
STRIDES = 4  # strides of the last level that cover half a long instance (99th percentile), as in the published recipes
REACH = 16  # largest regressed distance in strides, for detectors without a setting for it
COMMENT = "      # "
MOST_LEVELS, LONGEST_WINDOW = 8, 4608
COMMON_RATE = 30.0
ASSUMED = "which is ASSUMED, because the videos have not been probed yet"


@dataclass(frozen=True)
class Lengths:
    """Lengths in the training split, in snippets: instances (N,), videos (V,); also instances per video (V,).

    `longest` is the length of the longest video of any split.
    """

    instances: Array
    videos: Array
    per_video: Array
    longest: float


@dataclass(frozen=True)
class Advice:
    """One suggested setting: section (`settings`, `train`, `nms`), key, value and reason."""

    section: str
    key: str
    value: Any
    reason: str


def measure(table: Table, *, step: float, resize: int = 0) -> Lengths:
    """Measure the lengths of the videos and instances of the train split.

    Args:
        step: seconds per snippet.
        resize: number of snippets that every video is interpolated to; 0: no resizing.

    Raises:
        TadError: no video of the train split has an instance.
    """

    def seconds(video: Video) -> float:
        return max([float(video.duration or 0.0), *(i.end for i in video.instances)])

    train = list(table.split("train").values())
    if not any(video.instances for video in train):
        raise TadError(f"{table.dataset}: split 'train' has no instance, so there is nothing to measure")
    steps = [(seconds(video) / resize if resize else step) or step for video in train]
    instances = [(i.end - i.start) / size for video, size in zip(train, steps, strict=True) for i in video.instances]
    videos = [seconds(video) / size for video, size in zip(train, steps, strict=True)]
    longest = resize or max(seconds(video) for video in table.videos.values()) / step
    return Lengths(np.array(instances), np.array(videos), np.array([len(v.instances) for v in train], float), longest)


def levels_for(half_N: Array) -> int:
    """Return the number of levels, from 2 to `MOST_LEVELS`.

    It is the smallest number with which 99 % of the half lengths are at most `STRIDES` strides of the last level.
    """
    needed = math.ceil(math.log2(max(float(np.quantile(half_N, 0.99)) / STRIDES, 1.0))) + 1
    return min(max(needed, 2), MOST_LEVELS)


def _rounded(value: float) -> float:
    return round(value * 2) / 2 if value < 16 else float(round(value))


def ranges_for(half_N: Array, *, levels: int, reach: float = REACH) -> list[list[float]]:
    """Return regression ranges [low, high] per level that assign equally many instances to each level.

    The ranges limit the distance to the farther boundary of an instance, in snippets. Their limits are quantiles of the
    instances' half lengths, adjusted to what a level can detect: instances of level k must be at least as long as its
    stride 2^k (otherwise no point lies inside them), and a level cannot regress beyond `reach` strides. The limits
    increase strictly.
    """
    borders = [0.0]
    for k in range(1, levels):
        wanted = float(np.quantile(half_N, k / levels))
        allowed = min(max(wanted, 2**k / 2), reach * 2 ** (k - 1))
        borders.append(max(_rounded(allowed), borders[-1] + 0.5))
    return [[low, high] for low, high in zip(borders, [*borders[1:], float(OPEN_END)], strict=True)]


def shares(half_N: Array, ranges: Sequence[Sequence[float]]) -> Array:
    """Return the share of instances whose half length lies in each range (L,)."""
    borders = np.array([low for low, _ in ranges[1:]])
    return np.asarray(np.bincount(np.searchsorted(borders, half_N, side="right"), minlength=len(ranges)) / len(half_N))


def windows_for(lengths_N: Array, ranges: Sequence[Sequence[float]], *, max_length: int) -> list[int]:
    """Return the attention window per level, an odd number of the level's snippets from 9 to 31.

    A window covers 90 % of the level's instances, with the same length again as context on either side. It is -1
    (global attention) if it spans the whole training window.
    """
    windows = []
    for level, (low, high) in enumerate(ranges):
        own = lengths_N[(lengths_N / 2 >= low) & (lengths_N / 2 < high)]
        wide = 3 * (float(np.quantile(own, 0.9)) if len(own) else 2 * low) / 2**level
        odd = min(max(math.ceil(wide) // 2 * 2 + 1, 9), 31)
        windows.append(-1 if odd * 2**level >= max_length else odd)
    return windows


def _window_length(lengths: Lengths, coarsest: int, resize: int) -> tuple[int, str]:
    """Return train.max_length and the reason for it."""
    if resize:
        return math.ceil(resize / coarsest) * coarsest, f"every video is resized to {resize} snippets"
    tenth, long = float(np.quantile(lengths.videos, 0.9)), 2 * float(np.quantile(lengths.instances, 0.99))
    length = math.ceil(min(max(tenth, long), LONGEST_WINDOW) / coarsest) * coarsest
    whole = math.floor(1000 * float((lengths.videos <= length).mean())) / 10
    reason = f"{whole:g} % of the training videos fit whole (the longest has {lengths.videos.max():.0f} snippets)"
    return length, f"{reason}; a multiple of the last level's stride {coarsest}, at most {LONGEST_WINDOW} for memory"


def _percents(values: Array) -> str:
    return ", ".join(f"{100 * value:.0f}" for value in values)


def advise(lengths: Lengths, *, settings: dict[str, Any], resize: int = 0) -> list[Advice]:
    """Suggest settings that fit the lengths, for a detector with these `settings`."""
    half_N = lengths.instances / 2
    levels, reach = levels_for(half_N), float(settings.get("num_bins", REACH))
    ranges = ranges_for(half_N, levels=levels, reach=reach)
    coarsest = 2 ** (levels - 1)
    length, why_length = _window_length(lengths, coarsest, resize)
    before = shares(half_N, settings["regression_ranges"])
    advice = [
        Advice(
            "settings",
            "regression_ranges",
            [[int(v) if v == int(v) else v for v in pair] for pair in ranges],
            f"{levels} levels, because 99 % of the instances have at most {np.quantile(lengths.instances, 0.99):.0f} "
            f"snippets; they hold {_percents(shares(half_N, ranges))} % of the instances (with the present ranges: "
            f"{_percents(before)} %)",
        )
    ]
    if "windows" in settings:
        windows = windows_for(lengths.instances, ranges, max_length=length)
        why = "attention per level sees nine tenths of the level's instances and as much on either side (9 to 31)"
        advice.append(Advice("settings", "windows", windows, why))
    factor = float(settings.get("buffer_factor", 0.0))
    any_length = settings.get("face") == "corrected" and "masked" in settings.get("corrections", ())
    if factor and not any_length and lengths.longest > factor * length:
        why = f"the longest video has {lengths.longest:.0f} snippets, the points end at {factor:g} max_length"
        advice.append(Advice("settings", "buffer_factor", float(math.ceil(lengths.longest / length)), why))
    advice.append(Advice("train", "max_length", length, why_length))
    many = float(np.quantile(lengths.per_video, 0.99))
    topk = max(math.ceil(10 * many / 50) * 50, 100)
    instances = "1 instance" if many <= 1 else f"{many:.0f} instances"
    why = f"99 % of the videos have at most {instances}; ten detections for each, and at least 100"
    advice.append(Advice("nms", "topk", topk, why))
    return advice


def _step(config: Config, run: str, table: Table) -> tuple[float, str]:
    """Return the seconds per snippet of the run's features, and the source of that number."""
    row = config.run(run)
    clip = config.resolve_features(row.features, row.dataset).sections["clip"]
    rate, origin = float(clip["rate"]), "frames per second of the recipe"
    if not rate:
        shard = path_of("probe", root=config.root, dataset=row.dataset, shard="*-of-*")
        shards = sorted(shard.parent.glob(shard.name))
        rates = [float(v["rate"]) for path in shards for v in read_json(path)["videos"].values() if v.get("rate")]
        stated = [video.rate for video in table.videos.values() if video.rate]
        rate = median(rates or stated or [COMMON_RATE])
        source = "the median of the videos" if rates else "the median that the annotations state"
        origin = f"frames per second, {source if rates or stated else ASSUMED}"
    return clip["stride"] / rate, f"{clip['stride']} frames at {rate:g} {origin}"


def _merged(config: Config, run: str, advice: Sequence[Advice]) -> dict[str, Any]:
    """Return the run's row as written in its file, updated with the suggested values."""
    row = config.run(run).model_dump(mode="json", exclude_unset=True)
    detector = row["detector"]
    row["detector"] = {"name": detector} if isinstance(detector, str) else dict(detector)
    for one in advice:
        section = "detector" if one.section == "settings" else one.section
        row[section] = {**row.get(section, {}), one.key: one.value}
    return row


def _flow(value: object) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def suggest(run: str, *, config: Path = Path("config.yaml")) -> Iterator[str]:
    """Yield lines of YAML: the run's row with the suggested settings, and the reasons as comments.

    Requires the table of annotations that `check` or, before it has run, `annotate` writes.

    Raises:
        TadError: the run is unknown, or its annotations have not been made yet.
    """
    settings = Config.read(config)
    row, resolved = settings.run(run), settings.resolve_run(run)
    if settings.dataset(row.dataset).kind == "moments":
        raise TadError(
            f"run {run}: data set {row.dataset} has moments, and suggestions follow from the lengths of segments; set"
            " detector.reach and nms.window, in snippets, to the precision that you need (docs/methods/moments.md)"
        )
    path = settings.table_file(run)  # with the durations of decoded videos, if they are
    if not path.is_file():
        path = path_of("annotate", root=settings.root, dataset=row.dataset)
        make = command_of(path, root=settings.root)
        raise TadError(f"{path}: does not exist yet; make it with: {make}")
    run = run.partition("/")[0]  # strip the seed: <run>/seed-<k> → <run>
    table = read_table(path)
    (step, origin), resize = _step(settings, run, table), int(resolved.sections["train"]["resize"])
    lengths = measure(table, step=step, resize=resize)
    advice = advise(lengths, settings=resolved.sections["settings"], resize=resize)
    length_N = lengths.instances
    yield (
        f"# {row.dataset}: {len(lengths.videos)} training videos, {len(length_N)} instances of "
        f"{length_N.min():.1f} to {length_N.max():.0f} snippets (median {np.median(length_N):.1f})"
    )
    yield f"# a snippet: {'its share of the resized video' if resize else f'{step:.4g} s ({origin})'}"
    if (short := float((length_N < 1).mean())) > 0.01:
        yield f"# {100 * short:.0f} % of the instances are shorter than a snippet; a smaller clip.stride would see them"
    yield f"# in {settings.source_of('runs', run)}, in place of the row of that name:"
    yield "runs:"
    yield f"  {run}:"
    reasons = {("detector" if a.section == "settings" else a.section, a.key): a.reason for a in advice}
    for key, value in _merged(settings, run, advice).items():
        if not isinstance(value, dict) or not value:
            yield f"    {key}: {_flow(value)}"
            continue
        yield f"    {key}:"
        for name, inner in value.items():
            if (key, name) in reasons:
                yield from textwrap.wrap(reasons[key, name], 112, initial_indent=COMMENT, subsequent_indent=COMMENT)
            yield f"      {name}: {_flow(inner)}"
