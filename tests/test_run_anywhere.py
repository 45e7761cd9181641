"""`tad run` in any folder, and the wheel: it brings the workflow; its stages have the checkout's fingerprints."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path

import pytest
from video_tools import encode

from tad.core import bundle
from tad.core.errors import TadError
from tad.workflow.run import snakemake_command

ROOT = Path(__file__).parents[1]
CONFIG = """
datasets: {small: {format: demo, shards: 1, render: {videos: 3, seed: 1}}}
features: {clips: {backbone: r2plus1d_small}}
runs: {small: {dataset: small, features: clips, detector: mse}}
"""


def folder_with_config(path: Path, text: str = CONFIG) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.yaml").write_text(text)
    return path


def words(command: list[str]) -> list[str]:
    """The words after the Snakefile. A logger is named before it: Snakemake takes all words up to the next option."""
    assert command[:4] == [sys.executable, "-P", "-m", "tad.workflow.launch"]
    logger = [] if "-n" in command else ["--logger", "tad"]  # a dry run has nothing to watch
    rest = command[4:]
    assert rest[: len(logger) + 1] == [*logger, "--snakefile"]
    assert Path(rest[len(logger) + 1]).samefile(ROOT / "Snakefile")
    return rest[len(logger) + 2 :]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ["--cores", "all"]),
        (["-c4"], ["-c4"]),
        (["--cores", "2", "-n"], ["--cores", "2", "-n"]),
        (["-j", "8", "results/x"], ["-j", "8", "results/x"]),
        (["small"], ["--cores", "all", "results/small/map.json"]),
        (["-F", "-n", "small"], ["--cores", "all", "-F", "-n", "results/small/map.json"]),
        (["-c1", "--forcerun", "small", "--", "small"], ["-c1", "--forcerun", "small", "--", "results/small/map.json"]),
        (["--until", "small"], ["--cores", "all", "--until", "small"]),
        (["large", "--configfile", "large.yaml"],
         ["--cores", "all", "results/large/map.json", "--configfile", "large.yaml"]),
        (["--configfile=large.yaml", "small", "large"],
         ["--cores", "all", "--configfile=large.yaml", "results/small/map.json", "results/large/map.json"]),
        (["--profile", "slurm"], ["--profile", str(ROOT / "profiles/slurm")]),
        (["--profile=profiles/slurm"], [f"--profile={ROOT / 'profiles/slurm'}"]),
        (["--profile", "mine"], ["--profile", "mine"]),
    ],
)  # fmt: skip
def test_words_for_snakemake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], expected: list[str]
) -> None:
    monkeypatch.chdir(folder_with_config(tmp_path / "own"))
    Path("large.yaml").write_text("runs: {large: {dataset: small, features: clips, detector: tridet}}")
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    assert words(snakemake_command(given)) == expected


def test_a_folder_without_a_configuration_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TadError, match=r"no config\.yaml in this folder; write one with `tad new NAME"):
        snakemake_command([])
    with pytest.raises(TadError, match="always uses its own Snakefile"):
        snakemake_command(["-s", "x"])


def test_jobs_of_another_python_find_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle.import_path(other_python=True) == bundle.import_path(other_python=False) == ROOT
    monkeypatch.setattr(bundle, "INSTALLED", bundle.ROOT)
    for _ in range(2):
        assert os.listdir(bundle.import_path(other_python=True)) == ["tad"]
    assert (tmp_path / ".snakemake/tad_package/tad").resolve() == ROOT / "tad"


def test_shipped_rows_can_be_included_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tad.settings.config import Config

    monkeypatch.chdir(folder_with_config(tmp_path / "own", "include: [zoo/thumos14.yaml]\n" + CONFIG))
    config = Config.read(Path("config.yaml"))
    assert "thumos14" in config.file.datasets
    assert config.included.file_of("datasets", "thumos14") == str(ROOT / "zoo/thumos14.yaml")


# -- the wheel ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel of this checkout, which sees the other packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a clone")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = folder / "src" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [
        *pip,
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(folder),
        str(folder / "src"),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("temporal_action_detection-*.whl")
    environment = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    own = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)}, scheme="venv")["purelib"]
    (Path(own) / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    install = ["--python", str(environment / "bin/python"), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    with zipfile.ZipFile(wheel) as archive:
        (folder / "names.txt").write_text("\n".join(archive.namelist()))
    return environment / "bin"


def tad(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
    return subprocess.run(
        [str(installed / "tad"), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.wide
@pytest.mark.timeout(1200)
def test_the_wheel_starts_a_project_with_few_jobs(installed: Path, tmp_path: Path) -> None:
    """`tad new` with the installed wheel checks eight clips; what is left, with the table, are at most eight jobs."""
    clips = tmp_path / "clips"
    rows = ["video,start,end,label"]
    for k in range(8):
        encode(clips / f"clip{k}.mp4", 100, rate=25)
        rows.append(f"clip{k}.mp4,0.5,2.5,{('jump', 'run')[k % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    options = ["--videos", "clips", "--labels", "labels.csv", "--offline", "--backbone", "r2plus1d_small"]
    done = tad(installed, tmp_path, "new", "kitchen", *options)
    assert done.returncode == 0, done.stderr
    assert "check: decoded 8 videos, 0.5 minutes long; all times lie within them" in done.stdout
    assert done.stdout.splitlines()[-1] == "next: tad run kitchen"
    done = tad(installed, tmp_path, "run", "-n", "-q", "rules")
    assert done.returncode == 0, done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE))
    assert sum(int(count) for rule, count in counts.items() if rule not in ("all", "total")) <= 8, counts
    assert {"extract": "1", "train": "1", "table": "1"}.items() <= counts.items()


@pytest.mark.wide
@pytest.mark.timeout(1200)
def test_the_wheel_runs_the_first_stages_of_the_demo_elsewhere(installed: Path, tmp_path: Path) -> None:
    """The wheel has all files of the workflow; its stages run, are then up to date, and have the checkout's code."""
    names = (installed.parents[1] / "names.txt").read_text().splitlines()
    for source in (*ROOT.glob("rules/*"), *ROOT.glob("zoo/*"), *ROOT.glob("profiles/*/*"), ROOT / "Snakefile"):
        assert f"tad/workflow/bundle/{source.relative_to(ROOT)}" in names
    assert not any(name.startswith(("tests/", "rules/", "zoo/")) or "__pycache__" in name for name in names)
    folder = folder_with_config(tmp_path / "own")
    done = tad(installed, folder, "run", "--cores", "2", "results/annotations/small.checked.json")
    assert done.returncode == 0, done.stderr
    assert (folder / "results/videos/small/00-of-01.json").is_file()
    done = tad(installed, folder, "why", "results/annotations/small.checked.json")
    assert "up to date, nothing would run" in done.stdout, done.stderr
    assert tad(installed, folder, "table").returncode == 1  # no run has a score yet
    program = textwrap.dedent(
        """
        from tad.provenance import fingerprint
        from tad.settings.config import Config
        import tad
        config = Config.read("config.yaml")
        print(tad.__file__)
        for stage in ("annotate", "probe", "extract", "train", "evaluate"):
            spec = config.spec(stage, run="small", dataset="small", features="clips")
            print(fingerprint.code(stage, spec.model_dump(mode="json")))
        """
    )
    said = []
    for python, path in ((installed / "python", ""), (Path(sys.executable), str(ROOT))):
        environment = {**os.environ, "PYTHONPATH": path}
        run = [str(python), "-c", program]
        said.append(subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout)
    assert said[0].splitlines()[0] != said[1].splitlines()[0]
    assert said[0].splitlines()[1:] == said[1].splitlines()[1:]
