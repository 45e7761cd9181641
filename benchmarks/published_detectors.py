"""Both sides of bench_detectors.py: our detectors and those of a published checkout, with equal weights.

The checkouts are those of github.com/XinAn9508/MSE_for_TAD, github.com/dingfengshi/TriDet and
github.com/happyharrycn/actionformer_release (their NMS extension need not be built).
"""

import contextlib
import importlib
import importlib.util
import io
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tad.layers.masked import ScaledDropPath
from tad.layers.types import Targets
from tad.settings import plugins
from tad.settings.resolved import component_sections
from tad.training.loop.compile import compile_networks
from tad.training.loop.optim import Ema, adamw

BATCH, LENGTH, CHANNELS, CLASSES, INSTANCES = 2, 2304, 2048, 20, 15


class Ours:
    """Our detector, with the settings of `for: thumos14`."""

    def __init__(self, name: str, *, half: bool = False, compiled: bool = False) -> None:
        self.half, self.compiled = half, compiled
        sections = component_sections("detectors", name, "thumos14")
        sizes, train = {"feature_dim": CHANNELS, "num_classes": CLASSES, "max_length": LENGTH}, sections["train"]
        self.model = plugins.build("detectors", name, sections["settings"], **sizes)
        self.rule = {k: sections["detect"][k] for k in ("score_threshold", "topk", "min_length")}
        self.clip, self.loss_norm = train["clip_grad"], self.model.loss_norm
        self.make_optimizer = lambda: adamw(self.model, lr=train["lr"], weight_decay=train["weight_decay"])
        self.make_ema = lambda: Ema(self.model, train["ema_decay"])
        if compiled:
            compile_networks(self.model, torch.device("cpu"))

    def reset(self) -> None:
        """Reset the loss normaliser to its value at the start of training."""
        self.model.loss_norm = self.loss_norm.to(self.model.loss_norm)

    def loss(self, feats_BTC: Tensor, targets: list[Targets]) -> Tensor:
        """Return the loss of one training batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            total: Tensor = self.model.loss(feats_BTC, torch.full((len(targets),), LENGTH), targets)["total"]
        return total

    def detect(self, feats_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the candidates of one video."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            found = self.model.candidates(feats_BTC, torch.tensor([LENGTH]), **self.rule)[0]
        # theirs are clipped at 0, ours by a later stage
        return found.segments_N2.clamp(min=0), found.scores_N, found.labels_N


class Published:
    """The detector of a checkout, with its own configs/thumos_i3d.yaml, optimiser and averages."""

    def __init__(self, name: str, folder: Path) -> None:
        self.half = self.compiled = False
        self.turned: dict[tuple[int, int], list[Tensor]] = {}
        libs = import_libs(folder)
        # their configuration, without suppression, which is not timed
        config = libs["core.config"].load_config(str(folder / "configs" / "thumos_i3d.yaml"))
        config["test_cfg"]["nms_method"] = "none"
        with contextlib.redirect_stdout(io.StringIO()):
            self.model = libs["modeling"].make_meta_arch(config["model_name"], **config["model"])
        self.clip, self.loss_norm = config["train_cfg"]["clip_grad_l2norm"], config["train_cfg"]["init_loss_norm"]
        self.make_optimizer = lambda: libs["utils"].make_optimizer(self.model, config["opt"])
        self.make_ema = lambda: libs["utils"].ModelEma(self.model)

    def reset(self) -> None:
        """Reset the loss normaliser to its value at the start of training."""
        self.model.loss_normalizer = self.loss_norm

    def channels_first(self, feats_BTC: Tensor) -> list[Tensor]:
        """Return each video in the layout of their reader; computed once, outside the timed part."""
        key = (feats_BTC.data_ptr(), len(feats_BTC))
        if key not in self.turned:
            self.turned[key] = [feats_TC.T.contiguous() for feats_TC in feats_BTC]
        return self.turned[key]

    def loss(self, feats_BTC: Tensor, targets: list[Targets]) -> Tensor:
        """Return the loss of one training batch."""
        videos = [
            {"feats": feats_CT, "segments": target.segments_N2, "labels": target.labels_N}
            for feats_CT, target in zip(self.channels_first(feats_BTC), targets, strict=True)
        ]
        total: Tensor = self.model(videos)["final_loss"]
        return total

    @torch.no_grad()
    def detect(self, feats_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the candidates of one video, on its snippet grid."""
        facts = {"video_id": "v", "fps": 1.0, "duration": 1e9, "feat_stride": 1, "feat_num_frames": 0}
        found = self.model([{"feats": self.channels_first(feats_BTC)[0], **facts}])[0]
        return found["segments"], found["scores"], found["labels"]


def import_libs(folder: Path, *names: str) -> dict[str, Any]:
    """Import modules of a checkout's package `libs`; suppression and scoring dependencies are stubbed if missing."""
    for stub, inside in {"nms_1d_cpu": (), "joblib": ("Parallel", "delayed"), "pandas": ()}.items():
        if stub not in sys.modules and importlib.util.find_spec(stub) is None:
            sys.modules[stub] = types.ModuleType(stub)
            for attribute in inside:
                setattr(sys.modules[stub], attribute, None)
    for alias, kind in {"float": float, "int": int}.items():
        if alias not in np.__dict__:
            setattr(np, alias, kind)
    for module in [m for m in sys.modules if m == "libs" or m.startswith("libs.")]:
        del sys.modules[module]  # the package has this name in all checkouts
    if not (folder / "libs" / "modeling").is_dir():
        raise SystemExit(f"{folder}: not a checkout (no libs/modeling); see the top of published_detectors.py")
    if not (folder / "libs" / "datasets" / "epic_kitchens.py").is_file():  # MSE's package imports one that it lacks
        sys.modules["libs.datasets.epic_kitchens"] = types.ModuleType("libs.datasets.epic_kitchens")
    sys.path.insert(0, str(folder))
    try:
        wanted = names or ("modeling", "utils", "core.config")
        return {name: importlib.import_module(f"libs.{name}") for name in wanted}
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def wide() -> Iterator[None]:
    """Let the published code compute in float64 if its weights are float64: disable its casts to float32."""
    before = torch.float, torch.Tensor.float, torch.jit.script
    changed: Any = torch
    changed.float, changed.Tensor.float, changed.jit.script = torch.float64, lambda x: x, lambda function: function
    try:
        yield
    finally:
        changed.float, changed.Tensor.float, changed.jit.script = before


def batch() -> tuple[Tensor, list[Targets]]:
    """Return features (B, T, C) and instances of lengths like those of THUMOS14."""
    rng = np.random.default_rng(0)
    feats_BTC = torch.from_numpy(rng.standard_normal((BATCH, LENGTH, CHANNELS), dtype=np.float32))
    targets = []
    for _ in range(BATCH):
        length = rng.lognormal(2.5, 0.8, INSTANCES).clip(2, 200)
        start = rng.random(INSTANCES) * (LENGTH - length)
        segments = torch.from_numpy(np.stack([start, start + length], 1).astype(np.float32))
        targets.append(Targets(segments, torch.from_numpy(rng.integers(0, CLASSES, INSTANCES))))
    return feats_BTC, targets


def ours_of(name: str, *, half: bool = False, compiled: bool = False) -> Ours:
    """Build our detector; weights initialised to zero are changed, because they would hide differences."""
    torch.manual_seed(0)
    ours = Ours(name, half=half, compiled=compiled)
    with torch.no_grad():
        for parameter in ours.model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(0.0, 0.02)
    return ours


def published_of(name: str, folder: Path, ours: Ours) -> Published:
    """Build the published detector with our weights."""
    published = Published(name, folder)
    published.model.load_state_dict(ours.model.state_dict(), strict=True)
    return published


@contextlib.contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Disable input noise and stochastic depth on both sides inside the context."""
    before: list[tuple[nn.Module, str, float]] = []
    for module in model.modules():
        name = "probability" if isinstance(module, ScaledDropPath) else "drop_prob"
        for field in {name, "input_noise"} & set(vars(module)):
            before.append((module, field, getattr(module, field)))
            setattr(module, field, 0.0)
    try:
        yield
    finally:
        for module, field, value in before:
            setattr(module, field, value)
