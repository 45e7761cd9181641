"""Edits → what runs again, and why: exactly what depends on the edit."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from scratch import Checkout, encode, make_weights

from tad.settings.stage_table import STAGES

PROBE, EXTRACT = ({f"{rule}:0{k}-of-02" for k in range(2)} for rule in ("probe", "extract"))


def of_run(run: str, *rules: str) -> set[str]:
    """The rules of a run, and the table that all runs share."""
    return {f"{rule}:{run}" for rule in rules} | {"table"}


def from_train(*runs: str) -> set[str]:
    """Training of the runs and all that follows."""
    return {job for run in runs for job in of_run(run, "train", "detect", "suppress", "evaluate")}


FROM_FEATURES = {"merge"} | from_train("a", "b")
CHECK = {"check"}
NOTHING: set[str] = set()


def edit(name: str, pattern: str, replacement: str) -> Callable[[Checkout], None]:
    return lambda checkout: checkout.edit(name, pattern, replacement)


def configure(path: str, value: object) -> Callable[[Checkout], None]:
    return lambda checkout: checkout.configure(path, value)


def touch(pattern: str) -> Callable[[Checkout], None]:
    def act(checkout: Checkout) -> None:
        found = [path for path in checkout.folder.glob(pattern) if path.is_file()]
        assert found
        for path in found:
            os.utime(path)

    return act


def replace_weights(checkout: Checkout) -> None:
    checkout.write("weights.safetensors", (checkout.folder / "weights.safetensors").read_bytes())
    make_weights(checkout, seed=1)


def append(name: str, text: str) -> Callable[[Checkout], None]:
    return lambda checkout: checkout.edit(name, r"\Z", text)


CODE = "\n\nUNUSED = 1\n"
TABLE = [
    ("comment in nms/reference", append("tad/nms/reference.py", "# a remark\n"), NOTHING),
    ("docstring of a detector", edit("tad/detectors/mse.py", r'\A"""', '"""Other words: '), NOTHING),
    ("comment in a detector's YAML", append("tad/detectors/mse.yaml", "# a remark\n"), NOTHING),
    ("every source touched", touch("tad/**/*.py"), NOTHING),
    ("every video touched", touch("videos/*"), NOTHING),
    ("annotations and weights touched", touch("[aw]*.[js]*"), NOTHING),
    ("threads, memory and the like", edit("rules/detector.smk", "mem_mb=8000", "mem_mb=9000"), NOTHING),
    ("command line interface", append("tad/commands/cli.py", CODE), NOTHING),
    ("nms.sigma of a run", configure("runs.a.nms", {"sigma": 0.3}), of_run("a", "suppress", "evaluate")),
    ("class scores for a run", configure("runs.a.external", {"source": "own", "topk": 1, "combine": "sqrt"}),
     of_run("a", "classify", "suppress", "evaluate")),
    ("eval.tiou of a run", configure("runs.b.eval", {"tiou": [0.5]}), of_run("b", "evaluate")),
    ("seed of a run", configure("runs.b.seed", 7), from_train("b")),
    ("detector's code", append("tad/detectors/mse.py", CODE), from_train("a")),
    ("code that detectors share", append("tad/layers/types.py", CODE), from_train("a", "b")),
    ("default of a detector: nms", edit("tad/detectors/mse.yaml", r"^detect:", "nms: {sigma: 0.45}\n\ndetect:"),
     of_run("a", "suppress", "evaluate")),
    ("default of a detector: train", edit("tad/detectors/actionformer.yaml", r"^  weight_decay: .*",
     "  weight_decay: 0.06"),
     from_train("b")),
    ("code of suppression", append("tad/nms/kernels.py", CODE),
     of_run("a", "suppress", "evaluate") | of_run("b", "suppress", "evaluate")),
    ("code of the metric", append("tad/metrics/matching.py", CODE), of_run("a", "evaluate") | of_run("b", "evaluate")),
    ("code of training", append("tad/training/loop/optim.py", CODE), from_train("a", "b")),
    ("clip.stride", configure("features.clips.clip", {"stride": 8}), EXTRACT | FROM_FEATURES),
    ("backbone's code", append("tad/backbones/r2plus1d_small.py", CODE), EXTRACT | FROM_FEATURES),
    ("flow, which this backbone can see", append("tad/backbones/_flow.py", CODE), EXTRACT | FROM_FEATURES),
    ("a backbone that nobody names", append("tad/backbones/i3d.py", CODE), NOTHING),
    ("frames, which nobody trains on", append("tad/training/data/frames.py", CODE), NOTHING),
    ("pseudo-labels, without labels in a row", append("tad/training/methods/pseudo.py", CODE), NOTHING),
    ("distillation, without teachers", append("tad/training/methods/distillation.py", CODE), NOTHING),
    ("weights", replace_weights, EXTRACT | FROM_FEATURES),
    ("code of merge", append("tad/stages/merge.py", CODE), FROM_FEATURES),
    ("code of probing", append("tad/video/probing.py", CODE), PROBE | CHECK | EXTRACT | FROM_FEATURES),
    ("code of the comparison", append("tad/stages/check.py", CODE), CHECK | FROM_FEATURES),
    ("code of the annotation format", append("tad/datasets/activitynet.py", CODE),
     {"annotate"} | CHECK | FROM_FEATURES),
    ("script of the table", append("workflow_scripts/results_table.py", CODE), {"table"}),
    ("another run's row", configure("runs.c", {"dataset": "small", "features": "clips", "detector": "tridet"}),
     from_train("c")),
]  # fmt: skip


def test_second_run_has_nothing_to_do(checkout: Checkout) -> None:
    assert checkout.plan() == NOTHING
    assert (checkout.folder / "results/table.md").is_file()
    assert "thumos" not in (checkout.folder / "results/table.md").read_text()


@pytest.mark.parametrize(("act", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_exactly_what_depends_on_it(checkout: Checkout, act: Callable[[Checkout], None], expected: set[str]) -> None:
    act(checkout)
    assert checkout.plan() == expected


def shard(video_id: str) -> str:
    from tad.video.listing import shard_of

    return f"{shard_of(video_id, 2):02d}-of-02"


def test_video_replaced_by_an_older_file(checkout: Checkout, tmp_path: Path) -> None:
    other = encode(tmp_path / "other.mp4", seed=99).read_bytes()
    path = checkout.write("videos/v1.mp4", other)
    os.utime(path, (1.0e9, 1.0e9))  # 2001: no date says that anything changed
    own = {f"probe:{shard('v1')}", f"extract:{shard('v1')}"}
    assert checkout.plan() == own | CHECK | FROM_FEATURES


def test_an_annotated_video_more_runs_its_shard_only(checkout: Checkout) -> None:
    document = json.loads((checkout.folder / "annotations.json").read_text())
    document["database"]["v9"] = document["database"]["v0"]
    checkout.write("annotations.json", json.dumps(document).ljust(1_100_000).encode())
    assert checkout.plan() == {"annotate"} | CHECK | FROM_FEATURES  # no video has changed yet
    checkout.write("videos/v9.mp4", b"a new video")
    own = {f"probe:{shard('v9')}", f"extract:{shard('v9')}"}
    assert checkout.plan() == {"annotate"} | own | CHECK | FROM_FEATURES


def test_annotations_replaced_by_an_older_file(checkout: Checkout) -> None:
    text = (checkout.folder / "annotations.json").read_text().replace("2.5", "2.25")
    os.utime(checkout.write("annotations.json", text.encode()), (1.0e9, 1.0e9))
    assert "annotate" in checkout.plan()


def test_file_that_a_setting_names(finished: Checkout, tmp_path: Path) -> None:
    target = "results/annotations/small.json"
    checkout = finished.copy(tmp_path / "tad")
    checkout.write("labels.txt", b"jump\nrun\n")
    checkout.configure("datasets.small.settings", {"label_file": "labels.txt"})
    checkout.make(target)
    assert checkout.plan(target) == NOTHING
    os.utime(checkout.write("labels.txt", b"run\njump\n"), (1.0e9, 1.0e9))
    assert checkout.plan(target) == {"annotate"}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("runs.a.nms", {"sgima": 0.3}, ["config.yaml runs.a", "sgima", "sigma"]),
        ("runs.a.detectr", "mse", ["config.yaml", "runs.a.detectr", "detector"]),
        ("runs.a.detector", "actionfromer", ["actionfromer", "actionformer"]),
        ("runs.a.train", {"lr": "1e-4"}, ["config.yaml", "runs.a.train.lr", "write 1.0e-4, not 1e-4"]),
        ("features.clips.clip", {"strid": 8}, ["config.yaml features.clips", "strid", "stride"]),
        ("datasets.small.shard", 3, ["config.yaml", "datasets.small.shard", "shards"]),
        ("run", {}, ["config.yaml", "'run'", "runs"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistyped_key_stops_the_dry_run(checkout: Checkout, path: str, value: object, words: list[str]) -> None:
    checkout.configure(path, value)
    status, said = checkout.dry_run("results/a/map.json")
    assert status != 0
    assert all(word in said for word in words), said
    assert "Traceback" not in said


def test_missing_data_set_says_what_to_put_where(checkout: Checkout) -> None:
    status, said = checkout.dry_run("results/thumos/map.json")
    assert status != 0
    for words in ("put the annotations of thumos14 at data/thumos14/annotations", "at data/thumos14/videos"):
        assert words in said, said
    assert "Traceback" not in said, said


def test_two_files_of_one_video_stop_the_dry_run(checkout: Checkout) -> None:
    checkout.write("videos/more/v1.mp4", b"not looked into")
    status, said = checkout.dry_run("results/a/map.json")
    assert status != 0
    assert "same video id" in said


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (configure("runs.a.nms", {"sigma": 0.3}), ["suppress would run for results/a/detections.json",
                                                   "setting nms.sigma: 0.5 → 0.3", "2 jobs in all"]),
        (append("tad/detectors/mse.py", CODE), ["train would run for results/a/model.safetensors",
                                                "code of tad.detectors.mse changed"]),
        (replace_weights, ["extract would run", "the content of the files it reads from outside the workflow changed"]),
        (append("tad/commands/cli.py", CODE), ["results/a/map.json: up to date, nothing would run"]),
    ],
    ids=["setting", "code", "weights", "nothing"],
)  # fmt: skip
def test_why_says_it_in_words(checkout: Checkout, act: Callable[[Checkout], None], words: list[str]) -> None:
    act(checkout)
    target = "results/a/map.json"
    done = checkout.run("tad", "why", target)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words), done.stdout
    if "nms.sigma" in words[1:2]:
        assert "train" not in done.stdout


def test_why_tells_a_script_from_the_files_of_the_user(checkout: Checkout) -> None:
    checkout.edit("workflow_scripts/results_table.py", r"\Z", CODE)
    said = checkout.run("tad", "why", "results/table.md").stdout
    assert "table would run for results/table.md" in said
    assert "because its script or its settings changed" in said
    assert "content" not in said


def test_checkout_that_was_moved_is_up_to_date(finished: Checkout, tmp_path: Path) -> None:
    assert finished.copy(tmp_path / "elsewhere").plan() == NOTHING


def test_added_video_costs_its_own_shard(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "tad")
    new = next(f"w{k}" for k in range(9) if shard(f"w{k}") == shard("v0"))
    encode(checkout.folder / "videos" / f"{new}.mp4", seed=50)
    target = "results/b/model.safetensors"
    planned = {f"probe:{shard(new)}", f"extract:{shard(new)}"} | CHECK | {"merge", "train:b"}
    assert checkout.plan(target) == planned
    other = f"{1 - int(shard(new)[:2]):02d}-of-02.h5"
    before = (checkout.folder / "results/features/small/clips" / other).stat()
    checkout.make(target)
    assert (checkout.folder / "results/features/small/clips" / other).stat().st_mtime_ns == before.st_mtime_ns
    kept = sum(shard(f"v{k}") == shard(new) for k in range(4))
    assert kept
    assert f"1 videos decoded, {kept} cached" in checkout.log(f"videos/small/logs/{shard(new)}.probe.log")
    assert f"1 videos to extract, {kept} cached" in checkout.log(f"features/small/clips/logs/{shard(new)}.extract.log")
    assert "weights republished" in checkout.log("b/logs/train.log")
    assert checkout.plan(target) == NOTHING


def test_every_stage_forecasts_its_space(finished: Checkout) -> None:
    logs = [path for path in (finished.folder / "results").rglob("logs/*.log") if path.stem.split(".")[-1] in STAGES]
    assert len({path.stem.split(".")[-1] for path in logs}) >= 9
    silent = [path for path in logs if " on disk, " not in path.read_text()]
    assert [path.name for path in silent if "0 videos to extract" not in path.read_text()] == []


def test_changed_settings_are_seen_without_snakemakes_records(finished: Checkout, tmp_path: Path) -> None:
    """`.snakemake` was deleted, or results were copied without it: the stamps say what is current."""
    checkout = finished.copy(tmp_path / "tad")
    shutil.rmtree(checkout.folder / ".snakemake")
    assert checkout.plan() == set()
    before = (checkout.folder / "config.yaml").read_text()
    checkout.configure("runs.b.nms.sigma", 0.25)
    assert checkout.plan() == of_run("b", "suppress", "evaluate")
    shutil.rmtree(checkout.folder / ".snakemake")
    said = checkout.run("snakemake", "-n")
    assert "detections.json: made with nms.sigma=0.5 and not 0.25, and Snakemake has no record" in said.stderr
    (checkout.folder / "config.yaml").write_text(before)
    assert checkout.plan() == set(), "the settings are the old ones again"
    checkout.configure("runs.b.nms.sigma", 0.25)
    assert checkout.run("snakemake", "--touch", "--cores", "1").returncode == 0
    assert checkout.plan() == set(), "accepted"
