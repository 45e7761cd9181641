"""The table of commands that are not stages. A row declares a command, its arguments and the function that it calls."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tad.settings.stage_table import ON_INVALID, Argument, argument, path, path_or_none, text

GROUPS = {
    "run": "run: apply a trained model, find better settings",
    "look": "look: settings, scores and reasons",
    "share": "share: weights, features and models",
}


class Command(NamedTuple):
    """The declaration of a command.

    Attributes:
        name: the word after `tad`, or after the name of a command with actions.
        help: one line for `tad --help`.
        call: `module:function` in the package `tad`. Every argument is passed by name; the lines it yields are printed.
        arguments: the arguments; each is a parameter of the function.
        group: a key of `GROUPS`.
        device: whether the command has `--device`.
        actions: subcommands, instead of `call` and `arguments`.
        stages: whether it runs stages, whose log lines about each file are not for a terminal.
        passes: the parameter that receives all words after the command unparsed, instead of `arguments`.
    """

    name: str
    help: str
    call: str = ""
    arguments: tuple[Argument, ...] = ()
    group: str = ""
    device: bool = False
    actions: tuple["Command", ...] = ()
    passes: str = ""
    stages: bool = False

    def function(self) -> Callable[..., Any]:
        """Import the function that the command calls."""
        module, _, name = self.call.partition(":")
        function: Callable[..., Any] = getattr(import_module(f"tad.{module}"), name)
        return function


CONFIG = argument("--config", "the configuration (default: config.yaml)", type=Path, default=Path("config.yaml"))
RUN = argument("run", "name of a run")
TRAINED = argument("run", "name of a trained run")
INDEX = path("index", "features: an index written by merge, convert or join, or a shard")

# fmt: off
WEIGHTS = (
    Command("list", "list every published file, its path and whether its checksum matches",
            "commands.data:list_weights", (
        argument("backbones", "only files of these backbones", nargs="*", metavar="backbone"),
        path("--root", "folder with one folder per backbone", required=False, default=Path("data/weights")),
        argument("--json", "print all facts as JSON", action="store_true", dest="as_json"),
    )),
    Command("fetch", "download weights, resume interrupted downloads, verify checksums", "weights.fetch:fetch", (
        argument("names", "a file's name, or a backbone's for what its defaults need", nargs="+", metavar="name"),
        path_or_none("--to", "target folder (default: data/weights/<backbone>)"),
    )),
    Command("verify", "verify files against published and pinned checksums", "commands.data:verify_weights", (
        path("places", "files or folders (default: data/weights/*)", nargs="*", metavar="place"),
    )),
)

FEATURES = (
    Command("show", "print one line per video (rows, times, norms, NaN, damage), or draw one video",
            "commands.data:show_features", (
        INDEX,
        argument("--json", "print the table as JSON", action="store_true", dest="as_json"),
        text("--video", "the video to draw with --figure"),
        path_or_none("--figure", "PNG to write: similarity of every two moments of --video"),
        path_or_none("--annotations", "table written by annotate: instances to draw into the figure"),
    )),
    Command("export", "write features with their timing for other tools (convert reads them back)",
            "commands.data:export_features", (
        INDEX,
        path("--to", "target folder, new or of an earlier export"),
        argument("--format", "format of the files", required=True, choices=("npy", "npz", "pt", "h5"),
                 dest="file_format"),
        argument("--dtype", "type of the numbers (default: as stored)", default="stored",
                 choices=("stored", "float32", "float16")),
        argument("--on-nan", "videos that contain NaN", default="error", choices=("error", "keep", "exclude")),
    )),
)

_ROWS = (
    Command("new", "write config.yaml for your own videos and labels, and check them", "commands.new:new", (
        argument("name", "name of the new data set and run"),
        path("--videos", "folder of the videos"),
        path("--labels", "file or folder of the labels: CSV, spreadsheet, or the export of an annotation tool"),
        text("--tool", "format of the labels (default: recognised)"),
        argument("--columns", "columns of a CSV file that are not recognised, such as video=Clip label=Move", nargs="+",
                 default=(), metavar="OURS=THEIRS"),
        text("--unit", "unit of the times (default: recognised); clock only in CSV files and spreadsheets",
             choices=("seconds", "milliseconds", "frames", "clock")),
        argument("--rate", "frames per second of labels in frames (default: that of the videos)", type=float,
                 default=0.0),
        argument("--points", "seconds around labels that are points in time (default: refuse them)", type=float,
                 default=0.0),
        path_or_none("--split-file", "CSV with the columns video and split"),
        argument("--test-share", "share of the videos (0 to 1) drawn for testing if the labels have no split",
                 type=float, default=0.2),
        text("--on-invalid", "labels with impossible times: stop (error), leave them out, or cut them at the video's"
             " ends", default="error", choices=("error", "drop", "clip")),
        text("--backbone", "encoder of the videos (default: the best whose weights are here)"),
        argument("--offline", "do not try to download weights", action="store_true"),
        argument("--no-check", "do not decode the videos now", action="store_false", dest="check_videos"),
        path("--out", "file to write", required=False, default=Path("config.yaml")),
    ), "run"),
    Command("run", "run the workflow of this folder's config.yaml; further arguments are Snakemake's",
            "workflow.run:run", group="run", passes="words"),
    Command("apply", "detect actions in your videos with a trained run", "commands.apply:apply", (
        argument("run", "name of a trained run, or the folder of a released one (tad export)"),
        path("videos", "videos, or folders of videos", nargs="+", metavar="video"),
        path("--out", "file or folder to write"),
        text("--to", "json (ActivityNet's format, the default), csv (labels), srt, vtt, eaf (ELAN), boris, chapters"
             " (FFmpeg), soccernet, page (HTML, with drafts to correct), overlay (MP4); several with commas",
             default="json"),
        argument("--score", "leave out detections with a lower score, 0 to 1 (default: that of the run's best F1; only"
                 " json: all)", type=float),
        argument("--precision", "choose the threshold so that this share of detections (0 to 1) is right",
                 type=float),
        argument("--confidence", "probability (0 to 1) that the share of --precision holds", type=float,
                 default=0.9),
        text("--every", "look at files that grow again after this time, in seconds, such as 5s (default: once)"),
        CONFIG,
    ), "run", device=True, stages=True),
    Command("stream", "detect actions while they happen: a file, a camera, a network stream or standard input",
            "commands.stream:stream", (
        TRAINED,
        argument("source", "a video, camera or a device file, a URL such as rtsp://…, or - for standard input",
                 nargs="?", default=""),
        argument("--choose", "instead: choose the score on videos that are not the test videos", action="store_true"),
        text("--on", "videos of --choose; train is optimistic, which the output states", choices=("held-out", "train"),
             default="held-out"),
        argument("--score", "emit instances with higher scores, 0 to 1 (default: the one that --choose found)",
                 type=float),
        argument("--tiou", "emit no instance that overlaps an emitted one of its class with this tIoU (0 to 1) or more",
                 type=float, default=0.3),
        text("--name", "name of the stream in the lines (default: from the source)"),
        argument("--retries", "attempts in a row to open a broken camera or network stream again", type=int, default=5),
        CONFIG,
    ), "run", device=True),
    Command("next", "rank unlabelled videos by what labels of them would teach, and draft labels of the best",
            "commands.next_labels:next_labels", (
        TRAINED,
        path("videos", "videos, or folders of videos (default: those of the data set without labels)", nargs="*",
             metavar="video"),
        path("--out", "folder to write: rankings, drafts as CSV and as a page"),
        argument("--top", "number of videos whose detections become drafts of labels", type=int, default=10),
        CONFIG,
    ), "run", device=True, stages=True),
    Command("suggest", "suggest settings that fit the lengths of a data set's actions", "commands.suggest:suggest",
            (RUN, CONFIG), "run"),
    Command("sweep", "compare suppression settings on held-out videos",
            "commands.sweep:sweep", (
        TRAINED,
        argument("changes", "such as nms.sigma=0.3,0.5,0.7; several are combined", nargs="+", metavar="change"),
        argument("--on", "videos to score on; train is optimistic and test peeks, which the output states",
                 choices=("held-out", "train", "test"), default="held-out"),
        CONFIG,
    ), "run", device=True, stages=True),
    Command("zoo", "list the ready runs of the papers: inputs, missing files, published scores",
            "commands.zoo:zoo", (
        argument("names", "runs or data sets (default: all)", nargs="*", metavar="name"),
        argument("--format", "output format", choices=("text", "json"), default="text"),
        CONFIG,
    ), "look"),
    Command("show", "print a run's settings and where each comes from", "commands.show:show", (RUN, CONFIG), "look"),
    Command("schema", "print the JSON schema of config.yaml, for completion and checks in editors",
            "commands.schema:schema", (
        path_or_none("--out", "file to write, such as config.schema.json (default: print)"),
    ), "look"),
    Command("completion", "print what makes a shell complete commands, options and runs",
            "commands.completion:script", (
        argument("shell", "the shell (default: bash)", choices=("bash", "zsh", "fish", "tcsh", "powershell"), nargs="?",
                 default="bash"),
    ), "look"),
    Command("why", "explain what would run for a target, and why", "workflow.why:why",
            (argument("targets", "names of runs, or files of the workflow", nargs="+", metavar="target"), CONFIG),
            "look"),
    Command("plan", "estimate what a run will take: videos, hours, GPU or CPU time, disk; measured on a small sample",
            "commands.plan:plan", (RUN, CONFIG), "look", device=True),
    Command("diagnose", "explain a score: kinds of errors, hard instances, calibration",
            "commands.stages:diagnose", (
        path("detections", "any results file in ActivityNet's format"),
        path("--annotations", "as for evaluate"),
        text("--protocol", "as for evaluate", required=True),
        text("--tiou", "as for evaluate"),
        text("--split", "as for evaluate"),
        text("--on-invalid", "as for evaluate", choices=ON_INVALID),
        text("--splits", "as for evaluate"),
        path("--out", "folder for map.json, diagnosis.json and four pictures"),
    ), "look"),
    Command("verify", "compare stored files with their checksums: damage, where, and how to recreate them",
            "commands.verify:verify", (
        path("places", "files or folders (default: results)", nargs="*", metavar="place"),
    ), "look"),
    Command("doctor", "check the installation, the machine and this folder: what would fail, and what to do",
            "commands.doctor:doctor", (
        argument("--json", "print the findings as JSON", action="store_true", dest="as_json"),
        CONFIG,
    ), "look"),
    Command("compare", "compare two runs: difference of scores with a bootstrap interval", "commands.compare:compare", (
        argument("first", "name of a run", metavar="run"),
        argument("second", "name of another run", metavar="run"),
        argument("--seeds", "number of seeds of both runs, if --config changed it; 0: as in their rows", type=int,
                 default=0),
        CONFIG,
    ), "look"),
    Command("table", "print a table of scores with their intervals", "commands.show:show_table", (
        argument("runs", "names of runs, or map.json files (default: all runs that have a score)", nargs="*",
                 metavar="run"),
        text("--format", "markdown, csv or html (default: by the extension of --out, else markdown)"),
        path_or_none("--out", "file to write (default: print)"),
        CONFIG,
    ), "look"),
    Command("export", "write a run as a folder for other machines, with its detector as ONNX for other programs",
            "commands.release:export", (
        TRAINED,
        path("--out", "folder to write, new or of an earlier export"),
        argument("--no-onnx", "leave out detector.onnx", action="store_false", dest="onnx"),
        CONFIG,
    ), "share"),
    Command("features", "show or export stored features", group="share", actions=FEATURES),
    Command("weights", "list, fetch or verify published weights of backbones", group="share", actions=WEIGHTS),
    Command("import-checkpoint", "convert a published .pth.tar into a run's model, without running code from it",
            "commands.import_checkpoint:import_model", (
        path("checkpoint", "published file, .pth.tar or .pth"),
        path("--out", "file to write, usually results/<run>/model.safetensors"),
        text("--run", "run whose settings are used (or give --detector, --for, --features, --feature-dim)"),
        text("--detector", "name of a detector"),
        text("--for", "data set whose settings of the detector are used", default="thumos14", dest="variant"),
        text("--settings", "settings of the detector that differ from these, as YAML or JSON text"),
        text("--features", "name of the feature set"),
        argument("--feature-dim", "channels of the features", type=int, default=0),
        argument("--classes", "expected number of classes, as a check", type=int, default=0),
        path_or_none("--annotations", "table written by annotate: labels and their order"),
        argument("--weights", "averaged (published) or plain weights", choices=("ema", "plain"), default="ema"),
        CONFIG,
    ), "share"),
)
# fmt: on

COMMANDS = {command.name: command for command in _ROWS}
