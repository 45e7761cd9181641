"""Write config.yaml for one's own videos and labels, and check the labels against the decoded videos."""

import math
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from tad.annotations.checks import Policy, check
from tad.annotations.doubts import doubts
from tad.annotations.moments import as_moments
from tad.annotations.table import Table, read_table
from tad.commands.new_features import choose
from tad.commands.new_labels import (
    Clock,
    Findings,
    clock_of,
    match_videos,
    parse_columns,
    read_labels,
    set_split,
    set_times,
)
from tad.commands.new_stages import logs_of, make_checked
from tad.commands.suggest import COMMON_RATE, Advice, advise, measure
from tad.core.errors import TadError
from tad.core.files import publish, read_json
from tad.core.ids import unsafe
from tad.core.printable import plural
from tad.datasets._times import MOST_RATE
from tad.settings.config import Config
from tad.settings.layers import wrong_name
from tad.settings.paths import path_of
from tad.video.listing import list_videos

DETECTOR: dict[str, Any] = {"name": "mse", "embed_dim": 128, "mlp_dim": 192, "head_dim": 128}
TRAIN: dict[str, Any] = {"epochs": 35, "warmup_epochs": 5, "lr": 1.0e-3, "ema_decay": 0.99}
MOMENTS: dict[str, Any] = {"name": "spot_moments", "embed_dim": 128, "mlp_dim": 256}
MOMENTS_TRAIN: dict[str, Any] = {"window_stride": 128}
STEPS, MOST_EPOCHS = 600, 200  # few videos are seen more often, until the optimiser has made this many steps
ELSEWHERE = "remove it, work in another folder, or write another file with --out"
WORDS = {"settings": "detector"}
# key of a remedy that names settings of config.yaml, which does not exist yet → the options of this command
OPTIONS = {
    "drop": "--on-invalid drop",
    "clip": "--on-invalid clip",
    "column": "rename it, or name it with --columns {value}=NAME",
    "columns": "--columns",
    "named by": "--columns",
    "unit": "give --unit {value}",
    "stated unit": "leave out --unit {value}",
    "where": "",
    "points": "give --points 2",
    "rate": "give the frame rate, such as --rate 25",
    "tool": "give --tool {value}, or leave it out",
    "videos": "give the folder with the video files (--videos)",
}


def _check_names(name: str, out: Path) -> None:
    """Refuse names that cannot be used, and a file that another command wrote."""
    if why := unsafe(name) or ("contains a space" if " " in name else ""):
        raise TadError(f"'{name}': the name {why}; use letters, digits, - and _")
    if why := wrong_name(name, "runs"):
        raise TadError(why)
    if out.exists() and not (out.is_file() and out.read_bytes().startswith(_head(name).encode())):
        raise TadError(f"{out}: exists already; {ELSEWHERE}")


def _check_options(videos: Path, *, rate: float, points: float, split_file: Path | None) -> None:
    """Refuse options that are wrong whatever the labels say."""
    if videos.is_file():
        raise TadError(f"--videos {videos}: is a file; give the folder with the video files")
    if not 0 <= rate < MOST_RATE:
        raise TadError(f"--rate {rate:g}: give the frames per second of the labels, such as 25")
    if not 0 <= points < math.inf:
        raise TadError(f"--points {points:g}: give the seconds around each point in time, such as 2")
    if split_file and not split_file.is_file():
        raise TadError(f"--split-file {split_file}: no such file; give a CSV file with the columns video and split")


def _head(name: str) -> str:
    return f"# Written by `tad new {name}`."


def _write(name: str, out: Path, text: str) -> str:
    """Write the file unless it exists with the same text; return a line that says which was the case.

    Raises:
        TadError: the file was written with other options or labels, or edited since.
    """
    lines = plural(len(text.splitlines()), "line")
    if out.exists():
        if out.read_text(encoding="utf-8") != text:
            raise TadError(
                f"{out}: exists already, with other rows than these; go on with `{_command(name, out)}`, {ELSEWHERE}"
            )
        return f"{out} is there already ({lines})"
    out.parent.mkdir(parents=True, exist_ok=True)
    with publish(out) as partial:
        partial.write_text(text, encoding="utf-8")
    return f"wrote {out} ({lines})"


def _relative(path: Path, root: Path) -> str:
    """Return a path relative to the folder of config.yaml if it lies in it, else absolute."""
    absolute, folder = Path(os.path.abspath(path.expanduser())), Path(os.path.abspath(root))
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def _flow(value: object) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=100_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _text(name: str, values: dict[str, Any]) -> str:
    """Return config.yaml: every row, with one line per key of the rows."""
    lines = [
        f"{_head(name)} `tad show {name}` prints every setting; run it with: tad run {name}",
    ]
    for kind, rows in values.items():
        lines.append(f"{kind}:")
        for row, settings in rows.items():
            lines.append(f"  {_flow(row)}:")
            lines += [f"    {key}: {_flow(value)}" for key, value in settings.items() if value not in ({}, "")]
    return "\n".join(lines) + "\n"


def _values(
    name: str, findings: Findings, features: dict[str, Any], on_invalid: str, *, videos: str, labels: str
) -> dict[str, Any]:
    dataset = {"format": findings.format, "videos": videos, "annotations": labels, "settings": findings.settings}
    dataset |= {"on_invalid": on_invalid} if on_invalid != "error" else {}
    detector, train = (MOMENTS, MOMENTS_TRAIN) if findings.moments else (DETECTOR, TRAIN)
    run = {"dataset": name, "features": f"{name}_features", "detector": dict(detector), "train": dict(train)}
    kind = {"kind": "moments"} if findings.moments else {}
    return {
        "datasets": {name: {**dataset, **kind, "exclude": findings.exclude}},
        "features": {f"{name}_features": features},
        "runs": {name: run},
    }


def _advice(name: str, values: dict[str, Any], table: Table, rates: Sequence[float]) -> list[Advice]:
    """Return the suggestions of `tad suggest` for the new run, and the number of epochs."""
    config = Config(values, source=f"the new run {name}")
    resolved = config.resolve_run(name)
    clip = config.resolve_features(f"{name}_features", name).sections["clip"]
    step = clip["stride"] / (float(clip["rate"]) or median(rates or [COMMON_RATE]))
    resize = int(resolved.sections["train"]["resize"])
    lengths = measure(table, step=step, resize=resize)
    advice = advise(lengths, settings=resolved.sections["settings"], resize=resize)
    batches = math.ceil(len(table.split("train")) / int(resolved.sections["train"]["batch_size"]))
    epochs = min(max(TRAIN["epochs"], math.ceil(STEPS / batches)), MOST_EPOCHS)
    if epochs > TRAIN["epochs"]:
        total = f"{plural(epochs, 'epoch makes', 'epochs make')} {plural(epochs * batches, 'step')}"
        why = f"{plural(batches, 'step')} per epoch; {total}"
        advice.append(Advice("train", "epochs", epochs, why))
    return advice


def _matched(
    findings: Findings, videos: Path, labels: Path, *, rate: float, points: float, unit: str
) -> dict[str, Clock]:
    """Match the labels with the video files and convert their times to seconds; return what the containers state."""
    listed = list_videos(videos)
    if not listed:
        raise TadError(f"{videos}: holds no video; give the folder with the video files")
    match_videos(findings, listed, labels, videos)
    clocks = {v: clock_of(videos / listed[v]) for v in findings.table.videos}
    set_times(findings, clocks, rate=rate, points=points, unit=unit, source=labels)
    return clocks


def _checked(table: Table, source: Path, on_invalid: Policy) -> None:
    """Check the labels as `tad annotate` will, so that errors are reported before anything is written."""
    videos = {v: replace(video, split=video.split or "train") for v, video in table.videos.items()}
    check(replace(table, videos=videos, known={"empty": "keep"}), source=str(source), on_invalid=on_invalid)


def _decode(name: str, root: Path) -> Iterator[str]:
    """Decode the videos, and check the labels against them.

    Raises:
        TadError: a stage refuses the labels or the videos; the message is its own.
    """
    yield f"check: decoding the videos (logs: {logs_of(name, root)})"
    try:
        make_checked(name, root)
    except TadError as error:
        raise TadError(
            f"{error} (config.yaml is written; correct the labels or the settings in it, then: tad run {name})"
        ) from None
    yield from _sound(name, root)


def _sound(name: str, root: Path) -> Iterator[str]:
    """Yield how many labelled videos were decoded, and which of them cannot be used, or only partly, and why.

    Raises:
        TadError: none can be used.
    """
    table = read_table(root / path_of("check", dataset=name))
    entries: dict[str, dict[str, Any]] = {}
    manifests = path_of("probe", root=root, dataset=name, shard="*")
    for manifest in manifests.parent.glob(manifests.name):
        entries |= read_json(manifest)["videos"]
    labelled = {video_id: entry for video_id, entry in sorted(entries.items()) if video_id in table.videos}
    usable = {video_id: entry for video_id, entry in labelled.items() if entry["usable"]}
    for entry in labelled.values():
        if entry["status"] != "ok":
            state = entry["status"] if entry["usable"] else f"excluded, {entry['status']}"
            yield f"check: {entry['path']}: {state}: {entry['cause']}"
    minutes = sum(float(entry["duration"]) for entry in usable.values()) / 60
    count = plural(len(usable), "video") if len(usable) == len(labelled) else f"{len(usable)} of {len(labelled)} videos"
    if not usable:
        raise TadError(
            f"{manifests.parent}: none of {plural(len(labelled), 'labelled video')} can be decoded, as the lines above"
            " say; repair the videos, or add others, then run the same command again"
        )
    times = "all times lie within them"
    if changed := len(table.dropped) + len(table.clipped):
        times = f"all other times lie within them ({plural(changed, 'instance')} cut or left out)"
    yield f"check: decoded {count}, {minutes:.1f} minutes long; {times}"
    if unscored := [s for s in ("train", "test") if (ids := table.split(s)) and not set(ids) & set(usable)]:
        yield f"check: no usable video is left in the split {' or '.join(unscored)}; repair the videos, or add others"


def new(
    name: str,
    *,
    videos: Path,
    labels: Path,
    tool: str = "",
    columns: Sequence[str] = (),
    unit: str = "",
    rate: float = 0.0,
    points: float = 0.0,
    split_file: Path | None = None,
    test_share: float = 0.2,
    on_invalid: Policy = "error",
    backbone: str = "",
    offline: bool = False,
    check_videos: bool = True,
    out: Path = Path("config.yaml"),
) -> Iterator[str]:
    """Write the configuration of a new data set and run; yield each choice with its reason, and the next command.

    Args:
        name: name of the data set and the run.
        videos: folder of the videos.
        labels: file or folder of the labels, in any format of `tad.datasets._formats.table.FORMATS`.
        tool: the format; empty: recognised.
        columns: `video=Clip` and so on, for CSV files whose columns are not recognised.
        unit: unit of the times; empty: recognised.
        rate: frames per second of labels in frames; 0: that of the videos.
        points: seconds around points in time.
        split_file: CSV with the columns video and split.
        test_share: share of the videos that is drawn for testing if the labels have no split.
        on_invalid: handling of labels with impossible times: error, drop, or clip (cut at the ends of their video).
        backbone: the encoder; empty: the best one that is available.
        offline: do not try to download weights.
        check_videos: decode the videos now and compare them with the labels.
        out: the file to write.

    Raises:
        TadError: the labels, the videos or their names are not usable; nothing is written.
    """
    _check_names(name, out)
    _check_options(videos, rate=rate, points=points, split_file=split_file)
    root = out.parent
    try:
        findings = read_labels(labels, tool=tool, columns=parse_columns(columns), unit=unit)
        split = _relative(split_file, labels if labels.is_dir() else labels.parent) if split_file else ""
        clocks = _matched(findings, videos, labels, rate=rate, points=points, unit=unit)
        set_split(findings, share=test_share, split_file=split)
        _checked(as_moments(findings.table) if findings.moments else findings.table, labels, on_invalid)
    except TadError as error:
        error.reword(OPTIONS)
        raise
    yield from (*findings.notes, *(f"labels: {sentence}" for sentence in doubts(findings.table)))
    choice = choose(root, backbone=backbone, offline=offline)
    yield f"features: {choice.reason}"
    rows = _values(
        name, findings, choice.row, on_invalid, videos=_relative(videos, root), labels=_relative(labels, root)
    )
    if findings.moments:
        yield "settings: those of spot_moments; reach and nms.window are in snippets, tolerances 1 and 2 frames"
    else:
        yield from _tuned(name, rows, findings.table, clocks)
    text = _text(name, rows)
    Config(yaml.safe_load(text), source=str(out), root=root)
    yield _write(name, out, text)
    if check_videos and out.name == "config.yaml":
        yield from _decode(name, root)
    what = name if findings.settings.get("split") != "train" else str(path_of("train", run=name))
    yield f"next: {_command(what, out)}"


def _command(what: str, out: Path) -> str:
    """Return the command that makes a run or file with the configuration `out`."""
    where = "" if out.parent == Path() else f"cd {shlex.quote(str(out.parent))} && "
    return f"{where}tad run {what}" + ("" if out.name == "config.yaml" else f" --configfile {shlex.quote(out.name)}")


def _tuned(name: str, rows: dict[str, Any], table: Table, clocks: dict[str, Clock]) -> Iterator[str]:
    """Write the suggested settings into the run's row, and yield their reasons."""
    if not table.split("train") or not any(video.instances for video in table.split("train").values()):
        yield "settings: the published ones, because the training videos are not known yet"
        return
    rates = [clock.rate for clock in clocks.values() if clock.rate]
    for one in _advice(name, rows, table, rates):
        section = WORDS.get(one.section, one.section)
        rows["runs"][name].setdefault(section, {})[one.key] = one.value
        yield f"settings: {section}.{one.key}: {_flow(one.value)}: {one.reason}"
