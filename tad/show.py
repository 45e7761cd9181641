"""A run's configuration, a score, a diagnosis → lines for a person at a terminal."""

from collections.abc import Iterator
from pathlib import Path

from tad.config import Config
from tad.files import read_json


def show(run: str, *, config: Path = Path("config.yaml")) -> Iterator[str]:
    """Every setting of a run, with the file that it comes from.

    Raises:
        TadError: an unknown run, or a configuration that cannot be right.
    """
    settings = Config.read(config)
    row = settings.run(run)
    parts = [("features", settings.resolve_features(row.features, row.dataset)), ("run", settings.resolve_run(run))]
    seeds = ", ".join(str(settings.run(name).seed) for name in settings.trainings(run))
    yield f"run {run}: dataset {row.dataset}, features {row.features}, detector {row.detector}, seed {seeds}"
    if row.external:
        yield "external scores: " + ", ".join(f"{key} {value}" for key, value in row.external.items())
    yield from settings.notes(row.features)
    for title, resolved in parts:
        yield f"\n{title}:"
        for section, values in resolved.sections.items():
            for key, value in values.items():
                yield f"  {section + '.' + key:<32} {value!s:<28} {resolved.origin.get(f'{section}.{key}', '')}"


def show_score(path: Path) -> Iterator[str]:
    """What a map.json of anybody's detections says first."""
    score = read_json(path)
    yield f"protocol {score['protocol']['name']}, split {score['split']}: {score['protocol']['summary']}"
    videos, missing = score["videos"], len(score["missing_videos"]["videos"])
    yield f"{videos['evaluated']} videos with and {missing} without detections, {score['instances']} instances"
    for tiou, value in score["mAP"].items():
        yield f"mAP at tIoU {tiou:<5} {100 * value:6.2f}"
    low, high = score["interval"]["average_mAP"]
    interval = f"[{100 * low:.2f}, {100 * high:.2f}] over the choice of videos"
    yield f"average mAP       {100 * score['average_mAP']:6.2f}   {interval}"
    for name in ("proposals", "frames", "segmentation"):
        for key, value in score.get(name, {}).items():
            if isinstance(value, float) and key in ("AUC", "mAP", "edit", "accuracy"):
                yield f"{name} {key:<12} {100 * value:6.2f}"
            elif key in ("AR", "F1"):
                yield f"{name} " + "  ".join(f"{key}@{k} {100 * v:.2f}" for k, v in value.items())


def show_diagnosis(path: Path) -> Iterator[str]:
    """The kinds of errors in a diagnosis.json, and what each costs."""
    found = read_json(path)
    yield f"average mAP {100 * found['errors']['mAP']:.2f}; of the best detections, and gained without them:"
    for kind, share in found["errors"]["share"].items():
        gain = found["errors"]["gain"].get(kind)
        yield f"  {kind:<18} {100 * share:5.1f} %" + (f"   {100 * gain['mAP']:+.2f} mAP" if gain else "")
    missed = 100 * found["characteristics"]["missed"]
    yield f"instances that nothing detects: {missed:.1f} %; pictures in {path.parent}"
