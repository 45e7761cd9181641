"""Several seeds of a run: names, settings and rules; the mean of their scores; the comparison of two runs."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from tad.annotations.table import Instance, Table, Video, write_table
from tad.commands.cli import main
from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.provenance.stamps import stamp
from tad.settings.config import Config
from tad.settings.stages import EvaluateStageSpec, SummariseStageSpec
from tad.stages.evaluate import evaluate
from tad.stages.summarise import summarise
from tad.training.io.tensors import write_tensors
from tad.workflow.rules import Workflow

ROOT = Path(__file__).parents[1]
LABELS = ("jump", "run")
EVAL = {"protocol": "plain", "tiou": (0.3, 0.5, 0.7), "on_missing": "count"}


def values(**changes: Any) -> dict[str, Any]:
    row = {"dataset": "demo", "features": "clips", "detector": "mse"}
    return {
        "datasets": {"demo": {}},
        "features": {"clips": {"backbone": "r2plus1d_small"}},
        "runs": {"one": row, "many": {**row, "seed": 4, "seeds": 3, **changes}, "other": row},
    }


# ── names and settings ──


def test_a_seed_is_the_row_with_another_seed() -> None:
    config = Config(values())
    assert config.trainings("one") == ["one"]
    assert config.trainings("many") == ["many/seed-0", "many/seed-1", "many/seed-2"]
    specs = [config.spec("train", run=name).model_dump() for name in config.trainings("many")]
    assert [spec["seed"] for spec in specs] == [4, 5, 6]
    assert [spec["run"] for spec in specs] == config.trainings("many")
    assert len({str({**spec, "seed": 0, "run": ""}) for spec in specs}) == 1
    assert config.spec("detect", run="many/seed-2").model_dump()["run"] == "many/seed-2"
    assert config.spec("summarise", run="many").model_dump()["seeds"] == (4, 5, 6)


@pytest.mark.parametrize("name", ["many/seed-3", "many/seed-x", "many/logs", "one/seed-0", "many/seed-0/seed-1"])
def test_seeds_that_do_not_exist(name: str) -> None:
    with pytest.raises(TadError, match="raise seeds"):
        Config(values()).run(name)


@pytest.mark.parametrize("seeds", [0, -1, 1.5, "five", 100])
def test_numbers_of_seeds_that_cannot_be(seeds: Any) -> None:
    with pytest.raises(TadError, match=r"runs\.many\.seeds"):
        Config(values(seeds=seeds))


def test_what_the_rules_ask() -> None:
    flow = Workflow(values(), ".")
    assert flow.pattern("runs") == "many/seed-0|many/seed-1|many/seed-2|one|other"
    assert flow.pattern("summaries") == "many"
    many = SimpleNamespace(run="many")
    assert flow.seed_scores(many) == [f"results/many/seed-{k}/map.json" for k in range(3)]
    assert flow.seed_detections(many) == [f"results/many/seed-{k}/detections.json" for k in range(3)]
    assert flow.features_of(SimpleNamespace(run="many/seed-1")) == "results/features/demo/clips.h5"
    assert flow.code("train", SimpleNamespace(run="many/seed-1")) == flow.code("train", SimpleNamespace(run="one"))
    assert flow.ready_runs() == ["one", "many", "other"]


def test_the_rules_train_each_seed_and_summarise_once(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values(seeds=2)))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        ROOT / "Snakefile",
        "--directory",
        tmp_path,
        "-n",
    ]
    done = subprocess.run([*command, "--", "results/many/map.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2 and line[-1].isdigit())
    expected = {"train": "2", "detect": "2", "suppress": "2", "evaluate": "2", "summarise": "1", "merge": "1"}
    assert {rule: counts[rule] for rule in expected} == expected


# ── the mean ──


def write_model(path: Path, run: str, *, seed: int) -> Path:
    """The header of a model: all that evaluate reads of it."""
    spec = {
        "run": run,
        "dataset": "toys",
        "features": "clip",
        "detector": {"name": "mse", "settings": {}},
        "seed": seed,
    }
    made = stamp("train", spec, {}, epoch=35, epoch_rule="last epoch", seed=seed, recipe="0123456789ab")
    write_tensors(path, {}, {"tad_stamp": made})
    return path


def write_seed(folder: Path, run: str, annotations: Path, *, seed: int, hits: int, **changes: Any) -> Path:
    """Detections of a run that find `hits` in ten instances, and their score; the score's path."""
    rng = np.random.default_rng(seed)
    table = read_json(annotations)["videos"]
    results = {}
    for video_id, video in table.items():
        found = [i for i in video["instances"] if rng.random() < hits / 10]
        wrong = [[start + 30, end + 30, label] for start, end, label in video["instances"]]
        results[video_id] = [
            {"label": label, "score": float(rng.random()), "segment": [start, end]}
            for start, end, label in found + wrong
        ]
    document = {
        "stamp": stamp("suppress", {"run": run}, {}),
        "labels": list(LABELS),
        "excluded": {},
        "results": results,
    }
    write_json(folder / run / "detections.json", document)
    write_model(folder / run / "model.safetensors", run=run, seed=seed)
    spec = EvaluateStageSpec(run=run, dataset="toys", eval=EVAL | changes)
    return evaluate(
        folder / run / "detections.json", annotations, folder / run / "map.json",
        spec=spec, model=folder / run / "model.safetensors",
    )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with annotations, three seeds of `many`, one of `one`, and a configuration that says so."""
    rng = np.random.default_rng(0)
    videos = {
        f"v{k}": Video("test", 60.0, tuple(Instance(3.0 * i, 3.0 * i + 2, LABELS[rng.integers(2)]) for i in range(6)))
        for k in range(12)
    }
    results = tmp_path / "results"
    table = write_table(
        Table("toys", LABELS, videos), results / "annotations/toys.json", stamp("annotate", {"dataset": "toys"}, {})
    )
    for k, hits in enumerate((4, 5, 6)):
        write_seed(results, f"many/seed-{k}", table, seed=4 + k, hits=hits)
    write_seed(results, "one", table, seed=3, hits=9)
    tree = values()
    tree["datasets"]["toys"] = {"format": "csv", "eval": {"protocol": "plain", "tiou": list(EVAL["tiou"])}}
    for row in tree["runs"].values():
        row["dataset"] = "toys"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path


def summary(
    project: Path, *, run: str = "many", seeds: tuple[int, ...] = (4, 5, 6), count: int = 3, **changes: Any
) -> dict[str, Any]:
    folder = project / "results/many"
    spec = SummariseStageSpec(run=run, dataset="toys", eval=EVAL | changes, seeds=seeds)
    out = summarise(
        [folder / f"seed-{k}/map.json" for k in range(count)],
        [folder / f"seed-{k}/detections.json" for k in range(count)],
        project / "results/annotations/toys.json",
        folder / "map.json",
        spec=spec,
    )
    written: dict[str, Any] = read_json(out)
    return written


def test_mean_deviation_and_interval_over_seeds(project: Path) -> None:
    written = summary(project)
    each = [read_json(project / f"results/many/seed-{k}/map.json") for k in range(3)]
    averages = [one["average_mAP"] for one in each]
    assert written["average_mAP"] == pytest.approx(np.mean(averages))
    assert written["std"]["average_mAP"] == pytest.approx(np.std(averages, ddof=1))
    for tiou in ("0.3", "0.5", "0.7"):
        assert written["mAP"][tiou] == pytest.approx(np.mean([one["mAP"][tiou] for one in each]))
        assert written["std"]["mAP"][tiou] == pytest.approx(np.std([one["mAP"][tiou] for one in each], ddof=1))
    assert written["AP"]["run"]["0.5"] == pytest.approx(np.mean([one["AP"]["run"]["0.5"] for one in each]))
    assert (written["run"], written["seeds"], written["epoch_rule"]) == ("many", [4, 5, 6], "last epoch")
    assert written["per_seed"]["5"]["average_mAP"] == averages[1]
    assert written["instances"] == 72
    assert written["videos"]["evaluated"] == 12
    assert written["protocol"]["name"] == "plain"
    assert len(set(written["hashes"]["spec"]["train"])) == 3
    assert isinstance(written["hashes"]["code"]["train"], str)
    assert set(written) - set(each[0]) == {"std", "seeds", "per_seed"}
    assert set(each[0]) - set(written) == {"seed"}
    interval = written["interval"]
    assert (interval["level"], interval["resamples"]) == (0.95, 1000)
    low, high = interval["average_mAP"]
    assert low < written["average_mAP"] < high
    for one in each:  # a single seed says the same of itself
        assert one["interval"]["method"] == interval["method"]
        assert one["interval"]["average_mAP"][0] < one["average_mAP"] < one["interval"]["average_mAP"][1]
    assert high - low < max(np.diff(one["interval"]["average_mAP"])[0] for one in each)


def test_the_table_shows_the_spread(project: Path) -> None:
    written = summary(project)
    path = ROOT / "workflow_scripts/results_table.py"
    scores = [project / "results/many/map.json", project / "results/one/map.json"]
    done = subprocess.run(
        [sys.executable, path, *scores, "--out", project / "table.md"],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    mean, deviation = 100 * written["average_mAP"], 100 * written["std"]["average_mAP"]
    many, one = done.stdout.splitlines()[4:]
    low, high = (100 * end for end in written["interval"]["average_mAP"])
    assert f"| **{mean:.2f}** ± {deviation:.2f} | {low:.2f} to {high:.2f} |" in many
    assert many.endswith("| 4 to 6 |")
    assert "±" not in one
    assert one.endswith("| 3 |")


def test_further_measures_are_averaged_and_compared(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"measures": ["proposals", "frames", "segmentation"], "frame_rate": 5.0}
    annotations = project / "results/annotations/toys.json"
    for k, hits in enumerate((4, 5, 6)):
        write_seed(project / "results", f"many/seed-{k}", annotations, seed=4 + k, hits=hits, **more)
    write_seed(project / "results", "one", annotations, seed=3, hits=9, **more)
    written = summary(project, **more)
    each = [read_json(project / f"results/many/seed-{k}/map.json") for k in range(3)]
    mean, std = written, written["std"]["measures"]
    assert mean["frames"]["mAP"] == pytest.approx(np.mean([one["frames"]["mAP"] for one in each]))
    assert mean["proposals"]["AR"]["10"] == pytest.approx(np.mean([one["proposals"]["AR"]["10"] for one in each]))
    assert mean["segmentation"]["F1"]["50"] == pytest.approx(np.mean([one["segmentation"]["F1"]["50"] for one in each]))
    assert std["segmentation edit"] == pytest.approx(np.std([one["segmentation"]["edit"] for one in each], ddof=1))
    for part, key in (("frames", "rate"), ("proposals", "tiou"), ("proposals", "videos")):  # what is no score stays
        assert mean[part][key] == each[0][part][key]
    tree = yaml.safe_load((project / "config.yaml").read_text())
    tree["datasets"]["toys"]["eval"] |= more
    (project / "config.yaml").write_text(yaml.safe_dump(tree))
    assert main(["compare", "many", "one", "--config", str(project / "config.yaml")]) == 0
    a, b = 100 * mean["frames"]["mAP"], 100 * read_json(project / "results/one/map.json")["frames"]["mAP"]
    line = f"frames mAP: many {a:.2f}, one {b:.2f}, difference {b - a:+.2f} (no interval)"
    assert line in capsys.readouterr().out.splitlines()


def test_the_command_makes_the_same_bytes(project: Path) -> None:
    summary(project)
    folder, spec = project / "results/many", SummariseStageSpec(run="many", dataset="toys", eval=EVAL, seeds=(4, 5, 6))
    argv = ["summarise", *(str(folder / f"seed-{k}/map.json") for k in range(3)), "--detections"]
    argv += [str(folder / f"seed-{k}/detections.json") for k in range(3)]
    argv += ["--annotations", str(project / "results/annotations/toys.json"), "--spec", spec.json_text()]
    assert main([*argv, "--out", str(folder / "again.json")]) == 0
    assert (folder / "again.json").read_bytes() == (folder / "map.json").read_bytes()


def test_scores_that_do_not_belong_together_are_refused(project: Path) -> None:
    with pytest.raises(TadError, match="2 scores for 3 seeds"):
        summary(project, count=2)
    with pytest.raises(TadError, match="trained with seed 5, expected 7"):
        summary(project, seeds=(4, 7, 6))
    with pytest.raises(TadError, match="run='many/seed-0', expected run='others/seed-0'"):
        summary(project, run="others")
    annotations = project / "results/annotations/toys.json"
    write_seed(project / "results", "many/seed-1", annotations, seed=5, hits=5, tiou=(0.5,))
    with pytest.raises(TadError, match=r"seed-1/map\.json: made with eval\.tiou="):
        summary(project)
    score_path = write_seed(project / "results", "many/seed-1", annotations, seed=5, hits=5)
    write_json(score_path, read_json(score_path) | {"instances": 71})
    with pytest.raises(TadError, match=r"instances is 71, but 72 in "):
        summary(project)
    write_json(score_path, read_json(score_path) | {"instances": 72, "average_mAP": 0.123})
    with pytest.raises(TadError, match="does not match the score of"):
        summary(project)
    assert not (project / "results/many/map.json").exists()


# ── two runs ──


def test_compare_takes_more_seeds_than_a_row_has(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that Snakemake's --config made; the files of the rows' own number are not looked at."""
    config = ["--config", str(project / "config.yaml")]
    assert main(["compare", "many", "other", *config, "--seeds", "3"]) == 1
    assert "other/seed-0" in capsys.readouterr().err
    for k in range(3):
        path = project / "results/annotations/toys.json"
        write_seed(project / "results", f"other/seed-{k}", path, seed=k, hits=4)
    assert main(["compare", "many", "other", *config, "--seeds", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == ["many: seeds 4, 5, 6", "other: seeds 0, 1, 2"]


def test_compare_says_the_paired_difference(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "many", "one", "--config", str(project / "config.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "one − many: toys, split test, protocol plain, 12 videos, 72 instances"
    assert lines[1:3] == ["many: seeds 4, 5, 6", "one: seed 0"]  # the configuration's
    assert [line.split()[0] for line in lines[4:8]] == ["0.3", "0.5", "0.7", "average"]
    cells = lines[7].replace("[", "").replace("]", "").replace(",", "").split()
    many, one, difference, low, high = map(float, cells[1:])
    each = [read_json(project / f"results/many/seed-{k}/map.json")["average_mAP"] for k in range(3)]
    assert many == pytest.approx(100 * np.mean(each), abs=0.006)
    assert one == pytest.approx(100 * read_json(project / "results/one/map.json")["average_mAP"], abs=0.006)
    assert difference == pytest.approx(one - many, abs=0.011)
    assert 0 < low < difference < high
    assert "does not contain 0 (1000 paired resamples" in lines[8]
    assert main(["compare", "one", "many", "--config", str(project / "config.yaml")]) == 0
    assert f"{-difference:+.2f}   [{-high:+.2f}, {-low:+.2f}]" in capsys.readouterr().out


def test_a_run_compared_with_its_copy_differs_by_exactly_nothing(project: Path) -> None:
    document = read_json(project / "results/one/detections.json")
    document["stamp"] = stamp("suppress", {"run": "other"}, {})
    write_json(project / "results/other/detections.json", document)
    from tad.commands.compare import compare

    lines = list(compare("one", "other", config=project / "config.yaml"))
    assert all(line.endswith("+0.00   [+0.00, +0.00]") for line in lines[4:8])
    assert "contains 0" in lines[8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval": {"protocol": "activitynet"}}, "protocol of many is plain, of one activitynet"),
        ({"eval": {"tiou": [0.5]}}, r"tiou of many is \[0.3, 0.5, 0.7\], of one \[0.5\]"),
        ({"dataset": "demo"}, "dataset of many is toys, of one demo"),
        ({"eval": {"background": ["run"]}}, r"background of many is \[\], of one \['run'\]"),
    ],
)
def test_runs_that_cannot_be_compared(project: Path, change: dict[str, Any], message: str) -> None:
    from tad.commands.compare import compare

    tree = yaml.safe_load((project / "config.yaml").read_text())
    tree["runs"]["one"] |= change
    (project / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(TadError, match=f"many and one cannot be compared: {message}"):
        list(compare("many", "one", config=project / "config.yaml"))


def test_proposals_are_not_compared_with_classes(project: Path) -> None:
    from tad.commands.compare import compare

    path = project / "results/one/detections.json"
    document = read_json(path) | {"labels": ["action"]}
    document["results"] = {v: [e | {"label": "action"} for e in rows] for v, rows in document["results"].items()}
    write_json(path, document)
    with pytest.raises(TadError, match="many detects classes, one proposals"):
        list(compare("many", "one", config=project / "config.yaml"))
    with pytest.raises(TadError, match="two different runs"):
        list(compare("one", "one", config=project / "config.yaml"))
    path.unlink()
    with pytest.raises(TadError, match=r"one/detections\.json: no such file"):
        list(compare("many", "one", config=project / "config.yaml"))


def test_without_torch() -> None:
    modules = "tad.commands.compare, tad.commands.suggest, tad.stages.summarise"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
