"""Large annotation files: cost grows with the number of rows, and shortcuts give what the plain way gives."""

import json
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tad.annotations.checks import SAME, check
from tad.annotations.duplicates import Near
from tad.annotations.table import Instance, Table, Video
from tad.core.json_text import indented
from tad.settings.stages import AnnotateSpec
from tad.stages.annotate import LABELS_LISTED, WARNINGS_LISTED, annotate

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(),
    st.sampled_from(["],\n [", '"],\n  ["', "],["]),
)  # fmt: skip
KEYS = st.one_of(st.text(), st.integers(), st.booleans(), st.none())
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.lists(st.lists(LEAVES)) | st.dictionaries(KEYS, inner), max_leaves=30
)


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_fast_json_is_that_of_the_standard_library(value):
    assert indented(value) == json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)


@pytest.mark.parametrize("value", [[1, float("nan")], {"a": [[1.0, float("inf")]]}, {"a": {1, 2}}, [{(1, 2): 3}]])
def test_fast_json_refuses_what_the_standard_library_refuses(value):
    with pytest.raises((TypeError, ValueError)) as plain:
        json.dumps(value, indent=1, allow_nan=False)
    with pytest.raises(plain.type):
        indented(value)


TIMES = st.one_of(st.integers(0, 40).map(lambda k: k * SAME / 4), st.floats(0, 1e300))


@given(st.lists(st.tuples(TIMES, TIMES, st.sampled_from("ab")), max_size=40))
@settings(max_examples=150, deadline=None)
def test_duplicates_are_those_of_a_comparison_of_all_pairs(rows):
    near, kept = Near(SAME), []
    for k, (start, end, label) in enumerate(rows):
        one = Instance(start, end, label, f"line {k}")
        same = [
            o for o in kept if o.label == label and abs(o.start - start) < SAME and abs(o.end - end) < SAME
        ]  # fmt: skip
        found = near.find(one)
        assert (found.entry if found else None) == (same[0].entry if same else None)
        if not same or k % 2:  # also what a policy keeps although it is a duplicate
            near.add(one)
            kept.append(one)
    assert near.instances == kept


def write_rows(path: Path, rows: int) -> Path:
    """Write a CSV file of two videos with `rows` rows and a tenth as many labels."""
    numbers = random.Random(0)
    lines = ["video,split,start,end,label"]
    for k in range(rows):
        start = round(k + numbers.random(), 3)
        lines.append(f"{'ab'[k % 2]},{('train', 'test')[k % 2]},{start},{start + 0.5:.3f},label {k % (rows // 10)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_ten_times_the_rows_take_about_ten_times_as_long(tmp_path):
    """Two videos hold all rows, so that comparisons of pairs within a video, or with all labels, would be seen."""

    spec = AnnotateSpec(dataset="d", format={"name": "csv", "settings": {}})

    def seconds(rows: int) -> float:
        source, taken = write_rows(tmp_path / f"{rows}.csv", rows), []
        for k in range(2):
            start = time.process_time()
            annotate(source, tmp_path / f"{rows}-{k}.json", spec=spec)
            taken.append(time.process_time() - start)
        return min(taken)

    assert seconds(20_000) < 15 * seconds(2_000)


def test_many_unknown_labels_are_reported_quickly():
    instances = tuple(Instance(k, k + 1, f"other {k}", f"line {k}") for k in range(20_000))
    table = Table("d", ("known",), {"a": Video("train", None, (*instances, Instance(1, 2, "known")))})
    start = time.process_time()
    checked = check(table, source="a.csv", on_invalid="drop")
    assert len(checked.dropped) == 20_000
    assert checked.dropped[-1].cause == "label: unknown label 'other 19999'"
    assert time.process_time() - start < 5


def test_long_lists_of_labels_are_shortened_in_the_log(tmp_path, caplog):
    source = write_rows(tmp_path / "a.csv", 8000)  # even labels occur in train only, odd ones in test only
    with caplog.at_level("INFO"):
        annotate(source, tmp_path / "out.json", spec=AnnotateSpec(dataset="d", format={"name": "csv", "settings": {}}))
    warned = [record.getMessage() for record in caplog.records if "no train instance" in record.getMessage()]
    assert len(warned) == WARNINGS_LISTED + 1
    assert warned[-1].startswith(f"d: {400 - WARNINGS_LISTED} further labels")
    assert f"d: and {800 - LABELS_LISTED} further labels; the table has all" in caplog.messages
