"""Compare options of the published detectors that few recipes use with the published code → Markdown.

    OMP_NUM_THREADS=1 python benchmarks/bench_options.py --mse FOLDER --tridet FOLDER --actionformer FOLDER

The folders are checkouts (see published_detectors.py). For each option, both sides get equal random weights and are
compared in float64: names and shapes of the weights, loss and every gradient of a padded batch, and the candidates of a
video shorter than a training window and of a longer one. The networks are small. Exits with 1 if a side differs.
"""

import argparse
import contextlib
import copy
import io
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from published_detectors import import_libs, still, wide
from torch import Tensor, nn

from tad.layers.types import Targets
from tad.settings import plugins

BAR = 1e-9  # largest relative difference
CLASSES, CHANNELS, WINDOW, WIDTH = 5, 24, 256, 32
LENGTHS = (256, 171)  # of the training batch: the second is padded, and odd
SHORT, LONG = 171, 391  # of the videos used for candidates
RULE = {"score_threshold": 0.001, "topk": 5000, "min_length": 0.05}
STREAMS = {"stream_dims": [14, 7, 3], "stream_embed_dims": [16, 8, 8]}
FPN = {"neck": "fpn", "fpn_dim": 48}


@dataclass
class Option:
    """One option: the changes to our settings, and to the sections `model` and `train_cfg` of theirs."""

    name: str
    ours: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


SHARED = [
    Option("none (the published recipe)", {}),
    Option("FPN neck, its width another", FPN, {"fpn_type": "fpn", "fpn_dim": 48}),
    Option("FPN neck without norms", FPN | {"neck_norm": False},
           {"fpn_type": "fpn", "fpn_dim": 48, "fpn_with_ln": False}),
    Option("identity neck without norms", {"neck_norm": False}, {"fpn_with_ln": False}),
    Option("embedding without norm", {"embed_norm": False}, {"embd_with_ln": False}),
    Option("heads without norms", {"head_norm": False}, {"head_with_ln": False}),
    Option("no centre sampling", {"center_radius": 1e9}, train={"center_sample": "none"}),
]  # fmt: skip
TRIDENT = [
    Option("plain offset head", {"trident": False}, {"use_trident_head": False}),
    Option("plain offset head behind an FPN neck", FPN | {"trident": False},
           {"use_trident_head": False, "fpn_type": "fpn", "fpn_dim": 48}),
    Option("average pooling", {"pooling": "avg"}, {"downsample_type": "avg"}),
    Option("kernels of each level", {"kernels": [7, 3, 1, 5, 1, 3]}, {"window": [7, 3, 1, 5, 1, 3]}),
]  # fmt: skip
PROJECTED = {"input_dim": STREAMS["stream_dims"], "embd_dim": STREAMS["stream_embed_dims"]}
OPTIONS = {
    "actionformer": [
        *SHARED,
        Option("relative position code", {"use_relative_position": True}, {"use_rel_pe": True}),
        Option("relative position code, last levels global",
               {"use_relative_position": True, "windows": [9, 9, 9, 9, -1, -1]},
               {"use_rel_pe": True, "n_mha_win_size": [9, 9, 9, 9, -1, -1]}),
        Option("a projection per stream", STREAMS, PROJECTED),
        Option("a projection per stream, FPN neck, no norm in the embedding, position codes",
               STREAMS | FPN | {"embed_norm": False, "use_position": True, "use_relative_position": True},
               PROJECTED | {"fpn_type": "fpn", "fpn_dim": 48, "embd_with_ln": False, "use_abs_pe": True,
                            "use_rel_pe": True}),
        Option("conv encoder", {"encoder": "conv"}, {"backbone_type": "conv"}),
        Option("conv encoder, projections, position code asked for, embedding without norm",
               STREAMS | {"encoder": "conv", "use_position": True, "embed_norm": False},
               PROJECTED | {"backbone_type": "conv", "use_abs_pe": True, "embd_with_ln": False}),
    ],
    "tridet": [
        *SHARED,
        *TRIDENT,
        Option("conv encoder", {"encoder": "conv"}, {"backbone_type": "conv"}),
        Option("conv encoder, position code asked for, embedding without norm, plain head",
               {"encoder": "conv", "use_position": True, "embed_norm": False, "trident": False},
               {"backbone_type": "conv", "use_abs_pe": True, "embd_with_ln": False, "use_trident_head": False}),
    ],
    "mse": [*SHARED, *TRIDENT],
}  # fmt: skip
PREFIX = {"tridet": "sgp", "mse": "mse"}


def our_model(method: str, option: Option) -> Any:
    """Build our model, with weights as far from zero as in a trained network."""
    settings: dict[str, Any] = {"embed_dim": WIDTH, "head_dim": WIDTH, "mlp_dim": 4 * WIDTH, "label_smoothing": 0.1}
    if method == "actionformer":
        settings |= {"windows": [9] * 6}
    else:
        settings |= {"face": "parity", "kernel": 3, "kernel_factor": 1.5, "num_bins": 8, "input_noise": 0.0}
    torch.manual_seed(0)
    sizes = {"feature_dim": CHANNELS, "num_classes": CLASSES, "max_length": WINDOW}
    model = plugins.build("detectors", method, settings | option.ours, **sizes).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "drop_path" in name:
                parameter.fill_(0.5)
            elif parameter.ndim == 3 and not name.endswith("bias") and parameter.shape[0] > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def their_model(method: str, folder: Path, option: Option) -> nn.Module:
    """Build the published detector with the same settings."""
    libs = import_libs(folder)
    config = copy.deepcopy(libs["core.config"].load_config(str(folder / "configs" / "thumos_i3d.yaml")))
    model, changes = config["model"], dict(option.model)
    model |= {"embd_dim": WIDTH, "fpn_dim": WIDTH, "head_dim": WIDTH, "input_dim": CHANNELS, "num_classes": CLASSES,
              "max_seq_len": WINDOW}  # fmt: skip
    if method == "actionformer":
        model |= {"n_mha_win_size": 9}
    else:
        model |= {f"{PREFIX[method]}_mlp_dim": 4 * WIDTH, "k": 1.5, "num_bins": 8, "input_noise": 0.0}
        model[f"n_{PREFIX[method]}_win_size"] = changes.pop("window", 3)
    model |= changes
    config["train_cfg"] |= {"label_smoothing": 0.1} | option.train
    config["test_cfg"] |= {"nms_method": "none", "pre_nms_thresh": RULE["score_threshold"],
                           "pre_nms_topk": RULE["topk"], "duration_thresh": RULE["min_length"]}  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        made: nn.Module = libs["modeling"].make_meta_arch(config["model_name"], **model)
    return made.double()


def batch() -> tuple[Tensor, list[Targets]]:
    """Return features, zero on the padding, and instances."""
    generator = torch.Generator().manual_seed(1)
    feats_BTC = torch.randn(len(LENGTHS), WINDOW, CHANNELS, generator=generator, dtype=torch.float64)
    targets = []
    for row, length in enumerate(LENGTHS):
        feats_BTC[row, length:] = 0
        size_N = (2 * 40 ** torch.rand(9, generator=generator)).double()
        start_N = torch.rand(9, generator=generator).double() * (length - size_N)
        labels_N = torch.randint(CLASSES, (9,), generator=generator)
        targets.append(Targets(torch.stack([start_N, start_N + size_N], dim=1), labels_N))
    return feats_BTC, targets


def apart(a: Tensor, b: Tensor, scale: float) -> float:
    """Return the largest difference, relative to the larger of `scale` and the largest value of the tensor."""
    return float((a - b).abs().max()) / max(float(b.abs().max()), scale) if b.numel() else 0.0


def trained(ours: Any, theirs: Any) -> tuple[float, float]:
    """Return relative differences of the loss and of the gradients of one batch."""
    feats_BTC, targets = batch()
    with still(ours), still(theirs):
        loss = ours.train().loss(feats_BTC, torch.tensor(LENGTHS), targets)["total"]
        videos = [
            {"feats": feats_TC[:length].T, "segments": target.segments_N2, "labels": target.labels_N}
            for feats_TC, length, target in zip(feats_BTC, LENGTHS, targets, strict=True)
        ]
        loss2 = theirs.train()(videos)["final_loss"]
    (loss + loss2).backward()  # parameters of separate networks
    mine = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    peer = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    if mine.keys() != peer.keys():
        raise SystemExit(f"gradients of other weights: {sorted(mine.keys() ^ peer.keys())}")
    scale = 1e-6 * max(float(g.abs().max()) for g in peer.values())  # some exact gradients are zero
    return apart(loss.detach(), loss2.detach(), 0.0), max(apart(mine[n], g, scale) for n, g in peer.items())


@torch.no_grad()
def detected(ours: Any, theirs: Any, length: int) -> tuple[int, float]:
    """Return the number of candidates of one video, and the largest difference of their scores and segments."""
    generator = torch.Generator().manual_seed(length)
    feats_BTC = torch.randn(1, length, CHANNELS, generator=generator, dtype=torch.float64)
    facts = {"video_id": "v", "fps": 1.0, "duration": 1e9, "feat_stride": 1, "feat_num_frames": 0}
    mine = ours.eval().candidates(feats_BTC, torch.tensor([length]), **RULE)[0]
    peer = theirs.eval()([{"feats": feats_BTC[0].T, **facts}])[0]
    if len(mine.scores_N) != len(peer["scores"]):
        raise SystemExit(f"candidates: {len(mine.scores_N)} of ours, {len(peer['scores'])} published")
    rows = []
    for scores_N, segments_N2, labels_N in (
        (mine.scores_N, mine.segments_N2.clamp(min=0), mine.labels_N),  # theirs are clipped at 0
        (peer["scores"], peer["segments"], peer["labels"]),
    ):
        rows_N4 = torch.cat([labels_N[:, None].double(), scores_N[:, None], segments_N2], dim=1).double()
        order = sorted(range(len(rows_N4)), key=lambda k, rows=rows_N4: (rows[k, 0].item(), round(rows[k, 1].item(), 6),
                                                                        round(rows[k, 2].item(), 3)))  # fmt: skip
        rows.append(rows_N4[order])
    return len(rows[0]), apart(rows[0], rows[1], 1.0)


def compare(method: str, folder: Path, option: Option) -> tuple[str, bool]:
    """Return a line of the table, and whether the sides agree."""
    ours = our_model(method, option)
    with wide():
        theirs = their_model(method, folder, option)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        loss, gradient = trained(ours, theirs)
        found = [detected(ours, theirs, length) for length in (SHORT, LONG)]
    candidates = max(error for _, error in found)
    counts = " and ".join(str(count) for count, _ in found)
    line = f"| {method} | {option.name} | {len(ours.state_dict())} | {loss:.0e} | {gradient:.0e} | {counts} |"
    # our candidates are float32
    return f"{line} {candidates:.0e} |", max(loss, gradient) <= BAR and candidates <= 1e-6


def main() -> int:
    """Run the command line; return 1 if a side differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for method in OPTIONS:
        parser.add_argument(f"--{method}", type=Path, help="checkout of the published code")
    parser.add_argument("--quick", action="store_true", help="the first three options of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, float64; relative"
        " differences\n\n| detector | option | weights | loss | gradients | candidates | of these |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
    )
    good = True
    for method, options in OPTIONS.items():
        folder = getattr(arguments, method)
        for option in options[: 3 if arguments.quick else None] if folder else ():
            line, same = compare(method, folder, option)
            good &= same
            sys.stdout.write(line + ("" if same else " differs") + "\n")
            sys.stdout.flush()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
