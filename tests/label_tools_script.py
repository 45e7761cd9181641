"""Make exports with annotation tools' own packages, and read with them what `tad` wrote. See test_label_tools.py.

This script runs in another environment, which has the packages but not `tad`. It prints one JSON object: tool → result.
"""

import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

BLANKS = ("boris.mpv", "boris.dialog", "matplotlib.backends.backend_qt")  # modules of BORIS that need a screen
ROWS = [(2.0, 4.0, "tennis swing"), (4.8, 7.0, "grüßen & <laufen>")]


def make_srt(folder: Path) -> None:
    import datetime

    import srt

    cues = [
        srt.Subtitle(k, datetime.timedelta(seconds=a), datetime.timedelta(seconds=b), label)
        for k, (a, b, label) in enumerate(ROWS, 1)
    ]
    (folder / "clip.srt").write_text(srt.compose(cues), encoding="utf-8")


def read_srt(path: Path) -> list[Any]:
    import srt

    cues = srt.parse(path.read_text(encoding="utf-8"))
    return [[cue.start.total_seconds(), cue.end.total_seconds(), cue.content] for cue in cues]


def make_vtt(folder: Path) -> None:
    import html

    import webvtt

    file = webvtt.WebVTT()
    for start, end, label in ROWS:
        file.captions.append(
            webvtt.Caption(f"00:00:{start:06.3f}", f"00:00:{end:06.3f}", html.escape(label, quote=False))
        )
    file.save(str(folder / "clip.vtt"))


def read_vtt(path: Path) -> list[Any]:
    import html

    import webvtt

    def seconds(text: str) -> float:
        hours, minutes, rest = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(rest)

    return [[seconds(cue.start), seconds(cue.end), html.unescape(cue.text)] for cue in webvtt.read(str(path))]


def make_eaf(folder: Path) -> None:
    import pympi

    file = pympi.Elan.Eaf()
    file.add_linked_file("file:///clips/clip.mp4", relpath="./clip.mp4")
    file.remove_tier("default")
    file.add_tier("action")
    for start, end, label in ROWS:
        file.add_annotation("action", round(1000 * start), round(1000 * end), label)
    file.to_file(str(folder / "clip.eaf"))


def read_eaf(path: Path) -> list[Any]:
    import pympi

    file = pympi.Elan.Eaf(str(path))
    (tier,) = file.get_tier_names()
    return sorted([a / 1000, b / 1000, label] for a, b, label, *_ in file.get_annotation_data_for_tier(tier))


def make_xlsx(folder: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in [("Filename", "Start (s)", "End (s)", "Action"), *(("clip.mp4", *row) for row in ROWS)]:
        book.active.append(list(row))
    book.save(folder / "clip.xlsx")


def make_nwb(folder: Path) -> None:
    from datetime import UTC, datetime

    from ndx_ethogram import EthogramBouts
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.image import ImageSeries

    file = NWBFile("session", "id", datetime(2026, 1, 1, tzinfo=UTC))
    video = ImageSeries(
        name="video",
        external_file=["clips/clip.mp4"],
        format="external",
        rate=25.0,
        starting_frame=[0],
        unit="n.a.",
        num_samples=275,
    )
    file.add_acquisition(video)
    bouts = EthogramBouts(name="bouts", description="behaviour", labeling_method="manual", source_video=video)
    for start, end, label in ROWS:
        bouts.add_row(start_time=start, stop_time=end, label=label)
    file.create_processing_module("behavior", "behaviour").add(bouts)
    with NWBHDF5IO(str(folder / "clip.nwb"), "w") as io:
        io.write(file)


def make_boris(folder: Path) -> None:
    """Aggregated and tabular events with the columns of BORIS' own code, written by the table writer that it uses."""
    import tablib

    head = ["Observation id", "Source", "Media duration (s)", "FPS (frame/s)", "Subject", "Behavior", "Behavior type"]
    source = ["obs", "player #1:clips/clip.mp4", "11.267", "30.090", "No focal subject"]
    data = tablib.Dataset(headers=[*head, "Start (s)", "Stop (s)", "Media file name"])
    for start, end, label in ROWS:
        data.append([*source, label, "STATE", start, end, "clips/clip.mp4"])
    (folder / "clip.tsv").write_bytes(data.export("tsv").encode())


def read_boris(path: Path) -> list[Any]:
    """Open the project with BORIS' own function; its modules for the screen are not needed and replaced by blanks."""

    class Blank(types.ModuleType):
        __path__: list[str] = []

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            if name == "sofile":  # the name of mpv's library, which BORIS compares with others
                return ""
            takes_all = {"__init__": lambda self, *_, **__: None, "__call__": lambda self, *_, **__: self}
            return type(name, (), {**takes_all, "__getattr__": lambda self, key: None})

    class Screen:
        """Finds blanks for the graphics libraries, and for BORIS' dialogues, which import them."""

        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if name.split(".")[0] in ("PyQt5", "PyQt6", "PySide6") or name.startswith(BLANKS):
                return importlib.util.spec_from_loader(name, self)  # type: ignore[arg-type]
            return None

        def create_module(self, spec: Any) -> Any:
            return Blank(spec.name)

        def exec_module(self, module: Any) -> None:
            pass

    sys.meta_path.insert(0, Screen())  # type: ignore[arg-type]
    found_package = importlib.util.find_spec("boris")
    if found_package is None:
        raise ModuleNotFoundError(name="boris")
    package = types.ModuleType("boris")
    package.__path__ = list(found_package.submodule_search_locations or [])  # without its __init__, which opens windows
    sys.modules["boris"] = package
    project_functions = importlib.import_module("boris.project_functions")

    _, _, project, message = project_functions.open_project_json(str(path))
    if "error" in project:
        return [project["error"], message]
    (observation,) = project["observations"].values()
    events = [[event[0], event[2]] for event in observation["events"]]
    kinds = {b["code"]: b["type"] for b in project["behaviors_conf"].values()}
    assert set(kinds.values()) == {"State event"}
    found = []
    for label in kinds:
        times = [float(time) for time, code in events if code == label]
        found += [[a, b, label] for a, b in zip(times[::2], times[1::2], strict=True)]
    return sorted(found)


def make_label_studio(folder: Path) -> None:
    """An export whose results are checked by the classes of label-studio-sdk."""
    from label_studio_sdk.label_interface import LabelInterface

    config = '<View><TimelineLabels name="tl" toName="v">' + "".join(
        f'<Label value="{label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}"/>'
        for *_, label in ROWS
    )
    interface = LabelInterface(config + '</TimelineLabels><Video name="v" value="$video" frameRate="25"/></View>')
    results = [
        {
            "id": str(k),
            "from_name": "tl",
            "to_name": "v",
            "type": "timelinelabels",
            "value": {"ranges": [{"start": round(25 * a), "end": round(25 * b)}], "timelinelabels": [label]},
        }
        for k, (a, b, label) in enumerate(ROWS)
    ]
    task = {
        "id": 1,
        "data": {"video": "/data/upload/1/0123abcd-clip.mp4", "fps": 25},
        "file_upload": "0123abcd-clip.mp4",
    }
    annotation = {"id": 1, "result": results, "was_cancelled": False}
    assert interface.validate_annotation(annotation), "label-studio-sdk refuses the annotation"
    (folder / "clip.json").write_text(json.dumps([{**task, "annotations": [annotation]}]))


def read_csv(path: Path) -> list[Any]:
    import pandas

    frame = pandas.read_csv(path)
    assert set(frame["video"]) == {"clip"}
    return [[float(start), float(end), str(label)] for start, end, label in frame[["start", "end", "label"]].values]


MAKERS: dict[str, Callable[[Path], None]] = {
    "srt": make_srt, "vtt": make_vtt, "elan": make_eaf, "csv": make_xlsx, "nwb": make_nwb, "boris_table": make_boris,
    "label_studio": make_label_studio,
}  # fmt: skip
READERS: dict[str, Callable[[Path], list[Any]]] = {
    "srt": read_srt, "vtt": read_vtt, "elan": read_eaf, "boris": read_boris, "csv": read_csv,
}  # fmt: skip


def main() -> None:
    """Call `make TOOL FOLDER` or `read TOOL FILE`; print the result, or which package is missing, as JSON."""
    action, tool, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    try:
        result = MAKERS[tool](path) if action == "make" else READERS[tool](path)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": str(error.name)}))
        return
    print(json.dumps({"result": result}))


if __name__ == "__main__":
    main()
