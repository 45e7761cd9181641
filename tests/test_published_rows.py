"""The rows for published features: files in their published layouts go in, the papers' recipes and timing come out."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from config_tools import copy_config

from tad.annotations.table import read_table
from tad.datasets.thumos14 import LABELS
from tad.features.store import FeatureReader
from tad.settings.config import Config
from tad.stages.annotate import annotate
from tad.stages.convert import convert
from tad.workflow.missing import missing, missing_scores

ROOT = Path(__file__).parents[1]
# row → where the clip of the first and of the second row has its middle [the reference, 3.1], in frames at the rate
RUNS = {
    "thumos-i3d": ("thumos14_published", (8, 12), 29.97),
    "anet-tsp": ("anet_tsp", (8, 24), 15.0),
    "anet-i3d": ("anet_i3d", (8, 24), 25.0),
    "hacs-slowfast": ("hacs_published", (16, 24), 15.0),
    "hacs-i3d": ("hacs_published", (0.5, 1.5), 2.0),
}
DURATION = 120.0


def database(run: str) -> dict[str, Any]:
    """A training and an evaluation video with all labels of the data set, as the published annotation file has them."""
    names = LABELS if run.startswith("thumos") else [f"action {k:03d}" for k in range(200)]
    ids = {"thumos": ("video_validation_0000051", "video_test_0000004"), "anet": ("abcdefghijk", "-bcdefghijk"),
           "hacs": ("abcdefghijk", "v_cdefghijk")}[run.split("-")[0]]  # fmt: skip
    subsets = ("Validation", "Test") if run.startswith("thumos") else ("training", "validation")
    items = [{"label": name, "segment": [k * 0.5, k * 0.5 + 0.4]} for k, name in enumerate(names)]
    entries = {
        video_id: {"subset": subset, "duration": DURATION, "fps": 29.97, "annotations": items}
        for video_id, subset in zip(ids, subsets, strict=True)
    }
    return {"version": "synthetic", "database": entries}


def write_features(folder: Path, run: str, video_id: str, dim: int, rows: int) -> None:
    feats_TC = np.random.default_rng(0).random((rows, dim), np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    if run == "hacs-slowfast":
        whole_1CT = torch.from_numpy(feats_TC.T.copy())[None]
        streams = {"slow_feature": whole_1CT[:, :2048].clone(), "fast_feature": whole_1CT[:, 2048:].clone()}
        (folder / f"{video_id}.pkl").write_bytes(pickle.dumps(streams, protocol=4))
    else:
        np.save(folder / f"{'v_' if run.startswith('anet') else ''}{video_id}.npy", feats_TC)


@pytest.mark.parametrize("run", RUNS)
def test_published_files_go_in(tmp_path: Path, run: str) -> None:
    config = Config.read(copy_config(tmp_path))
    dataset, middles, rate = RUNS[run]
    (row,) = {(r.dataset, r.features) for name, r in config.file.runs.items() if name.startswith(f"{run}-")}
    assert row[0] == dataset
    needs = missing(config, *row)
    assert len(needs) == 2  # neither videos nor weights
    assert all("http" in need for need in needs)
    assert {bool(missing_scores(config, name)) for name in config.file.runs if name.startswith(f"{run}-")} == {
        run.startswith("anet")  # whose proposals have no labels of their own
    }
    source, features = tmp_path / config.dataset(dataset).annotations, config.file.features[row[1]]
    source.parent.mkdir(parents=True)
    source.write_text(json.dumps(database(run)))
    clip = features.clip
    rows = int((DURATION * rate - clip["length"]) / clip["stride"]) + 1
    for video_id, entry in database(run)["database"].items():
        folder = tmp_path / features.source / (entry["subset"] if run.startswith("hacs") else "")
        write_features(folder, run, video_id, features.dim, rows)
    table = annotate(source, tmp_path / "t.json", spec=config.spec("annotate", dataset=dataset))
    index = convert(
        tmp_path / features.source,
        table,
        tmp_path / "f.h5",
        spec=config.spec("convert", dataset=dataset, features=row[1]),
    )
    videos = read_table(table).videos
    assert {video.split for video in videos.values()} == {"train", "test"}
    with FeatureReader(index) as reader:
        assert sorted(reader.video_ids) == sorted(videos)
        assert reader.dim == features.dim
        for video_id in videos:
            grid = reader.grid(video_id)
            assert grid.length == rows
            assert [grid.to_seconds(g) * rate for g in (0, 1)] == pytest.approx(middles)
    assert missing(config, *row) == []


@pytest.mark.parametrize(
    ("run", "settings", "train", "nms"),
    [
        ("thumos-i3d-mse", {"face": "parity", "num_bins": 16}, {"epochs": 30, "warmup_epochs": 20}, {"sigma": 0.5}),
        ("thumos-i3d-tridet", {"face": "parity"}, {"epochs": 20, "warmup_epochs": 20}, {"topk": 2000}),
        ("thumos-i3d-actionformer", {"windows": [19] * 6}, {"epochs": 30, "trunc_margin": 1.0}, {"topk": 200}),
        ("anet-tsp-mse", {"kernel": 15, "num_bins": 12}, {"max_length": 768, "lr": 1e-3}, {"voting": 0.95}),
        ("anet-tsp-tridet", {"face": "parity", "mlp_dim": 2048}, {"epochs": 5, "clip_grad": 0.4}, {"sigma": 0.7}),
        ("anet-tsp-actionformer", {"loss_weight": 2.0}, {"resize": 192, "class_agnostic": True}, {"voting": 0.9}),
        ("anet-i3d-actionformer", {"embed_dim": 256}, {"resize": 192, "batch_size": 16}, {"sigma": 0.75, "topk": 100}),
        ("hacs-slowfast-mse", {"boundary_kernel": 1, "num_bins": 14}, {"eta_min": 5e-4}, {"topk": 250}),
        ("hacs-slowfast-tridet", {"face": "parity", "head_kernel": 5}, {"max_length": 960}, {"sigma": 0.75}),
        ("hacs-slowfast-actionformer", {"windows": [13] * 5 + [-1]}, {"weight_decay": 0.03}, {"sigma": 0.75}),
        ("hacs-i3d-tridet", {"kernel": 15, "num_bins": 12, "face": "parity"}, {"max_length": 512}, {"topk": 250}),
        ("thumos-afsd", {"face": "parity", "piou": 0.5}, {"window_stride": 8, "eta_min": 1e-5}, {"voting": 0.0}),
        ("anet-tsp-afsd", {"upsample": 8, "smooth_l1": True}, {"resize": 96, "milestones": [5]}, {"sigma": 0.85}),
        ("spot-anet-10", {"heads": 4, "width": 0}, {"lr": 4e-4, "milestones": [10, 20], "decay": 0.2}, {"topk": 100}),
        ("spot-thumos-10", {"one_class": False}, {"max_length": 256, "optimizer": "adam"}, {"sigma": 0.5}),
        ("epic-verb", {"windows": [9] * 6, "label_smoothing": 0.0}, {"epochs": 16}, {"sigma": 0.4, "topk": 2000}),
        ("epic-noun", {"label_smoothing": 0.1, "buffer_factor": 4.0}, {"warmup_epochs": 5}, {"topk": 2000}),
        ("epic-verb-tridet", {"kernel": 5, "kernel_factor": 2.0}, {"epochs": 22, "eta_min": 5e-5}, {"sigma": 0.4}),
        ("epic-noun-tridet", {"kernel": 1, "kernel_factor": 4.0}, {"epochs": 14, "eta_min": 1e-8}, {"topk": 2000}),
    ],
)  # fmt: skip
def test_the_papers_settings_reach_their_rows(
    run: str, settings: dict[str, Any], train: dict[str, Any], nms: dict[str, Any]
) -> None:
    sections = Config.read(ROOT / "config.yaml").resolve_run(run).sections
    for section, expected in (("settings", settings), ("train", train), ("nms", nms)):
        assert {key: sections[section][key] for key in expected} == expected, section
    assert sections["train"]["selection"] == "last"


def test_the_page_on_published_features_names_what_config_has() -> None:
    text, file = (ROOT / "docs/published.md").read_text(), Config.read(ROOT / "config.yaml").file
    runs = [name for name in file.runs if name.split("-")[0] in ("thumos", "anet", "hacs", "epic") and "-" in name]
    published = {name: file.runs[name] for name in runs if file.features[file.runs[name].features].source}
    assert len(published) >= 15
    for name, row in published.items():
        stem, _, last = name.rpartition("-")
        assert f"`{name}`" in text or (f"`{stem}-" in text and f"`-{last}`" in text), name
        assert f"`{file.features[row.features].source}`" in text, name
        assert f"`{file.datasets[row.dataset].annotations}`" in text, name
    for dataset, features in re.findall(r"results/features/(\w+)/(\w+)\.h5", text):
        assert (dataset, features) in {(row.dataset, row.features) for row in published.values()}
