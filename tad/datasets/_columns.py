"""Map the header of a CSV file to our columns (video, times, label, …) by setting, by our names or by usual names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tad.core.errors import Remedy, TadError
from tad.settings.plugins import nearest

OURS = ("video", "start", "end", "label", "split", "duration", "fps", "time")
REQUIRED = ("video", "start", "end", "label")
USUAL: Mapping[str, tuple[str, ...]] = {
    "video": ("filename", "file", "file_name", "video_name", "videoname", "video_id", "videoid", "video_file", "clip"),
    "label": ("action", "class", "category", "activity", "behavior", "behaviour", "label_name", "class_name"),
    "split": ("subset", "set", "partition"),
    "duration": ("video_duration",),
    "fps": ("frame_rate", "framerate"),
}
# Usual names of the columns of starts and ends.
PAIRS: tuple[tuple[str, str], ...] = (
    ("begin", "end"), ("start", "stop"), ("begin", "stop"), ("onset", "offset"), ("start_time", "end_time"),
    ("begin_time", "end_time"), ("start_time", "stop_time"), ("time_start", "time_end"), ("t_start", "t_end"),
    ("starttime", "endtime"), ("start_timestamp", "end_timestamp"), ("start_timestamp", "stop_timestamp"),
)  # fmt: skip
UNIT_ENDS: Mapping[str, tuple[str, ...]] = {
    "seconds": ("s", "sec", "secs", "second", "seconds"),
    "milliseconds": ("ms", "msec", "millisecond", "milliseconds"),
    "frames": ("f", "frame", "frames"),
}
# units that are not converted
OTHER_UNITS: Mapping[str, tuple[str, ...]] = {
    "minutes": ("min", "mins", "minute", "minutes", "minuten", "minuto", "minutos", "minuti", "мин", "минуты",
                "分", "分钟"),
    "hours": ("h", "hour", "hours", "stunden", "heures", "horas", "ore", "часы", "小时", "時間"),
    "centiseconds": ("cs", "csec", "centisecond", "centiseconds", "hundredths"),
    "microseconds": ("us", "usec", "µs", "μs", "microsecond", "microseconds", "mikrosekunden"),
    "nanoseconds": ("ns", "nanosecond", "nanoseconds"), "percent": ("%", "percent", "pct", "prozent"),
    "samples": ("sample", "samples"), "ticks": ("tick", "ticks"),
}  # fmt: skip
# further words for the units of `UNIT_ENDS`, which are understood where the setting `columns` names the column
OTHER_WORDS: Mapping[str, tuple[str, ...]] = {
    "seconds": (
        "sek", "sekunde", "sekunden", "seconde", "secondes", "segundo", "segundos", "secondi", "секунды", "сек", "秒",
    ),
    "milliseconds": (
        "millisekunden", "millisecondes", "milisegundos", "millisecondi", "миллисекунды", "мс", "毫秒", "ミリ秒",
    ),
    "frames": (
        "bild", "bilder", "image", "images", "fotograma", "fotogramas", "fotogrammi", "кадр", "кадры", "帧", "フレーム",
        "프레임",
    ),
}  # fmt: skip
COUNTED = ("no", "nr", "number", "num", "id", "idx", "index", "count")  # what follows a unit in `start_frame_no`
GLUED = 4  # letters of a word from which it is recognised at the end of another (`Startbild`)
# Usual names of the column of moments, which have one time.
SINGLE = ("time", "timestamp", "moment", "frame", "frame_number", "position", "event_time")
FRAME_PAIRS = (("frame_start", "frame_end"), ("startframe", "endframe"), ("beginframe", "endframe"))


@dataclass(frozen=True)
class Columns:
    """The columns of a file.

    Attributes:
        names: our name of a column → the file's name.
        unit: the unit in the names of the time columns; empty if they have none.
        taken: the part of `names` that was recognised by a usual name.
    """

    names: dict[str, str]
    unit: str = ""
    taken: dict[str, str] = field(default_factory=dict)


def plain(name: str) -> str:
    """Normalise a column name for comparison: lower case, `_` for spaces, hyphens and brackets."""
    return re.sub(r"[\s\-()\[\]]+", "_", name.strip().casefold()).strip("_")


def _words(name: str) -> list[str]:
    """Return the words of a column name, without a last one such as `number`: `startMs` has two."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    words = [word for word in re.split(r"[^\w%]+|_+", apart.casefold()) if word] or [""]
    while len(words) > 1 and words[-1] in COUNTED:
        words.pop()
    return words


def _named(name: str, units: Mapping[str, tuple[str, ...]]) -> str:
    """Return the unit at the end of a column name; empty if it has none of these."""
    words = _words(name)
    ends = sorted(((end, unit) for unit, own in units.items() for end in own), key=lambda pair: -len(pair[0]))
    for end, unit in ends:
        long = len(end) >= GLUED or not end.isascii()
        if (long and words[-1].endswith(end)) or (len(words) > 1 and words[-1] == end):
            return unit
    return ""


def unit_of(name: str) -> str:
    """Return the unit at the end of a column name; empty if it has none.

    Examples are `start_ms`, `Start (s)`, `startFrame`, `start_frame_no` and `Anfang in Sekunden`.
    """
    units = {unit: (*own, *OTHER_WORDS.get(unit, ())) for unit, own in UNIT_ENDS.items()}
    return "frames" if _words(name)[0] in units["frames"][1:] else _named(name, {**OTHER_UNITS, **units})


def _other_unit(names: Sequence[str]) -> str:
    """Return the unit that is not converted at the ends of all these names; empty if there is none."""
    found = {unit_of(name) for name in names}
    unit = found.pop()
    return unit if not found and unit in OTHER_UNITS else ""


def _pairs() -> list[tuple[str, str]]:
    with_units = [
        (f"{start}_{word}", f"{end}_{word}")
        for words in UNIT_ENDS.values()
        for word in words
        for start, end in (("start", "end"), ("begin", "end"), ("start", "stop"), ("start_time", "end_time"))
    ]
    return [*PAIRS, *with_units, *FRAME_PAIRS]


def _singles() -> list[str]:
    words = [word for words in UNIT_ENDS.values() for word in words]
    return [*SINGLE, *(f"{name}_{word}" for name in ("time", "timestamp", "position") for word in words)]


def _mapped(header: Sequence[str], columns: Mapping[str, str], where: str) -> dict[str, str]:
    """Look up the columns named by the setting, by their normalised names."""
    by_name = {plain(name): name for name in header}
    found = {}
    for ours, theirs in columns.items():
        if ours not in OURS:
            raise TadError(f"setting columns: '{ours}'; {nearest(ours, list(OURS))}")
        if plain(theirs) not in by_name:
            hint = nearest(theirs, list(header))
            by = Remedy("named by", "the setting columns")
            raise TadError(f"{where}: no column '{theirs}', which ", by, f" names for {ours}; {hint}")
        found[ours] = by_name[plain(theirs)]
    return found


def _one_of(ours: str, usual: Sequence[str], header: Sequence[str], where: str) -> str:
    """Return the only column with a usual name; empty if there is none."""
    found = [name for name in header if plain(name) in usual]
    if len(found) > 1:
        choice = f"columns: {{{ours}: {found[0]}}}"
        raise TadError(f"{where}: no column '{ours}', and {' or '.join(found)} could be it; set {choice}")
    return found[0] if found else ""


def _times(header: Sequence[str], where: str) -> tuple[str, str] | None:
    """Return the only pair of columns with usual names for start and end; None if there is none."""
    by_name = {plain(name): name for name in header}
    found = {(by_name[a], by_name[b]): None for a, b in _pairs() if a in by_name and b in by_name}
    if len(found) > 1:
        shown = " or ".join(f"{a}, {b}" for a, b in found)
        first = next(iter(found))
        choice = f"columns: {{start: {first[0]}, end: {first[1]}}}"
        raise TadError(f"{where}: no columns 'start' and 'end', and {shown} could be them; set {choice}")
    return next(iter(found), None)


def _expect_seconds(duration: str, where: str) -> None:
    """Refuse a duration column whose name states a unit other than seconds.

    Args:
        duration: name of the column; empty: the table has none.
        where: the file, for the message.

    Raises:
        TadError: the message names the column and the unit.
    """
    unit = unit_of(duration)
    if unit not in ("", "seconds"):
        raise TadError(
            f"{where}: the durations in '{duration}' are in {unit}; convert them to seconds, or leave them out"
        )


def columns_of(header: Sequence[str], settings: Mapping[str, str], where: str) -> Columns:
    """Map our columns to those of the header.

    The setting takes precedence, then our own names, then usual names if exactly one column has one.

    Raises:
        TadError: a required column is missing or ambiguous.
    """
    lower = [name.casefold() for name in header]
    for ours in OURS:
        if lower.count(ours) > 1 and ours not in settings:
            raise TadError(f"{where}: column '{ours}' occurs {lower.count(ours)} times; keep one")
    names = _mapped(header, settings, where)
    names = {plain(name): name for name in header if plain(name) in OURS and plain(name) not in names} | names
    taken: dict[str, str] = {}
    for ours, usual in USUAL.items():
        if ours not in names and (theirs := _one_of(ours, usual, header, where)):
            names[ours] = taken[ours] = theirs
    if not {"start", "end"} & set(settings) and not {"start", "end"} <= set(names) and (pair := _times(header, where)):
        names |= dict(zip(("start", "end"), pair, strict=True))
        taken |= dict(zip(("start", "end"), pair, strict=True))
    one = ""
    if "time" in settings or not {"start", "end"} & set(names):
        one = names.get("time") or _one_of("time", _singles(), header, where)
    if one:
        taken |= {} if "time" in names else {"time": one}
        names |= {"start": one, "end": one}
    names.pop("time", None)
    for ours in REQUIRED:
        if ours not in names:
            others = [name for name in header if name and name not in names.values()]
            example = ",".join(REQUIRED)
            if ours == "end" and "duration" in names:
                raise TadError(
                    f"{where}: no column 'end'; '{names['duration']}' is taken for the duration of the video: if it is"
                    " that of the action, replace it by a column end"
                )
            unusual = (
                {name: unit for name in others if (unit := _other_unit([name]))} if ours in ("start", "end") else {}
            )
            if unusual:
                name, unit = next(iter(unusual.items()))
                raise TadError(f"{where}: no column '{ours}', and '{name}' is in {unit}; convert the times to seconds")
            raise TadError(
                f"{where}: no column '{ours}' (the first line must be a header such as {example}); "
                f"{nearest(ours, others)}; ",
                Remedy("column", f"name it with the setting columns: {{{ours}: …}}", ours),
            )
    times = [names["start"], names["end"]]
    if other := _other_unit(times):
        raise TadError(f"{where}: columns '{times[0]}' and '{times[1]}' are in {other}; convert their times to seconds")
    _expect_seconds(names.get("duration", ""), where)
    units = {unit if (unit := unit_of(name)) in UNIT_ENDS else "" for name in times}  # t_min and t_max have none
    if len(units) > 1:
        raise TadError(
            f"{where}: columns '{names['start']}' and '{names['end']}' are of different units; name two of one unit"
            " with ",
            Remedy("columns", "the setting columns"),
        )
    return Columns(names, units.pop(), taken)
