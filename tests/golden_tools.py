"""Helpers for the golden detector tests: map the published configuration to our settings, and compare."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tad.layers.masked import ScaledDropPath
from tad.layers.types import Candidates, Targets
from tad.settings import plugins

CASES = [
    "actionformer_thumos",
    "actionformer_anet",
    "mse_thumos",
    "mse_anet",
    "mse_hacs",
    "tridet_thumos",
    "tridet_hacs",
]


def _total(width: int | list[int]) -> int:
    """Return the number of channels of all streams of a published configuration."""
    return width if isinstance(width, int) else sum(width)


class Golden:
    """One golden file: arrays by key, and the detector that it describes."""

    def __init__(self, shared: Path, case: str) -> None:
        self.method = case.split("_")[0]
        self.config = json.loads((shared / "golden" / f"{case}.json").read_text())
        with np.load(shared / "golden" / f"{case}.npz") as archive:
            self.arrays = {key: archive[key] for key in archive.files}

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose key begins with the prefix, with the prefix removed."""
        return {k[len(prefix) :]: torch.from_numpy(v) for k, v in self.arrays.items() if k.startswith(prefix)}

    @property
    def settings(self) -> dict[str, Any]:
        """Return our constructor's arguments for the published configuration."""
        model, train = self.config["model"], self.config["train_cfg"]
        backbone = model.get("backbone_type", "convTransformer" if self.method == "actionformer" else "")
        streams = model["input_dim"] if isinstance(model["input_dim"], list) else []
        common = {
            "embed_dim": _total(model["embd_dim"]),
            "stream_dims": streams,
            "stream_embed_dims": model["embd_dim"] if streams else [],
            "embed_norm": model.get("embd_with_ln", True),
            "neck": model.get("fpn_type", "identity"),
            "fpn_dim": model.get("fpn_dim"),
            "neck_norm": model.get("fpn_with_ln", True),
            "head_norm": model.get("head_with_ln", True),
            "embed_layers": model["backbone_arch"][0],
            "embed_kernel": model["embd_kernel_size"],
            "use_position": model["use_abs_pe"],
            "stem_layers": model["backbone_arch"][1],
            "droppath": train["droppath"],
            "head_dim": model["head_dim"],
            "head_layers": model["head_num_layers"],
            "head_kernel": model["head_kernel_size"],
            "class_prior": train["cls_prior_prob"],
            "regression_ranges": model["regression_range"],
            "center_radius": 1e9 if train.get("center_sample") == "none" else train["center_sample_radius"],
            "label_smoothing": train["label_smoothing"],
            "loss_weight": train["loss_weight"],
            "init_loss_norm": float(train["init_loss_norm"]),
            "input_noise": model.get("input_noise", 0.0),
            "buffer_factor": model["max_buffer_len_factor"],
        }
        if self.method == "actionformer":
            window = model["n_mha_win_size"]
            own = {
                "num_heads": model["n_head"],
                "windows": [window] * len(model["regression_range"]) if isinstance(window, int) else window,
                "encoder": {"convTransformer": "transformer"}.get(backbone, backbone),
                "use_relative_position": model.get("use_rel_pe", False),
                "mlp_dim": 4 * _total(model["embd_dim"]),
                "dropout": train["dropout"],
            }
        else:
            prefix = "mse" if self.method == "mse" else "sgp"
            kernel = model[f"n_{prefix}_win_size"]
            own = {
                "face": "parity",
                "corrections": [],
                "kernel": kernel if isinstance(kernel, int) else 1,
                "kernels": [] if isinstance(kernel, int) else kernel,
                "pooling": model.get("downsample_type", "max"),
                "trident": model.get("use_trident_head", True),
                "kernel_factor": model["k"],
                "init_conv_std": model["init_conv_vars"],
                "mlp_dim": model[f"{prefix}_mlp_dim"],
                "boundary_kernel": model["boudary_kernel_size"],
                "num_bins": model["num_bins"],
                "iou_weight_power": model["iou_weight_power"],
            }
            if self.method == "mse":
                own |= {"num_heads": model["n_head"], "dropout": train["dropout"]}
            else:
                own["encoder"] = "conv" if backbone == "conv" else "granular"
        return plugins.defaults("detectors", self.method) | common | own  # later additions are off

    @property
    def sizes(self) -> dict[str, int]:
        """Return feature width, number of classes and window length."""
        model = self.config["model"]
        return {
            "feature_dim": _total(model["input_dim"]),
            "num_classes": model["num_classes"],
            "max_length": model["max_seq_len"],
        }

    def detector(self) -> Any:
        """Build the detector with the golden weights. Stochastic depth is 0, as when the file was written."""
        detector = plugins.build("detectors", self.method, self.settings, **self.sizes)
        detector.load_state_dict(self.group("state/"), strict=True)
        still(detector)
        return detector

    def batch(self, videos: list[str]) -> tuple[Tensor, Tensor, list[Targets]]:
        """Return features (B, max_length, C), lengths and targets."""
        feats = [torch.from_numpy(self.arrays[f"in/{video}/feats"]).T for video in videos]
        longest = max(self.sizes["max_length"], *(len(f) for f in feats))
        padded = torch.stack([torch.nn.functional.pad(f, (0, 0, 0, longest - len(f))) for f in feats])
        targets = [
            Targets(
                torch.from_numpy(self.arrays[f"in/{video}/segments"]),
                torch.from_numpy(self.arrays[f"in/{video}/labels"]),
            )
            for video in videos
        ]
        return padded, torch.tensor([len(f) for f in feats]), targets

    @property
    def test_videos(self) -> list[str]:
        """Return the videos with stored outputs."""
        return [v for v in ("test_a", "test_b") if f"in/{v}/feats" in self.arrays]


def still(detector: nn.Module) -> None:
    """Disable stochastic depth; the per-channel scales stay."""
    for module in detector.modules():
        if isinstance(module, ScaledDropPath):
            module.probability = 0.0


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Return ‖ours − theirs‖ / ‖theirs‖ in float64, or 0 if both are zero."""
    a, b = ours.detach().double(), theirs.double()
    assert a.shape == b.shape, (a.shape, b.shape)
    difference = float((a - b).norm())
    return difference / max(float(b.norm()), 1e-300) if difference else 0.0


def gradient_errors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """Return ‖ours − theirs‖ of each tensor, relative to the larger of its norm and 1e-6 of the norm of all."""
    whole = float(torch.cat([g.double().flatten() for g in theirs.values()]).norm())
    errors = {}
    for name, gradient in theirs.items():
        difference = float((ours[name].double() - gradient.double()).norm())
        errors[name] = difference / max(float(gradient.double().norm()), 1e-6 * whole)
    return errors


def unmatched(ours: Candidates, segments: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> int:
    """Return the stored candidates without a match (same label, times within 1e-3, score within 1e-5; one to one)."""
    our_segments, our_scores = ours.segments_N2.numpy(), ours.scores_N.numpy()
    free = np.ones(len(our_scores), bool)
    missing = 0
    by_label = {label: np.flatnonzero(ours.labels_N.numpy() == label) for label in np.unique(labels)}
    for segment, score, label in zip(segments, scores, labels, strict=True):
        rows = by_label[label]
        far = np.abs(our_segments[rows] - segment).max(axis=1, initial=0)
        near = rows[(far < 1e-3) & (np.abs(our_scores[rows] - score) < 1e-5) & free[rows]]
        if len(near):
            free[near[0]] = False
        else:
            missing += 1
    return missing
