"""Render a run's configuration, a score, a diagnosis or a table of runs as lines for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tad.core import formats
from tad.core.files import read_json


def show(run: str, *, config: Path = Path("config.yaml")) -> Iterator[str]:
    """Yield every setting of a run, with the file that it comes from.

    Raises:
        TadError: the run is unknown, or the configuration is invalid.
    """
    from tad.settings.config import Config  # `tad evaluate` shows a score and reads no configuration

    settings = Config.read(config)
    row = settings.run(run)
    parts = [("features", settings.resolve_features(row.features, row.dataset))]
    joined = [part for part in settings.parts(row.features) if part != row.features]
    parts += [(f"features {part}", settings.resolve_features(part, row.dataset)) for part in joined]
    parts += [("run", settings.resolve_run(run))]
    seeds = ", ".join(str(settings.run(name).seed) for name in settings.trainings(run))
    yield f"run {run}: dataset {row.dataset}, features {row.features}, detector {row.detector}, seed {seeds}"
    if row.external:
        yield "external scores: " + ", ".join(f"{key} {value}" for key, value in row.external.items())
    if row.adapters:
        yield "adapters: " + ", ".join(f"{key} {value}" for key, value in row.adapters.model_dump(mode="json").items())
    if row.distill:
        lesson = row.distill.model_dump(exclude_defaults=True)
        teachers, terms = lesson.pop("teachers"), lesson.pop("terms")
        yield "distill: " + ", ".join(f"{key} {value}" for key, value in {**teachers, **lesson}.items())
        for term in terms:
            yield "  term: " + ", ".join(f"{key} {value}" for key, value in term.items())
    yield from settings.notes(row.features)
    for title, resolved in parts:
        yield f"\n{title}:"
        for section, values in resolved.sections.items():
            for key, value in values.items():
                yield f"  {section + '.' + key:<32} {value!s:<28} {resolved.origin.get(f'{section}.{key}', '')}"


def show_score(path: Path) -> Iterator[str]:
    """Summarise the map.json of a detections file."""
    from tad.metrics.measures import headlines  # imports NumPy, which `tad show` does not need

    score = read_json(path)
    yield f"protocol {score['protocol']['name']}, split {score['split']}: {score['protocol']['summary']}"
    yield from _coverage(score)
    at = "within" if "tolerances" in score else "at tIoU"
    for threshold, value in score["mAP"].items():
        yield f"mAP {at} {threshold:<5} {100 * value:6.2f}"
    for name, value in score.get("averages", {}).items():
        yield f"average mAP, {name:<4} {100 * value:6.2f}"
    low, high = score["interval"]["average_mAP"]
    interval = f"[{100 * low:.2f}, {100 * high:.2f}] over the choice of videos"
    yield f"average mAP       {100 * score['average_mAP']:6.2f}   {interval}"
    for name in (name for name in ("verb", "noun") if name in score):
        yield f"average mAP, {name}s {100 * score[name]['average_mAP']:6.2f}"
    for name, value in headlines(score).items():
        yield f"{name:<22} {100 * value:6.2f}"
    for name, key in (("proposals", "AR"), ("segmentation", "F1")):
        if name in score:
            yield f"{name} " + "  ".join(f"{key}@{k} {100 * v:.2f}" for k, v in score[name][key].items())


def show_queries(path: Path) -> Iterator[str]:
    """Summarise a map.json of temporal grounding."""
    score = read_json(path)
    yield f"protocol {score['protocol']['name']}: {score['protocol']['summary']}"
    yield f"{score['queries']} queries, {len(score['without_predictions'])} of them without predictions"
    low, high = score["interval"]["average_mAP"]
    interval = f"[{100 * low:.2f}, {100 * high:.2f}] over the choice of queries"
    yield f"average mAP       {100 * score['average_mAP']:6.2f}   {interval}"
    for tiou in score["mAP"]:
        yield f"at tIoU {tiou:<5} mAP {100 * score['mAP'][tiou]:6.2f}   R1 {100 * score['R1'][tiou]:6.2f}"
    for name, part in score["by_length"].items():
        yield f"{name} windows: average mAP {100 * part['average_mAP']:.2f} ({part['queries']} queries)"


def _coverage(score: Mapping[str, Any]) -> Iterator[str]:
    """Summarise which videos, instances and detections were scored, and by which rules."""
    videos, missing, detections = score["videos"], len(score["missing_videos"]["videos"]), score["detections"]
    counted = f"{videos['evaluated']} videos with and {missing} without detections"
    counted += f" (their {score['missing_videos']['instances']} instances count as missed)" if missing else ""
    rest = videos["in_split"] - videos["evaluated"] - missing
    yield f"{counted}, {rest} of the split left out, {score['instances']} instances"
    rules, dropped = score["protocol"], score["instances_dropped"]
    duplicates = "kept" if rules["duplicates"] == "keep" else f"dropped ({dropped['duplicates']})"
    yield f"duplicate instances {duplicates}, shorter than {rules['shortest']:g} s dropped ({dropped['too_short']})"
    if (points := score["instances_without_length"]) and "tolerances" not in score:
        finds = "only a detection of the same single time finds one"
        if rules["segments"] == "as given":
            finds = "nothing finds them" if rules["matching"] == "devkit" else "any detection without length finds one"
        yield f"{points} instances have no length: {finds}"
    outside = detections["videos_outside_the_split"]
    unscored = sum(detections["labels_without_instances"].values())
    clauses = [f"{detections['scored']} detections scored"]
    clauses += [f"{unscored} of labels without instances do not count"] if unscored else []
    clauses += [f"{outside} videos of theirs are not in the split and do not count"] if outside else []
    yield ", ".join(clauses)


def show_diagnosis(path: Path) -> Iterator[str]:
    """Summarise a diagnosis.json: each kind of error with its share, and the mAP gained without it."""
    diagnosis = read_json(path)
    formats.check(diagnosis["stamp"], path, kind="diagnosis", names=diagnosis)
    rule = " by ActivityNet's rule" if diagnosis["matching"] != "activitynet" else ""
    yield f"average mAP {100 * diagnosis['errors']['mAP']:.2f}{rule}; of the best detections, and gained without them:"
    for kind, share in diagnosis["errors"]["share"].items():
        gain = diagnosis["errors"]["gain"].get(kind)
        yield f"  {kind:<18} {100 * share:5.1f} %" + (f"   {100 * gain['mAP']:+.2f} mAP" if gain else "")
    if refused := diagnosis["calibration"]["refused"]:
        yield f"no calibration: {refused}"
    missed = 100 * diagnosis["characteristics"]["missed"]
    yield f"instances that nothing detects: {missed:.1f} %; pictures in {path.parent}"


def show_table(runs: Sequence[str], *, config: Path, format: str, out: Path | None) -> Iterator[str]:
    """Yield the table of runs as one text, or nothing if it is written to a file."""
    from tad.table import table

    text = table(runs, config=config, format=format, out=out)
    if out is None:
        yield text.removesuffix("\n")
