"""Suggested settings: right on THUMOS14 and ActivityNet, valid when pasted, sensible on lengths that are hard."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from config_tools import all_rows, copy_config

from tad.annotations.table import Instance, Table, Video, write_table
from tad.commands.cli import main
from tad.commands.suggest import advise, levels_for, measure, ranges_for, shares, suggest, windows_for
from tad.core.errors import TadError
from tad.core.files import write_json
from tad.provenance.stamps import stamp
from tad.settings import plugins
from tad.settings.config import Config
from tad.stages.annotate import annotate

ROOT = Path(__file__).parents[1]
STEP = 4 / 30  # seconds of a THUMOS14 snippet


def project(folder: Path, source: Path, dataset: str) -> Path:
    """A folder with config.yaml and the annotation table of a dataset; the config's path."""
    config = copy_config(folder)
    spec = Config.read(config).spec("annotate", dataset=dataset)
    annotate(source, folder / f"results/annotations/{dataset}.json", spec=spec)  # type: ignore[arg-type]
    return config


def table_of(lengths: list[float], *, per_video: int = 10, duration: float = 200.0) -> Table:
    rows = [Instance(5.0, 5.0 + length, "a") for length in lengths]
    chunks = [tuple(rows[k : k + per_video]) for k in range(0, len(rows), per_video)]
    return Table("toys", ("a",), {f"v{k}": Video("train", duration, chunk) for k, chunk in enumerate(chunks)})


def pasted(config: Path, run: str) -> tuple[Config, Config, str]:
    """The configuration before and after the suggestion was pasted, and the suggestion."""
    text = "\n".join(suggest(run, config=config))
    values = yaml.safe_load(config.read_text())
    values = all_rows() if "include" in values else values
    before = Config(values, root=config.parent)
    values["runs"] |= yaml.safe_load(text)["runs"]
    return before, Config(values, root=config.parent), text


@pytest.mark.parametrize(("run", "count"), [("thumos", 3007), ("thumos-actionformer", 3007)])
def test_thumos14(shared: Path, tmp_path: Path, run: str, count: int) -> None:
    config = project(tmp_path, shared / "data/annotations/thumos14.json", "thumos14")
    before, after, text = pasted(config, run)
    assert f"200 training videos, {count} instances" in text
    assert "4 frames at 30 frames per second" in text
    assert "the annotations state" in text  # nothing is probed
    settings, train = after.resolve_run(run).sections["settings"], after.resolve_run(run).sections["train"]
    ranges = settings["regression_ranges"]
    assert len(ranges) in (5, 6)  # published: 6
    assert train["max_length"] % 2 ** (len(ranges) - 1) == 0
    assert 2304 <= train["max_length"] <= 4608  # published: 2304
    if "windows" in settings:
        assert len(settings["windows"]) == len(ranges)
        assert all(w % 2 == 1 for w in settings["windows"])
    changed = {key for key in after.resolve_run(run).origin if after.resolve_run(run).origin[key].startswith("config")}
    assert changed == {"settings.regression_ranges", "train.max_length", "nms.topk"} | (
        {"settings.windows"} if "windows" in settings else set()
    )
    assert before.run(run).dataset == after.run(run).dataset
    lines = text.replace(str(tmp_path), "").splitlines()  # the folder of a test may have a long name
    assert all(line.startswith(("#", " ", "runs:")) and len(line) <= 121 for line in lines)


def test_activitynet_has_the_published_number_of_levels(shared: Path, tmp_path: Path) -> None:
    config = project(tmp_path, shared / "data/annotations/activity_net.v1-3.json", "activitynet13")
    _, after, text = pasted(config, "anet")
    assert len(after.resolve_run("anet").sections["settings"]["regression_ranges"]) == 6
    assert "buffer_factor" in text  # the published 1.0 ends before the longest videos do


def test_a_suggested_detector_can_be_built_and_the_row_keeps_what_was_set(tmp_path: Path) -> None:
    """On lengths like the demo's, with a row that has settings of its own, and with rates from the manifests."""
    values = all_rows()
    values["runs"] = {
        "demo": {
            "dataset": "demo",
            "features": "demo_clips",
            "detector": {"name": "actionformer", "dropout": 0.1},
            "nms": {"sigma": 0.4},
            "seeds": 3,
        }
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    rng = np.random.default_rng(0)
    table = table_of(list(1 + 4 * rng.random(120)), per_video=6, duration=30.0)
    write_table(table, tmp_path / "results/annotations/demo.json", stamp("annotate", {"dataset": "demo"}, {}))
    values["features"]["demo_clips"]["clip"] = {"policy": "native", "rate": 0}
    config.write_text(yaml.safe_dump(values))
    assert "ASSUMED" in pasted(config, "demo")[2]
    manifest = {"videos": {"a": {"rate": 25.0}, "b": {"rate": 24.0}, "c": {"rate": 25.0}}}
    write_json(tmp_path / "results/videos/demo/00-of-01.json", manifest)
    _, after, text = pasted(config, "demo")
    assert "at 25 frames per second, the median of the videos" in text
    sections = after.resolve_run("demo").sections
    assert sections["settings"]["dropout"] == 0.1
    assert sections["nms"]["sigma"] == 0.4
    assert after.run("demo").seeds == 3
    ranges = sections["settings"]["regression_ranges"]
    assert len({tuple(pair) for pair in ranges}) == len(ranges) >= 2
    detector = plugins.build(
        "detectors",
        "actionformer",
        sections["settings"],
        feature_dim=8,
        num_classes=2,
        max_length=sections["train"]["max_length"],
    )
    assert detector.coarsest == 2 ** (len(ranges) - 1)


@pytest.mark.parametrize("face", ["corrected", "parity"])
@pytest.mark.parametrize("name", ["mse", "tridet"])
def test_a_new_run_trains_with_what_is_printed(tmp_path: Path, name: str, face: str) -> None:
    """A row as a user writes it for own data, pasted back as it was printed: the detector takes a training step."""
    import torch

    from tad.layers.types import Targets

    features = {"source": "f", "dim": 6, "clip": {"length": 16, "stride": 8, "policy": "resample", "rate": 15.0}}
    values = {
        "datasets": {"mine": {"format": "csv", "annotations": "a.csv"}},
        "features": {"f": features},
        "runs": {"mine": {"dataset": "mine", "features": "f", "detector": {"name": name, "embed_dim": 32}}},
    }
    if face == "parity":
        values["runs"]["mine"]["detector"]["face"] = face
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    rng = np.random.default_rng(0)
    table = table_of(list(np.exp(rng.normal(1.0, 0.7, 200))), per_video=5, duration=60.0)
    write_table(table, tmp_path / "results/annotations/mine.json", stamp("annotate", {"dataset": "mine"}, {}))
    before, after, _ = pasted(config, "mine")
    sections = after.resolve_run("mine").sections
    assert sections["settings"]["face"] == face  # corrected unless the row says otherwise
    ranges = sections["settings"]["regression_ranges"]
    assert ranges != before.resolve_run("mine").sections["settings"]["regression_ranges"]
    assert len({tuple(pair) for pair in ranges}) == len(ranges)
    length = sections["train"]["max_length"]
    torch.manual_seed(0)
    detector = plugins.build("detectors", name, sections["settings"], feature_dim=6, num_classes=1, max_length=length)
    targets = Targets(torch.tensor([[4.0, 9.0]]), torch.tensor([0]))
    loss = detector.train().loss(torch.randn(1, length, 6), torch.tensor([length]), [targets])["total"]
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("spread", [0.2, 1.0])
@pytest.mark.parametrize("middle", [0.5, 3.0, 30.0])
def test_ranges_are_even_where_levels_can_see_and_always_grow(middle: float, spread: float) -> None:
    half_N = np.exp(np.random.default_rng(1).normal(np.log(middle / STEP), spread, 5000)) / 2
    levels = levels_for(half_N)
    ranges = ranges_for(half_N, levels=levels)
    lows, highs = np.array(ranges).T
    assert lows[0] == 0
    assert highs[-1] == 10000
    assert (lows[1:] == highs[:-1]).all()
    assert (highs > lows).all()
    for k, low in enumerate(lows[1:], 1):
        assert low >= 2**k / 2  # an instance that ends on level k holds at least one of its points
        assert low <= max(16 * 2 ** (k - 1), lows[k - 1] + 0.5)
    free = all(2**k / 2 < np.quantile(half_N, k / levels) < 16 * 2 ** (k - 1) for k in range(1, levels))
    if free and spread == 1.0:
        np.testing.assert_allclose(shares(half_N, ranges), 1 / levels, atol=0.06)


def test_lengths_that_are_all_the_same_still_give_different_ranges() -> None:
    ranges = ranges_for(np.full(50, 20.0), levels=5)
    assert len({tuple(pair) for pair in ranges}) == 5
    assert windows_for(np.full(50, 40.0), ranges, max_length=64)[-1] == -1


def test_the_longest_99_percent_decide_the_levels() -> None:
    assert levels_for(np.full(10, 1.0)) == 2
    assert levels_for(np.full(10, 4 * 32.0)) == 6
    assert levels_for(np.full(10, 4 * 32.0 + 1)) == 7
    assert levels_for(np.full(10, 1e6)) == 8
    assert levels_for(np.append(np.full(999, 4 * 32.0), 1e6)) == 6


def settings_of(detector: str, **changes: Any) -> dict[str, Any]:
    return plugins.defaults("detectors", detector) | changes


def test_resized_videos_are_measured_in_shares_of_themselves() -> None:
    table = Table("t", ("a",), {"x": Video("train", 10.0, (Instance(0, 5, "a"),)),
                                "y": Video("train", 100.0, (Instance(0, 50, "a"),))})  # fmt: skip
    lengths = measure(table, step=1.0, resize=192)
    assert lengths.instances.tolist() == [96, 96]
    found = {a.key: a for a in advise(lengths, settings=settings_of("actionformer"), resize=192)}
    assert found["max_length"].value == 192
    assert "resized" in found["max_length"].reason


def test_longer_videos_than_the_detector_has_points_for() -> None:
    lengths = measure(table_of([2.0, 3.0, 4.0], duration=500.0), step=0.1)
    found = {a.key: a.value for a in advise(lengths, settings=settings_of("mse", buffer_factor=0.5, face="parity"))}
    assert found["buffer_factor"] * found["max_length"] >= 5000
    corrected = advise(lengths, settings=settings_of("mse", buffer_factor=0.5, corrections=["masked"]))
    assert "buffer_factor" not in {a.key for a in corrected}


def test_what_cannot_be_suggested_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = copy_config(tmp_path)
    assert main(["suggest", "demo", "--config", str(config)]) == 1
    assert "&& tad run results/annotations/demo.json" in capsys.readouterr().err
    assert main(["suggest", "dmo", "--config", str(config)]) == 1
    assert "did you mean 'demo'?" in capsys.readouterr().err
    with pytest.raises(TadError, match="no instance"):
        measure(Table("t", (), {"x": Video("train", 9.0)}), step=1.0)
