"""The table of stages: a row declares everything about a stage except its settings class and its function.

The command line, the configuration, `tad why` and the lists of stages by output are derived from it. It imports
neither torch nor pydantic, so `tad --help` and the rules can read it cheaply.
"""

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tad.settings.base import StageSpec


class Argument(NamedTuple):
    """One argument of a command: its name (`features`, `--model`), its help, and further keywords of argparse."""

    name: str
    help: str
    options: Mapping[str, Any]


def argument(name: str, meaning: str, **options: Any) -> Argument:
    """Declare an argument of any kind."""
    return Argument(name, meaning, options)


def text(name: str, meaning: str, **options: Any) -> Argument:
    """Declare a text argument, empty by default."""
    return Argument(name, meaning, {"default": "", **options})


def path(name: str, meaning: str, **options: Any) -> Argument:
    """Declare a required file or folder; several with `nargs`."""
    required = {"required": True} if name.startswith("-") else {}
    return Argument(name, meaning, {"type": Path, **required, **options})


def path_or_none(name: str, meaning: str, **options: Any) -> Argument:
    """Declare an optional file or folder. With `nargs="?"` the option may stand without a value, as rules need it."""
    return Argument(name, meaning, {"type": Path, **options})


class Stage(NamedTuple):
    """The declaration of a stage: a command, a rule and a function of the same name.

    Attributes:
        name: one word; the function is `tad.stages.<name>.<name>`.
        help: one line for `tad --help`: input → output.
        spec: name of its settings class in `tad.settings.stages.<name>`.
        output: the file that it writes below `results/`. Its wildcards say what the stage is run for: a dataset, a
            feature set of a dataset, or a run.
        arguments: inputs and options besides `--spec`, `--out`, `--threads` and `--device`. Each is passed to the
            function's parameter of the same name.
        device: whether it computes on a device and has `--device`.
        needs_spec: whether `--spec` is required.
    """

    name: str
    help: str
    spec: str
    output: str
    arguments: tuple[Argument, ...]
    device: bool = False
    needs_spec: bool = True

    @property
    def wildcards(self) -> set[str]:
        """Return the names in braces in `output`."""
        return set(re.findall(r"{(\w+)}", self.output))

    def spec_class(self) -> type["StageSpec"]:
        """Import its settings class."""
        spec: type[StageSpec] = getattr(import_module(f"tad.settings.stages.{self.name}"), self.spec)
        return spec

    def function(self) -> Callable[..., Path]:
        """Import its function, which may import torch."""
        function: Callable[..., Path] = getattr(import_module(f"tad.stages.{self.name}"), self.name)
        return function


INDEX = "features/{dataset}/{features}.h5"
TABLES = ("annotate", "check")  # stages that write an annotation table: check, after probe, for runs that decode videos
ANNOTATIONS = path("--annotations", "table written by annotate or check")
FEATURES_IN = path("features", "index written by merge, index, convert or join")
ENCODER = path_or_none("--encoder", "with adapters: weights of their encoder, file or folder", nargs="?")
VIDEOS = path("--videos", "video folder")

MOMENTS = ("start", "middle", "end")
ON_INVALID = ("error", "drop", "clip", "keep")

# fmt: off
_ROWS = (
    Stage("annotate", "read and check annotation files", "AnnotateSpec", "annotations/{dataset}.json", (
        path("source", "file or folder of the data set"),
    )),
    Stage("probe", "decode videos once: frame counts, times, damage", "ProbeSpec",
          "videos/{dataset}/{shard}.json", (
        path("videos", "video folder"),
        argument("--shard", "part of the videos, K-of-N, such as 00-of-04", required=True),
    )),
    Stage("check", "compare annotated times with the decoded videos", "CheckSpec",
          "annotations/{dataset}.checked.json", (
        path("annotations", "table written by annotate"),
        path("--manifests", "manifest shards", nargs="+"),
        path("--videos", "video folder, in which the files of missing videos are looked for"),
    )),
    Stage("pretrain", "train a clip encoder on the train split (TSP)", "PretrainSpec",
          "features/{dataset}/{features}/backbone.safetensors", (
        path("annotations", "table written by annotate or check"),
        path("--manifests", "manifest shards", nargs="+"),
        path("--videos", "video folder", dest="videos_folder", metavar="VIDEOS"),
    ), device=True),
    Stage("extract", "compute features of a shard", "ExtractSpec", "features/{dataset}/{features}/{shard}.h5", (
        path("manifest", "manifest shard written by probe"),
        path_or_none("--annotations", "table written by check; with on_damaged: error, videos without a file are an"
                     " error before anything is extracted"),
        VIDEOS,
        path("--weights", "weights of the backbone: file or folder"),
    ), device=True),
    Stage("merge", "merge feature shards into one index", "MergeSpec", INDEX, (
        path("shards", "shards written by extract", nargs="+"),
        path("--manifests", "manifest shards: the videos with a file", nargs="+"),
        path_or_none("--annotations", "table written by check, which lists the videos without a file"),
    )),
    Stage("index", "record frame locations, for training on frames", "IndexSpec", INDEX, (
        path("manifests", "manifest shards", nargs="+"),
        path_or_none("--annotations", "table written by check, which lists the videos without a file"),
        VIDEOS,
    )),
    Stage("convert", "import published features", "ConvertSpec", INDEX, (
        path("source", "folder of feature files, or one .h5 file"),
        path("--annotations", "table written by annotate: videos and durations"),
    )),
    Stage("join", "join feature sets of the same videos side by side", "JoinSpec", INDEX, (
        path("parts_in", "indices written by merge or convert, in the order of the channels", nargs="+"),
    )),
    Stage("encode", "compute features with the adapted encoder of a run", "EncodeSpec", INDEX, (
        path("frames", "index of frames, written by index"),
        path("--model", "model with adapters, written by train"),
        ENCODER,
    ), device=True),
    Stage("train", "train a detector", "TrainStageSpec", "{run}/model.safetensors", (
        FEATURES_IN,
        ANNOTATIONS,
        path_or_none("--teachers", "with `distill`: the teachers' models", nargs="*", default=[]),
        path_or_none("--teacher-features", "with `distill`: the index of each teacher", nargs="*", default=[]),
        path_or_none("--start", "weights of the backbone that a detector on frames starts from, or of the text encoder"
                     " of prompt", nargs="?"),
        ENCODER,
        argument("--devices", "GPUs (with --device cpu: processes) that share each batch", type=int, default=1),
    ), device=True),
    Stage("detect", "apply a detector: candidates before suppression", "DetectStageSpec", "{run}/candidates.h5", (
        FEATURES_IN,
        path("--model", "model written by train"),
        path_or_none("--fused-model", "model of the run in detect.fuse", nargs="?"),
        path_or_none("--fused-features", "index of that run", nargs="?"),
        ENCODER,
        ANNOTATIONS,
    ), device=True),
    Stage("classify", "score the classes of whole videos", "ClassifyStageSpec",
          "{run}/video_scores.json", (FEATURES_IN, ANNOTATIONS), device=True),
    Stage("suppress", "suppress candidates (NMS): detections", "SuppressStageSpec", "{run}/detections.json", (
        path("candidates", "candidates written by detect"),
        path_or_none("--scores", "with `external`: class scores of whole videos", nargs="?"),
    ), device=True),
    Stage("evaluate", "score detections: map.json", "EvaluateStageSpec", "{run}/map.json", (
        path("detections", "detections written by suppress, or any results file in ActivityNet's format"),
        path("--annotations", "table written by annotate; with --protocol also ActivityNet's JSON, a CSV file or"
             " THUMOS'14's folder"),
        path_or_none("--model", "model whose seed, epoch rule and recipe are recorded in map.json"),
        path_or_none("--figure", "PNG to write: timeline of one video"),
        path_or_none("--diagnosis",
                     "JSON file to write: kinds of errors, hard instances, calibration; figures beside it"),
        text("--protocol", "evaluation protocol, for any results file (instead of --spec)"),
        text("--tiou", "tIoU thresholds, such as 0.3,0.5,0.7 (default: the protocol's)"),
        text("--tolerances", "for protocols of moments: frames or seconds, such as 1f,2f or 0.5s (default: the"
             " protocol's)"),
        text("--moment", "for protocols of moments: the time of segments that is scored", choices=MOMENTS),
        text("--split", "train, val or test (default: the split of the detected videos)"),
        text("--measures", "further measures: proposals, frames, segmentation, unseen"),
        argument("--frame-rate", "frames per second for frames and segmentation (usually 10)", type=float),
        argument("--frame-score", "for segmentation: detections up to this score are ignored", type=float),
        text("--background", "for segmentation: labels that are not actions, such as background or SIL"),
        text("--on-invalid", "with --protocol, invalid instances: error (default, except those the protocol counts),"
             " drop, clip at the ends of the video, keep", choices=ON_INVALID),
        path_or_none("--nouns", "with --protocol epic-action: detections of nouns, paired with those of verbs"),
        argument("--pair-tiou", "with --nouns: minimum tIoU of a verb and a noun", type=float, default=0.5),
        path_or_none("--submission", "with --protocol epic-action: submission file to write"),
        text("--splits", "with --protocol: meaning of the file's subset names, such as Dev=val,unlabelled="),
    ), needs_spec=False),
    Stage("page", "write an offline page: player, errors, editor of labels", "PageStageSpec", "{run}/page", (
        path("detections", "detections written by suppress, of each run", nargs="+"),
        ANNOTATIONS,
        path("--scores", "map.json of each run, in the same order", nargs="+"),
        path_or_none("--videos", "video folder; without it the page has no player", nargs="?"),
    )),
    Stage("summarise", "combine the scores of several seeds: map.json", "SummariseStageSpec", "{run}/map.json", (
        path("scores", "map.json of each seed", nargs="+"),
        path("--detections", "detections of each seed, in the same order", nargs="+"),
        ANNOTATIONS,
    )),
)
# fmt: on

STAGES = {stage.name: stage for stage in _ROWS}
FEATURES = tuple(stage.name for stage in _ROWS if stage.output == INDEX)
"""The stages that write an index of features: extracted, of frames, published or joined."""
OF_A_RUN = tuple(stage.name for stage in _ROWS if stage.wildcards == {"run"})
