"""Exports made by the packages of annotation tools are read, and these packages read what `tad` writes.

The packages (srt, webvtt-py, pympi-ling, openpyxl, ndx-ethogram, boris-behav-obs, label-studio-sdk) are in their own
environment, because some want other versions of what `tad` needs. TAD_LABEL_TOOLS names its Python; without it, or
without one of the packages, tests are skipped.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from label_tools_script import MAKERS, READERS, ROWS

from tad.annotations.table import Instance, Table, Video
from tad.datasets._formats.table import FORMATS, read, recognise, write

PYTHON = os.environ.get("TAD_LABEL_TOOLS", "")
pytestmark = [pytest.mark.wide, pytest.mark.skipif(not PYTHON, reason="TAD_LABEL_TOOLS names no Python with the tools")]


def call(action: str, tool: str, path: Path) -> Any:
    script = Path(__file__).with_name("label_tools_script.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [PYTHON, str(script), action, tool, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    if "missing" in answer:
        pytest.skip(f"{answer['missing']} is not installed there")
    return answer["result"]


@pytest.mark.parametrize("tool", MAKERS)
def test_an_export_of_the_tool_is_read(tmp_path: Path, tool: str) -> None:
    call("make", tool, tmp_path)
    (path,) = tmp_path.iterdir()
    assert recognise(path) == tool
    (instances,) = [video.instances for video_id, video in read(path).videos.items() if video_id == "clip"]
    assert [(i.start, i.end, i.label) for i in instances] == ROWS


@pytest.mark.parametrize("tool", READERS)
def test_the_tool_reads_what_is_written(tmp_path: Path, tool: str) -> None:
    table = Table("own", (), {"clip": Video("", 11.0, tuple(Instance(*row) for row in ROWS), rate=25.0)})
    (path,) = write(table, tmp_path / f"clip{FORMATS[tool].suffix}", tool=tool, files={"clip": Path("clip.mp4")})
    assert call("read", tool, path) == [list(row) for row in ROWS]
