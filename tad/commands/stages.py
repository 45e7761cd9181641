"""Call stages from the command line: map the arguments to the parameters of the stage's function."""

import inspect
import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tad.core import claims, notices
from tad.core.errors import TadError
from tad.core.files import content_key, digest, sweep
from tad.provenance.fingerprint import code
from tad.provenance.stamps import identity_of
from tad.provenance.wanted import CODE, check_wanted, records_of
from tad.settings.stage_table import Stage


def call(stage: Stage, a: Namespace) -> Iterable[str]:
    """Run a stage and return lines to print.

    Each parameter of the function gets the argument of the same name. `cache` is the cache folder of the stage's
    finished parts: beside its output, where Snakemake does not delete it.
    """
    for folder in (a.out.parent, a.out.parent / ".kept", a.out.parent / notices.FOLDER):
        sweep(folder)
    if stage.name == "evaluate" and not (a.spec and not a.protocol):
        return _evaluate_file(a)
    if stage.name == "evaluate":
        _refuse(a, OF_FILES, "with --spec all settings come from the run's row")
    function = stage.function()
    spec = stage.spec_class().parse(a.spec)
    values = {**vars(a), "cache": a.out.parent / ".kept" / a.out.name, "spec": spec}
    values |= ADAPTED[stage.name](a) if stage.name in ADAPTED else {}
    parameters = inspect.signature(function).parameters
    journal = _journal(a.out) if stage.name in RESUMED else None
    settings = spec.model_dump(mode="json")

    def work() -> str:
        check_wanted(a.out, settings, _paths(a))
        return digest([stage.name, _work(a), os.environ.get(CODE) or code(stage.name, settings)], 32)

    key = _content(a) if journal else None
    claim = claims.claiming(a.out, work, records=lambda: records_of(a.out))
    with claim, notices.collecting(journal, key=key) as warnings:
        function(**{name: values[name] for name in parameters if name in values})
        notices.store(a.out, warnings, _paths(a))
    return ()


def _journal(out: Path) -> Path:
    """Return the file that keeps a stage's warnings between attempts."""
    return out.parent / ".kept" / f"{out.name}.warnings.json"


def _work(a: Namespace) -> list[Any]:
    """Identify the work of a stage: its settings, and its inputs by path, size and date."""
    paths = [path for path in _paths(a) if path.exists()]
    if a.row.name in READ_FOLDERS:
        paths += [file for path in paths for file in sorted(path.rglob("*"))]
    facts = [(str(path), path.stat()) for path in paths if path.exists()]
    return [str(a.spec), *([name, stat.st_size, stat.st_mtime_ns] for name, stat in facts)]


def _content(a: Namespace) -> list[Any]:
    """Identify the work of a stage by the content of its inputs, whenever these were written.

    A stage's cache is found by content. So are the warnings that belong to what is in it: settings that are changed
    back, or a copied input, must not lose them. Folders count by name: what a stage reads in them stands in a manifest.
    """
    return [str(a.spec), *([str(path), _content_of(path)] for path in _paths(a) if path.exists())]


def _content_of(path: Path) -> str:
    if path.is_dir():
        return "folder"
    if path.suffix not in STAMPED:
        return content_key(path)
    try:
        return identity_of(path)
    except TadError:  # without a stamp, such as weights; a damaged input is reported by the stage, which reads it next
        return content_key(path)


def _paths(a: Namespace) -> Iterator[Path]:
    """Yield the files among a stage's arguments."""
    for name, value in vars(a).items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and name != "out":
                yield path


def _probe(a: Namespace) -> dict[str, Any]:
    from tad.video.listing import parse_shard

    return {"shard": parse_shard(a.shard)}


def _detect(a: Namespace) -> dict[str, Any]:
    return {"fused": (a.fused_model, a.fused_features) if a.fused_model and a.fused_features else None}


ADAPTED: dict[str, Callable[[Namespace], dict[str, Any]]] = {"probe": _probe, "detect": _detect}


STAMPED = (".h5", ".json", ".safetensors")
RESUMED = ("pretrain", "extract", "train")  # whose later attempts do not log everything again
READ_FOLDERS = ("annotate", "probe", "convert")  # other stages read the files that a manifest or an index names
OF_FILES = (
    *("tiou", "tolerances", "moment", "split", "measures", "frame_rate", "frame_score", "background", "on_invalid"),
    *("splits", "nouns", "submission"),
)


def _refuse(a: Namespace, names: Iterable[str], why: str) -> None:
    """Refuse options that would be ignored.

    Raises:
        TadError: one of these options was given.
    """
    for name in names:
        if (value := getattr(a, name)) not in ("", None):
            raise TadError(f"--{name.replace('_', '-')} {value}: {why}; leave it out")


def _evaluate_file(a: Namespace) -> Iterator[str]:
    from tad.commands.show import show_queries, show_score
    from tad.metrics import grounding
    from tad.metrics.epic_actions import PROTOCOL
    from tad.stages.evaluate import evaluate_actions, evaluate_file, evaluate_queries

    if bool(a.spec) == bool(a.protocol):
        both = "; not both" if a.spec else ""
        raise TadError(f"give --protocol for any results file, or --spec for a run of the workflow{both}")
    ignored = (*(name for name in OF_FILES if name not in ("tiou", "nouns", "submission")), "model")
    if a.protocol == PROTOCOL:
        _refuse(a, ignored, f"protocol {PROTOCOL} does not use it")
        out = evaluate_actions(
            a.detections, a.annotations, a.out, nouns=a.nouns, tiou=_numbers("--tiou", a.tiou), pair_tiou=a.pair_tiou,
            submission=a.submission, figure=a.figure, diagnosis=a.diagnosis,
        )  # fmt: skip
        yield from show_score(out)
        return
    if a.protocol == grounding.PROTOCOL:
        _refuse(a, (*ignored, *OF_FILES[-2:], "figure", "diagnosis"), f"protocol {a.protocol} does not use it")
        yield from show_queries(evaluate_queries(a.detections, a.annotations, a.out, tiou=_numbers("--tiou", a.tiou)))
        return
    _refuse(a, ("nouns", "submission"), f"it goes with --protocol {PROTOCOL}")
    _refuse(a, ("model",), "it goes with --spec")
    out = evaluate_file(
        a.detections, a.annotations, a.out, protocol_name=a.protocol, tiou=_numbers("--tiou", a.tiou), split=a.split,
        settings=_moments(a) | _measures(a), figure=a.figure, diagnosis=a.diagnosis, on_invalid=a.on_invalid,
        splits=_splits(a.splits),
    )  # fmt: skip
    yield from show_score(out)


def _moments(a: Namespace) -> dict[str, Any]:
    """Return the fields of `tad.settings.stages.EvalSpec` for protocols of moments."""
    return {"tolerances": [text.strip() for text in a.tolerances.split(",") if text.strip()], "moment": a.moment}


def _measures(a: Namespace) -> dict[str, Any]:
    """Return fields of `tad.settings.stages.EvalSpec`, and refuse options that no chosen measure uses."""
    settings: dict[str, Any] = {"measures": [name.strip() for name in a.measures.split(",") if name.strip()]}
    for name, users in (("frame_rate", ("frames", "segmentation")), ("frame_score", ("segmentation",))):
        if (value := getattr(a, name)) is not None:
            if not set(users) & set(settings["measures"]):
                option = f"--{name.replace('_', '-')}"
                raise TadError(f"{option} {value:g}: no chosen measure uses it; add --measures {' or '.join(users)}")
            settings[name] = value
    settings["background"] = [name.strip() for name in a.background.split(",") if name.strip()]
    return settings


def _splits(words: str) -> dict[str, str]:
    """Parse `Dev=val,unlabelled=` into a map from the file's subset names to ours."""
    from tad.annotations.table import SPLITS  # here: no other stage's command executes this module

    pairs = [part.partition("=") for part in words.split(",") if part.strip()]
    for name, equals, split in pairs:
        if not equals or split.strip() not in ("", *SPLITS):
            raise TadError(
                f"--splits {words}: '{name}{equals}{split}': write name=train, =val or =test, or name= to exclude it"
            )
    return {name.strip(): split.strip() for name, _, split in pairs}


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise TadError(f"{option} {text}: give numbers separated by commas, such as 0.3,0.5,0.7") from None


def diagnose(
    detections: Path,
    *,
    annotations: Path,
    out: Path,
    protocol: str,
    tiou: str = "",
    split: str = "",
    on_invalid: str = "",
    splits: str = "",
) -> Iterator[str]:
    """Write map.json, diagnosis.json and its figures into the folder `out`, and yield lines about the errors."""
    from tad.commands.show import show_diagnosis
    from tad.stages.evaluate import evaluate_file

    evaluate_file(
        detections, annotations, out / "map.json",
        protocol_name=protocol, tiou=_numbers("--tiou", tiou), split=split, diagnosis=out / "diagnosis.json",
        on_invalid=on_invalid, splits=_splits(splits),
    )  # fmt: skip
    yield from show_diagnosis(out / "diagnosis.json")
