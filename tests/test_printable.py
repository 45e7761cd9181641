"""Text from files in messages, logs and tables: shown as it is, never obeyed by a terminal, browser or spreadsheet."""

import csv
import io
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tad.api.detections import Detection, Detections
from tad.commands.cli import main
from tad.core.errors import TadError
from tad.core.limits import MESSAGE
from tad.core.printable import (
    FORMULA,
    HIDDEN,
    csv_cell,
    csv_text,
    figure_text,
    markdown_cell,
    one_line,
    plural,
    printable,
)
from tad.core.progress import setup_logging
from tad.datasets._csv import read_sheet
from tad.table.page import page
from tad.table.scores import Score, blocks
from tad.table.text import comma_separated, markdown

HOSTILE = (
    "=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "<script>alert(1)</script>", "a|b", "a\nb",
    "[x](javascript:alert(1))", "![x](http://x.y/z.png)", "`code`", "\x1b[2J\x1b]0;title\x07", "\u202egnp.exe",
    "a\u200bb", "\ud800", "<!-- x -->", "**x**", "\\|", "\x9b31m", "http://x.y",
)  # fmt: skip


def score(text: str, **changes: object) -> Score:
    """Return a score with this text in every field that may hold any."""
    facts = {"run": text, "dataset": text, "split": text, "features": text, "detector": text, "face": text,
             "average_mAP": 0.5, "mAP": {"0.5": 0.5}, "epoch_rule": text, "external_scores": text,
             "protocol": {"name": text, "complete": True}, "videos": {"evaluated": 1, "in_split": 1}}  # fmt: skip
    return Score.model_validate({**facts, **changes})


@given(st.text(max_size=2000))
def test_a_line_is_one_printable_line_of_bounded_length(text: str) -> None:
    line = one_line(text)
    assert len(line) <= MESSAGE
    assert len(line.splitlines()) <= 1
    assert not HIDDEN.search(line)
    assert one_line(line) == line


def test_a_long_message_keeps_its_begin_and_its_remedy() -> None:
    said = str(TadError("results/a.json: label '" + "x" * 100_000 + "' is not known; correct the label"))
    assert said.startswith("results/a.json: label 'xxx")
    assert said.endswith("xxx' is not known; correct the label")
    assert len(said) == MESSAGE


def test_usual_names_stay_as_they_are() -> None:
    for text in ("épée ÄÖ 跳跃 🏃", "a-b_c.d", "100 % (x)"):
        assert printable(text) == one_line(text) == csv_cell(text) == figure_text(text) == text
    assert markdown_cell("demo_salads, 5 % (a-b)") == "demo_salads, 5 % (a-b)"


@pytest.mark.parametrize("text", HOSTILE)
def test_tables_show_hostile_names_and_run_nothing(text: str) -> None:
    found = blocks([score(text)])
    rows = markdown(found).splitlines()
    table = [line for line in rows if line.startswith("|")]
    assert len(table) == 3
    assert len({len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in table}) == 1
    shown = markdown(found)
    assert not HIDDEN.search(shown)
    assert not re.search(r"<(?!!-- -->)", shown)
    assert not re.search(r"(?<!\\)[\[\]`]", shown)
    cells = list(csv.reader(io.StringIO(comma_separated(found))))
    assert len(cells) == 2
    assert not any(cell.startswith((*FORMULA, "\t", "\r")) for cell in cells[1])
    html = page(found)
    assert not HIDDEN.search(html)
    assert "<script" not in html


def test_thresholds_are_numbers() -> None:
    with pytest.raises(ValueError, match="tIoU threshold"):
        score("a", mAP={"<b>": 0.5})


@pytest.mark.parametrize("text", ["=1+1", "-dash_id", "+x", "@y", "plain", "'quoted'", "'=x", "`x`", "“x”", '"x"'])
def test_own_csv_files_come_back_as_they_were(text: str, tmp_path: Path) -> None:
    assert csv_text(csv_cell(text)) == text
    path = Detections((Detection(text, 0.0, 1.0, text, 0.5),), {text: 1.0}, {}).to_csv(tmp_path / "a.csv")
    assert not any(line.startswith(FORMULA) for line in path.read_text().splitlines())
    assert read_sheet(path).rows[0][1][0] == text


def test_the_log_and_the_terminal_get_escaped_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    logging.getLogger("tad.test").warning("video %s", "\x1b[31mred\n\u202e")
    assert "video \\x1b[31mred \\u202e" in capsys.readouterr().err
    path = tmp_path / "a\x1b[31m.json"
    assert main(["evaluate", str(path), "--annotations", str(path), "--protocol", "plain", "--out", "x.json"]) == 1
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "a\\x1b[31m.json" in said


def test_formulas_in_figures_are_text() -> None:
    from matplotlib.figure import Figure

    def draw(text: str) -> bytes:
        figure, file = Figure(), io.BytesIO()
        figure.suptitle(text)
        figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()

    with pytest.raises(ValueError, match="Parse"):  # an error of matplotlib's formulas
        draw(r"$\frac{$ $x_{$")
    assert draw(figure_text(r"$\frac{$ $x_{$")) != draw("")


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (1, ("video",), "1 video"),
        (0, ("video",), "0 videos"),
        (2, ("class",), "2 classes"),
        (3, ("query",), "3 queries"),
        (2, ("day",), "2 days"),
        (2, ("box",), "2 boxes"),
        (1, ("video is", "videos are"), "1 video is"),
        (2, ("video is", "videos are"), "2 videos are"),
    ],
)
def test_a_number_has_its_words(count: int, words: tuple[str, ...], said: str) -> None:
    assert plural(count, *words) == said
