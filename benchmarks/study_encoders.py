"""Encoders for own videos: a project that compares the trained small encoder, frozen ones, and their random controls.

    python benchmarks/study_encoders.py FOLDER --videos CLIPS [--seeds 5]
    cd FOLDER && tad run --cores all results/{clips,demo}-{small,pictures,changes,joints,both}/map.json
    tad run --cores all results/{clips,demo}-{pictures,changes,both}-random/map.json && tad compare demo-small demo-both
    tad run --cores all results/clips-both-{parity,tad}/map.json && tad compare clips-both-parity clips-both-tad

FOLDER receives a config.yaml with all rows, the random weights, and the data set `clips`: real clips put together into
sequences. It needs the packages of the extra `encoders`, and mediapipe for `joints` (docs/features.md).

The clips come from few sources (CLIPS is a folder with ten of them, from test suites of torchvision, decord and
video_features), so `clips` says little about real data: where an action has one source only, its first half is for
training and its second half for testing, with the same person and place. BlazePose has no random control: its network
is a model file. The last two runs compare the detector tad with MSE as published (docs/methods/tad.md).
"""

import argparse
import csv
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from tad.settings import plugins
from tad.video.reader import av

WIDTH, HEIGHT, RATE = 320, 240, 25
SEQUENCES, ACTIONS = {"train": 16, "test": 8}, 5
SEED = 0


class Source(NamedTuple):
    """Part of a clip, in shares of its length."""

    name: str
    first: float = 0.0
    last: float = 1.0


def halves(name: str) -> dict[str, list[Source]]:
    """The first half of a clip for training and the second for testing."""
    return {"train": [Source(name, 0.0, 0.5)], "test": [Source(name, 0.5, 1.0)]}


CLASSES = {
    "wave": {
        "train": [
            Source("RATRACE_wave_f_nm_np1_fr_goo_37.avi"),
            Source("SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi"),
        ],
        "test": [Source("TrumanShow_wave_f_nm_np1_fr_med_26.avi")],
    },
    "juggle": {"train": [Source("v_SoccerJuggling_g23_c01.avi")], "test": [Source("v_SoccerJuggling_g24_c01.avi")]},
    "cartwheel": halves("hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"),
    "lift": halves("v_GGSY1Qvo990.mp4"),
    "walk a dog": halves("v_ZNVhz7ctTq0.mp4"),
    "flip a pancake": halves("flipping_a_pancake.mkv"),
}  # fmt: skip
BACKGROUND = {"train": [Source("R6llTwEh07w.mp4")], "test": [Source("SOX5yA1l24A.mp4")]}


def frames_of(path: Path, source: Source) -> list[np.ndarray]:
    """The frames (H, W, 3) uint8 of a part of a clip, at the sequences' size and rate."""
    with av.open(str(path), metadata_errors="replace") as container:  # one title is not UTF-8
        stream = container.streams.video[0]
        rate = float(stream.average_rate)
        frames = [f.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray() for f in container.decode(stream)]
    first, last = round(source.first * len(frames)), round(source.last * len(frames))
    count = int((last - first) / rate * RATE)
    return [frames[first + min(int(k * rate / RATE), last - first - 1)] for k in range(count)]


def sequence(
    clips: dict[str, list[list[np.ndarray]]], background: list[np.ndarray], rng: np.random.Generator
) -> tuple[list[np.ndarray], list[tuple[float, float, str]]]:
    """Actions of 1 to 4 seconds in a random order between pieces of background; frames, and segments in seconds."""
    frames: list[np.ndarray] = []
    segments = []
    for label in rng.permutation(sorted(clips))[:ACTIONS]:
        pause = round(rng.uniform(1, 3) * RATE)
        at = int(rng.integers(max(len(background) - pause, 1)))
        frames += background[at : at + pause]
        clip = clips[label][int(rng.integers(len(clips[label])))]
        length = min(round(rng.uniform(1, 4) * RATE), len(clip))
        at = int(rng.integers(len(clip) - length + 1))
        segments.append((len(frames) / RATE, (len(frames) + length) / RATE, str(label)))
        frames += clip[at : at + length]
    return frames + background[: 2 * RATE], segments


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    """Encode the frames of a sequence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "18", "g": "25"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, RATE)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_clips(videos: Path, folder: Path) -> None:
    """Write the data set `clips`: videos and annotations.csv."""
    paths = {path.name: path for path in videos.rglob("*") if path.is_file()}
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    with open(folder / "annotations.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["video", "start", "end", "label", "split"])
        for split, count in SEQUENCES.items():
            clips = {label: [frames_of(paths[s.name], s) for s in parts[split]] for label, parts in CLASSES.items()}
            (background,) = (frames_of(paths[s.name], s) for s in BACKGROUND[split])
            for number in range(count):
                frames, segments = sequence(clips, background, rng)
                write_video(folder / "videos" / f"{split}_{number:02}.mp4", frames)
                table.writerows([f"{split}_{number:02}", *segment, split] for segment in segments)


FROZEN: dict[str, dict[str, Any]] = {
    "pictures": {"backbone": {"name": "efficientnet_lite0", "pool": ["mean", "change"]}},
    "changes": {"backbone": {"name": "transnetv2"}},
}


def write_random(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write weights of the frozen networks as they are initialised; yield the rows that use them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, row in FROZEN.items():
        torch.manual_seed(SEED)
        backbone = row["backbone"]
        settings = plugins.defaults("backbones", backbone["name"]) | {k: v for k, v in backbone.items() if k != "name"}
        network = plugins.build("backbones", backbone["name"], settings)
        path = folder / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
        yield f"{name}_random", row | {"weights": str(path)}


def rows(folder: Path, seeds: int) -> dict[str, Any]:
    """The configuration: both data sets, all features, and a run of each pair of them."""
    features: dict[str, Any] = {
        "small": {"backbone": "r2plus1d_small"},
        **{name: row | {"weights": "package"} for name, row in FROZEN.items()},
        "joints": {"backbone": "blazepose", "weights": "package"},
        **dict(write_random(folder / "random")),
        "both": {"join": ["pictures", "changes"]},
        "both_random": {"join": ["pictures_random", "changes_random"]},
    }
    detector = {"name": "mse", "embed_dim": 128, "mlp_dim": 192, "head_dim": 128}
    train = {"epochs": 35, "warmup_epochs": 5, "lr": 1.0e-3, "ema_decay": 0.99, "max_length": 288}
    common = {"detector": detector, "train": train, "seeds": seeds, "eval": {"tiou": [0.3, 0.4, 0.5, 0.6, 0.7]}}
    own = {
        "format": "csv",
        "videos": str(folder / "clips/videos"),
        "annotations": str(folder / "clips/annotations.csv"),
    }
    runs = {
        f"{dataset}-{name.replace('_', '-')}": {"dataset": dataset, "features": name, **common}
        for dataset in ("demo", "clips") for name in features
    }  # fmt: skip
    for name, changes in {"parity": {"face": "parity"}, "tad": {"name": "tad"}}.items():
        runs[f"clips-both-{name}"] = {"dataset": "clips", "features": "both", **common, "detector": detector | changes}
    return {"datasets": {"demo": {"shards": 1}, "clips": own}, "features": features, "runs": runs}


def main() -> None:
    """Write the project."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=Path, required=True, help="folder with the ten clips that the classes name")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    folder = given.folder.resolve()
    write_clips(given.videos, folder / "clips")
    (folder / "config.yaml").write_text(yaml.safe_dump(rows(folder, given.seeds), sort_keys=False))
    print(f"{folder / 'config.yaml'}: {len(SEQUENCES)} splits of sequences, {len(CLASSES)} classes")


if __name__ == "__main__":
    main()
