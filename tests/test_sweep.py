"""`tad sweep`: which videos it tunes on, what it refuses, and that its scores are those of suppress and evaluate."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_tools as tools
import yaml
from config_tools import all_rows, copy_config
from training_tools import videos_of, write_inputs

from tad.annotations.table import Video
from tad.commands.cli import main
from tad.commands.sweep import Training, combinations, sweep
from tad.core.errors import TadError
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.stages import EvaluateStageSpec, NmsSpec, SuppressStageSpec, TrainStageSpec
from tad.stages.evaluate import evaluate
from tad.stages.suppress import suppress
from tad.stages.train import train

TRAIN = {"epochs": 2, "warmup_epochs": 1, "max_length": 32, "batch_size": 2, "lr": 0.01}


def write_project(folder: Path, *, validation: bool = False, seeds: int = 1, **changes: Any) -> Path:
    """A run `r` whose detector is the tiny one (in the clothes of actionformer) with features and annotations."""
    videos: dict[str, tuple[Video, np.ndarray]] = videos_of(np.random.default_rng(0), train=9)
    if validation:
        first = videos["train_0"]
        videos["train_0"] = (Video("val", first[0].duration, first[0].instances), first[1])
    features, annotations = write_inputs(folder, videos)
    for path, place in ((features, "features/toy/f.h5"), (annotations, "annotations/toy.json")):
        target = folder / "results" / place
        target.parent.mkdir(parents=True)
        path.rename(target)
    row = {
        "dataset": "toy", "features": "f", "detector": "actionformer", "seeds": seeds,
        "train": TRAIN | changes, "nms": {"sigma": 0.5, "topk": 50}, "eval": {"protocol": "plain", "tiou": [0.3, 0.5]},
    }  # fmt: skip
    source = {"source": "x", "dim": tools.DIM, "clip": {"length": 1, "stride": 1, "policy": "native", "rate": 0.0}}
    values = {
        "datasets": {"toy": {"format": "csv", "annotations": "x.csv"}},
        "features": {"f": source},
        "runs": {"r": row},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    read = Config.read(config)
    for name in read.trainings("r"):
        spec = read.spec("train", run=name)
        assert isinstance(spec, TrainStageSpec)
        model = folder / "results" / name / "model.safetensors"
        results = folder / "results"
        train(results / "features/toy/f.h5", results / "annotations/toy.json", model, spec=spec, cache=folder / "kept")
    return config


def tiny_loader(kind: str, name: str) -> Any:
    assert (kind, name) == ("detectors", "actionformer")
    return lambda settings, *, feature_dim, num_classes, max_length: tools.Tiny(
        feature_dim=feature_dim, num_classes=num_classes, max_length=max_length
    )


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "load", tiny_loader)


HELD_OUT = {"selection": "held-out", "hold_out": 0.34}


def test_scores_are_those_of_suppress_and_evaluate(tmp_path: Path) -> None:
    config = write_project(tmp_path, **HELD_OUT)
    lines = list(sweep("r", ["nms.sigma=0.3,0.5,0.9", "nms.topk=2,50"], config=config))
    assert lines[0].startswith("r: 3 videos, ")
    assert "kept aside" in lines[0]
    header, *rows = (line.split() for line in lines[1:8])
    assert header == ["sigma", "topk", "mAP@0.3", "mAP@0.5", "average"]
    assert rows[0][:2] == ["0.5", "50"]
    assert rows[0][5].startswith("now")
    assert sorted((row[0], row[1]) for row in rows) == sorted(
        (s, k) for s in ("0.3", "0.5", "0.9") for k in ("2", "50")
    )
    read = Config.read(config)
    training = Training(read, "r", on="held-out", device="cpu")
    candidates = training.candidates()
    for row in rows:
        nms = NmsSpec.model_validate(
            read.resolve_run("r").sections["nms"] | {"sigma": float(row[0]), "topk": int(row[1])}
        )
        found = suppress(candidates, tmp_path / "d.json", spec=SuppressStageSpec(run="r", nms=nms))
        spec = read.spec("evaluate", run="r").model_copy(update={"split": "val"})
        assert isinstance(spec, EvaluateStageSpec)
        scored = evaluate(found, training.annotations, tmp_path / "map.json", spec=spec)
        average = yaml.safe_load(scored.read_text())["average_mAP"]
        assert row[4] == f"{100 * average:.2f}"
    averages = [float(row[4]) for row in rows]
    best = [row for row in rows if row[-1] == "best"]
    assert len(best) == 1
    assert float(best[0][4]) == max(averages)
    assert ("nms: {" in lines[8]) == (best[0] is not rows[0])


def test_the_videos_kept_aside_are_not_those_that_were_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    from tad.training.data.windows import Windows

    init = Windows.__init__

    def noting(self: Any, items: Any, *args: Any, **kwargs: Any) -> None:
        seen.extend(item.video_id for item in items) if not seen else None
        init(self, items, *args, **kwargs)

    monkeypatch.setattr(Windows, "__init__", noting)
    config = write_project(tmp_path, **HELD_OUT)
    chosen = Training(Config.read(config), "r", on="held-out", device="cpu").chosen.video_ids
    assert len(chosen) == 3
    assert len(seen) == 6
    assert not set(chosen) & set(seen)


def test_what_is_known_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_project(tmp_path, **HELD_OUT)
    first = list(sweep("r", ["nms.sigma=0.3,0.5"], config=config))

    def no_more(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("tad.stages.detect.detect", no_more)
    monkeypatch.setattr("tad.stages.suppress.suppress", no_more)
    assert list(sweep("r", ["nms.sigma=0.3,0.5"], config=config)) == first
    with pytest.raises(AssertionError, match="computed again"):
        list(sweep("r", ["nms.sigma=0.31"], config=config))
    assert not (tmp_path / "results/r/sweep/held-out/detections.json").exists()


def test_a_run_that_held_nothing_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_project(tmp_path)
    call = ["sweep", "r", "nms.sigma=0.3,0.9", "--config", str(config), "--device", "cpu"]
    assert main(call) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert "trained on all train videos" in errors[-1]
    assert "--on train" in errors[-1]
    assert main([*call, "--on", "train"]) == 0
    assert "OPTIMISTIC" in capsys.readouterr().out
    assert main([*call, "--on", "test"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("PEEKED") == 2
    assert "r: 3 videos" in printed


@pytest.mark.parametrize("source", ["own", "scores.json"])
def test_a_run_with_class_scores_of_the_test_videos_is_refused(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is detected: these scores are not of the videos that were held out."""
    values = all_rows()
    values["runs"]["r"] = {**values["runs"]["anet"], "external": {"source": source}}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    assert main(["sweep", "r", "nms.sigma=0.3", "--config", str(config), "--device", "cpu"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("runs.r: it has class scores for the test videos only; sweep a row without `external`")
    assert list(tmp_path.iterdir()) == [config]


def test_a_val_split_is_what_is_held_out(tmp_path: Path) -> None:
    config = write_project(tmp_path, validation=True)
    assert next(sweep("r", ["nms.tiou=0.3"], config=config)).startswith("r: 1 videos, 1 instances: split val")


def test_several_seeds_count_with_their_mean(tmp_path: Path) -> None:
    config = write_project(tmp_path, validation=True, seeds=2)
    lines = list(sweep("r", ["nms.topk=1,50"], config=config))
    assert "2 seeds" in lines[1]
    read = Config.read(config)
    tried = combinations(read, "r", ["nms.topk=1,50"])
    each = [Training(read, f"r/seed-{k}", on="held-out", device="cpu").scores(tried)[0][-1] for k in (0, 1)]
    assert lines[3].split()[3] == f"{100 * np.mean(each):.2f}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nms.sigmma=0.3", "nms has no setting 'sigmma'; did you mean 'sigma'?"),
        ("nms.sigma=-1,2", "sigma: Input should be greater than 0"),
        ("nms.sigma=wide", "sigma must be a number"),
        ("nms.method=softer", "Input should be 'hard', 'gaussian'"),
        ("nms.topk=0", "topk: Input should be greater than or equal to 1"),
        ("detect.topk=5", "only suppression is swept"),
        ("nms.sigma", "write nms.<setting>=<value>,<value>"),
        ("nms.sigma=[", "the values cannot be read"),
        ("nms.sigma=" + ",".join(str(k + 1) for k in range(1001)), "1001 combinations; give 1 to 1000"),
    ],
)
def test_settings_that_do_not_exist_are_one_line(change: str, message: str) -> None:
    with pytest.raises(TadError, match=re.escape(message)) as error:
        combinations(Config.read(Path(__file__).parents[1] / "config.yaml"), "demo", [change])
    assert "\n" not in str(error.value)


def test_a_setting_given_twice_and_a_missing_model(tmp_path: Path) -> None:
    config = Path(__file__).parents[1] / "config.yaml"
    with pytest.raises(TadError, match=r"nms\.topk is given twice"):
        combinations(Config.read(config), "demo", ["nms.topk=1", "nms.topk=2"])
    here = copy_config(tmp_path)
    with pytest.raises(
        TadError, match=r"results/demo/model\.safetensors: no such file; make it with `cd \S+ && tad run"
    ):
        list(sweep("demo", ["nms.sigma=0.3"], config=here))
    with pytest.raises(TadError, match="did you mean 'demo'"):
        list(sweep("dmo", ["nms.sigma=0.3"], config=here))


def test_parsing_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from tad.settings.config import Config\n"
        "from tad.commands.sweep import combinations\n"
        "assert len(combinations(Config.read(Path('config.yaml')), 'demo', ['nms.sigma=0.3,0.7'])) == 3\n"
        "sys.exit(7 if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 0
