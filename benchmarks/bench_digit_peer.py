"""Compare DiGIT with the published code at equal weights, in float64: outputs, losses, gradients → Markdown.

    python benchmarks/bench_digit_peer.py FOLDER [--quick]

FOLDER is a checkout of https://github.com/Dotori-HJ/DiGIT (read at bed9433). Their network, criterion and
post-processing are loaded with the settings of their configurations. Their compiled attention is replaced by their own
function in PyTorch, and scipy's assignment by ours if scipy is not installed. Our side has the settings of
`for: <data set>` in digit.yaml. Weights are their initial ones with a little noise (without it, places of attention lie
exactly on snippets, where the gradient depends on rounding), or random in all layers. Exits with 1 if anything differs
by more than rounding.
"""

import argparse
import importlib
import importlib.util
import platform
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tad.detectors._digit.assignment import assign
from tad.detectors._digit.network import Outputs
from tad.layers.types import Targets
from tad.settings import plugins
from tad.settings.resolved import component_sections

BAR = 1e-9  # largest relative difference
DTYPE = torch.float64
FPS = 30.0
# padded to powers of two, because their ratio of padding is computed in float32
LENGTHS = {"thumos14": (512, 203), "activitynet13": (256, 133), "hacs": (256, 96)}
FILES = {"thumos14": "thumos14", "activitynet13": "anet", "hacs": "hacs"}
QUICK = {"embed_dim": 64, "mlp_dim": 96}
NAMES = {  # ours → theirs; {0} is the number of a layer
    "embedding.conv": "input_proj.embd.0.0.conv",
    "embedding.norm": "input_proj.embd.0.1",
    "encoder.{0}.convolution.inputs": "transformer.encoder.layers.{0}.self_attn.fc_in",
    "encoder.{0}.convolution.output": "transformer.encoder.layers.{0}.self_attn.fc_out",
    "encoder.{0}.convolution.convs.0": "transformer.encoder.layers.{0}.self_attn.convs.0",
    "encoder.{0}.convolution.convs.1": "transformer.encoder.layers.{0}.self_attn.convs.1",
    "encoder.{0}.norm": "transformer.encoder.layers.{0}.norm1",
    "level_codes": "transformer.level_embed",
    "point.0": "transformer.encoder_out",
    "point.1": "transformer.encoder_out_norm",
    "point.2": "class_embed.6",
    "content.0": "transformer.content_proj",
    "content.1": "transformer.content_norm",
    "memory.0": "transformer.memory_proj",
    "memory.1": "transformer.memory_norm",
    "decoder.layers.{0}.among.inputs": "transformer.decoder.layers.{0}.self_attn.in_proj",
    "decoder.layers.{0}.among.output": "transformer.decoder.layers.{0}.self_attn.out_proj",
    "decoder.layers.{0}.widen": "transformer.decoder.layers.{0}.linear1",
    "decoder.layers.{0}.narrow": "transformer.decoder.layers.{0}.linear2",
    "decoder.layers.{0}.norms.0": "transformer.decoder.layers.{0}.norm2",
    "decoder.layers.{0}.norms.1": "transformer.decoder.layers.{0}.norm1",
    "decoder.layers.{0}.norms.2": "transformer.decoder.layers.{0}.norm_se",
    "decoder.layers.{0}.norms.3": "transformer.decoder.layers.{0}.norm3",
    "decoder.code.layers.{0}": "transformer.decoder.grid_head.layers.{0}",
    "decoder.classes": "class_embed.0",
    "decoder.borders.layers.{0}": "segment_embed.0.layers.{0}",
}  # fmt: skip
ATTENTIONS = {"central": "cross_attn", "adjacent": "cross_attn_se"}
PARTS = {"offsets": "sampling_offsets", "weights": "attention_weights", "values": "value_proj"}
NAMES |= {
    f"decoder.layers.{{0}}.{our}.{part}": f"transformer.decoder.layers.{{0}}.{their}.{name}"
    for our, their in ATTENTIONS.items()
    for part, name in PARTS.items()
}


class _Wide:
    """The module torch, with float64 in place of float32, for code that names its type."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name in ("float", "float32") else getattr(torch, name)


class _Attention:
    """Replaces their autograd function around the compiled operator by their function in PyTorch."""

    @staticmethod
    def apply(value: Tensor, lengths: Tensor, _starts: Tensor, places: Tensor, weights: Tensor, _step: int) -> Tensor:
        core = sys.modules["models.digit.ops.temporal_deform_attn"].deform_attn_core_pytorch
        result: Tensor = core(value, lengths.tolist(), places, weights)
        return result


def load_peer(folder: Path) -> None:
    """Load their package `models.digit` from a checkout.

    Raises:
        SystemExit: the folder has no such files.
    """
    if not (folder / "models" / "digit" / "model.py").is_file():
        sys.exit(f"{folder}: no models/digit/model.py; name a checkout of github.com/Dotori-HJ/DiGIT")
    sys.path.insert(0, str(folder))
    functions = types.ModuleType("models.digit.ops.functions.ms_deform_attn_func")
    functions.__dict__["MSDeformAttnFunction"] = _Attention
    sys.modules["torchvision"] = types.ModuleType("torchvision")  # imported, and only its version is asked for
    sys.modules["torchvision"].__dict__["__version__"] = "0.7"
    sys.modules["MultiScaleTemporalDeformableAttention"] = types.ModuleType("MultiScaleTemporalDeformableAttention")
    sys.modules[functions.__name__] = functions
    if importlib.util.find_spec("scipy") is None:
        for name in ("scipy", "scipy.optimize"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["scipy.optimize"].__dict__["linear_sum_assignment"] = lambda cost: assign(np.asarray(cost))
    importlib.import_module("models.digit.model")
    for name, module in sys.modules.items():
        if name.startswith("models.digit.") and "torch" in vars(module):
            vars(module)["torch"] = _Wide()


def their_settings(folder: Path, name: str) -> types.SimpleNamespace:
    """Return the settings of one of their configurations, which consist of assignments of plain values."""
    values: dict[str, Any] = {}
    for path in (folder / "config/digit/_base_.py", folder / f"config/digit/internvideo2/{FILES[name]}.py"):
        exec(compile(path.read_text(), str(path), "exec"), {"__builtins__": {}}, values)
    return types.SimpleNamespace(**values)


def both(folder: Path, name: str, *, quick: bool) -> tuple[Any, nn.Module, nn.Module, types.SimpleNamespace]:
    """Build our detector, and their network and criterion."""
    build, theirs = importlib.import_module("models.digit.model").build, their_settings(folder, name)
    sections = component_sections("detectors", "digit", name)
    settings = sections["settings"] | {"input_noise": 0.0}
    if quick:
        settings |= QUICK
        theirs.hidden_dim, theirs.dim_feedforward, theirs.feature_dim = QUICK["embed_dim"], QUICK["mlp_dim"], 48
    sizes = {"feature_dim": theirs.feature_dim, "num_classes": theirs.num_classes, "max_length": theirs.max_seq_len}
    return plugins.build("detectors", "digit", settings, **sizes), *build(theirs)[:2], theirs


def pairs_of(ours: Any, network: nn.Module) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
    """Return the name, our parameter and their parameter, for all of ours."""
    their = dict(network.named_parameters(remove_duplicate=False))
    pairs = []
    for name, parameter in ours.network.named_parameters():
        module, _, kind = name.rpartition(".")
        parts, layer = module.split("."), ""
        if module not in NAMES:
            place = next(k for k, part in enumerate(parts) if part.isdigit())
            layer, parts[place] = parts[place], "{0}"
        pattern = ".".join(parts)
        whole = NAMES[pattern].format(layer) + ("_" if pattern.endswith("among.inputs") else ".") + kind
        pairs.append((name, parameter, their[whole]))
    return pairs


def equal_weights(pairs: list[tuple[str, nn.Parameter, nn.Parameter]], *, rough: bool) -> None:
    """Give both their weights with noise, or if `rough` random ones, so that every branch is active."""
    generator = torch.Generator().manual_seed(0)
    for name, our, their in pairs:
        noise = torch.randn(their.shape, generator=generator)
        if not rough:
            their.data.add_(0.01 * noise)
        elif our.dim() == 1:
            their.data.add_(0.1 * noise)
        else:
            # not larger: the code of the segments multiplies rounding errors in every layer
            scale = 0.02 if name.startswith("decoder.borders.layers.2") else 0.7
            their.data.copy_(scale * noise / their[0].numel() ** 0.5)
        our.data.copy_(their.view(our.shape))


def batch(case: types.SimpleNamespace, lengths: tuple[int, ...]) -> tuple[Tensor, list[Targets]]:
    """Return features and instances in snippets, from a seed."""
    generator = torch.Generator().manual_seed(1)
    feats_BTC = torch.randn(len(lengths), max(lengths), case.feature_dim, generator=generator)
    targets = []
    for row, length in enumerate(lengths):
        feats_BTC[row, length:] = 0
        count = 9 + row
        width_N = 1 + 40 * torch.rand(count, generator=generator)
        start_N = torch.rand(count, generator=generator) * (length - width_N)
        labels_N = torch.randint(case.num_classes, (count,), generator=generator)
        targets.append(Targets(torch.stack([start_N, start_N + width_N], dim=1), labels_N))
    return feats_BTC, targets


def their_pass(
    network: nn.Module, criterion: nn.Module, case: types.SimpleNamespace, feats_BTC: Tensor, lengths: tuple[int, ...],
    targets: list[Targets],
) -> tuple[dict[str, Any], dict[str, Tensor], Tensor]:  # fmt: skip
    """Return the outputs of their network, its losses, and their weighted sum."""
    from util.misc import NestedTensor

    seconds = case.stride / FPS
    mask_BT = torch.arange(feats_BTC.shape[1]) >= torch.tensor(lengths)[:, None]
    kind = feats_BTC.dtype
    info = [
        {
            "segments": (target.segments_N2.to(kind) + 0.5) * seconds,
            "labels": target.labels_N,
            "fps": torch.tensor(FPS, dtype=kind),
            "stride": torch.tensor(case.stride),
            "feature_duration": torch.tensor(length * seconds, dtype=kind),
        }
        for target, length in zip(targets, lengths, strict=True)
    ]
    outputs = network(NestedTensor(feats_BTC.transpose(1, 2), mask_BT), info)
    losses = criterion(outputs, info)
    weights = criterion.weight_dict
    total = sum((losses[key] * weights[key] for key in losses if key in weights), torch.zeros(()))
    return outputs, losses, total


def in_our_order(outputs: dict[str, Any], row: int) -> Tensor:
    """Return where our queries of a video are among theirs: ours rise in time and level, theirs fall in score."""
    real = ~outputs["enc_outputs"]["mask"][row]
    scores_S = outputs["enc_outputs"]["pred_logits"][row, :, 0].masked_fill(~real, -50000.0)
    count = int((~outputs["mask"][row]).sum())
    order: Tensor = scores_S.topk(count).indices.argsort()
    return order


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Return the norm of the difference, as a share of the norm of theirs."""
    return float((ours - theirs).detach().norm() / theirs.detach().norm().clamp(min=1e-12))


def compare_outputs(mine: Outputs, peer: dict[str, Any]) -> dict[str, float]:
    """Return the largest difference of each output over videos and layers."""
    layers = [*peer["aux_outputs"], {key: peer[key] for key in ("pred_logits", "pred_segments")}]
    found = {"logits": 0.0, "segments": 0.0, "points": 0.0}
    for row in range(len(mine.real_BQ)):
        order, real_Q, real_S = in_our_order(peer, row), mine.real_BQ[row], mine.real_BS[row]
        if int(real_Q.sum()) != len(order):
            return dict.fromkeys(found, float("inf"))
        for layer, their in enumerate(layers):
            pair = mine.logits_LBQK[layer, row, real_Q], their["pred_logits"][row, order]
            found["logits"] = max(found["logits"], apart(*pair))
            pair = mine.segments_LBQ2[layer, row, real_Q], their["pred_segments"][row, order]
            found["segments"] = max(found["segments"], apart(*pair))
        points = peer["enc_outputs"]["pred_logits"][row, real_S, 0]
        found["points"] = max(found["points"], apart(mine.points_BS[row, real_S], points))
    return found


def compare_losses(
    mine: dict[str, Tensor], peer: dict[str, Tensor], weights: dict[str, float], total: Tensor
) -> dict[str, float]:
    """Return the relative difference of each loss; their overlap of the encoder's points, a constant, is taken off."""
    aux = [key for key in peer if key.rpartition("_")[2].isdigit() and key in weights]
    wanted = {
        "cls": peer["loss_ce"],
        "reg": peer["loss_iou"],
        "length": peer["loss_segments"],
        "auxiliary": sum((peer[key] * weights[key] for key in aux), torch.zeros(())),
        "encoder": peer["loss_ce_enc"],
        "total": total - peer["loss_iou_enc"] * weights["loss_iou_enc"],
    }
    return {name: apart(mine[name], value) for name, value in wanted.items()}


def compare_detections(
    ours: Any, peer: dict[str, Any], case: types.SimpleNamespace, feats_BTC: Tensor, lengths: tuple[int, ...]
) -> float:
    """Return the largest difference of the scores, segments in seconds and classes of all detections of each video."""
    from models.digit.model import PostProcess

    seconds, kind = case.stride / FPS, feats_BTC.dtype
    ends = torch.tensor([length * seconds for length in lengths], dtype=kind)
    theirs = PostProcess()(peer, ends, ends, None, torch.zeros(len(lengths), dtype=kind), case.duration_thresh)
    with torch.inference_mode():
        mine = ours.eval().candidates(
            feats_BTC, torch.tensor(lengths), score_threshold=0.0, topk=10**6, min_length=0.0
        )  # fmt: skip
    largest = 0.0
    for row, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        # theirs also have the padded queries, whose mask a typing error ignores
        real = set(peer["pred_logits"][row][~peer["mask"][row]].sigmoid().amax(dim=1).tolist())
        rows = [k for k, score in enumerate(other["scores"].tolist()) if score in real]
        segments_N2 = ((one.segments_N2.to(kind) + 0.5) * seconds).clamp(min=0, max=float(ends[row]))
        keep_N = segments_N2[:, 1] - segments_N2[:, 0] > case.duration_thresh
        ours_N4 = torch.cat([one.scores_N[:, None].to(kind), segments_N2, one.labels_N[:, None].to(kind)], 1)[keep_N]
        theirs_N4 = torch.cat([other["scores"][:, None], other["segments"], other["labels"][:, None]], 1)[rows]
        theirs_N4 = theirs_N4[theirs_N4[:, 0].argsort(descending=True, stable=True)]
        if ours_N4.shape != theirs_N4.shape:
            return float("inf")
        largest = max(largest, float((ours_N4 - theirs_N4).abs().max()))
    return largest


def compare(folder: Path, name: str, *, rough: bool, quick: bool) -> tuple[list[str], float]:
    """Compare one case; return the cells of the table and the largest difference."""
    torch.manual_seed(0)
    ours, network, criterion, case = both(folder, name, quick=quick)
    lengths = LENGTHS[name]
    pairs = pairs_of(ours, network)
    equal_weights(pairs, rough=rough)
    feats_BTC, targets = batch(case, lengths)
    ours.train(), network.train()
    peer, losses, total = their_pass(network, criterion, case, feats_BTC, lengths, targets)
    total.backward()
    wide = [Targets(t.segments_N2.to(DTYPE), t.labels_N) for t in targets]
    mine = ours.loss(feats_BTC, torch.tensor(lengths), wide)
    mine["total"].backward()
    outputs = ours.network(*ours.batch(feats_BTC, torch.tensor(lengths), max(lengths)))
    seen = {id(their) for _, _, their in pairs}
    unused = sum(p.numel() for p in network.parameters() if id(p) not in seen)
    stray = max(
        (float(p.grad.abs().max()) for p in network.parameters() if id(p) not in seen and p.grad is not None),
        default=0.0,
    )
    slopes = [torch.cat([pair[k].grad.reshape(-1) for pair in pairs]) for k in (1, 2)]
    out, loss = compare_outputs(outputs, peer), compare_losses(mine, losses, criterion.weight_dict, total)
    slope = apart(*slopes)
    detections = compare_detections(ours, peer, case, feats_BTC, lengths)
    cells = [
        name, "random" if rough else "initial", f"{len(slopes[0]):,} (+ {unused:,} unused)",
        *(f"{value:.0e}" for value in out.values()), f"{float(total.detach()):.3f}",
        f"{max(loss.values()):.0e}", f"{slope:.0e}", f"{stray:.0e}", f"{detections:.0e}",
    ]  # fmt: skip
    return cells, max(*out.values(), *loss.values(), slope, stray)


def main() -> int:
    """Run the command line; return 1 if anything differs by more than rounding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a checkout of github.com/Dotori-HJ/DiGIT")
    parser.add_argument("--quick", action="store_true", help="narrow networks")
    a = parser.parse_args()
    torch.set_default_dtype(DTYPE)
    load_peer(a.folder)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, training mode\n")
    heads = ["settings", "weights", "parameters", "logits", "segments", "points", "their total loss", "losses",
             "gradient", "gradient of unused", "detections"]  # fmt: skip
    print("| " + " | ".join(heads) + " |\n|" + " --- |" * 3 + " ---: |" * (len(heads) - 3))
    largest = []
    for name in LENGTHS:
        for rough in (False, True):
            cells, difference = compare(a.folder, name, rough=rough, quick=a.quick)
            largest.append(difference)
            print("| " + " | ".join(cells) + " |", flush=True)
    return 0 if max(largest) <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
