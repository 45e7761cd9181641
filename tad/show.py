"""A run's configuration, a score, a diagnosis → lines for a person at a terminal."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tad.config import Config
from tad.files import read_json


def show(run: str, *, config: Path = Path("config.yaml")) -> Iterator[str]:
    """Every setting of a run, with the file that it comes from.

    Raises:
        TadError: an unknown run, or a configuration that cannot be right.
    """
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
    """What a map.json of anybody's detections says first."""
    from tad.metrics.measures import headlines  # numba, which `tad show` need not wait for

    score = read_json(path)
    yield f"protocol {score['protocol']['name']}, split {score['split']}: {score['protocol']['summary']}"
    yield from _coverage(score)
    for tiou, value in score["mAP"].items():
        yield f"mAP at tIoU {tiou:<5} {100 * value:6.2f}"
    low, high = score["interval"]["average_mAP"]
    interval = f"[{100 * low:.2f}, {100 * high:.2f}] over the choice of videos"
    yield f"average mAP       {100 * score['average_mAP']:6.2f}   {interval}"
    for name, value in headlines(score).items():
        yield f"{name:<22} {100 * value:6.2f}"
    for name, key in (("proposals", "AR"), ("segmentation", "F1")):
        if name in score:
            yield f"{name} " + "  ".join(f"{key}@{k} {100 * v:.2f}" for k, v in score[name][key].items())


def _coverage(score: Mapping[str, Any]) -> Iterator[str]:
    """What was scored, what was not, and by which rule."""
    videos, missing, found = score["videos"], len(score["missing_videos"]["videos"]), score["detections"]
    counted = f"{videos['evaluated']} videos with and {missing} without detections"
    counted += f" (their {score['missing_videos']['instances']} instances count as missed)" if missing else ""
    rest = videos["in_split"] - videos["evaluated"] - missing
    yield f"{counted}, {rest} of the split left out, {score['instances']} instances"
    rules, dropped = score["protocol"], score["instances_dropped"]
    kept = "kept" if rules["duplicates"] == "keep" else f"dropped ({dropped['duplicates']})"
    yield f"duplicate instances {kept}, shorter than {rules['shortest']:g} s dropped ({dropped['too_short']})"
    if points := score["instances_without_length"]:
        yield f"{points} instances have no length: only a detection of the same single time finds one"
    outside = found["videos_outside_the_split"]
    unscored = sum(found["labels_without_instances"].values())
    said = [f"{found['scored']} detections scored"]
    said += [f"{unscored} of labels without instances do not count"] if unscored else []
    said += [f"{outside} videos of theirs are not in the split and do not count"] if outside else []
    yield ", ".join(said)


def show_diagnosis(path: Path) -> Iterator[str]:
    """The kinds of errors in a diagnosis.json, and what each costs."""
    found = read_json(path)
    rule = " by ActivityNet's rule" if found["matching"] != "activitynet" else ""
    yield f"average mAP {100 * found['errors']['mAP']:.2f}{rule}; of the best detections, and gained without them:"
    for kind, share in found["errors"]["share"].items():
        gain = found["errors"]["gain"].get(kind)
        yield f"  {kind:<18} {100 * share:5.1f} %" + (f"   {100 * gain['mAP']:+.2f} mAP" if gain else "")
    missed = 100 * found["characteristics"]["missed"]
    yield f"instances that nothing detects: {missed:.1f} %; pictures in {path.parent}"
