"""`include` of config.yaml: rows of other files, errors that name the file of a row, changes from the command line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_tools import all_rows, copy_config
from hypothesis import given
from hypothesis import strategies as st

from tad.commands.show import show
from tad.core.errors import TadError
from tad.settings.config import Config
from tad.settings.include import with_types, written_in
from tad.workflow.missing import missing
from tad.workflow.rules import Workflow

ROOT = Path(__file__).parents[1]
OWN = {
    "include": ["rows/*.yaml"],
    "datasets": {"demo": {}},
    "features": {"clips": {"backbone": "r2plus1d_small"}},
    "runs": {"own": {"dataset": "demo", "features": "clips", "detector": "mse"}},
}
MORE = {
    "datasets": {"far": {"format": "csv", "annotations": "data/far.csv", "videos": "data/far"}},
    "runs": {
        "theirs": {"dataset": "far", "features": "clips", "detector": {"name": "mse", "num_heads": 8}},
        "ours": {"dataset": "demo", "features": "clips", "detector": "actionformer"},
    },
}


def write(folder: Path, own: dict[str, Any] = OWN, **files: Any) -> Path:
    """config.yaml and files of rows below `folder`; the former's path."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(own))
    (folder / "rows").mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / "rows" / f"{name}.yaml").write_text(rows if isinstance(rows, str) else yaml.safe_dump(rows))
    return path


def test_rows_of_both_files_use_each_other_and_say_where_they_are(tmp_path: Path) -> None:
    own = {**OWN, "runs": {**OWN["runs"], "mixed": {"dataset": "far", "features": "clips", "detector": "tridet"}}}
    config = Config.read(write(tmp_path, own, more=MORE))
    rows = tmp_path / "rows/more.yaml"
    assert set(config.file.runs) == {"own", "mixed", "theirs", "ours"}
    assert config.resolve_run("theirs").origin["settings.num_heads"] == f"{rows} runs.theirs"
    assert config.spec("train", run="theirs").dataset == "far"
    assert (config.source_of("runs", "theirs"), config.source_of("runs", "own")) == (str(rows), config.source)
    assert config.own("runs") == ["mixed", "own"]
    # data lies where config.yaml says that it does, not beside the included file
    assert missing(config, "far") == missing(config, "far", "clips")
    (tmp_path / "data/far").mkdir(parents=True)
    (tmp_path / "data/far.csv").write_text("")
    assert missing(config, "far") == []


@pytest.mark.parametrize(
    ("own", "files", "said"),
    [
        (OWN, {"a": MORE, "b": {"runs": {"ours": MORE["runs"]["ours"]}}}, "a.yaml and {}/rows/b.yaml: runs.ours is in"),
        (OWN, {"a": {"runs": OWN["runs"]}}, "config.yaml and {}/rows/a.yaml: runs.own is in both files"),
        (OWN, {"a": {"features": OWN["features"]}}, "rows/a.yaml: features.clips is in both files; rename"),
        (OWN, {"a": {"runs": {"x": {**MORE["runs"]["ours"], "nmss": {}}}}}, "{}/rows/a.yaml: runs.x.nmss: unknown key"),
        (OWN, {"a": {"device": "cpu"}}, "rows/a.yaml: device: unknown key 'device'; known: datasets, features, runs"),
        (OWN, {"a": {"include": ["b.yaml"]}}, "rows/a.yaml: include: unknown key"),
        (OWN, {"a": "runs: {x: {}, x: {}}"}, "rows/a.yaml: line 1: duplicate key 'x'"),
        (OWN, {"a": "runs: ["}, "rows/a.yaml: line 1"),
        (OWN, {"a": {"runs": {"a b": MORE["runs"]["ours"]}}}, "rows/a.yaml: runs.a b: the name 'a b' has other"),
        (OWN, {}, "config.yaml: include: rows/*.yaml: no such file in {}"),
        ({**OWN, "include": ["rows/none.yaml"]}, {"a": MORE}, "include: rows/none.yaml: no such file"),
        ({**OWN, "include": "rows/*.yaml"}, {"a": MORE}, "include: 'rows/*.yaml': write a list of files"),
        ({**OWN, "include": [7]}, {"a": MORE}, "include: [7]: write a list of files"),
        ({**OWN, "include": None}, {"a": MORE}, "include: None: write a list of files"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_right_are_one_line(
    tmp_path: Path, own: dict[str, Any], files: dict[str, Any], said: str
) -> None:
    with pytest.raises(TadError) as caught:
        Config.read(write(tmp_path, own, **files))
    assert said.format(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nms": {"sgima": 0.3}}, "rows/a.yaml runs.x: nms has no setting 'sgima'; did you mean 'sigma'?"),
        ({"nms": {"sigma": -1.0}}, "rows/a.yaml: runs.x.nms.sigma"),
        ({"detector": "msee"}, "rows/a.yaml: runs.x.detector: no detector is called 'msee'"),
        ({"detector": {"name": "mse", "num_heads": 5}}, "rows/a.yaml: runs.x.detector.embed_dim: 128: must be"),
        ({"dataset": "dmeo"}, "rows/a.yaml: runs.x.dataset: datasets has no 'dmeo'; did you mean 'demo'?"),
        ({"features": "clip"}, "rows/a.yaml: runs.x.features: features has no 'clip'; did you mean 'clips'?"),
        ({"detect": {"fuse": "x"}}, "rows/a.yaml: runs.x.detect.fuse: x: name another run"),
        ({"distill": {"teachers": {"t": "x"}, "terms": [{"teacher": "t", "target": "logits", "weight": 1.0}]}},
         "rows/a.yaml: runs.x.distill.teachers: a run cannot teach itself"),
    ],
)  # fmt: skip
def test_a_wrong_included_run_stops_only_those_who_want_it(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    config = Config.read(write(tmp_path, OWN, a={"runs": {"x": {**MORE["runs"]["ours"], **change}}}))
    assert config.spec("train", run="own")
    with pytest.raises(TadError) as caught:
        config.spec("evaluate", run="x")  # whatever stage is wanted first: the whole run is checked
    assert said in str(caught.value)


def test_the_command_line_changes_included_rows_key_by_key(tmp_path: Path) -> None:
    path = write(tmp_path, OWN, more=MORE)
    written, folder, _ = written_in([path])
    changed = {**written, "runs": {**written["runs"], "theirs": {"seeds": 3, "detector": {"num_heads": 4}}}}
    config = Config(changed, source=str(path), written=written, folder=folder)
    assert config.trainings("theirs") == [f"theirs/seed-{k}" for k in range(3)]
    assert config.run("theirs").detector == {"name": "mse", "num_heads": 4}
    assert config.source_of("runs", "theirs").endswith("rows/more.yaml with --config")
    assert "theirs" in config.own("runs")  # what somebody asks for on the command line is checked
    changed["runs"]["theirs"] = {"seedz": 3}
    with pytest.raises(TadError, match=r"rows/more\.yaml with --config: runs\.theirs\.seedz: .*did you mean 'seed"):
        Config(changed, written=written, folder=folder)


def test_entries_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    """The last file with `include` names the files; what it is changed by does not move them."""
    base, own = tmp_path / "base", tmp_path / "own"
    for folder in (base, own):
        folder.mkdir()
    first = write(base, OWN, more=MORE)
    second = own / "mine.yaml"
    second.write_text(yaml.safe_dump({"runs": {"theirs": {"seed": 7}}}))
    assert written_in([first, second])[:2] == (OWN, base)
    second.write_text(yaml.safe_dump({"include": [str(base / "rows/*.yaml")], "runs": {"extra": OWN["runs"]["own"]}}))
    written, folder, _ = written_in([first, second])
    assert folder == own
    assert set(written["runs"]) == {"own", "extra"}
    assert set(Config(written, written=written, folder=folder).file.runs) == {"own", "extra", "theirs", "ours"}
    assert set(Config(OWN, folder=base).file.runs) == {"own", "theirs", "ours"}


def plan(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--dry-run", "--nocolor", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_snakemake_with_included_rows(tmp_path: Path) -> None:
    """A project of its own that includes the shipped rows, --config over one of them, --configfile with own rows."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**OWN, "include": [f"{ROOT}/zoo/salads.yaml"]}))
    text = plan(tmp_path, "results/salads-gaf/map.json")
    assert "put the annotations of salads at data/50salads/annotations.json" in text
    (tmp_path / "data/50salads").mkdir(parents=True)
    (tmp_path / "data/50salads/annotations.json").write_text("{}")
    text = plan(tmp_path, "results/salads-gaf/map.json", "--config", "runs={salads-gaf: {seeds: 2}}")
    assert "results/salads-gaf/seed-1/map.json" in text
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"runs": {"salads-gaf": {"nms": {"sgima": 1.0}}}}))
    text = plan(tmp_path, "results/own/map.json", "--configfile", str(other))
    assert f"{ROOT}/zoo/salads.yaml with --config runs.salads-gaf: nms has no setting 'sgima'" in text
    (tmp_path / "rows").mkdir()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(OWN))
    assert "config.yaml: include: rows/*.yaml: no such file in" in plan(tmp_path, "results/own/map.json")


def test_the_shipped_rows_are_those_of_one_file(tmp_path: Path) -> None:
    """Every spec is the same whether a row stands in config.yaml or in an included file."""
    split, whole = Config.read(copy_config(tmp_path)), Config(all_rows())
    assert set(split.file.runs) == set(whole.file.runs)
    for run in (
        "demo",
        "demo-gkd",
        "thumos-c2ms-both",
        "anet-tsp-mse",
        "hacs-slowfast-tridet",
        "epic-noun",
        "salads-10",
    ):
        for stage in ("train", "detect", "suppress", "evaluate"):
            assert split.spec(stage, run=run) == whole.spec(stage, run=run)
    assert len(split.file.runs) >= 78
    assert len((ROOT / "config.yaml").read_text().splitlines()) <= 40


def test_all_shipped_runs_resolve() -> None:
    config = Config.read(ROOT / "config.yaml")
    for run in config.file.runs:
        config.check(run)
        assert config.source_of("runs", run).split()[0].endswith(".yaml")


def test_show_names_the_file_of_a_row() -> None:
    lines = list(show("thumos-gkd", config=ROOT / "config.yaml"))
    (sigma,) = [line for line in lines if "nms.sigma" in line]
    assert sigma.endswith(f"{ROOT}/zoo/thumos14.yaml runs.thumos-gkd")


def test_without_a_target_the_main_files_runs_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, OWN, more=MORE)
    monkeypatch.chdir(tmp_path)
    flow = Workflow(yaml.safe_load(path.read_text()), tmp_path, files=[path])
    assert flow.ready_runs() == ["own"]  # "ours" is ready, too, and made when it is asked for
    assert flow.pattern("runs") == "ours|own|theirs"


NAMES = st.sets(st.sampled_from([f"r{k}" for k in range(6)]), max_size=4)


@given(own=NAMES, first=NAMES, second=NAMES)
def test_a_name_is_in_one_file_or_it_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, own: set[str], first: set[str], second: set[str]
) -> None:
    row = OWN["runs"]["own"]
    tree = {**OWN, "runs": {name: row for name in own}}
    folder = tmp_path_factory.mktemp("rows")
    path = write(folder, tree, a={"runs": {n: row for n in first}}, b={"runs": {n: row for n in second}})
    twice = (own & first) | (own & second) | (first & second)
    if twice:
        with pytest.raises(TadError, match="is in both files") as caught:
            Config.read(path)
        assert any(f"runs.{name} " in str(caught.value) for name in twice)
    else:
        assert set(Config.read(path).file.runs) == own | first | second


def test_the_rows_for_own_data_are_right_once_uncommented(tmp_path: Path) -> None:
    lines = (ROOT / "config.yaml").read_text().splitlines()
    first = [k for k, line in enumerate(lines) if line.startswith("  # mine:")]
    assert len(first) == 2  # the README counts them
    text = "\n".join(line.replace("  # ", "  ", 1) if any(0 <= k - f < 5 for f in first) and line.startswith("  # ")
                     else line for k, line in enumerate(lines))  # fmt: skip
    copy_config(tmp_path).write_text(text)
    config = Config.read(tmp_path / "config.yaml")
    assert config.own("runs") == ["demo", "mine"]
    assert config.spec("annotate", dataset="mine").format.name == "csv"


def test_numbers_from_the_command_line_are_numbers() -> None:
    """Snakemake passes nested values of --config as strings; strings that a file has stay strings."""
    written = {"runs": {"a": {"dataset": "2024", "nms": {"sigma": 0.5}}}}
    given = {"runs": {"a": {"dataset": "2024", "nms": {"sigma": "0.3", "per_class": "true", "method": "hard"},
                            "eval": {"tiou": ["0.5", "0.7"]}}}}  # fmt: skip
    row = with_types(given, written)["runs"]["a"]
    assert row == {"dataset": "2024", "nms": {"sigma": 0.3, "per_class": True, "method": "hard"},
                   "eval": {"tiou": [0.5, 0.7]}}  # fmt: skip
    assert with_types({"device": "1: {", "b": "1e-4"}, {}) == {"device": "1: {", "b": "1e-4"}
