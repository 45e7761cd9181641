"""The `tad` command: one subcommand per stage (paths in, one path out), and a few that explain.

It parses and calls; stages do the work, and `tad --help` imports none of them. What the user can fix is one line on
standard error and exit status 1.
"""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from tad import __version__, cli_data, cli_runs
from tad.errors import TadError

log = logging.getLogger("tad")
INTERRUPTED = 130


def _spec_help(stage: str) -> str:
    return f"settings of {stage}: JSON text, or a JSON or YAML file"


def _stage(
    commands: Any, name: str, text: str, *inputs: tuple[str, str], needs_spec: bool = True
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    for argument, meaning in inputs:
        parser.add_argument(argument, type=Path, help=meaning, nargs="+" if argument.endswith("s_in") else None)
    parser.add_argument("--spec", required=needs_spec, default="", help=_spec_help(name))
    parser.add_argument("--out", required=True, type=Path, help="the file to make")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of numerical libraries; 0: theirs to choose"
    )
    return parser


def _device(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("TAD_DEVICE", "auto")  # set by the workflow from config.yaml: where it runs is no setting
    parser.add_argument("--device", default=default, help="auto, cpu, cuda or cuda:N; an absent device is an error")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="tad", description="Temporal action detection: from untrimmed videos to a score."
    )
    parser.add_argument("--version", action="version", version=f"tad {__version__}")
    parser.add_argument("--verbose", action="store_true", help="debug lines in the log")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_stages(commands)
    _add_others(commands)
    return parser


def _add_stages(commands: Any) -> None:
    _stage(commands, "annotate", "annotation files → one checked table", ("source", "file or folder of the data set"))

    p = _stage(commands, "probe", "videos → manifest shard: frames counted, damage found", ("videos", "video folder"))
    p.add_argument("--annotations", type=Path, required=True, help="table made by annotate: which videos to expect")
    p.add_argument("--shard", required=True, help="K-of-N")

    p = _stage(
        commands, "pretrain", "clip encoder from the train split (TSP)", ("annotations", "table made by annotate")
    )
    p.add_argument("--manifests", type=Path, nargs="+", required=True, help="manifest shards")
    p.add_argument("--videos", type=Path, required=True, help="video folder")
    _device(p)

    p = _stage(commands, "extract", "videos of one shard → features", ("manifest", "manifest shard made by probe"))
    p.add_argument("--videos", type=Path, required=True, help="video folder")
    p.add_argument("--weights", type=Path, required=True, help="weights of the backbone: file or folder")
    _device(p)

    p = _stage(commands, "merge", "feature shards → one index", ("shards_in", "shards made by extract"))
    p.add_argument(
        "--manifests", type=Path, nargs="+", required=True, help="manifest shards: which videos must be there"
    )

    p = _stage(commands, "index", "videos → index of frames, decoded when needed", ("manifests_in", "manifest shards"))
    p.add_argument("--videos", type=Path, required=True, help="video folder")

    p = _stage(
        commands, "convert", "published features → index", ("source", "folder of feature files, or one .h5 file")
    )
    p.add_argument("--annotations", type=Path, required=True, help="table made by annotate: videos and durations")

    what = ("parts_in", "indices made by merge or convert, in the order of the channels")
    _stage(commands, "join", "feature sets of the same videos → one index, side by side", what)

    what = ("features", "index made by merge, convert or join")
    p = _stage(commands, "train", "features and annotations → detector", what)
    p.add_argument("--annotations", type=Path, required=True, help="table made by annotate")
    p.add_argument("--teachers", type=Path, nargs="*", default=[], help="models made by train, with `distill`")
    p.add_argument("--teacher-features", type=Path, nargs="*", default=[], help="the index that each of them reads")
    p.add_argument("--start", type=Path, nargs="*", default=[], help="weights that a detector on frames begins with")
    p.add_argument(
        "--devices", type=int, default=1, help="GPUs that train together (with --device cpu: processes); 0 is 1"
    )
    _device(p)

    p = _stage(commands, "detect", "features and detector → candidates", what)
    p.add_argument("--model", type=Path, required=True, help="detector made by train")
    p.add_argument("--fused-model", type=Path, nargs="*", default=[], help="detector of the run in detect.fuse")
    p.add_argument("--fused-features", type=Path, nargs="*", default=[], help="the index that it reads")
    p.add_argument("--annotations", type=Path, required=True, help="table made by annotate")
    _device(p)

    p = _stage(commands, "classify", "features and annotations → class scores of whole videos", what)
    p.add_argument("--annotations", type=Path, required=True, help="table made by annotate")
    _device(p)

    p = _stage(commands, "suppress", "candidates → detections (NMS)", ("candidates", "candidates made by detect"))
    p.add_argument("--scores", type=Path, nargs="*", default=[], help="class scores of whole videos, with `external`")
    _device(p)

    what = ("detections", "made by suppress, or any results file in ActivityNet's format")
    p = _stage(commands, "evaluate", "detections and annotations → map.json", what, needs_spec=False)
    annotations = "table made by annotate; or with --protocol a JSON file in ActivityNet's format, THUMOS'14's folder"
    p.add_argument("--annotations", type=Path, required=True, help=annotations)
    p.add_argument("--model", type=Path, help="detector: its seed, epoch rule and recipe go into map.json")
    p.add_argument("--figure", type=Path, help="timeline of one video as PNG")
    kinds = "JSON file for kinds of errors, hard instances and calibration; pictures beside it"
    p.add_argument("--diagnosis", type=Path, help=kinds)
    p.add_argument("--protocol", default="", help="in place of --spec, for anybody's files: conventions and videos")
    p.add_argument("--tiou", default="", help="thresholds, such as 0.3,0.5,0.7; those of the protocol by default")
    p.add_argument("--split", default="", help="train, val or test; that of the detected videos by default")
    p.add_argument("--measures", default="", help="besides mAP: proposals, frames, segmentation")
    p.add_argument("--frame-rate", type=float, help="measures frames and segmentation: frames per second; usually 10")
    p.add_argument("--frame-score", type=float, help="measure segmentation: what scores no more labels no frame")

    p = _stage(commands, "summarise", "scores of several seeds → map.json", ("scores_in", "map.json of each seed"))
    p.add_argument("--detections", type=Path, nargs="+", required=True, help="made by suppress, in the same order")
    p.add_argument("--annotations", type=Path, required=True, help="table made by annotate")


def _add_others(commands: Any) -> None:
    cli_runs.add(commands, _device)

    p = commands.add_parser("diagnose", help="why a score is what it is: kinds of errors, hard instances, calibration")
    p.add_argument("detections", type=Path, help="any results file in ActivityNet's format")
    p.add_argument("--annotations", type=Path, required=True, help="as for evaluate")
    p.add_argument("--protocol", required=True, help="as for evaluate")
    p.add_argument("--tiou", default="", help="as for evaluate")
    p.add_argument("--split", default="", help="as for evaluate")
    p.add_argument("--out", type=Path, required=True, help="folder for map.json, diagnosis.json and four pictures")

    p = commands.add_parser(
        "import-checkpoint", help="published .pth.tar → model of a run, without running code from it"
    )
    p.add_argument("checkpoint", type=Path)
    p.add_argument("--out", required=True, type=Path, help="usually results/<run>/model.safetensors")
    p.add_argument("--run", default="", help="run in config.yaml: its settings; or the next three:")
    p.add_argument("--detector", default="", help="module of tad/detectors")
    p.add_argument("--for", default="thumos14", dest="variant", help="dataset whose settings of the detector count")
    p.add_argument("--features", default="", help="name of the feature set that detect is given")
    p.add_argument("--feature-dim", type=int, default=0, help="channels of the features")
    p.add_argument("--classes", type=int, default=0, help="number of classes, as a check")
    p.add_argument("--annotations", type=Path, help="table made by annotate: labels and their order")
    p.add_argument("--weights", choices=("ema", "plain"), default="ema", help="averages (as published), or not")
    p.add_argument("--config", type=Path, default=Path("config.yaml"))

    cli_data.add_weights(commands.add_parser("weights", help="published weights of the backbones: list, fetch, verify"))

    cli_data.add_features(commands.add_parser("features", help="what an index of features holds: show, export"))

    p = commands.add_parser("show", help="a run's settings, and where each comes from")
    p.add_argument("run")
    p.add_argument("--config", type=Path, default=Path("config.yaml"))

    p = commands.add_parser("why", help="what would run for a target, and why, in words")
    p.add_argument("target", nargs="+")
    p.add_argument("--config", type=Path, default=Path("config.yaml"))


def _kept(out: Path) -> Path:
    """Where a stage keeps finished parts between runs: beside its output, out of the workflow's reach."""
    return out.parent / ".kept" / out.name


def _annotate(a: argparse.Namespace) -> Path:
    from tad.specs import AnnotateSpec
    from tad.stages.annotate import annotate

    return annotate(a.source, a.out, spec=AnnotateSpec.parse(a.spec))


def _probe(a: argparse.Namespace) -> Path:
    from tad.annotations import read_table
    from tad.specs import ProbeSpec
    from tad.stages.probe import probe
    from tad.video.listing import parse_shard

    table = read_table(a.annotations)
    spec, shard = ProbeSpec.parse(a.spec), parse_shard(a.shard)
    return probe(a.videos, a.out, spec=spec, shard=shard, expected=sorted(table.videos), kept=_kept(a.out))


def _pretrain(a: argparse.Namespace) -> Path:
    from tad.specs import PretrainSpec
    from tad.stages.pretrain import pretrain

    spec = PretrainSpec.parse(a.spec)
    return pretrain(a.annotations, a.manifests, a.videos, a.out, spec=spec, kept=_kept(a.out), device=a.device)


def _extract(a: argparse.Namespace) -> Path:
    from tad.specs import ExtractSpec
    from tad.stages.extract import extract

    spec = ExtractSpec.parse(a.spec)
    return extract(a.manifest, a.videos, a.weights, a.out, spec=spec, kept=_kept(a.out), device=a.device)


def _merge(a: argparse.Namespace) -> Path:
    from tad.specs import MergeSpec
    from tad.stages.merge import merge

    return merge(a.shards_in, a.manifests, a.out, spec=MergeSpec.parse(a.spec))


def _index(a: argparse.Namespace) -> Path:
    from tad.specs import IndexSpec
    from tad.stages.index import index

    return index(a.manifests_in, a.videos, a.out, spec=IndexSpec.parse(a.spec), threads=a.threads)


def _convert(a: argparse.Namespace) -> Path:
    from tad.specs import ConvertSpec
    from tad.stages.convert import convert

    return convert(a.source, a.annotations, a.out, spec=ConvertSpec.parse(a.spec))


def _join(a: argparse.Namespace) -> Path:
    from tad.specs import JoinSpec
    from tad.stages.join import join

    return join(a.parts_in, a.out, spec=JoinSpec.parse(a.spec))


def _train(a: argparse.Namespace) -> Path:
    from tad.specs import TrainStageSpec
    from tad.stages.train import train

    spec = TrainStageSpec.parse(a.spec)
    where = {"device": a.device, "devices": a.devices, "threads": a.threads}
    where |= {"teachers": a.teachers, "teacher_features": a.teacher_features, "start": a.start[0] if a.start else None}
    return train(a.features, a.annotations, a.out, spec=spec, kept=_kept(a.out), **where)


def _detect(a: argparse.Namespace) -> Path:
    from tad.specs import DetectStageSpec
    from tad.stages.detect import detect

    fused = (a.fused_model[0], a.fused_features[0]) if a.fused_model and a.fused_features else None
    spec = DetectStageSpec.parse(a.spec)
    return detect(a.features, a.model, a.annotations, a.out, spec=spec, fused=fused, device=a.device)


def _suppress(a: argparse.Namespace) -> Path:
    from tad.specs import SuppressStageSpec
    from tad.stages.suppress import suppress

    scores = a.scores[0] if a.scores else None
    spec = SuppressStageSpec.parse(a.spec)
    return suppress(a.candidates, a.out, spec=spec, scores=scores, device=a.device, threads=a.threads)


def _classify(a: argparse.Namespace) -> Path:
    from tad.specs import ClassifyStageSpec
    from tad.stages.classify import classify

    spec = ClassifyStageSpec.parse(a.spec)
    return classify(a.features, a.annotations, a.out, spec=spec, device=a.device, threads=a.threads)


def _evaluate(a: argparse.Namespace) -> Path:
    from tad.show import show_score
    from tad.specs import EvaluateStageSpec
    from tad.stages.evaluate import evaluate, evaluate_file

    if bool(a.spec) == bool(a.protocol):
        raise TadError("give --spec (a run of config.yaml), or --protocol (anybody's files), and not both")
    if a.spec:
        spec = EvaluateStageSpec.parse(a.spec)
        more = {"model": a.model, "figure": a.figure, "diagnosis": a.diagnosis}
        return evaluate(a.detections, a.annotations, a.out, spec=spec, **more)
    tiou = _numbers("--tiou", a.tiou)
    settings = _measures(a)
    out = evaluate_file(
        a.detections, a.annotations, a.out,
        protocol_name=a.protocol, tiou=tiou, split=a.split, settings=settings, figure=a.figure, diagnosis=a.diagnosis,
    )  # fmt: skip
    for line in show_score(out):
        print(line)
    return out


def _measures(a: argparse.Namespace) -> dict[str, Any]:
    """Fields of `tad.specs.EvalSpec`; an option that no measure looks at is refused."""
    settings: dict[str, Any] = {"measures": [name.strip() for name in a.measures.split(",") if name.strip()]}
    for name, users in (("frame_rate", ("frames", "segmentation")), ("frame_score", ("segmentation",))):
        if (value := getattr(a, name)) is not None:
            if not set(users) & set(settings["measures"]):
                option = f"--{name.replace('_', '-')}"
                raise TadError(f"{option} {value:g}: no measure looks at it; add --measures {' or '.join(users)}")
            settings[name] = value
    return settings


def _diagnose(a: argparse.Namespace) -> None:
    from tad.show import show_diagnosis
    from tad.stages.evaluate import evaluate_file

    evaluate_file(
        a.detections, a.annotations, a.out / "map.json",
        protocol_name=a.protocol, tiou=_numbers("--tiou", a.tiou), split=a.split, diagnosis=a.out / "diagnosis.json",
    )  # fmt: skip
    for line in show_diagnosis(a.out / "diagnosis.json"):
        print(line)


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise TadError(f"{option} {text}: give numbers with commas between them, such as 0.3,0.5,0.7") from None


def _summarise(a: argparse.Namespace) -> Path:
    from tad.specs import SummariseStageSpec
    from tad.stages.summarise import summarise

    return summarise(a.scores_in, a.detections, a.annotations, a.out, spec=SummariseStageSpec.parse(a.spec))


def _import_checkpoint(a: argparse.Namespace) -> Path:
    from tad.importing import import_model

    names = ("run", "config", "detector", "variant", "features", "feature_dim", "classes", "annotations", "weights")
    return import_model(a.checkpoint, a.out, **{name: getattr(a, name) for name in names})


_weights, _features = cli_data.weights, cli_data.features
_compare, _table, _sweep, _suggest = cli_runs.compare, cli_runs.table, cli_runs.sweep, cli_runs.suggest
_apply = cli_runs.apply


def _show(a: argparse.Namespace) -> None:
    from tad.show import show

    for line in show(a.run, config=a.config):
        print(line)


def _why(a: argparse.Namespace) -> None:
    from tad.why import why

    for line in why(a.target, config=a.config):
        print(line)


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 on what the user can fix (one line on standard error), 130 when interrupted."""
    a = build_parser().parse_args(argv)
    from tad.progress import setup_logging

    setup_logging(verbose=a.verbose)
    # Read when OpenMP starts. By default its threads spin while they wait, which on cores that are shared with other
    # jobs makes a training step 12 times slower (measured: 2 threads, load 6).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if getattr(a, "threads", 0):
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[name] = str(a.threads)
    try:
        globals()[f"_{a.command.replace('-', '_')}"](a)
    except TadError as error:
        print(f"tad {a.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `tad show demo | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"tad {a.command}: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"tad {a.command}: interrupted; what was finished is kept", file=sys.stderr)
        return INTERRUPTED
    return 0
