"""The demo's classes differ in motion, not in looks: single frames do not tell them, the clip encoder does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import video_tools as vt

from tad.core.files import read_json
from tad.settings import plugins
from tad.settings.resolved import component_sections
from tad.settings.stages import Plugin, PretrainSpec
from tad.training.tsp import clips as tsp_clips
from tad.training.tsp import trainer as tsp
from tad.training.tsp.frames import decode

SCRIPT = Path(__file__).parents[1] / "workflow_scripts" / "render_demo.py"
VIDEOS, EPOCHS = 15, 8


def table_of(
    videos: dict, frames: tsp_clips.Frames, classes: dict[str, int], spec: PretrainSpec
) -> tsp_clips.SegmentTable:
    seconds = [count / rate for count, rate in zip(frames.count, frames.rates, strict=True)]
    clip_seconds = [spec.clip.length / rate for rate in frames.rates]
    annotated = [entry for entry, _ in videos.values()]
    return tsp_clips.segment_table(annotated, seconds, classes, clip_seconds=clip_seconds, short=spec.short_segments)


def single_frames(
    table: tsp_clips.SegmentTable, frames: tsp_clips.Frames, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """(N, H·W·3) middle frames of evenly spaced action clips, and their labels."""
    rows, starts = tsp_clips.even_clips(table, 8)
    keep = table.labels_S[rows] >= 0
    pictures = [
        frames.clip(int(table.videos_S[row]), float(start), length)[length // 2].reshape(-1) / 255.0
        for row, start in zip(rows[keep], starts[keep], strict=True)
    ]
    return np.stack(pictures), table.labels_S[rows[keep]]


def linear_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Accuracy of a ridge classifier on standardised inputs, at the best of four ridges: generous to it."""
    mean, std = train[0].mean(0), train[0].std(0) + 1e-3
    x, y = (train[0] - mean) / std, (test[0] - mean) / std
    targets = np.eye(train[1].max() + 1)[train[1]]
    kernel = x @ x.T
    accuracies = []
    for ridge in (1e1, 1e3, 1e5, 1e7):
        weights = np.linalg.solve(kernel + ridge * np.eye(len(x)), targets - targets.mean(0))
        accuracies.append(float(((y @ x.T @ weights + targets.mean(0)).argmax(1) == test[1]).mean()))
    return max(accuracies)


@pytest.mark.slow
@pytest.mark.wide
def test_the_clip_encoder_is_far_ahead_of_single_frames(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--out",
        str(tmp_path),
        "--videos",
        str(VIDEOS),
        "--seed",
        "0",
        "--jobs",
        "2",
    ]
    subprocess.run(command, check=True, capture_output=True)
    receipt, truth = (
        read_json(tmp_path / "dataset.json")["videos"],
        read_json(tmp_path / "annotations.json")["database"],
    )
    document = component_sections("backbones", "r2plus1d_small")
    settings = {**document["pretrain"], "epochs": EPOCHS, "milestones": [5, 7]}
    plugin = Plugin(name="r2plus1d_small", settings=document["settings"])
    spec = PretrainSpec.model_validate({"backbone": plugin.model_dump(), "clip": document["clip"], **settings})
    classes = {
        label: k for k, label in enumerate(sorted({a["label"] for v in truth.values() for a in v["annotations"]}))
    }
    torch.manual_seed(0)
    backbone = plugins.build("backbones", "r2plus1d_small", document["settings"])

    def read(subset: str) -> tuple[tsp_clips.SegmentTable, tsp_clips.Frames]:
        videos = {
            name: (
                {"instances": [[*a["segment"], a["label"]] for a in truth[name]["annotations"]]},
                vt.probed(facts["file"], frames=facts["frames"], rate=facts["frames"] / truth[name]["duration"]),
            )
            for name, facts in receipt.items()
            if facts["subset"] == subset
        }
        frames = decode(videos, tmp_path, backbone=backbone, clip=spec.clip, scratch=tmp_path)
        return table_of(videos, frames, classes, spec), frames

    (train, train_frames), (test, test_frames) = read("training"), read("testing")
    trainer = tsp.Trainer(backbone, train_frames, num_classes=len(classes), spec=spec, device="cpu")
    for epoch in range(EPOCHS):
        trainer.epoch(epoch, train)
    trainer.frames = test_frames
    encoder = trainer.score(test).action
    length = spec.clip.length
    picture = linear_accuracy(single_frames(train, train_frames, length), single_frames(test, test_frames, length))
    assert encoder is not None
    assert picture < 0.35, picture  # five classes: 0.2 is chance
    assert encoder > 1.8 * picture, (encoder, picture)
