"""A run of text prompts, from videos to a released folder that is applied without the project that made it."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import video_tools as vt
import yaml

pytest.importorskip("transformers")
from prompt_tools import FULL, make_tiny, published

from tad.commands.cli import main
from tad.core.files import read_json
from tad.settings.config import Config
from tad.stages.annotate import annotate
from tad.stages.detect import detect
from tad.stages.extract import extract
from tad.stages.merge import merge
from tad.stages.probe import probe
from tad.stages.train import train

pytestmark = pytest.mark.slow
FRAMES = {"a": 150, "b": 120, "c": 200}  # at 25 per second
CLIP, SIGLIP = FULL


def made(home: Path, model: str, gate: int) -> Path:
    """A project with a trained run `p`, stage by stage as the workflow makes it; return its candidates."""
    (home / "w").mkdir(parents=True)
    published(home / "w", model)
    rows = ["video,start,end,label,split"]
    for v, count in FRAMES.items():
        vt.encode(home / "videos" / f"{v}.mp4", count)
        split = "test" if v == "c" else "train"
        rows += [f"{v},0.2,1.1,run,{split}", f"{v},1.2,2.1,jump,{split}"]
    (home / "toy.csv").write_text("\n".join(rows))
    values = {
        "device": "cpu",
        "datasets": {"toy": {"format": "csv", "videos": "videos", "annotations": "toy.csv",
                             "classes": {"text": {"jump": ["high jump", "jump"]}}}},
        "features": {"f": {"backbone": {"name": "image_text", "model": model}, "weights": "w/w.safetensors"}},
        "runs": {"p": {"dataset": "toy", "features": "f", "detector": {"name": "prompt", "gate": gate}}},
    }  # fmt: skip
    (home / "config.yaml").write_text(yaml.safe_dump(values))
    config: Any = Config.read(home / "config.yaml")
    results, names, weights = home / "results", {"dataset": "toy"}, home / "w/w.safetensors"
    table = annotate(home / "toy.csv", results / "annotations/toy.json", spec=config.spec("annotate", **names))
    manifest = probe(home / "videos", results / "videos/toy/00-of-01.json", spec=config.spec("probe", **names))
    spec, merging = (config.spec(stage, **names, features="f") for stage in ("extract", "merge"))
    where: dict[str, Any] = {"cache": home / "x", "device": "cpu", "workers": 1}
    shard = extract(manifest, home / "videos", weights, results / "features/toy/f/00-of-01.h5", spec=spec, **where)
    index = merge([shard], [manifest], results / "features/toy/f.h5", spec=merging)
    model_file = train(
        index, table, results / "p/model.safetensors", spec=config.spec("train", run="p"), cache=home / "t",
        device="cpu", start=weights,
    )  # fmt: skip
    return detect(index, model_file, table, results / "p/candidates.h5", spec=config.spec("detect", run="p"))


@pytest.mark.parametrize(("model", "gate"), [(CLIP, 0), (SIGLIP, 1)])
def test_a_prompt_run_is_released_and_applied_elsewhere(
    tmp_path: Path, model: str, gate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same detections from the project and from the release alone; those of the stages."""
    make_tiny(monkeypatch)
    home, release = tmp_path / "home", tmp_path / "elsewhere/release"
    stages = made(home, model, gate)
    command = ["apply", "p", str(home / "videos/c.mp4"), "--out", str(tmp_path / "a.json"), "--device", "cpu"]
    assert main([*command, "--config", str(home / "config.yaml")]) == 0
    wanted = read_json(tmp_path / "a.json")["results"]
    assert len(wanted["c"]) > 2
    with h5py.File(stages) as one, h5py.File(home / "results/p/apply/candidates.h5") as other:
        np.testing.assert_array_equal(one["scores"][:], other["scores"][:])

    assert main(["export", "p", "--no-onnx", "--out", str(release), "--config", str(home / "config.yaml")]) == 0
    assert "pip install 'temporal-action-detection[modern]==" in (release / "README.md").read_text()
    video = (home / "videos/c.mp4").rename(tmp_path / "c.mp4")
    home.rename(tmp_path / "gone")
    monkeypatch.chdir(release.parent)
    assert main(["apply", "release", str(video), "--out", "b.json", "--device", "cpu"]) == 0
    assert read_json(Path("b.json"))["results"] == wanted
