"""The detectors beside the published code at THUMOS14's size: training step, inference, peak memory → Markdown.

    OMP_NUM_THREADS=1 python benchmarks/bench_detectors.py --mse FOLDER --tridet FOLDER --actionformer FOLDER

The folders are checkouts of github.com/XinAn9508/MSE_for_TAD, github.com/dingfengshi/TriDet and
github.com/happyharrycn/actionformer_release (their NMS extension need not be built). Both sides get the same weights
and batch; outputs, loss and gradients are compared before anything is timed. Sides take turns in one process; times are
process CPU time of one thread, median of the repeats. --precision bfloat16 and --compile change our side only (as
train.precision and train.compile do); the published side stays in float32, and the difference is shown, not judged.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import platform
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tad import plugins
from tad.layers.types import Targets
from tad.training.optim import Ema, adamw, clip_gradients

BATCH, LENGTH, CHANNELS, CLASSES, INSTANCES, REPEATS = 2, 2304, 2048, 20, 15, 3
DETECTORS = ("mse", "tridet", "actionformer")
CASES = {
    "forward": "(a) forward, training mode",
    "backward": "(b) forward + backward",
    "step": "(c) full step: (b) + clip + AdamW + EMA",
    "detect": "(d) inference: forward + candidates, B = 1",
}
TARGETS = {("mse", "forward"): 1.5, ("mse", "step"): 1.2}  # all others: 1
TOLERANCE, RANKS = 1e-5, 3
# rounding moves a few of the millions of activations across the corner of a ReLU, which turns their gradient on or off
GRADIENT_TOLERANCE = 1e-4


class Ours:
    """The detector of this repository, with the settings of `for: thumos14`."""

    def __init__(self, name: str, *, half: bool = False, compiled: bool = False) -> None:
        self.half = half
        document = plugins.document("detectors", name)
        change = document["for"].get("thumos14", {})
        settings, train = ({**document[s], **change.get(s, {})} for s in ("settings", "train"))
        make = plugins.load("detectors", name)
        self.model = make(feature_dim=CHANNELS, num_classes=CLASSES, max_length=LENGTH, **settings)
        self.rule = {k: document["detect"][k] for k in ("score_threshold", "topk", "min_length")}
        self.clip, self.loss_norm = train["clip_grad"], self.model.loss_norm
        self.make_optimizer = lambda: adamw(self.model, lr=train["lr"], weight_decay=train["weight_decay"])
        self.make_ema = lambda: Ema(self.model, train["ema_decay"])
        if compiled:
            for part in self.model.children():
                part.compile()

    def reset(self) -> None:
        """The loss normaliser as at the start of training."""
        self.model.loss_norm = self.loss_norm

    def loss(self, feats_BTC: Tensor, targets: list[Targets]) -> Tensor:
        """Of one training batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            total: Tensor = self.model.loss(feats_BTC, torch.full((len(targets),), LENGTH), targets)["total"]
        return total

    def detect(self, feats_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates of one video."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            found = self.model.candidates(feats_BTC, torch.tensor([LENGTH]), **self.rule)[0]
        # theirs are cut off at 0, as ours are by a later stage
        return found.segments_N2.clamp(min=0), found.scores_N, found.labels_N


class Published:
    """The detector of a checkout, with its own configs/thumos_i3d.yaml, optimiser and averages."""

    def __init__(self, name: str, folder: Path) -> None:
        self.turned: dict[tuple[int, int], list[Tensor]] = {}
        libs = import_libs(folder)
        # their configuration, minus suppression, which is not timed
        config = libs["core.config"].load_config(str(folder / "configs" / "thumos_i3d.yaml"))
        config["test_cfg"]["nms_method"] = "none"
        with contextlib.redirect_stdout(io.StringIO()):
            self.model = libs["modeling"].make_meta_arch(config["model_name"], **config["model"])
        self.clip, self.loss_norm = config["train_cfg"]["clip_grad_l2norm"], config["train_cfg"]["init_loss_norm"]
        self.make_optimizer = lambda: libs["utils"].make_optimizer(self.model, config["opt"])
        self.make_ema = lambda: libs["utils"].ModelEma(self.model)

    def reset(self) -> None:
        """The loss normaliser as at the start of training."""
        self.model.loss_normalizer = self.loss_norm

    def channels_first(self, feats_BTC: Tensor) -> list[Tensor]:
        """Each video as their reader hands it over; made once, outside of what is timed."""
        key = (feats_BTC.data_ptr(), len(feats_BTC))
        if key not in self.turned:
            self.turned[key] = [feats_TC.T.contiguous() for feats_TC in feats_BTC]
        return self.turned[key]

    def loss(self, feats_BTC: Tensor, targets: list[Targets]) -> Tensor:
        """Of one training batch."""
        videos = [
            {"feats": feats_CT, "segments": target.segments_N2, "labels": target.labels_N}
            for feats_CT, target in zip(self.channels_first(feats_BTC), targets, strict=True)
        ]
        total: Tensor = self.model(videos)["final_loss"]
        return total

    @torch.no_grad()
    def detect(self, feats_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates of one video, on the grid of its snippets."""
        facts = {"video_id": "v", "fps": 1.0, "duration": 1e9, "feat_stride": 1, "feat_num_frames": 0}
        found = self.model([{"feats": self.channels_first(feats_BTC)[0], **facts}])[0]
        return found["segments"], found["scores"], found["labels"]


def import_libs(folder: Path) -> dict[str, Any]:
    """Modules of a checkout's package `libs`; what it needs for suppression and scoring only is stubbed if missing."""
    for stub, names in {"nms_1d_cpu": (), "joblib": ("Parallel", "delayed"), "pandas": ()}.items():
        if stub not in sys.modules and importlib.util.find_spec(stub) is None:
            sys.modules[stub] = types.ModuleType(stub)
            for attribute in names:
                setattr(sys.modules[stub], attribute, None)
    for alias, kind in {"float": float, "int": int}.items():
        if alias not in np.__dict__:
            setattr(np, alias, kind)
    for module in [m for m in sys.modules if m == "libs" or m.startswith("libs.")]:
        del sys.modules[module]  # both checkouts call their package so
    if not (folder / "libs" / "modeling").is_dir():
        raise SystemExit(f"{folder}: not a checkout (no libs/modeling); see the top of this file")
    sys.path.insert(0, str(folder))
    try:
        return {name: importlib.import_module(f"libs.{name}") for name in ("modeling", "utils", "core.config")}
    finally:
        sys.path.remove(str(folder))


def batch() -> tuple[Tensor, list[Targets]]:
    """Features (B, T, C) and instances of lengths like THUMOS14's."""
    rng = np.random.default_rng(0)
    feats_BTC = torch.from_numpy(rng.standard_normal((BATCH, LENGTH, CHANNELS), dtype=np.float32))
    targets = []
    for _ in range(BATCH):
        length = rng.lognormal(2.5, 0.8, INSTANCES).clip(2, 200)
        start = rng.random(INSTANCES) * (LENGTH - length)
        segments = torch.from_numpy(np.stack([start, start + length], 1).astype(np.float32))
        targets.append(Targets(segments, torch.from_numpy(rng.integers(0, CLASSES, INSTANCES))))
    return feats_BTC, targets


def pair(name: str, folder: Path, *, half: bool = False, compiled: bool = False) -> dict[str, Any]:
    """Both sides with the same weights; those that start at zero are moved, or they would hide differences."""
    torch.manual_seed(0)
    ours, published = Ours(name, half=half, compiled=compiled), Published(name, folder)
    with torch.no_grad():
        for parameter in ours.model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(0.0, 0.02)
    published.model.load_state_dict(ours.model.state_dict(), strict=True)
    return {"published": published, "ours": ours}


def check(sides: dict[str, Any], feats_BTC: Tensor, targets: list[Targets]) -> str:
    """Loss, gradient norm and candidates of both sides, without input noise and under the same random numbers.

    Raises:
        SystemExit: they differ.
    """
    loss, norm, found = {}, {}, {}
    for side, it in sides.items():
        noise = getattr(it.model, "input_noise", 0.0)
        it.model.train()
        it.model.input_noise = 0.0
        torch.manual_seed(1)
        value = it.loss(feats_BTC, targets)
        value.backward()
        loss[side], norm[side] = value.item(), float(clip_gradients(it.model.parameters(), 0.0))
        it.model.zero_grad(set_to_none=True)
        it.model.input_noise = noise
        it.reset()
        it.model.eval()
        found[side] = it.detect(feats_BTC[:1])
    counts = {side: len(scores) for side, (_, scores, _) in found.items()}
    if sides["ours"].half:
        return ", ".join(f"{what} {values}" for what, values in (("loss", loss), ("gradient", norm), ("found", counts)))
    if counts["ours"] != counts["published"]:
        raise SystemExit(f"the sides differ: candidates {counts}")
    errors = {
        what: abs(values["ours"] / values["published"] - 1) for what, values in {"loss": loss, "gradient": norm}.items()
    }
    ranked = [[part[scores.argsort(stable=True)] for part in it] for it in found.values() for scores in [it[1]]]
    (segments, scores, labels), (segments2, scores2, labels2) = ranked
    errors["scores"] = float((scores / scores2 - 1).abs().max())
    # neighbours in the ranking whose scores differ by rounding only may have changed places
    same = torch.zeros_like(labels, dtype=torch.bool)
    for shift in range(-RANKS, RANKS + 1):
        near = (segments - segments2.roll(shift, 0)).abs().amax(1) < 0.01
        same |= near & (labels == labels2.roll(shift))
    share = float(same.float().mean())
    said = f"loss {loss['ours']:.6f} and {loss['published']:.6f}; relative differences: "
    said += ", ".join(f"{what} {error:.0e}" for what, error in errors.items())
    said += f"; {counts['ours']} candidates, {share:.1%} with the same segment and label within {RANKS} ranks"
    limits = {what: GRADIENT_TOLERANCE if what == "gradient" else TOLERANCE for what in errors}
    if any(errors[what] > limit for what, limit in limits.items()) or share < 0.99:
        raise SystemExit(f"the sides differ: {said}")
    return said


def train_step(side: Any, optimizer: Any, ema: Any, feats_BTC: Tensor, targets: list[Targets]) -> dict[str, float]:
    """CPU seconds from the start of one step to the end of each of its parts."""
    side.model.train()
    marks, start = {}, time.process_time()
    optimizer.zero_grad(set_to_none=True)
    loss = side.loss(feats_BTC, targets)
    marks["forward"] = time.process_time() - start
    loss.backward()
    marks["backward"] = time.process_time() - start
    torch.nn.utils.clip_grad_norm_(side.model.parameters(), side.clip)
    optimizer.step()
    ema.update(side.model)
    marks["step"] = time.process_time() - start
    return marks


def seconds(function: Callable[..., Any], *inputs: Any) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    function(*inputs)
    return time.process_time() - start


def times(
    sides: dict[str, Any], feats_BTC: Tensor, targets: list[Targets], repeats: int = REPEATS
) -> dict[str, dict[str, list[float]]]:
    """Seconds by case and side; the sides take turns, and which is first does too. One step each before is not kept."""
    taken: dict[str, dict[str, list[float]]] = {case: {side: [] for side in sides} for case in CASES}
    tools = {side: (it.make_optimizer(), it.make_ema()) for side, it in sides.items()}
    for repeat in range(repeats + 1):
        for side in list(sides)[:: 1 if repeat % 2 else -1]:
            it = sides[side]
            marks = train_step(it, *tools[side], feats_BTC, targets)
            it.model.eval()
            marks["detect"] = seconds(it.detect, feats_BTC[:1])
            if repeat:
                for case, value in marks.items():
                    taken[case][side].append(value)
    return taken


def peak() -> float:
    """Peak resident memory of this process so far, GiB (Linux; elsewhere nan)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM")), float("nan"))


def memory_of(name: str, side: str, folder: Path) -> None:
    """Print the peaks of an inference and of two steps after it, in this otherwise fresh process."""
    feats_BTC, targets = batch()
    it: Any = Ours(name) if side == "ours" else Published(name, folder)
    it.model.eval()
    it.detect(feats_BTC[:1])
    detect, optimizer, ema = peak(), it.make_optimizer(), it.make_ema()
    for _ in range(2):
        train_step(it, optimizer, ema, feats_BTC, targets)
    sys.stdout.write(f"{detect} {peak()}\n")


def memory(name: str, folder: Path) -> dict[str, list[float]]:
    """Peaks of inference and training, GiB, by side, each in a process of its own."""
    found = {}
    for side in ("published", "ours"):
        command = [sys.executable, __file__, "--peak", name, side, f"--{name}", str(folder)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[side] = [float(value) for value in out.split()[-2:]]
    return found


def main() -> None:
    """Compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actionformer", type=Path, help="checkout of github.com/happyharrycn/actionformer_release")
    parser.add_argument("--mse", type=Path, help="checkout of github.com/XinAn9508/MSE_for_TAD")
    parser.add_argument("--tridet", type=Path, help="checkout of github.com/dingfengshi/TriDet")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of our side")
    parser.add_argument("--compile", action="store_true", help="our side as train.compile does; minutes at first")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        memory_of(*arguments.peak, getattr(arguments, arguments.peak[0]))
        return
    sys.stdout.write(
        f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"one thread, ours {arguments.precision}{', compiled' * arguments.compile}; batch {BATCH} x {LENGTH}"
        f" x {CHANNELS}; CPU s, median of {arguments.repeats} (least to most)\n\n"
    )
    feats_BTC, targets = batch()
    rows, half = [], arguments.precision == "bfloat16"
    for name in DETECTORS:
        folder = getattr(arguments, name)
        if folder is None:
            continue
        sides = pair(name, folder, half=half, compiled=arguments.compile)
        sys.stdout.write(f"{name}: {check(sides, feats_BTC, targets)}\n")
        sys.stdout.flush()
        for case, by_side in times(sides, feats_BTC, targets, arguments.repeats).items():
            middle = {side: statistics.median(values) for side, values in by_side.items()}
            shown = [f"{middle[s]:.2f} ({min(v):.2f} to {max(v):.2f})" for s, v in by_side.items()]
            ratio, target = middle["published"] / middle["ours"], TARGETS.get((name, case), 1.0)
            if half and case in ("forward", "step"):
                target = 3.5 if arguments.compile else 2.5
            reached = "reached" if ratio >= target else "missed"
            rows.append(f"| {name} | {CASES[case]} | {shown[0]} | {shown[1]} | {ratio:.2f} x | {target} x: {reached} |")
        del sides
        if half or arguments.compile:
            continue
        peaks = memory(name, folder)
        for index, what in enumerate(("inference", "training")):
            old, new = peaks["published"][index], peaks["ours"][index]
            rows.append(f"| {name} | peak memory, {what}, GiB | {old:.2f} | {new:.2f} | {old / new:.2f} x | |")
    head = ["", "| detector | case | published | ours | ratio | target |", "| --- | --- | ---: | ---: | ---: | --- |"]
    sys.stdout.write("\n".join(head + rows) + "\n")


if __name__ == "__main__":
    main()
