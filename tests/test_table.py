"""`tad table`: what may stand side by side does, in Markdown, CSV and HTML, and what is no score is one line."""

import csv
import io
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from config_tools import copy_config

from tad.commands.cli import main
from tad.core.errors import TadError
from tad.core.files import write_json
from tad.table import render, table
from tad.table.scores import read_score

ROOT = Path(__file__).parents[1]
TIOU = ("0.3", "0.5", "0.7")


def score(run: str, average: float = 0.5, **changes: Any) -> dict[str, Any]:
    """A map.json of one seed, as evaluate writes it, with an interval of ± 5 points."""
    spread = dict(zip(TIOU, (min(average + 0.1, 1), average, max(average - 0.1, 0)), strict=True))
    return {
        **{"run": run, "dataset": "salads", "split": "test", "features": "scores", "detector": "mse", "face": "parity"},
        **{"average_mAP": average, "mAP": spread, "seed": 0, "epoch_rule": "last epoch"},
        "interval": {
            "level": 0.95,
            "average_mAP": [average - 0.05, average + 0.05],
            "mAP": {tiou: [value - 0.06, value + 0.06] for tiou, value in spread.items()},
        },
        "protocol": {"name": "activitynet", "complete": True, "summary": "…"},
        "videos": {"evaluated": 10, "in_split": 10, "without_instances": 0},
        "missing_videos": {"policy": "count", "videos": {}, "instances": 0},
        **{"excluded": {}, "instances": 117, "classes": 9, "external_scores": False, "hashes": {"recipe": "x"}},
    } | changes


def seeds(run: str, average: float = 0.5, **changes: Any) -> dict[str, Any]:
    """The same of five seeds, as summarise writes it."""
    document = score(run, average, **changes)
    del document["seed"]
    deviation = {"average_mAP": 0.0123, "mAP": dict.fromkeys(TIOU, 0.02)}
    return document | {"seeds": [0, 1, 2, 3, 4], "std": deviation}


def write(folder: Path, *documents: dict[str, Any]) -> list[str]:
    return [str(write_json(folder / d["run"] / "map.json", d)) for d in documents]


def test_runs_that_can_be_compared_share_a_table(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        seeds("b", 0.80),
        seeds("a", 0.75, detector="tridet", face="corrected"),
        score("other", 0.6, dataset="demo"),
        score("plain", 0.6, protocol={"name": "plain", "complete": True}),
        score("fewer", 0.6, instances=116),
    )
    text = table(paths)
    titles = re.findall(r"^\*\*(.+)\*\*:", text, re.M)
    assert titles == [
        "demo, split test, protocol plain".replace("plain", "activitynet"),
        "salads, split test, protocol activitynet",
        "salads, split test, protocol activitynet",
        "salads, split test, protocol plain",
    ]
    block = next(part for part in text.split("\n\n**") if "| b |" in part)
    assert block.startswith(
        "salads, split test, protocol activitynet**: 117 instances, 9 classes, tIoU 0.3 to 0.7, features scores, "
        "seeds 0 to 4, last epoch, 10 of 10 videos, without external scores."
    )
    lines = [line for line in block.splitlines() if line.startswith("|")]
    assert lines[0] == "| run | detector | face | mAP@0.3 | mAP@0.5 | mAP@0.7 | average mAP | 95 % interval |"
    assert lines[2] == (
        "| a | tridet | corrected | 85.00 ± 2.00 | 75.00 ± 2.00 | 65.00 ± 2.00 | **75.00** ± 1.23 | 70.00 to 80.00 |"
    )
    assert lines[3].startswith("| b | mse | parity | 90.00 ± 2.00 |")


def test_a_protocol_that_is_not_followed_completely_has_a_table_of_its_own(tmp_path: Path) -> None:
    part = {"name": "activitynet", "complete": False, "summary": "…"}
    text = table(write(tmp_path, score("whole", 0.6), score("part", 0.7, protocol=part)))
    assert len(re.findall(r"^\*\*.+\*\*:", text, re.M)) == 2


def test_what_differs_is_a_column(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        score("a", features="i3d"),
        score(
            "b",
            epoch_rule="test split (peeked)",
            missing_videos={"videos": {"v": "damaged"}},
            videos={"evaluated": 9, "in_split": 10},
            excluded={"x": "withdrawn"},
            external_scores=True,
            seed=7,
        ),
    )
    lines = [line.strip("| ").split(" | ") for line in table(paths).splitlines() if line.startswith("|")]
    first, second = (dict(zip(lines[0], line, strict=True)) for line in lines[2:])
    assert (first["features"], second["features"]) == ("i3d", "scores")
    assert (first["epoch"], second["epoch"]) == ("last epoch", "test split (peeked)")
    assert (first["videos"], second["videos"]) == ("10 of 10", "9 of 10")
    assert (first["missing"], second["missing"]) == ("0", "1")
    assert (first["excluded"], second["excluded"]) == ("0", "1")
    assert (first["external scores"], second["external scores"]) == ("without", "with")
    assert (first["seeds"], second["seeds"]) == ("0", "7")
    named = {"used": True, "source": "cuhk.json", "topk": 2, "combine": "sqrt", "identity": "0123"}
    paths = write(tmp_path, score("a", external_scores=named))
    assert "external scores: cuhk.json, top 2, sqrt." in table(paths)
    paths = write(tmp_path, score("a", external_scores={"used": False}))
    assert "without external scores." in table(paths)


def test_many_thresholds_are_shown_as_papers_do_and_counted_all(tmp_path: Path) -> None:
    tious = [f"{0.5 + 0.05 * k:g}" for k in range(10)]
    values = {tiou: 0.4 - 0.03 * k for k, tiou in enumerate(tious)}
    paths = write(tmp_path, score("anet", 0.25, mAP=values, interval=None, dataset="activitynet13"))
    text = table(paths)
    assert "| mAP@0.5 | mAP@0.75 | mAP@0.95 | average mAP | interval |" in text
    assert "tIoU 0.5 to 0.95" in text
    assert text.rstrip().endswith("| **25.00** | – |")
    (row,) = csv.DictReader(io.StringIO(render([Path(paths[0])], format="csv")))
    assert [row[f"mAP@{tiou}"] for tiou in tious] == [f"{100 * value:.4f}" for value in values.values()]
    assert row["average_mAP_low"] == ""


def test_csv_has_every_number_of_every_run(tmp_path: Path) -> None:
    paths = write(tmp_path, seeds("a", 0.75), score("b", 0.5, mAP={"0.1": 0.5}, interval=None, dataset="epic, verbs"))
    rows = list(csv.DictReader(io.StringIO(table(paths, format="csv"))))
    assert [row["run"] for row in rows] == ["b", "a"]  # by dataset
    one, many = rows
    assert one["dataset"] == "epic, verbs"
    assert (one["mAP@0.1"], one["mAP@0.3"], one["mAP@0.1_std"]) == ("50.0000", "", "")
    assert (many["average_mAP"], many["average_mAP_std"]) == ("75.0000", "1.2300")
    assert (many["average_mAP_low"], many["average_mAP_high"]) == ("70.0000", "80.0000")
    assert (many["mAP@0.7"], many["mAP@0.7_low"], many["mAP@0.7_high"]) == ("65.0000", "59.0000", "71.0000")
    facts = {"split": "test", "protocol": "activitynet", "complete": "true", "detector": "mse", "face": "parity",
             "features": "scores", "seeds": "0 to 4", "epoch": "last epoch", "videos": "10 of 10", "missing": "0",
             "excluded": "0", "external scores": "without", "instances": "117", "classes": "9"}  # fmt: skip
    assert {key: many[key] for key in facts} == facts


class Page(HTMLParser):
    """Cells of all rows, tags that stay open, and everything that would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta",):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("line", "rect", "circle")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows and {"td", "th"} & set(self.open) and "svg" not in self.open:
            self.rows[-1][-1] += data


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        seeds("a", 0.75, epoch_rule="test split (peeked)"),
        score("b", 0.5, detector="<b>&amp;", features="x|y"),
        score("c", 1.0, dataset="d<script>alert(1)</script>", interval=None),
    )
    text = table(paths, format="html")
    page = Page()
    page.feed(text)
    assert not page.open
    assert not page.fetched
    assert "@import" not in text
    assert "url(" not in text
    assert "<script" not in text
    salads = next(k for k, row in enumerate(page.rows) if row[0] == "a peeked") - 1
    rows = [dict(zip(page.rows[salads], row, strict=True)) for row in page.rows[salads + 1 : salads + 3]]
    assert rows[0]["run"] == "a peeked"
    assert rows[0]["average mAP"] == "75.00 ± 1.23"
    assert rows[0]["95 % interval"] == "70.00 to 80.00"
    assert rows[1]["detector"] == "<b>&amp;parity"
    assert '<span class="warn">test split (peeked)</span>' in text
    assert "average 75.00, 95 % interval 70.00 to 80.00, deviation over seeds 1.23" in text


def test_the_marks_lie_on_their_scale(tmp_path: Path) -> None:
    from tad.table.page import EDGE, WIDTH, _axis, _place
    from tad.table.scores import blocks

    low = read_score(Path(write(tmp_path, seeds("low", 0.03))[0]))
    high = read_score(Path(write(tmp_path, score("high", 0.97))[0]))
    for scores, expected in (([low], (0.0, 0.1)), ([high], (0.9, 1.0)), ([low, high], (0.0, 1.0))):
        (block,) = blocks(scores)
        assert _axis(block) == pytest.approx(expected)
        for one in scores:
            assert one.interval is not None
            places = [_place(v, _axis(block)) for v in (*one.interval.average_mAP, one.average_mAP)]
            assert all(EDGE - 1e-9 <= place <= WIDTH - EDGE + 1e-9 for place in places)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with config.yaml and scores of two of its runs."""
    copy_config(tmp_path)
    write(tmp_path / "results", seeds("salads", 0.8), score("demo", 0.9, dataset="demo"))
    return tmp_path


def test_the_command(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(project / "config.yaml")]
    assert main(["table", *config]) == 0
    everything = capsys.readouterr().out
    assert "| salads |" in everything
    assert "| demo |" in everything
    assert main(["table", "salads", *config, "--format", "csv"]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["run", "salads"]
    for name, first in (("t.html", "<!doctype html>"), ("t.csv", "run,"), ("t.md", "**demo"), ("t", "**demo")):
        assert main(["table", *config, "--out", str(project / name)]) == 0
        assert (project / name).read_text().startswith(first)
    assert capsys.readouterr().out == ""
    assert main(["table", str(project / "results/demo/map.json"), "--out", str(project / "t.md")]) == 0  # no config
    assert "| demo |" in (project / "t.md").read_text()


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "line 1: not valid JSON"),
        ("[]", "not a map.json"),
        ({"average_mAP": 1}, "not a map.json: run: Field required"),
        (score("x", average_mAP="high"), "average_mAP: Input should be a valid number"),
        (score("x", average_mAP=50.0), "average_mAP: Input should be less than or equal to 1"),
        (score("x", mAP={}), "mAP: "),
        (score("x", mAP={"0.5": 1.1}), "mAP.0.5: Input should be less than or equal to 1"),
        (score("x", protocol=None), "protocol: "),
        (seeds("x") | {"std": {"average_mAP": 0.1, "mAP": {"0.3": 0.1}}}, "not of the same tIoU thresholds"),
        ('{"average_mAP": NaN}', "NaN is not JSON"),
    ],
)
def test_what_is_no_score_is_one_line(
    tmp_path: Path, document: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "map.json"
    path.write_text(document) if isinstance(document, str) else write_json(path, document)
    assert main(["table", str(path), "--out", str(tmp_path / "t.md")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tad table: {path}: ")
    assert said in line
    assert not (tmp_path / "t.md").exists()


def test_runs_without_a_score_and_unknown_ones(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(project / "config.yaml")]
    for argv, said in (
        (["hacs"], "results/hacs/map.json: no such file"),
        (["salad"], "runs has no 'salad'; did you mean 'salads'?"),
        (["--format", "html5"], "--format html5: no such format; did you mean 'html'?"),
        (["salads", str(project / "results/salads/map.json")], "run salads is given twice"),
    ):
        assert main(["table", *argv, *config]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    shutil.rmtree(project / "results")
    with pytest.raises(TadError, match=r"no run has a score yet; make one with: cd \S+ && tad run results/demo/map"):
        table(config=project / "config.yaml")


def test_the_workflows_table_is_the_same(tmp_path: Path) -> None:
    paths = write(tmp_path, seeds("salads", 0.8), score("demo", 0.9, dataset="demo"))
    script = ROOT / "workflow_scripts/results_table.py"
    for given, expected in ((paths, table(paths)), ([], "No run has a score yet.\n")):
        done = subprocess.run(
            [sys.executable, script, *given, "--out", tmp_path / "table.md"],
            capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.stdout == (tmp_path / "table.md").read_text() == expected


def test_without_torch() -> None:
    code = "import sys, tad.table; assert not {'torch', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
