"""`tad why` sums up many jobs, and shells complete commands, options and runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tad.commands.completion import rows_of, script
from tad.settings.config import Config
from tad.workflow import why as module
from tad.workflow.why import Job, why

CONFIG = """
datasets: {small: {format: csv, videos: videos, annotations: labels.csv}}
features: {clips: {backbone: r2plus1d_small}}
runs:
  kitchen: {dataset: small, features: clips, detector: mse}
  garden: {dataset: small, features: clips, detector: mse}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "videos").mkdir()
    for number in range(8):
        (tmp_path / "videos" / f"{number}.mp4").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_many_jobs_alike_are_one_entry(folder: Path) -> None:
    jobs = [
        Job("extract", [f"results/{k}.h5"], {"dataset": "small"}, f"Missing output files: results/{k}.h5; "
            f"Input files updated by another job: results/{k}.json, results/x.json")
        for k in range(16)
    ]  # fmt: skip
    jobs += [Job("train", ["results/m"], {}, "Missing output files: results/m")]
    assert list(module._explained(jobs, Config.read(Path("config.yaml")))) == [
        "extract would run for 16 files, first results/0.h5",
        "    because the file does not exist yet",
        "    because its input will be recreated",
        "train would run for results/m",
        "    because results/m does not exist yet",
    ]


def test_names_of_runs_are_targets_and_the_videos_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def planned(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        text = "rule probe:\n    output: results/videos/small/00-of-01.json\n    wildcards: dataset=small\n"
        text += "    reason: Missing output files: results/videos/small/00-of-01.json\n"
        return subprocess.CompletedProcess(command, 0, text, "")

    monkeypatch.setattr(module.subprocess, "run", planned)
    lines = list(why(["kitchen"]))
    assert "results/kitchen/map.json" in asked[0]
    assert lines[-1] == "1 job in all: probe 1 (8 videos to decode)"


def test_another_folder_s_configuration_is_planned_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in config.yaml are relative to its folder, and so are targets."""
    asked = []

    def planned(command: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        asked.append((command, how["cwd"]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", planned)
    monkeypatch.chdir(folder.parent)
    (folder / "mine.csv").touch()
    config = Path(folder.name, "config.yaml")
    assert list(why(["kitchen", "mine.csv"], config=config)) == ["kitchen mine.csv: up to date, nothing would run"]
    ((command, cwd),) = asked
    assert cwd == Path(folder.name)
    assert {"results/kitchen/map.json", "mine.csv"} <= set(command)
    assert "--configfile" not in command


def test_shells_complete_runs(folder: Path) -> None:
    assert rows_of("runs") == ["garden", "kitchen"]
    assert rows_of("runs", Path("absent.yaml")) == []
    assert "tad" in script("bash")[0]
    line = "tad show k"
    asks = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "IFS": "\013"}
    asks |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "out"), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    own = os.environ | asks | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-m", "tad"], env=own, cwd=folder, check=False, stdin=subprocess.DEVNULL)
    assert (folder / "out").read_text() == "kitchen"
