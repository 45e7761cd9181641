"""Train a published detector's own code on 50Salads' frame scores, for comparison with zoo/salads.yaml → Markdown.

    python benchmarks/bench_salads_peer.py actionformer|tridet|mse FOLDER DATA [--seeds 0 1] [--quick]

FOLDER is the detector's checkout (see the top of published_detectors.py); DATA is the folder of annotations.json and
the arrays <video>.npy (docs/datasets.md). Theirs are the network, loss, random crops, optimiser, learning rate and
averaged weights, with configs/thumos_i3d.yaml and the changes of `changed`. Suppression and evaluation are ours, so
that the checkout's extension need not be built.
"""

import argparse
import contextlib
import inspect
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published_detectors import import_libs

from tad.annotations.table import Table, Video
from tad.metrics import evaluate
from tad.nms import nms
from tad.settings import plugins
from tad.settings.resolved import component_sections

TIOU = (0.3, 0.4, 0.5, 0.6, 0.7)
LENGTH, CHANNELS, WIDTH, MLP = 576, 28, 128, 256
CENTRE = 0.5  # seconds from the start of a snippet of one second to its centre


def changed(config: dict[str, Any], classes: int, epochs: int) -> dict[str, Any]:
    """Return their settings for THUMOS14 with the sizes and the schedule for 50Salads."""
    model = config["model"]
    model |= {"input_dim": CHANNELS, "num_classes": classes, "max_seq_len": LENGTH}
    model |= {"embd_dim": WIDTH, "fpn_dim": WIDTH, "head_dim": WIDTH}
    model |= {key: MLP for key in ("sgp_mlp_dim", "mse_mlp_dim") if key in model}
    config["opt"] |= {"learning_rate": 1e-3, "epochs": epochs, "warmup_epochs": 5}
    config["test_cfg"]["nms_method"] = "none"
    return config


def item(video_id: str, video: Video, labels: tuple[str, ...], data: Path) -> dict[str, Any]:
    """Return a video as their data set does."""
    segments = np.array([[i.start, i.end] for i in video.instances], np.float32).reshape(-1, 2)
    return {
        "video_id": video_id,
        "feats": torch.from_numpy(np.ascontiguousarray(np.load(data / f"{video_id}.npy").astype(np.float32).T)),
        "segments": torch.from_numpy(segments - np.float32(CENTRE)),
        "labels": torch.tensor([labels.index(i.label) for i in video.instances]),
        "fps": 1.0, "duration": 1e8, "feat_stride": 1, "feat_num_frames": 1,
    }  # fmt: skip


def trained(libs: dict[str, Any], config: dict[str, Any], items: list[dict[str, Any]], seed: int) -> torch.nn.Module:
    """Train their detector; return the network with averaged weights."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - their code draws from it
    torch.manual_seed(seed)
    utils, batch = libs["utils"], config["loader"]["batch_size"]
    with contextlib.redirect_stdout(io.StringIO()):
        model = libs["modeling"].make_meta_arch(config["model_name"], **config["model"])
    optimizer = utils.make_optimizer(model, config["opt"])
    steps = len(items) // batch
    scheduler = utils.make_scheduler(optimizer, config["opt"], steps)
    averaged = utils.ModelEma(model, decay=0.99)
    data, crop = config["dataset"], libs["datasets.data_utils"].truncate_feats
    rule = {"max_seq_len": LENGTH, "trunc_thresh": data["trunc_thresh"], "crop_ratio": data["crop_ratio"]}
    if "offset" in inspect.signature(crop).parameters:  # ActionFormer's; TriDet's and MSE's have none
        rule["offset"] = CENTRE
    for _ in range(config["opt"]["epochs"] + config["opt"]["warmup_epochs"]):
        model.train()
        order = torch.randperm(len(items)).tolist()
        for k in range(steps):
            videos = [crop(items[n], **rule) for n in order[k * batch : (k + 1) * batch]]
            optimizer.zero_grad(set_to_none=True)
            model(videos)["final_loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config["train_cfg"]["clip_grad_l2norm"])
            optimizer.step()
            scheduler.step()
            averaged.update(model)
    network: torch.nn.Module = averaged.module
    return network.eval()


@torch.no_grad()
def detected(
    model: torch.nn.Module, items: list[dict[str, Any]], labels: tuple[str, ...], rule: dict[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Return detections as in a results file, suppressed as ours are."""
    results = {}
    for one in items:
        found = model([one])[0]
        kept = nms(found["segments"].numpy(), found["scores"].numpy(), found["labels"].numpy(), **rule)
        results[one["video_id"]] = [
            {"segment": [float(start), float(end)], "score": float(score), "label": labels[label]}
            for (start, end), score, label in zip(kept.segments, kept.scores, kept.labels, strict=True)
        ]
    return results


def main() -> None:
    """Print the average mAP of each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", choices=["actionformer", "tridet", "mse"])
    parser.add_argument("folder", type=Path, help="checkout of the detector")
    parser.add_argument("data", type=Path, help="folder of 50Salads")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--quick", action="store_true", help="one epoch after the warm-up, six training videos")
    given = parser.parse_args()
    table: Table = plugins.read_annotations("activitynet", given.data / "annotations.json", {})
    libs = import_libs(given.folder, "modeling", "utils", "core.config", "datasets.data_utils")
    config = libs["core.config"].load_config(str(given.folder / "configs" / "thumos_i3d.yaml"))
    config = changed(config, len(table.labels), 1 if given.quick else 35)
    items = {
        split: [item(video_id, video, table.labels, given.data) for video_id, video in table.split(split).items()]
        for split in ("train", "test")
    }
    truth = {v: [(i.start, i.end, i.label) for i in video.instances] for v, video in table.split("test").items()}
    rule = component_sections("detectors", given.detector, "salads")["nms"]
    print("| seed | average mAP (0.3 to 0.7) |\n| --- | ---: |", flush=True)
    for seed in given.seeds:
        model = trained(libs, config, items["train"][: 6 if given.quick else None], seed)
        found = detected(model, items["test"], table.labels, rule)
        score = evaluate(truth, found, tiou=TIOU, labels=table.labels).average_mean_ap
        print(f"| {seed} | {100 * score:.2f} |", flush=True)


if __name__ == "__main__":
    main()
