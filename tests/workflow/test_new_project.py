"""A project that `tad new` starts: few jobs, and what it makes without a job is treated like the output of one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scratch import PATIENCE, encode

from tad.workflow.why import parse_dry_run

ROOT = Path(__file__).parents[2]
CLIPS = 8
TABLES = ("kitchen.json", "kitchen.checked.json")
LEFT = ["extract", "merge", "train", "detect", "suppress", "evaluate"]


def tad(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tad", *arguments],
        cwd=folder, env=environment, text=True, capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


OPTIONS = ("--videos", "clips", "--labels", "labels.csv", "--offline", "--backbone", "r2plus1d_small")


def start(folder: Path) -> str:
    """Start a project with the encoder that needs the most jobs: it is trained first."""
    return tad(folder, "new", "kitchen", *OPTIONS)


def planned(folder: Path) -> list[str]:
    """Return the rules of the jobs that are left for the score."""
    said = tad(folder, "run", "--dry-run", "--nocolor", "kitchen")
    assert "missing metadata" not in said
    return [job.rule for job in parse_dry_run(said)]


def measured(folder: Path, since: float = 0.0) -> list[str]:
    """Return the stages that have run, as a job or in the process of `tad new`: each is measured."""
    found = (folder / "results").rglob("logs/*.tsv")
    return sorted(path.stem.split(".")[-1] for path in found if path.stat().st_mtime > since)


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "results/annotations" / name).read_bytes() for name in TABLES}


def relabel(folder: Path) -> None:
    path = folder / "labels.csv"
    path.write_text(path.read_text().replace("clip0,0.5", "clip0,0.75"))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of eight clips for which nothing but `tad new` has been run."""
    folder = tmp_path_factory.mktemp("started")
    for k in range(CLIPS):
        encode(folder / f"clips/clip{k}.mp4", seed=k, frames=75)
    rows = [f"clip{k},0.5,2.5,{('jump', 'run')[k % 2]}" for k in range(CLIPS)]
    (folder / "labels.csv").write_text("\n".join(["video,start,end,label", *rows]) + "\n")
    assert "check: decoded 8 videos, 0.4 minutes long; all times lie within them" in start(folder)
    return folder


@pytest.fixture
def project(started: Path, tmp_path: Path) -> Path:
    """A copy of the project."""
    return Path(shutil.copytree(started, tmp_path / "project"))


def test_eight_clips_take_at_most_eight_jobs(started: Path) -> None:
    """From nothing to a score: the job of `tad new` and those of `tad run kitchen`."""
    assert measured(started) == ["annotate", "check", "probe"]
    assert sorted(planned(started)) == sorted([*LEFT, "pretrain"])
    assert 1 + len(planned(started)) <= 8


def test_only_what_changed_runs_again(project: Path) -> None:
    before = (project / "config.yaml").read_text()
    (project / "config.yaml").write_text(before.replace("split_seed: ", "split_seed: 1"))
    assert {"annotate", "check"} <= set(planned(project)), "a setting"
    (project / "config.yaml").write_text(before)
    assert not {"annotate", "check"} & set(planned(project))
    relabel(project)
    assert {"annotate", "check"} <= set(planned(project)), "the labels"
    assert "probe" not in planned(project)


@pytest.mark.parametrize(("lost", "jobs"), [(TABLES, ["annotate", "check"]), (TABLES[1:], ["check"])])
def test_jobs_write_the_same_bytes(project: Path, lost: tuple[str, ...], jobs: list[str]) -> None:
    """After a kill of `tad new`, jobs make what is missing; records may exist before their files."""
    before, since = tables(project), time.time()
    for name in lost:
        (project / "results/annotations" / name).unlink()
    tad(project, "run", "results/annotations/kitchen.checked.json")
    assert measured(project, since) == jobs
    assert tables(project) == before


def test_outputs_of_an_earlier_configuration_are_judged_by_the_workflow(project: Path) -> None:
    before, since = tables(project), time.time()
    relabel(project)
    (project / "config.yaml").unlink()
    assert "check: decoded 8 videos" in start(project)
    assert measured(project, since) == ["annotate", "check"]
    assert tables(project)["kitchen.json"] != before["kitchen.json"]
    assert not {"annotate", "check"} & set(planned(project))


def test_the_project_may_lie_in_another_folder(started: Path, tmp_path: Path) -> None:
    """Paths of the artefacts are relative to the folder of config.yaml, wherever `tad new` is run."""
    folder = tmp_path / "other/project"
    shutil.copytree(started / "clips", folder / "clips")
    shutil.copy(started / "labels.csv", folder)
    options = ("--offline", "--backbone", "r2plus1d_small", "--out", "project/config.yaml")
    tad(folder.parent, "new", "kitchen", "--videos", "project/clips", "--labels", "project/labels.csv", *options)
    assert tables(folder) == tables(started)
    assert sorted(planned(folder)) == sorted([*LEFT, "pretrain"])
    assert [path.name for path in folder.parent.iterdir()] == ["project"]


def test_the_same_command_again_goes_on(project: Path) -> None:
    """After a kill, or when all is done; another command is refused, because config.yaml would be another one."""
    before, config = tables(project), (project / "config.yaml").read_bytes()
    (project / "results/annotations" / TABLES[1]).unlink()
    shutil.rmtree(project / "results/videos")
    since = time.time()
    said = start(project)
    assert "config.yaml is there already" in said
    assert measured(project, since) == ["check", "probe"]
    assert tables(project) == before
    assert "check: decoded 8 videos" in start(project)
    assert (project / "config.yaml").read_bytes() == config


@pytest.mark.wide
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "reached", ["config.yaml", "results/videos/kitchen/logs", "results/videos/kitchen/00-of-01.json"]
)
def test_a_killed_start_is_finished_by_the_same_command(
    started: Path, tmp_path: Path, number: signal.Signals, reached: str
) -> None:
    """It is killed as soon as a file exists, alone, as by a supervisor; then at once the same command again."""
    folder = tmp_path / "project"
    shutil.copytree(started / "clips", folder / "clips")
    shutil.copy(started / "labels.csv", folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tad", "new", "kitchen", *OPTIONS]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    while not (folder / reached).exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(PATIENCE) == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "check: decoded 8 videos" in start(folder)
    assert tables(folder) == tables(started)
    assert (folder / "config.yaml").read_bytes() == (started / "config.yaml").read_bytes()
    assert not list(folder.rglob("*.partial-*"))
    assert not {"annotate", "check", "probe"} & set(planned(folder))
