"""From candidates.h5 over detections.json to map.json, its picture and the table of all runs."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tad.annotations.table import Dropped, Instance, Table, Video, write_table
from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.core.h5 import H5Writer
from tad.nms import suppress_segments
from tad.provenance.stamps import stamp
from tad.settings.stages import EvaluateStageSpec, SuppressStageSpec
from tad.stages.evaluate import evaluate
from tad.stages.suppress import engine_of, suppress
from tad.training.io.tensors import write_tensors

NMS: dict[str, Any] = {
    "method": "gaussian", "sigma": 0.5, "tiou": 0.1, "min_score": 0.001, "per_class": True, "topk": 50, "voting": 0.0,
    "voting_weight": "score",
}  # fmt: skip
SUPPRESS = SuppressStageSpec(run="toy", nms=NMS)
LABELS = ("jump", "run")
GRIDS = np.array([[0.25, 0.5, 100, 40.0], [0.1, 0.2, 50, 10.0], [0.0, 1.0, 30, 30.0]])


def evaluate_spec(**changes: Any) -> EvaluateStageSpec:
    settings = {"protocol": "activitynet", "tiou": (0.3, 0.5), "on_missing": "count"} | changes
    return EvaluateStageSpec(run="toy", dataset="toys", eval=settings)


def write_candidates(path: Path, *, excluded: dict[str, str], **broken: np.ndarray) -> dict[str, np.ndarray]:
    """Three videos `v0`, `v1`, `v2` (one empty) on different grids."""
    rng = np.random.default_rng(3)
    counts = [40, 0, 25]
    start = (rng.random(65) * 60 - 3).astype(np.float32)
    start[-1] = -2.5  # before the video begins
    arrays = {
        "segments": np.stack([start, start + (rng.random(65) * 12).astype(np.float32)], 1),
        "scores": rng.random(65).astype(np.float32),
        "labels": rng.integers(0, 2, 65).astype(np.int32),
        "offsets": np.cumsum([0, *counts]).astype(np.int64),
        "grids": GRIDS,
    } | broken
    with H5Writer(path, stamp("detect", {"run": "toy"}, {})) as writer:
        for name, values in arrays.items():
            writer.dataset(name, values)
        writer.file.create_dataset("video_ids", data=["v0", "v1", "v2"], dtype=h5py.string_dtype())
        writer.file.attrs["labels"] = json.dumps(LABELS)
        writer.attribute("excluded", excluded)
    return arrays


def write_annotations(path: Path, videos: dict[str, list[tuple[float, float, str]]], *, dataset: str = "toys") -> Path:
    entries = {v: Video("test", 40.0, tuple(Instance(*row) for row in rows)) for v, rows in videos.items()}
    dropped = tuple(Dropped(v, "instance 9", "ends before it starts") for v in ("v0", "t0"))
    table = Table(dataset, LABELS, {**entries, "t0": Video("train", 9.0)}, {"gone": "withdrawn by its owner"}, dropped)
    return write_table(table, path, stamp("annotate", {"dataset": dataset}, {}))


def test_detections_are_the_kept_candidates_in_seconds(tmp_path: Path) -> None:
    arrays = write_candidates(tmp_path / "candidates.h5", excluded={"v9": "damaged: no moov atom"})
    out = suppress(tmp_path / "candidates.h5", tmp_path / "detections.json", spec=SUPPRESS)
    written = read_json(out)
    assert written["excluded"] == {"v9": "damaged: no moov atom"}
    assert written["external_data"] == {"used": False}
    assert list(written["results"]) == ["v0", "v1", "v2"]
    assert written["results"]["v1"] == []
    for v, (start, step, _, duration) in enumerate(GRIDS):
        a, b = arrays["offsets"][v : v + 2]
        kept = suppress_segments(
            arrays["segments"][a:b], arrays["scores"][a:b], arrays["labels"][a:b], engine="reference", **NMS
        )
        entries = written["results"][f"v{v}"]
        assert [e["label"] for e in entries] == [LABELS[k] for k in kept.labels]
        np.testing.assert_allclose([e["score"] for e in entries], kept.scores, rtol=1e-6)
        seconds = np.clip(start + kept.segments.astype(float) * step, 0, duration)
        np.testing.assert_allclose(np.reshape([e["segment"] for e in entries], (-1, 2)), seconds, rtol=1e-12)
    assert max(e["segment"][1] for e in written["results"]["v2"]) == 30.0  # clamped to the duration
    assert min(e["segment"][0] for e in written["results"]["v2"]) == 0.0
    again = suppress(tmp_path / "candidates.h5", tmp_path / "again.json", spec=SUPPRESS)
    assert again.read_bytes() == out.read_bytes()


def test_thousands_of_excluded_videos_go_through(tmp_path: Path) -> None:
    causes = {f"gone_{k:04d}": f"damaged: {k} of 1000 frames could be decoded; " * 5 for k in range(5000)}
    write_candidates(tmp_path / "candidates.h5", excluded=causes)
    out = suppress(tmp_path / "candidates.h5", tmp_path / "detections.json", spec=SUPPRESS)
    assert read_json(out)["excluded"] == causes


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"offsets": np.array([0, 40, 39, 65])}, "damaged candidates"),
        ({"labels": np.full(65, 2, np.int32)}, "damaged candidates"),
        ({"scores": np.full(65, np.nan, np.float32)}, "candidates.h5: video 'v0': candidate 0: .* finite"),
        ({"scores": np.r_[np.ones(64), np.inf].astype(np.float32)}, "video 'v2': candidate 64: .* finite"),
        ({"scores": np.r_[np.ones(64), -0.5].astype(np.float32)}, "video 'v2': candidate 64: .* >= 0"),
        ({"segments": np.full((65, 2), [2, 1], np.float32)}, "video 'v0': candidate 0: .* start <= end"),
        ({"segments": np.full((65, 2), [-np.inf, 1], np.float32)}, "video 'v0': candidate 0: .* finite"),
    ],
)
def test_broken_candidates_are_refused(tmp_path: Path, broken: Any, message: str) -> None:
    write_candidates(tmp_path / "candidates.h5", excluded={}, **broken)
    with pytest.raises(TadError, match=message):
        suppress(tmp_path / "candidates.h5", tmp_path / "detections.json", spec=SUPPRESS)
    assert not (tmp_path / "detections.json").exists()


def test_a_device_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_candidates(tmp_path / "candidates.h5", excluded={})
    for device, message in (("cuda", "'cuda' is requested, but 0 CUDA devices"), ("tpu", "'tpu': choose auto, cpu")):
        with pytest.raises(TadError, match=message):
            suppress(tmp_path / "candidates.h5", tmp_path / "d.json", spec=SUPPRESS, device=device)
    monkeypatch.setattr("tad.stages.suppress._cuda_is_there", lambda: False)
    assert engine_of("auto") == ("numba", "cpu")
    one = suppress(tmp_path / "candidates.h5", tmp_path / "d.json", spec=SUPPRESS, device="auto", threads=2)
    assert one.read_bytes() == suppress(tmp_path / "candidates.h5", tmp_path / "e.json", spec=SUPPRESS).read_bytes()


def test_suppress_on_a_cpu_imports_no_torch(tmp_path: Path) -> None:
    write_candidates(tmp_path / "candidates.h5", excluded={})
    code = (
        "import sys; from tad.commands.cli import main\n"
        "assert main(sys.argv[1:]) == 0; assert not {'torch', 'matplotlib', 'snakemake'} & set(sys.modules)"
    )
    call = ["suppress", "candidates.h5", "--spec", SUPPRESS.json_text(), "--device", "cpu", "--out", "d.json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *call], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_candidates_of_another_run_are_refused(tmp_path: Path) -> None:
    write_candidates(tmp_path / "candidates.h5", excluded={})
    with pytest.raises(TadError, match="run='toy', expected run='other'"):
        suppress(tmp_path / "candidates.h5", tmp_path / "d.json", spec=SUPPRESS.model_copy(update={"run": "other"}))


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A folder with detections of v0, v1 and v2 and the annotations of v0 to v3."""
    write_candidates(tmp_path / "candidates.h5", excluded={"v3": "damaged: no moov atom"})
    suppress(tmp_path / "candidates.h5", tmp_path / "detections.json", spec=SUPPRESS)
    best = read_json(tmp_path / "detections.json")["results"]["v0"][0]
    instances = {
        "v0": [(*best["segment"], best["label"]), (0.0, 2.0, "jump"), (0.0, 2.0, "jump"), (4.0, 4.0002, "run")],
        "v1": [],
        "v2": [(5.0, 9.0, "run")],
        "v3": [(5.0, 9.0, "run"), (6.0, 8.0, "jump")],
    }
    write_annotations(tmp_path / "toys.json", instances)
    return tmp_path


def test_map_says_what_was_scored_and_how(scored: Path) -> None:
    out = evaluate(
        scored / "detections.json", scored / "toys.json", scored / "map.json",
        spec=evaluate_spec(), figure=scored / "timeline.png",
    )  # fmt: skip
    written = read_json(out)
    assert 0 < written["average_mAP"] < 1
    assert written["average_mAP"] == pytest.approx(np.mean(list(written["mAP"].values())))
    assert list(written["mAP"]) == ["0.3", "0.5"]
    assert sorted(written["AP"]) == ["jump", "run"]
    assert set(written["recall"]) == {"1x", "5x"}
    assert written["videos"] == {"evaluated": 3, "in_split": 4, "without_instances": 1}
    assert written["missing_videos"] == {
        "policy": "count", "videos": {"v3": "damaged: no moov atom"}, "instances": 2,
    }  # fmt: skip
    assert written["excluded"] == {"gone": "withdrawn by its owner", "v3": "damaged: no moov atom"}
    assert written["instances"] == 5
    assert written["instances_dropped"] == {"invalid": 1, "clipped": 0, "duplicates": 1, "too_short": 1}
    assert written["protocol"]["name"] == "activitynet"
    assert written["epoch_rule"] == "unknown"
    assert written["external_scores"] is False
    assert set(written["hashes"]["code"]) == {"suppress", "evaluate"}
    assert (scored / "timeline.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in scored.iterdir()) == sorted(
        ["candidates.h5", "detections.json", "toys.json", "map.json", "timeline.png"]
    )


def write_model(path: Path, run: str = "toy") -> Path:
    """The header of a model: all that evaluate reads of it."""
    spec = {"run": run, "dataset": "toys", "features": "clip", "detector": {"name": "mse", "settings": {}}, "seed": 3}
    facts = {"epoch": 35, "epoch_rule": "last epoch", "seed": 3, "recipe": "0123456789ab"}
    made = stamp("train", spec, {}, **facts)
    write_tensors(path, {}, {"tad_stamp": made})
    return path


def test_the_commands_carry_seed_epoch_rule_and_recipe_of_the_model(scored: Path) -> None:
    command = [sys.executable, "-m", "tad"]
    candidates, found = scored / "candidates.h5", scored / "detections.json"
    made = ["suppress", candidates, "--spec", SUPPRESS.json_text(), "--out", found]
    subprocess.run([*command, *made], check=True, capture_output=True)
    scoring = [
        "evaluate", found, "--annotations", scored / "toys.json", "--model", write_model(scored / "model.safetensors"),
        "--spec", evaluate_spec().json_text(), "--figure", scored / "a.png", "--out", scored / "map.json",
    ]  # fmt: skip
    subprocess.run([*command, *scoring], check=True, capture_output=True)
    written = read_json(scored / "map.json")
    assert (written["features"], written["detector"], written["seed"]) == ("clip", "mse", 3)
    assert (written["epoch"], written["epoch_rule"]) == (35, "last epoch")
    assert written["hashes"]["recipe"] == "0123456789ab"
    assert set(written["hashes"]["code"]) == set(written["hashes"]["spec"]) == {"train", "suppress", "evaluate"}
    write_model(scored / "model.safetensors", run="other")
    failed = subprocess.run([*command, *scoring], check=False, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "run='other', expected run='toy'" in failed.stderr


def test_missing_videos_may_be_an_error(scored: Path) -> None:
    with pytest.raises(TadError, match=r"1 of 4 videos have no detections.*'v3' \(damaged"):
        evaluate(
            scored / "detections.json", scored / "toys.json", scored / "map.json",
            spec=evaluate_spec(on_missing="error"),
        )  # fmt: skip
    assert not (scored / "map.json").exists()


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ({"v0": []}, "no instance in 1 videos"),
        ({"w0": [(0, 1, "run")]}, "none of 3 videos"),
        ({}, "split 'test' has no videos; videos per split"),
        ({"v0": [(0, 1, "walk")]}, "unknown label 'walk'"),
    ],
)
def test_nothing_to_score_is_an_error(scored: Path, instances: Any, message: str) -> None:
    write_annotations(scored / "other.json", instances)
    with pytest.raises(TadError, match=message):
        evaluate(scored / "detections.json", scored / "other.json", scored / "map.json", spec=evaluate_spec())


def test_annotations_of_another_dataset_and_foreign_files_are_refused(scored: Path) -> None:
    write_annotations(scored / "other.json", {"v0": [(0, 1, "run")]}, dataset="others")
    with pytest.raises(TadError, match="dataset='others', expected dataset='toys'"):
        evaluate(scored / "detections.json", scored / "other.json", scored / "map.json", spec=evaluate_spec())
    write_json(scored / "list.json", [1, 2])
    with pytest.raises(TadError, match="not a results file"):
        evaluate(scored / "list.json", scored / "toys.json", scored / "map.json", spec=evaluate_spec())


def test_proposals_are_scored_against_all_instances_as_one_class(scored: Path) -> None:
    document = read_json(scored / "detections.json")
    best = document["results"]["v0"][0]
    proposals = {"labels": ["action"], "results": {"v0": [best | {"label": "action"}]}}
    write_json(scored / "proposals.json", proposals)
    out = evaluate(scored / "proposals.json", scored / "toys.json", scored / "map.json", spec=evaluate_spec())
    written = read_json(out)
    assert written["classes"] == "one, proposals"
    assert list(written["AP"]) == ["action"]
    assert written["mAP"]["0.5"] == pytest.approx(1 / written["instances"])


def test_published_detections_through_the_stages_and_the_table(shared: Path, tmp_path: Path) -> None:
    database = json.loads((shared / "data/annotations/thumos14.json").read_text())["database"]
    labels = tuple(sorted({a["label"] for video in database.values() for a in video["annotations"]}))
    videos = {
        v: Video(
            "test", video["duration"], tuple(Instance(*a["segment"], a["label"]) for a in video["annotations"])
        )
        for v, video in database.items()
        if video["subset"] == "Test"
    }  # fmt: skip
    write_table(Table("thumos14", labels, videos), tmp_path / "t.json", stamp("annotate", {"dataset": "thumos14"}, {}))
    scores = []
    for name in ("thumos14-212", "thumos14-210"):
        spec = EvaluateStageSpec(
            run=name, dataset="thumos14", eval={"protocol": name, "tiou": (0.3, 0.4, 0.5, 0.6, 0.7)}
        )
        found = shared / "data/detections/actionformer_thumos14_test_detections.json"
        scores.append(evaluate(found, tmp_path / "t.json", tmp_path / name / "map.json", spec=spec))
    full, reduced = map(read_json, scores)
    assert [round(100 * v, 2) for v in full["mAP"].values()] == [82.13, 77.80, 70.95, 59.40, 43.88]
    assert (full["videos"]["evaluated"], full["instances"]) == (212, 3358)
    assert (reduced["videos"]["evaluated"], reduced["videos"]["in_split"], reduced["instances"]) == (210, 212, 3311)
    assert set(reduced["excluded"]) == {"video_test_0000270", "video_test_0001496"}
    assert full["protocol"]["complete"]
    assert reduced["protocol"]["complete"]

    path = Path(__file__).parents[1] / "workflow_scripts/results_table.py"
    out = tmp_path / "table.md"
    done = subprocess.run(
        [sys.executable, path, *scores, "--out", out],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(path.parents[1])},
    )  # fmt: skip
    assert done.stdout == out.read_text()
    assert "| 82.13 | 77.80 | 70.95 | 59.40 | 43.88 | **66.83** |" in done.stdout
    assert done.stdout.count("**thumos14, split test, protocol thumos14-21") == 2
    assert "212 of 212 videos" in done.stdout


def test_the_table_refuses_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[1] / "workflow_scripts/results_table.py"
    main = runpy.run_path(str(path))["main"]
    write_json(tmp_path / "map.json", {"average_mAP": 1})
    assert main([str(tmp_path / "map.json"), "--out", str(tmp_path / "table.md")]) == 1
    assert "not a map.json" in capsys.readouterr().err
    assert not (tmp_path / "table.md").exists()


def test_needs_no_torch() -> None:
    code = "import sys, tad.stages.suppress, tad.stages.evaluate; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
