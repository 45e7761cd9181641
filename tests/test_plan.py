"""`tad plan`: sizes, the line through two measured points, finished jobs, and a plan of a small run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tad.annotations.table import Instance, Table, Video
from tad.commands import plan as planning
from tad.commands import plan_size as size
from tad.commands import plan_trial as trial
from tad.commands.doctor_trials import FRAMES, RATE, write_video
from tad.commands.plan_trial import Effort, Line
from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.settings.config import Config
from tad.workflow.why import Job

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
positive = st.floats(0.01, 1e4)


@given(job=positive, unit=positive, few=st.floats(1, 100), more=st.floats(1, 1000), asked=st.floats(0, 1e5))
def test_a_line_is_recovered_from_two_points(job: float, unit: float, few: float, more: float, asked: float) -> None:
    def effort(units: float) -> Effort:
        return Effort(job + unit * units, 2 * (job + unit * units))

    found = trial.line_through(effort(few), few, effort(few + more), few + more)
    assert found.of(asked) == pytest.approx(effort(asked), rel=1e-3, abs=1e-6 * (job + unit * 1e3))
    three = found.of(asked, jobs=3)
    assert three.wall == pytest.approx(found.of(asked).wall + 2 * found.job.wall)


def test_noise_that_makes_more_work_seem_faster_is_no_negative_effort() -> None:
    found = trial.line_through(Effort(5, 5), 10, Effort(4, 4), 40)
    assert found == Line(Effort(0, 0), Effort(0.1, 0.1))
    assert trial.line_through(Effort(5, 2), 10, Effort(4, 5), 40) == Line(Effort(0, 1), Effort(0.1, 0.1))


@given(
    start=positive, saving=positive, unit=positive, decoding=positive, few=st.integers(1, 9), more=st.integers(1, 90)
)
def test_work_of_an_epoch_and_of_a_training_is_not_taken_for_that_of_their_segments(
    start: float, saving: float, unit: float, decoding: float, few: int, more: int
) -> None:
    """Pretraining 1000 segments for 12 epochs, told from two small samples whose parts of the work are known."""
    sample = trial.Sample.__new__(trial.Sample)
    sample.manifests, sample.seconds, counts = [Path("few"), Path("many")], [6.0, 24.0], [few, few + more]

    def epochs(_sample: Any, _table: Any, part: int, **_: Any) -> tuple[Line, int]:
        job, each = start + decoding * sample.seconds[part], saving + unit * counts[part]
        return Line(Effort(job, 2 * job), Effort(each, 2 * each)), 5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "read_json", lambda _: {"videos": {"a": {"usable": True, "rate": 25.0}}})
        patch.setattr(trial, "_part_of", lambda _table, _sample, part: part)
        patch.setattr(trial, "segments", lambda part, *_: counts[part])
        patch.setattr(trial, "_epochs", epochs)
        patch.setattr(trial, "_decoding", lambda *_: Effort(decoding * 24.0, 2 * decoding * 24.0))
        found = trial.try_pretrain(sample, None, None, device="cpu", made={})  # type: ignore[arg-type]
    wanted = start + 12 * (saving + 1000 * unit) + decoding * 600
    slack = 1e-5 * (start + 1000 * saving + 600 * decoding)  # of differences
    effort = found.of(units=1000, epochs=12, seconds=600.0)
    assert effort == pytest.approx((wanted, 2 * wanted), rel=1e-4, abs=slack)


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_the_start_of_decoding_processes_is_not_taken_for_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    """One video is read by one process, three videos by up to three: each takes as long as minutes of video."""
    sample = trial.Sample.__new__(trial.Sample)
    sample.folder, sample.seconds, sample.pieces = tmp_path, [6.0, 24.0], [{"a": 6.0}, {"b": 8.0, "c": 8.0, "d": 8.0}]
    sample.manifests, sample.parts = [Path("few"), Path("many")], (Path("few"), Path("many"))
    like, features = Grid(0.0, 1.0, 5, 5.0), SimpleNamespace(dataset="d", features="f")

    def extract(manifest: Path, *arguments: Any, workers: int, **_: Any) -> None:
        assert workers == torch.get_num_threads() == cores
        trial.synthetic_features(arguments[2], features, {"a": 5.0}, dim=3, like=like)
        part = int(manifest.name == "many")
        efforts.append(Effort(1.0, 1.0 + 0.3 * min(workers, len(sample.pieces[part])) + 0.01 * sample.seconds[part]))

    efforts: list[Effort] = []
    monkeypatch.setattr("tad.stages.extract.extract", extract)
    monkeypatch.setattr(trial, "timed", lambda call: (call(), efforts[-1])[1])
    spec = SimpleNamespace(model_copy=lambda update: update)
    line, dim, _ = sample.extract(spec, None, "cpu", cores=cores, decoder=Effort(0.2, 0.3))
    assert (line.unit.cpu, line.job.cpu, dim) == (pytest.approx(0.01), pytest.approx(1.0), 3)


def test_a_piece_of_a_video_is_copied(tmp_path: Path) -> None:
    whole, piece = tmp_path / "whole.mp4", tmp_path / "piece.mkv"
    write_video(whole)
    assert trial.duration_of(whole) == pytest.approx(FRAMES / RATE)
    trial.cut(whole, piece, 0.2)
    assert 0 < trial.duration_of(piece) < 0.3
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert trial.duration_of(broken) == 0
    with pytest.raises(TadError, match=r"broken\.mp4: cannot be copied"):
        trial.cut(broken, tmp_path / "b.mkv", 1.0)


def test_lengths_come_from_manifests_then_headers_then_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {name: tmp_path / f"{name}.mp4" for name in "abcd"}
    for k, path in enumerate(paths.values()):
        path.write_bytes(bytes(100 * (k + 1)))
    monkeypatch.setattr(size, "MOST_HEADERS", 2)
    monkeypatch.setattr(size, "duration_of", lambda path: path.stat().st_size / 10)
    found = size._measured(paths, {"a": 10.0})
    assert found.seconds == pytest.approx({"a": 10, "b": 20, "c": 30, "d": 40})
    assert found.estimated == 1


def test_finished_jobs_count_unless_they_run_again(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "00-of-02.extract.tsv").write_text(f"{HEAD}9.5\t0:00:09\t1\t1\t1\t1\t0\t0\t50\t4.5\n")
    (logs / "01-of-02.extract.tsv").write_text(f"{HEAD}1\t0:00:01\t1\t1\t1\t1\t0\t0\t50\t1\n")
    (logs / "02-of-02.extract.tsv").write_text(f"{HEAD}NA\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA\n")
    (logs / "merge.tsv").write_text(f"{HEAD}3\t0:00:03\t1\t1\t1\t1\t0\t0\t50\t2\n")
    (logs / "my-merge.tsv").write_text("of another program")
    assert size.finished("extract", tmp_path, planned={"01-of-02"}) == {"00-of-02": Effort(9.5, 4.5)}
    assert size.finished("merge", tmp_path, planned=set()) == {"": Effort(3, 2)}


def test_instances_are_cut_with_their_video() -> None:
    video = Video("train", 50.0, (Instance(1, 4, "a"), Instance(8, 14, "b"), Instance(20, 30, "a")))
    assert [(i.start, i.end) for i in trial.clipped(video, 10.0).instances] == [(1, 4), (8, 10)]
    assert trial.clipped(video, 10.0).duration == 10.0


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (90, "1.5 min"), (7200, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert planning.duration(seconds) == text


# -- a run -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four videos, their labels and a run."""
    (tmp_path / "videos").mkdir()
    rows = ["video,split,start,end,label"]
    for k in range(4):
        write_video(tmp_path / "videos" / f"v{k}.mp4")
        rows.append(f"v{k},{'test' if k == 3 else 'train'},0.1,0.3,wave")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "config.yaml").write_text(
        "datasets: {mine: {format: csv, videos: videos, annotations: labels.csv}}\n"
        "features: {clips: {backbone: r2plus1d_small}}\n"
        "runs: {one: {dataset: mine, features: clips, detector: mse}}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jobs() -> list[Job]:
    dataset, features = {"dataset": "mine"}, {"dataset": "mine", "features": "clips"}
    return [
        Job("probe", ["results/videos/mine/00-of-01.json"], dataset | {"shard": "00-of-01"}),
        Job("annotate", ["results/annotations/mine.json"], dataset),
        Job("extract", ["results/features/mine/clips/00-of-01.h5"], features | {"shard": "00-of-01"}),
        Job("train", ["results/one/model.safetensors"], {"run": "one"}),
        Job("evaluate", ["results/one/map.json"], {"run": "one"}),
    ]


def test_a_plan_has_a_line_for_each_stage_their_sum_and_what_was_assumed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sampled:
        probe = Line(Effort(1, 1), Effort(10, 10))
        seconds, pieces = [1.0, 2.0], [{"v0": 1.0}, {"v1": 2.0}]

        def extract(self, *_: Any, **__: Any) -> Any:
            return Line(Effort(5, 5), Effort(100, 100), 1000.0), 8, trial.Grid(0.1, 0.1, 4, 0.48)

    monkeypatch.setattr(planning.Plan, "_sampled", lambda plan: setattr(plan, "sample", Sampled()) or plan.sample)
    monkeypatch.setattr(trial, "synthetic_features", lambda *_, **__: project / "none.h5")
    monkeypatch.setattr(trial, "try_train", lambda *_, **__: (Line(Effort(2, 2), Effort(0.5, 0.5), 4e6), 0.5))
    monkeypatch.setattr(planning, "planned", lambda targets, config: jobs())
    monkeypatch.setattr(planning, "missing_of_run", lambda config, run: [])
    monkeypatch.setattr(planning, "_cuda", lambda device: False)
    monkeypatch.setattr(trial, "pace", lambda: Effort(3, 2))
    monkeypatch.setattr(trial, "start_of", lambda module: Effort(0, 0))
    lines = list(planning.plan("one"))
    table = {line.split("  ")[0]: line.split() for line in lines[1:7]}
    assert [line.split("  ")[0] for line in lines[:7]] == [
        "stage", "annotate mine", "probe mine", "extract clips", "train one", "evaluate one", "sum",
    ]  # fmt: skip
    seconds = 4 * FRAMES / RATE
    assert table["probe mine"][2:5] == ["1", "4", "0.00"]
    assert f"{1.6 + 10 * seconds:.0f} s" in lines[2]
    assert "trial" in lines[2]
    assert "3.3 min" in lines[3]  # 5 s and 1.92 s of video at 100 s
    spec = Config.read().spec("train", run="one").train  # type: ignore[attr-defined]
    steps = int(np.ceil(0.5 * 3)) * (spec.epochs + spec.warmup_epochs)
    assert planning.duration(2 + 0.5 * steps) in lines[4]
    assert "8 MB" in lines[4]
    assert table["evaluate one"][5:9] == ["6", "s", "4", "s"], "2 s on a machine at half the pace that waits, too"
    assert any(line.startswith("assumed, not measured") and "evaluate one" in line for line in lines)


def test_shards_that_have_finished_are_the_measure_of_the_others(project: Path) -> None:
    folder = project / "results/features/mine/clips"
    (folder / "logs").mkdir(parents=True)
    found = size.videos_of(Config.read(), "mine")
    parts = [found.of([f"{k:02d}-of-02"]) for k in range(2)]
    assert sum(map(len, parts)) == 4
    done = next(k for k in range(2) if parts[k])
    (folder / f"{done:02d}-of-02.h5").write_bytes(bytes(1000))
    (folder / f"logs/{done:02d}-of-02.extract.tsv").write_text(f"{HEAD}60\t0:01:00\t1\t1\t1\t1\t0\t0\t50\t30\n")
    left = f"{1 - done:02d}-of-02"
    names = {"dataset": "mine", "features": "clips", "shard": left}
    plan = planning.Plan(Config.read(), "one", [Job("extract", [f"{folder}/{left}.h5"], names)], project, device="cpu")
    plan.estimate()
    row = plan.rows[0]
    assert row.source == "finished"
    ratio = sum(parts[1 - done].values()) / sum(parts[done].values())
    assert row.effort == pytest.approx((60 * ratio, 30 * ratio))
    assert row.disk == pytest.approx(1000 * ratio)


def test_what_cannot_be_planned_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TadError, match="'two'"):
        list(planning.plan("two"))
    monkeypatch.setattr(planning, "missing_of_run", lambda config, run: [])
    monkeypatch.setattr(planning, "planned", lambda targets, config: [])
    assert list(planning.plan("one")) == ["one: up to date, nothing would run"]
    monkeypatch.setattr(planning, "planned", lambda targets, config: jobs())
    for path in (project / "videos").iterdir():
        path.unlink()
    with pytest.raises(TadError, match="videos: no videos; put the videos of mine there") as caught:
        list(planning.plan("one"))
    assert "\n" not in str(caught.value)
    (project / "config.yaml").write_text(
        "features: {clips: {backbone: r2plus1d_small}}\ndatasets: {demo: {shards: 2}}\n"
        "runs: {one: {dataset: demo, features: clips, detector: mse}}\n"
    )
    with pytest.raises(TadError, match=r"not rendered yet; run `tad run results/data/demo/dataset\.json`"):
        list(planning.plan("one"))


def test_a_trial_training_draws_labelled_videos_with_a_seed() -> None:
    videos = {f"v{k:02d}": Video("train", 9.0, (Instance(1, 2, "a"),) if k % 2 else ()) for k in range(40)}
    table = Table("mine", ("a",), videos | {"t": Video("test", 9.0)})

    class Spec:
        class train:
            batch_size = 2

    train, test = trial.chosen_for_training(table, Spec, [*videos, "t"])
    assert len(set(train)) == 2 * trial.BATCHES
    assert all(table.videos[v].instances for v in train)
    assert test == ["t"]
    assert trial.chosen_for_training(table, Spec, [*videos, "t"])[0] == train


def test_seeds_of_a_run_are_one_line_and_one_trial(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = project / "config.yaml"
    config.write_text(config.read_text().replace("detector: mse", "detector: mse, seeds: 3"))
    settings = Config.read()
    runs = settings.trainings("one")
    assert len(runs) == 3
    trainings = [Job("train", [f"results/{run}/model.safetensors"], {"run": run}) for run in runs]
    plan = planning.Plan(settings, "one", trainings, project, device="cpu")
    assert [(row.title, len(row.jobs), row.videos) for row in plan.rows] == [("train one", 3, 3)]
    plan.rates["clips"] = 8, trial.Grid(0.1, 0.1, 4, 0.48)
    calls = []

    def train(*_: Any, **__: Any) -> tuple[Line, float]:
        calls.append(1)
        return Line(Effort(2, 2), Effort(0.5, 0.5), 4e6), 0.5

    monkeypatch.setattr(trial, "try_train", train)
    plan.estimate()
    assert (len(calls), plan.rows[0].source, plan.rows[0].disk) == (1, "trial", 24e6)
    logs = project / "results" / runs[0] / "logs"  # a seed that has finished is the measure of the others
    logs.mkdir(parents=True)
    (logs / "train.tsv").write_text(f"{HEAD}60\t0:01:00\t1\t1\t1\t1\t0\t0\t50\t30\n")
    plan = planning.Plan(settings, "one", trainings[1:], project, device="cpu")
    plan.estimate()
    assert plan.rows[0].effort == pytest.approx((120, 60))
    assert (len(calls), plan.rows[0].source) == (1, "finished")


@pytest.mark.wide
def test_a_real_trial_measures_each_stage(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide: it loads torch and trains an encoder and a detector for some steps (12 CPU seconds)."""
    rows = ["video,split,start,end,label"]
    for k in range(4):  # two seconds each: four actions of half a second
        write_video(project / "videos" / f"v{k}.mp4", repeats=4)
        rows += [f"v{k},{'test' if k == 3 else 'train'},{at},{at + 0.5},wave" for at in (0.0, 1.0)]
    (project / "labels.csv").write_text("\n".join(rows))
    (project / "config.yaml").write_text(
        "datasets: {mine: {format: csv, videos: videos, annotations: labels.csv}}\n"
        "features: {clips: {backbone: r2plus1d_small, weights: pretrain, clip: {length: 8, stride: 4}}}\n"
        "runs: {one: {dataset: mine, features: clips, train: {max_length: 64},"
        " detector: {name: mse, embed_dim: 16, mlp_dim: 16, head_dim: 16}}}\n"
    )
    features = {"dataset": "mine", "features": "clips"}
    pretraining = Job("pretrain", ["results/features/mine/clips/backbone.safetensors"], features)
    plan = planning.Plan(Config.read(), "one", [*jobs(), pretraining], project, device="cpu")
    plan.estimate()
    assert plan.notes == []
    assert {row.rule for row in plan.rows if row.source == "trial"} == {"probe", "pretrain", "extract", "train"}
    assert all(min(row.effort) > 0 for row in plan.rows)


def test_what_cannot_be_tried_is_unknown_and_not_a_small_number(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise TadError("no video can be decoded")

    monkeypatch.setattr(planning.Plan, "_sampled", refuse)
    plan = planning.Plan(Config.read(), "one", jobs(), project, device="cpu")
    plan.estimate()
    lines = list(plan.lines())
    assert [row.rule for row in plan.rows if row.source == "unknown"] == ["probe", "extract", "train"]
    assert lines[2].split()[-4:] == ["?", "?", "?", "unknown"]
    assert "the sum is too low: it does not contain probe mine, extract clips, train one" in lines
    assert "probe mine: not measured (no video can be decoded)" in lines


def test_stages_on_frames_are_unknown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = project / "config.yaml"
    text = config.read_text().replace(
        "{clips: {backbone: r2plus1d_small}}", "{clips: {weights: w, frames: {rate: 25.0, height: 56, width: 56}}}"
    )
    config.write_text(text.replace("detector: mse", "detector: afsd_frames"))
    monkeypatch.setattr(planning.Plan, "_sampled", lambda plan: None)
    on_frames = [Job(rule, ["results/one/x"], {"run": "one"}) for rule in ("train", "detect", "suppress")]
    plan = planning.Plan(Config.read(), "one", on_frames, project, device="cpu")
    plan.estimate()
    assert [row.source for row in plan.rows] == ["unknown", "unknown", "assumed"]
