"""A value of another type anywhere in a JSON file is read, or refused in one line in our own words."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_tools import DATABASE, QUERY, READERS, RESULTS, SCORES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_tools import outcome, read_as

from tad.core.errors import TadError
from tad.metrics.epic_actions import read_submission

# What Python says of such values; it names neither the field nor a remedy.
PYTHON = re.compile(
    r"\b(Value|Type|Key|Attribute|Index|Overflow|Assertion)Error\b|unpack|object is not|subscriptable|NoneType"
    r"|invalid literal|could not convert|unhashable|has no attribute|must be real number|not supported between"
)
INFINITE = "1e999"  # JSON's grammar has no infinity, but numbers that become one
JUNK: list[Any] = [None, True, 0, -3, 0.5, "", "x", "7", [], [1], [1, 2, 3], [None, None], {}, {"a": 1}, INFINITE]

CLIP = {
    "clip_uid": "c1", "video_start_sec": 10.0, "video_end_sec": 40.0, "video_start_frame": 300, "video_end_frame": 1200,
    "annotations": [{"labels": [
        {"label": "a", "primary": True, "video_start_time": 12.0, "video_end_time": 15.0}
    ]}],
}  # fmt: skip
EGO4D = {"videos": [{"video_uid": "v", "split": "train", "clips": [CLIP]}]}
CONVERTED = {"c1": {"subset": "train", "duration": 30.0, "annotations": [{"segment": [1, 2], "label": "a"}]}}
INDEX = {"v": {"subset": "training", "duration": 30.5, "actions": [[1, 1.5, 4], [2, 2, 3]]}}
SUBMISSION = {
    "version": "0.2", "challenge": "action_detection", "sls_pt": 2, "sls_tl": 3, "sls_td": 3,
    "results": {"P01_01": [{"verb": 0, "noun": 1, "action": "0,1", "score": 0.5, "segment": [1, 2]}]},
}  # fmt: skip
ANY_PLACE = {"database": {"v": {
    "subset": "training", "duration": 9, "fps": 25, "resolution": "320x240", "url": "u",
    "annotations": [{"segment": [1, 2], "segment(frames)": [25, 50], "label": "a", "label_id": 0}],
}}}  # fmt: skip


def of_dataset(name: str) -> Callable[[Path], Any]:
    return lambda path: read_as(name, path)


def ego4d(path: Path) -> Any:
    path.rename(path.parent / "moments_train.json")
    (path.parent / "moments_val.json").write_text('{"videos": []}')
    return read_as("ego4d", path.parent)


KINDS: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "results file": (READERS["results file"].read, RESULTS),
    "annotations": (READERS["annotations"].read, DATABASE),
    "annotation table": (READERS["annotation table"].read, json.loads(READERS["annotation table"].seeds()[0])),
    "video scores": (READERS["video scores"].read, SCORES),
    "queries": (READERS["queries"].read, QUERY),
    "EPIC submission": (read_submission, SUBMISSION),
    "own annotations": (of_dataset("activitynet"), ANY_PLACE),
    "fineaction": (of_dataset("fineaction"), ANY_PLACE),
    "unav100": (of_dataset("unav100"), ANY_PLACE),
    "hacs": (of_dataset("hacs"), ANY_PLACE),
    "activitynet13": (of_dataset("activitynet13"), ANY_PLACE),
    "thumos14": (of_dataset("thumos14"), ANY_PLACE),
    "multithumos": (of_dataset("multithumos"), INDEX),
    "charades": (of_dataset("charades"), INDEX),
    "ego4d": (ego4d, EGO4D),
    "ego4d, converted": (of_dataset("ego4d"), {"database": CONVERTED}),
}


def swaps(value: Any, junk: Any) -> Iterator[Any]:
    """Copies of a JSON value with one part of it replaced by `junk`."""
    yield junk
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ({**value, key: part} for part in swaps(inner, junk))
            yield {name: part for name, part in value.items() if name != key}
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            yield from ([*value[:k], part, *value[k + 1 :]] for part in swaps(inner, junk))


def refusal(read: Callable[[Path], Any], folder: Path, value: Any) -> str:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / "x.json").write_text(json.dumps(value).replace(f'"{INFINITE}"', INFINITE))
    try:
        read(folder / "x.json")
    except TadError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_another_type_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    read, seed = KINDS[kind]
    wrong = set()
    for junk in JUNK:
        for value in swaps(seed, junk):
            said = refusal(read, tmp_path / "f", value)
            assert "\n" not in said
            assert len(said) <= 500
            if PYTHON.search(said):
                wrong.add(said)
    assert wrong == set()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@pytest.mark.parametrize("kind", KINDS)
def test_any_value_at_any_place(kind: str, tmp_path: Path) -> None:
    read, seed = KINDS[kind]

    @settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(VALUES, st.integers(0, 10_000))
    def check(junk: Any, place: int) -> None:
        copies = list(swaps(seed, junk))
        said = refusal(read, tmp_path / "f", copies[place % len(copies)])
        assert len(said.splitlines()) <= 1
        assert not PYTHON.search(said), said

    check()


PLACES: dict[str, tuple[dict[str, Any], float | None, float]] = {  # entry of a video → its duration, and its start
    "a rate as text": ({"fps": "25", "segment": [50, 75]}, None, 2.0),
    "a rate as a fraction": ({"fps": "30000/1001", "segment": [30, 60]}, None, 1.001),
    "frames and seconds": ({"frame": 300, "duration": "10", "segment": [60, 90]}, 10.0, 2.0),
    "an empty duration": ({"fps": 10, "duration": " ", "segment": [20, 30]}, None, 2.0),
}


@pytest.mark.parametrize("name", PLACES)
def test_rates_and_durations_in_other_forms(name: str, tmp_path: Path) -> None:
    """A setting must not replace a rate that the file states, whatever its form."""
    entry, duration, start = PLACES[name]
    annotations = [{"segment": entry["segment"], "label": "run"}]
    rest = {key: value for key, value in entry.items() if key != "segment"}
    database = {"database": {"a": {"subset": "train", "annotations": annotations, **rest}}}
    path = tmp_path / "own.json"
    path.write_text(json.dumps(database), encoding="utf-8")
    video = read_as("activitynet", path, unit="frames", rate=7).videos["a"]
    assert (video.duration, video.instances[0].start) == (duration, pytest.approx(start))


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another key": ({"annotation": [{"segment": [1, 2], "label": "run"}]}, {}, "but 'annotation' is a list of objects"),
    "an impossible rate": ({"fps": "fast", "annotations": []}, {"unit": "frames"}, "'fast' frames per second; give"),
    "another case": (
        {"annotations": [{"segment": [1, 2], "label": "Unclear"}]},
        {"ambiguous": "unclear"},
        "setting ambiguous: 'unclear', but segments have 'Unclear'; write them alike",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_would_be_lost_or_read_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    entry, settings, said = WRONG[name]
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"database": {"a": {"subset": "train", **entry}}}), encoding="utf-8")
    assert said in outcome(lambda: read_as("activitynet", path, **settings))[1]


def test_a_setting_that_nothing_has_is_said(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    entry = {"subset": "train", "annotations": [{"segment": [1, 2], "label": "run"}]}
    path.write_text(json.dumps({"database": {"a": entry}}), encoding="utf-8")
    notes = read_as("activitynet", path, ambiguous="unclear").notes
    assert notes == ("no segment has the label 'unclear' of the setting ambiguous",)
