"""Labels state the unit of their times, so that a setting which was meant for other labels cannot change it."""

from pathlib import Path

import pytest
from table_tools import outcome, read_as, segments, write

from tad.annotations.table import Instance, Table, Video
from tad.api.detections import Detection, Detections
from tad.datasets._formats.table import FORMATS
from tad.datasets._formats.table import write as write_labels

ROWS = [("a", 1.0, 2.0, "run"), ("b", 3.0, 4.0, "run")]


def labels_by(writer: str, path: Path) -> list[tuple[str, float, float, str]]:
    """Write labels of two videos as tad does; return what they say."""
    if writer == "to_csv":
        Detections(tuple(Detection(*row, 0.5) for row in ROWS), {"a": 9.0, "b": 9.0}, {}).to_csv(path)
        return ROWS
    moments = writer == "moments"
    rows = [(v, start, start if moments else end, label) for v, start, end, label in ROWS]
    videos = {v: Video("train", 9.0, (Instance(start, end, label),)) for v, start, end, label in rows}
    table = Table("own", ("run",), videos, kind="moments" if moments else "segments")
    write_labels(table, path, tool="csv")
    return rows


@pytest.mark.parametrize("writer", ["to_csv", "write", "moments"])
@pytest.mark.parametrize(
    ("name", "unit"),
    [("csv", unit) for unit in ("", "seconds", "milliseconds", "frames", "clock")]
    + [("annotation_tool", unit) for unit in ("", "seconds", "milliseconds", "frames")],
)
def test_a_setting_left_from_other_labels_cannot_change_ours(tmp_path: Path, name: str, unit: str, writer: str) -> None:
    path = tmp_path / "ours.csv"
    right = labels_by(writer, path)
    table, said = outcome(lambda: read_as(name, path, unit=unit, split="train"))
    if unit in ("milliseconds", "frames"):
        assert "ours.csv: line 2: the column 'unit' says seconds, but the setting unit says" in said
        assert f"{unit}; remove `unit` from the settings of the data set" in said
    else:
        assert said == ""
        assert segments(table) == right
        assert not any(video.in_frames for video in table.videos.values())


@pytest.mark.parametrize(
    ("text", "found"),
    [("start,end,unit\na,25,50,frames", (25.0, 50.0)), ("start,end,Unit\na,1500,2500,ms", (1.5, 2.5)),
     ("start,end,unit\na,1,2,kitchen", (1.0, 2.0)), ("start,end,unit\na,1,2,", (1.0, 2.0)),
     ("start,end,unit\na,0:01,0:02,clock", (1.0, 2.0)), ("start_ms,end_ms,unit\na,1500,2500,milliseconds", (1.5, 2.5)),
     ("start_ms,end_ms,unit\na,1,2,s", "line 2: the column 'unit' says seconds, but 'start_ms' is a column of milli"),
     ("start,end,unit\na,1,2,s\na,3,4,frames", "line 2: the column 'unit' says seconds, and frames in line 3; conv")],
)  # fmt: skip
def test_a_column_may_state_the_unit(tmp_path: Path, text: str, found: tuple[float, float] | str) -> None:
    """Other words in a column of that name are about something else."""
    header, *lines = text.split("\n")
    text = "\n".join([f"label,video,{header}", *(f"run,{line}" for line in lines)])
    table, said = outcome(lambda: read_as("csv", write(tmp_path, text), split="train"))
    if isinstance(found, str):
        assert found in said
    else:
        assert (said, segments(table)) == ("", [("a", *found, "run")])


@pytest.mark.parametrize("tool", sorted(name for name, form in FORMATS.items() if form.unit and form.write))
def test_the_unit_of_a_tool_is_not_changed_by_a_setting(tmp_path: Path, tool: str) -> None:
    """Files whose format defines the unit: `unit` may repeat it, and is refused otherwise."""
    form = FORMATS[tool]
    path = tmp_path / f"a{form.suffix}"
    moments = tool == "soccernet"
    instance = Instance(1.0, 1.0 if moments else 2.0, "run")
    write_labels(Table("own", ("run",), {"a": Video("train", 9.0, (instance,))}), path, tool=tool)
    table, said = outcome(lambda: read_as("annotation_tool", path, split="train", unit="frames", tool=tool))
    assert table is None
    assert "the setting unit says frames; remove `unit` from the settings of the data set" in said
    same = form.unit if form.unit == "milliseconds" else "seconds"
    table = read_as("annotation_tool", path, split="train", unit=same, tool=tool)
    assert [row[1:] for row in segments(table)] == [(1.0, instance.end, "run")]
