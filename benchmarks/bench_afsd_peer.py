"""Compare AFSD with OpenTAD's modules at equal weights: loss and gradient of one batch of features → Markdown.

    python benchmarks/bench_afsd_peer.py FOLDER [--quick]

FOLDER is a checkout of https://github.com/sming256/OpenTAD (read at 3dd7b03). Only its AFSD files are loaded, without
the training code that they import: registries, suppression, and the CUDA operator for boundary pooling, which is
replaced by ours. Our side uses the parity settings. Exits with 1 if a loss or gradient differs in float64.
"""

import argparse
import importlib
import platform
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tad.detectors._afsd.boundaries import boundary_max_pool
from tad.layers.types import Targets
from tad.settings import plugins
from tad.settings.resolved import component_sections

BAR = 1e-7  # for the loss and the norm of the gradient, in float64
WIDTH = 512  # channels; parts of their code support no other width
INSTANCES = 15
ROOT = "opentad_afsd"
CASES: dict[str, dict[str, Any]] = {  # OpenTAD's configs/afsd/thumos_i3d.py and anet_tsp.py
    "thumos14": {"channels": 2048, "length": 64, "classes": 20, "frames": 256, "strides": [1] * 6, "loc_weight": 10.0,
                 "overlap": 0.5, "bounded": False, "smooth": False},
    "activitynet13": {"channels": 512, "length": 96, "classes": 1, "frames": 768, "strides": [4, 8, 16, 32, 64, 128],
                      "loc_weight": 1.0, "overlap": 0.6, "bounded": True, "smooth": True},
}  # fmt: skip


class _Registry:
    """Replaces mmengine's registry: classes by name."""

    def __init__(self) -> None:
        self.classes: dict[str, Any] = {}

    def register_module(self) -> Any:
        def keep(one: Any) -> Any:
            self.classes[one.__name__] = one
            return one

        return keep


class _Settings(dict[str, Any]):
    """Settings with attribute access, like mmengine's."""

    __getattr__ = dict.__getitem__


class _TwoStage(nn.Module):
    """Replaces OpenTAD's detector and its test-time code: only builds the parts."""

    def __init__(self, *, neck: Any, rpn_head: Any, roi_head: Any, **_: Any) -> None:
        super().__init__()
        self.with_backbone = self.with_projection = False
        for name, settings in (("neck", neck), ("rpn_head", rpn_head), ("roi_head", roi_head)):
            options = {key: value for key, value in settings.items() if key != "type"}
            setattr(self, name, REGISTRY.classes[settings.type](**options))


class _Pooling(nn.Module):
    def forward(self, x_BCT: Tensor, regions_BN4: Tensor) -> Tensor:
        """Our boundary pooling, with the arguments of their operator."""
        return boundary_max_pool(x_BCT, regions_BN4)


REGISTRY = _Registry()


def load_peer(folder: Path) -> Any:
    """Load OpenTAD's class `AFSD` from a checkout.

    Raises:
        SystemExit: the folder has no such files.
    """
    models = folder / "opentad" / "models"
    if not (models / "detectors" / "afsd.py").is_file():
        sys.exit(f"{folder}: no opentad/models/detectors/afsd.py; name a checkout of github.com/sming256/OpenTAD")
    pooling = "roi_heads.roi_extractors.boundary_pooling"
    packages = ["", "necks", "dense_heads", "roi_heads", "detectors", "utils", "roi_heads.roi_extractors", pooling]
    for name in packages:
        package = types.ModuleType(f"{ROOT}.{name}".rstrip("."))
        package.__path__ = [str(models.joinpath(*name.split(".")))] if name else [str(models)]
        sys.modules[package.__name__] = package
    stubs: dict[str, dict[str, Any]] = {
        "builder": dict.fromkeys(("NECKS", "HEADS", "DETECTORS"), REGISTRY),
        "detectors.two_stage": {"TwoStageDetector": _TwoStage},
        "utils.post_processing": dict.fromkeys(("batched_nms", "convert_to_seconds")),
        f"{pooling}.boundary_pooling_op": {"BoundaryMaxPooling": _Pooling},
    }
    for name, content in stubs.items():
        module = types.ModuleType(f"{ROOT}.{name}")
        module.__dict__.update(content)
        sys.modules[module.__name__] = module
    for name in ("necks.afsd_neck", "dense_heads.afsd_coarse_head", "roi_heads.afsd_roi_head"):
        importlib.import_module(f"{ROOT}.{name}")
    return importlib.import_module(f"{ROOT}.detectors.afsd").AFSD


def peer_model(folder: Path, case: dict[str, Any]) -> nn.Module:
    """Build their model with the settings of a case."""
    outputs, frames, length = case["classes"] + 1, case["frames"], case["length"]
    neck = _Settings(type="AFSDNeck", in_channels=case["channels"], out_channels=WIDTH, frame_num=frames, layer_num=6)
    coarse = _Settings(type="AFSDCoarseHead", in_channels=WIDTH, out_channels=WIDTH, frame_num=frames, layer_num=6,
                       fpn_strides=case["strides"], num_classes=outputs, feat_t=length)  # fmt: skip
    refine = _Settings(type="AFSDRefineHead", in_channels=WIDTH, num_classes=outputs, overlap_thresh=case["overlap"],
                       loc_weight=case["loc_weight"], loc_bounded=case["bounded"],
                       use_smooth_l1=case["smooth"])  # fmt: skip
    made: nn.Module = load_peer(folder)(neck=neck, rpn_head=coarse, roi_head=refine)
    return made


def our_model(name: str, case: dict[str, Any]) -> nn.Module:
    """Build our model with the parity settings of `for: <name>`, without boundary consistency and gate."""
    settings = component_sections("detectors", "afsd", name)["settings"]
    settings |= {"face": "parity", "consistency_weight": 0.0, "embed_dim": WIDTH}
    sizes = {"feature_dim": case["channels"], "num_classes": case["classes"], "max_length": case["length"]}
    made: nn.Module = plugins.build("detectors", "afsd", settings, **sizes)
    return made


def equal_weights(ours: nn.Module, theirs: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Give both models the same random weights; return the pairs of parameters, in our order.

    Both list the same layers in the same order, except for the scales of the levels, which precede the classifier.
    """
    named = list(theirs.named_parameters())
    scales = [pair for pair in named if pair[0].startswith("rpn_head.scales.")]
    named = [pair for pair in named if pair not in scales]
    place = 1 + max(k for k, (name, _) in enumerate(named) if name.startswith("rpn_head.conf_head."))
    named[place:place] = scales
    pairs = list(zip(ours.parameters(), (weight for _, weight in named), strict=True))
    generator = torch.Generator().manual_seed(0)
    for our, their in pairs:
        if our.numel() != their.numel():
            raise ValueError(f"{tuple(our.shape)} beside {tuple(their.shape)}: the layers are not in the same order")
        if their.ndim > 1:  # as far from zero as in a trained network, so that every branch is active
            value = torch.randn(their.shape, generator=generator) / their[0].numel() ** 0.5
        else:
            value = their.detach() + 0.1 * torch.randn(their.shape, generator=generator)
        their.data.copy_(value)
        our.data.copy_(value.reshape(our.shape))
    return pairs


def batch(case: dict[str, Any], *, videos: int) -> tuple[Tensor, list[Targets]]:
    """Return features and instances of whole windows, from a seed."""
    generator = torch.Generator().manual_seed(1)
    feats_BTC = torch.randn(videos, case["length"], case["channels"], generator=generator)
    targets = []
    for _ in range(videos):
        # at least half a snippet, so that some of the random coarse segments are good enough to be refined
        width_N = 0.5 * (0.6 * case["length"]) ** torch.rand(INSTANCES, generator=generator)
        start_N = torch.rand(INSTANCES, generator=generator) * (case["length"] - width_N)
        labels_N = torch.randint(case["classes"], (INSTANCES,), generator=generator)
        targets.append(Targets(torch.stack([start_N, start_N + width_N], dim=1), labels_N))
    return feats_BTC, targets


def losses_of(ours: nn.Module, theirs: nn.Module, feats_BTC: Tensor, targets: list[Targets]) -> tuple[Tensor, Tensor]:
    """Return the total loss of both models on one batch of whole windows."""
    length = feats_BTC.shape[1]
    mine: Tensor = ours.loss(feats_BTC, torch.full((len(targets),), length), targets)["total"]
    mask_BT = torch.ones(feats_BTC.shape[:2], dtype=torch.bool)
    segments, labels = [t.segments_N2 for t in targets], [t.labels_N for t in targets]
    peer: Tensor = theirs.forward_train(feats_BTC.transpose(1, 2), mask_BT, None, segments, labels)["cost"]
    return mine, peer


def compare(folder: Path, name: str, dtype: torch.dtype, *, videos: int) -> tuple[str, float]:
    """Compare one case; return a line of the table and the largest difference."""
    torch.set_default_dtype(dtype)
    case = CASES[name]
    ours, theirs = our_model(name, case), peer_model(folder, case)
    pairs = equal_weights(ours, theirs)
    # their targets are float32, whatever the dtype of the network
    theirs.calc_bce_loss.register_forward_pre_hook(lambda _, args: (*args[:2], args[2].to(dtype)))
    feats_BTC, targets = batch(case, videos=videos)
    mine, peer = losses_of(ours.train().to(dtype), theirs.train().to(dtype), feats_BTC, targets)
    (mine + peer).backward()  # parameters of separate networks
    apart = float((mine - peer).detach().abs() / peer.detach().abs())
    ours_G, theirs_G = (torch.cat([one[side].grad.reshape(-1) for one in pairs]) for side in (0, 1))
    slope = float((ours_G - theirs_G).norm() / theirs_G.norm())
    kind = str(dtype).removeprefix("torch.")
    numbers = f"{float(peer.detach()):.4f} | {float(mine.detach()):.4f} | {apart:.0e} | {slope:.0e}"
    return f"| {name} | {kind} | {len(theirs_G)} | {videos} | {numbers} |", max(apart, slope)


def main() -> int:
    """Run the command line; return 1 if a loss or gradient differs by more than rounding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a checkout of github.com/sming256/OpenTAD")
    parser.add_argument("--videos", type=int, default=2, help="windows in the batch")
    parser.add_argument("--quick", action="store_true", help="one window")
    a = parser.parse_args()
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, training mode\n")
    columns = "OpenTAD, total loss | ours | relative difference | and of the gradient"
    print(f"| settings | in | parameters | windows | {columns} |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    apart = []
    for name in CASES:
        for dtype in (torch.float32, torch.float64):
            row, largest = compare(a.folder, name, dtype, videos=1 if a.quick else a.videos)
            apart += [largest] if dtype == torch.float64 else []
            print(row, flush=True)
    return 0 if max(apart) <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
