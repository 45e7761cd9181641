"""Use from Python: `tad.nms`, `tad.evaluate`, `tad.load`, and what importing the package costs."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tad
from tad.api.detections import Detection, Detections
from tad.core.errors import TadError
from tad.core.files import write_json
from tad.metrics import evaluate as evaluate_directly
from tad.nms import suppress_segments
from tad.settings.sections import NmsSpec

TRUTH = {"a": [(0.0, 10.0, "run"), (20.0, 30.0, "jump")], "b": [(5.0, 8.0, "run")], "empty": []}
FOUND = {
    "a": [
        {"label": "run", "score": 0.9, "segment": [0.0, 9.0]},
        {"label": "jump", "score": 0.8, "segment": [21.0, 33.0]},
        {"label": "run", "score": 0.3, "segment": [40.0, 42.0]},
    ],
    "b": [{"label": "run", "score": 0.7, "segment": [5.5, 8.0]}],
}
TIOU = (0.3, 0.5, 0.7)


def test_importing_tad_imports_nothing_heavy() -> None:
    program = "import sys, tad; print(sorted({'torch', 'numpy', 'numba', 'pydantic', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert {"load", "evaluate", "nms", "Columns"} <= set(dir(tad))
    with pytest.raises(AttributeError, match="has no attribute 'detect'"):
        _ = tad.detect  # type: ignore[attr-defined]


def test_nms_is_suppression_with_the_defaults_of_the_workflow() -> None:
    rng = np.random.default_rng(0)
    starts = rng.random((200, 1), np.float32) * 100
    segments, scores = np.hstack([starts, starts + 5]), rng.random(200).astype(np.float32)
    labels = rng.integers(0, 3, 200)
    mine, wanted = (
        tad.nms(segments, scores, labels),
        suppress_segments(segments, scores, labels, **NmsSpec().model_dump()),
    )
    assert np.array_equal(mine.segments, wanted.segments)
    assert np.array_equal(mine.scores, wanted.scores)
    one = tad.nms(segments, scores)
    assert not np.array_equal(one.scores, wanted.scores[: len(one.scores)])  # without labels all are of one class


@pytest.mark.parametrize("kind", ["dict", "results", "file", "columns", "detections"])
def test_evaluate_takes_what_people_have(kind: str, tmp_path: Path) -> None:
    given: Any = FOUND
    if kind == "results":
        given = {"results": FOUND}
    elif kind == "file":
        given = write_json(tmp_path / "found.json", {"results": FOUND})
    elif kind == "columns":
        rows = [(video, e) for video, entries in FOUND.items() for e in entries]
        given = tad.Columns(
            ("a", "b"), ("run", "jump"), np.array(["ab".index(video) for video, _ in rows], np.int32),
            np.array([("run", "jump").index(e["label"]) for _, e in rows], np.int32),
            np.array([e["segment"] for _, e in rows]), np.array([e["score"] for _, e in rows]),
        )  # fmt: skip
    elif kind == "detections":
        rows_of = [Detection(v, *e["segment"], e["label"], e["score"]) for v, es in FOUND.items() for e in es]
        given = Detections(tuple(rows_of), {"a": 50.0, "b": 10.0}, {})
    scores = tad.evaluate(given, TRUTH, tiou=TIOU)
    wanted = evaluate_directly(TRUTH, FOUND, tiou=TIOU)
    assert scores.average_mAP == wanted.average_mean_ap
    assert list(scores.mAP) == list(TIOU)
    assert scores.AP["jump"][0.5] == pytest.approx(1.0)
    low, high = scores.interval()
    assert 0 <= low <= scores.average_mAP <= high <= 1
    assert repr(scores).startswith("<average mAP ")


def test_annotations_come_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("video,start,end,label,split\na,0,10,run,test\na,20,30,jump,test\n")
    assert tad.evaluate(FOUND, tmp_path / "labels.csv", tiou=[0.5]).average_mAP > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, TRUTH), "detections of type int"),
        ((FOUND, TRUTH, "tiou"), "evaluate: tiou"),
        (({"a": [{"label": "fly", "score": 1.0, "segment": [0, 1]}]}, TRUTH), "unknown label 'fly'"),
        (("absent.json", TRUTH), "absent.json: no such file"),
    ],
)
def test_wrong_things_are_one_line(arguments: tuple[Any, ...], message: str) -> None:
    tiou = [2.0] if len(arguments) == 3 else [0.5]
    with pytest.raises(TadError, match=message) as caught:
        tad.evaluate(arguments[0], arguments[1], tiou=tiou)
    assert "\n" not in str(caught.value)


def test_detections_are_a_sequence_with_tables_and_a_picture(tmp_path: Path) -> None:
    rows = (Detection("a", 1.0, 2.5, "run", 0.9), Detection("a", 4.0, 5.0, "=cmd()", 0.2))
    found = Detections(rows, {"a": 10.0, "b": 3.0}, {"c": "empty file (0 bytes)"})
    assert (len(found), found[0].label, [r.start for r in found]) == (2, "run", [1.0, 4.0])
    assert len(found.above(0.5)) == 1
    assert "1 excluded" in repr(found)
    with open(found.to_csv(tmp_path / "out.csv"), newline="") as file:
        assert list(csv.reader(file))[1] == ["a", "1.0", "2.5", "run", "0.9", "seconds"]
    figure = found.plot("a")
    assert figure.axes[0].get_title() == "a"
    with pytest.raises(TadError, match="name one of the videos: a, b"):
        found.plot()
    with pytest.raises(TadError, match="no video is called 'x'"):
        found.of("x")
    pandas = pytest.importorskip("pandas")
    assert isinstance(found.to_pandas(), pandas.DataFrame)


def test_loading_what_is_no_run_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(TadError, match="not the folder of a run"):
        tad.load(tmp_path)
    with pytest.raises(TadError, match=r"config\.yaml: no such file"):
        tad.load(tmp_path / "results" / "kitchen")


def test_the_notebook_and_the_page_run() -> None:
    """Every cell of docs/notebook.ipynb is executed; of docs/python.md the blocks that need no trained run."""
    docs = Path(__file__).parents[1] / "docs"
    space: dict[str, Any] = {}
    for cell in json.loads((docs / "notebook.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
    assert 0.9 < space["result"].average_mAP <= 1
    blocks = re.findall(r"```python\n(.*?)```", (docs / "python.md").read_text(), re.DOTALL)
    assert len(blocks) == 4  # two of them need a trained run
    own = [block for block in blocks if "tad.load" not in block and "run." not in block]
    assert len(own) == 2
    exec(own[0], space)
    assert space["scores"].mAP[0.5] == 1.0
    space["segments"], space["scores"], space["labels"] = np.ones((1, 2)), np.ones(1), np.zeros(1, int)
    exec(own[1], space)
