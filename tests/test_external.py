"""Class scores of whole videos: published files, fusion with detections, the classifier of our own, the workflow."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from config_tools import copy_config
from test_suppress_evaluate import NMS, write_annotations, write_candidates

from tad.annotations.table import Instance, Table, Video, write_table
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.core.grid import Grid
from tad.features.class_scores import THUMOS14_COLUMNS, read_video_scores
from tad.features.store import ShardWriter
from tad.nms.fusion import fuse
from tad.nms.types import Kept
from tad.provenance.stamps import stamp
from tad.settings.config import Config
from tad.settings.stages import ClassifyStageSpec, EvaluateStageSpec, SuppressStageSpec
from tad.stages.classify import classify
from tad.stages.evaluate import evaluate
from tad.stages.suppress import suppress
from tad.workflow.missing import missing_scores

NAMES = ["jump", "run"]


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_published_layouts(tmp_path: Path) -> None:
    cuhk = write(tmp_path / "cuhk.json", {"class": ["run", "jump"], "results": {"abcdefghijk": [0.2, 0.8]}})
    found = read_video_scores(cuhk, NAMES)
    assert found.labels == ("run", "jump")
    assert found.of("v_abcdefghijk").tolist() == [0.2, 0.8]
    assert found.of("abcdefghijk").tolist() == [0.2, 0.8]
    assert found.of("v_other") is None
    tcanet = write(tmp_path / "tcanet.json", {"class": NAMES, "results": {"v_x": [[0.0, np.log(3)]]}})
    logits = read_video_scores(tcanet, NAMES).probabilities(softmax=True, factor=2.0)
    np.testing.assert_allclose(logits.of("x"), [0.5, 1.5])
    (tmp_path / "unet.pkl").write_bytes(pickle.dumps({"video_test_0000004": np.array([0.3, 0.7])}))
    assert read_video_scores(tmp_path / "unet.pkl", NAMES).of("video_test_0000004").tolist() == [0.3, 0.7]
    table = np.zeros((1574, 101))
    table[3, THUMOS14_COLUMNS["Diving"] - 1] = 0.9
    np.save(tmp_path / "unet.npy", table)
    found = read_video_scores(tmp_path / "unet.npy", NAMES)
    assert len(found.scores) == 1574
    assert found.labels[int(found.of("video_test_0000004").argmax())] == "Diving"


class Bomb:
    def __reduce__(self) -> Any:
        return print, ("boom",)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("a.json", {"results": {"x": [1, 2]}}, "expected 'results'"),
        ("a.json", {"class": NAMES, "results": {"x": [1, 2, 3]}}, "scores have shape .3,., expected .2,."),
        ("a.json", {"class": NAMES, "results": {"x": ["a", 2]}}, "not a list of numbers"),
        ("a.json", {"class": ["run", "run"], "results": {"x": [1, 2]}}, "a class is listed twice"),
        ("a.pkl", pickle.dumps(Bomb()), "not a pickle of plain arrays"),
        ("a.pkl", pickle.dumps([1]), "contains a list"),
        ("a.pkl", pickle.dumps({"x": np.array([1.0, np.nan])}), "NaN or infinity"),
        ("a.npy", b"\x93NUMPY", "not a plain .npy"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, value: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(value, bytes):
        path.write_bytes(value)
    else:
        write(path, value)
    with pytest.raises(TadError, match=message) as error:
        read_video_scores(path, NAMES)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def kept(scores: list[float], labels: list[int]) -> Kept:
    count = len(scores)
    segments = np.stack([np.arange(count), np.arange(count) + 1], 1).astype(np.float32)
    return Kept(np.arange(count), segments, np.array(scores, np.float32), np.array(labels), np.array([0, count]))


def test_fusion_by_hand() -> None:
    class_K = [np.array([0.25, 0.0, 1.0])]
    replaced = fuse(
        kept([0.64, 0.36, 0.16], [0, 0, 0]), class_K, labels="replace", topk=2, combine="sqrt", detections=2
    )
    np.testing.assert_allclose(replaced.scores, [0.8, 0.6, 0.4, 0.3], rtol=1e-6)
    assert (replaced.labels.tolist(), replaced.index.tolist()) == ([2, 2, 0, 0], [0, 1, 0, 1])
    assert replaced.offsets.tolist() == [0, 4]
    keeping = fuse(kept([0.5, 0.4], [0, 2]), class_K, labels="keep", topk=1, combine="product", detections=1)
    np.testing.assert_allclose(keeping.scores, [0.4, 0.125], rtol=1e-6)
    assert (keeping.labels.tolist(), keeping.index.tolist()) == ([2, 0], [1, 0])


def suppress_spec(**external: Any) -> SuppressStageSpec:
    return SuppressStageSpec.model_validate({"run": "toy", "nms": NMS, "external": {"source": "x.json", **external}})


def test_suppress_and_evaluate_say_what_was_combined(tmp_path: Path) -> None:
    write_candidates(tmp_path / "c.h5", excluded={})
    scores = {"class": NAMES, "results": {"v0": [0.9, 0.1], "v2": [0.5, 0.5]}}
    path = write(tmp_path / "x.json", scores)
    out = suppress(tmp_path / "c.h5", tmp_path / "d.json", spec=suppress_spec(topk=1, detections=7), scores=path)
    found = read_json(out)
    assert {entry["label"] for entry in found["results"]["v0"]} == {"jump"}
    assert len(found["results"]["v0"]) == 7
    assert found["results"]["v1"] == []
    assert found["external_data"]["combine"] == "sqrt"
    annotations = write_annotations(tmp_path / "a.json", {v: [(1.0, 9.0, "jump")] for v in ("v0", "v1", "v2")})
    settings = {"protocol": "activitynet", "tiou": (0.1,), "on_missing": "count"}
    spec = EvaluateStageSpec(run="toy", dataset="toys", eval=settings)
    score = read_json(evaluate(out, annotations, tmp_path / "map.json", spec=spec))
    assert score["external_scores"]["used"]
    assert score["external_scores"]["source"] == "x.json"
    for broken, message in (
        ({"results": {"v0": [0.9, 0.1]}}, "no scores for 1 of 3 videos, for example 'v2'"),
        ({"results": {"v0": [0.9, -0.1], "v2": [1, 1]}}, "external.softmax"),
    ):
        write(path, scores | broken)
        with pytest.raises(TadError, match=message):
            suppress(tmp_path / "c.h5", tmp_path / "e.json", spec=suppress_spec(), scores=path)
    write(path, scores | {"class": ["jump", "walk"]})
    with pytest.raises(TadError, match="no scores for 1 of the detector's classes, first 'run'"):
        suppress(tmp_path / "c.h5", tmp_path / "e.json", spec=suppress_spec(labels="keep"), scores=path)
    with pytest.raises(TadError, match="only valid together"):
        suppress(tmp_path / "c.h5", tmp_path / "e.json", spec=suppress_spec())
    assert not (tmp_path / "e.json").exists()


def features_and_table(folder: Path) -> tuple[Path, Path]:
    """Videos of background with a short action of one of two classes, and an index of their features."""
    rng = np.random.default_rng(0)
    videos = {}
    index = folder / "features.h5"
    made = stamp("merge", {"dataset": "toys", "features": "f"}, {})
    with ShardWriter(index, made) as writer:
        writer.attribute("excluded", {})
        for k in range(40):
            label, video_id = k % 2, f"v{k:02d}"
            feats_TC = rng.normal(0, 1, (60, 6)).astype(np.float32)
            feats_TC[20:26, label] += 4
            grid = Grid.of_clips(clip_length=1, stride=1, rate=1.0, length=60, duration=60.0)
            writer.add(video_id, feats_TC, grid=grid, attrs={"padded": False})
            instances = (Instance(20.0, 26.0, NAMES[label]),) if k else ()
            videos[video_id] = Video("train" if k < 24 else "test", 60.0, instances)
    table = folder / "table.json"
    write_table(Table("toys", tuple(NAMES), videos), table, stamp("annotate", {"dataset": "toys"}, {}))
    return index, table


def test_the_classifier_finds_short_actions_and_repeats_itself(tmp_path: Path) -> None:
    index, table = features_and_table(tmp_path)
    settings = {"run": "toy", "dataset": "toys", "features": "f", "seed": 3}
    spec = ClassifyStageSpec.model_validate({**settings, "classify": {"hidden": 32, "lr": 0.01}})
    out = classify(index, table, tmp_path / "scores.json", spec=spec)
    found = read_json(out)
    assert found["accuracy"] == {"split": "test", "videos": 16, "top1": 1.0}
    assert list(found["results"]) == [f"v{k:02d}" for k in range(24, 40)]
    assert all(sum(scores) == pytest.approx(1) for scores in found["results"].values())
    again = classify(index, table, tmp_path / "again.json", spec=spec)
    assert again.read_bytes() == out.read_bytes()
    assert read_video_scores(out, []).labels == tuple(NAMES)
    with pytest.raises(TadError, match="exclude"):
        classify(index, table, tmp_path / "none.json", spec=spec.model_copy(update={"exclude": {"v99": "no"}}))


def test_config_takes_external_scores_and_refuses_unknown_settings(tmp_path: Path) -> None:
    config = copy_config(tmp_path)
    text = config.read_text()
    config.write_text(text + "  own: {dataset: demo, features: demo_clips, detector: mse, external: {source: own}}\n")
    spec = Config.read(config).spec("suppress", run="own")
    assert spec.external.source == "own"
    assert Config.read(config).spec("suppress", run="demo").external is None
    config.write_text(
        text + "  far: {dataset: demo, features: demo_clips, detector: mse, external: {source: no.json}}\n"
    )
    assert "at no.json (external.source)" in missing_scores(Config.read(config), "far")[0]
    config.write_text(text + "  own: {dataset: demo, features: demo_clips, detector: mse, external: {sources: own}}\n")
    with pytest.raises(TadError, match="external"):
        Config.read(config)
