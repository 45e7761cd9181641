"""Write a trained detector as an ONNX graph, with padding and decoding inside, and compare it with PyTorch.

Suppression stays outside (`tad.nms`). Inputs and outputs are described in docs/export.md.
"""

# B windows, T snippets, C channels, K classes, P points of all levels

import importlib
import importlib.util
import itertools
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tad.core.errors import TadError
from tad.core.files import publish
from tad.layers.contract import DetectorBase, Ungraphable

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 20
CHATTY = ("torch.onnx", "torch.export", "torch._subclasses", "torch._dynamo", "onnxscript", "onnx_ir")
FACTS = "tad"  # key of the facts in the file's metadata, as JSON
LONGEST = 1 << 20  # snippets of a sequence
LARGEST = 2_000_000_000  # bytes of all weights; a file has at most 2 GiB


def check_installed() -> None:
    """Refuse to go on without the packages that write and check graphs.

    Raises:
        TadError: a package is missing.
    """
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise TadError(
                f"{name}: not installed; pip install 'temporal-action-detection[export]', or export with --no-onnx"
            )


class _Graph(nn.Module):
    def __init__(self, detector: DetectorBase) -> None:
        super().__init__()
        self.detector = detector
        self.frozen = nn.ModuleList(detector.frozen_modules)  # only registered weights can be exported

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        dense = self.detector.dense(features, lengths)
        return tuple(dense[name] for name in self.detector.graph_outputs)


@torch.no_grad()
def _exported(detector: DetectorBase) -> Any:
    """Return the graph of `DetectorBase.dense` as an ONNX model; T is a multiple, or B dynamic for windows."""
    # examples of more than one window or unit: torch treats a length of 1 as fixed
    _, unit = detector.graph_lengths
    if detector.windowed:
        features, lengths = torch.zeros(3, unit, detector.feature_dim), torch.tensor([unit, unit - 1, 1])
        windows = torch.export.Dim("windows", min=1, max=LONGEST)
        shapes: Any = ({0: windows}, {0: windows})
    else:
        features, lengths = torch.zeros(1, 5 * unit, detector.feature_dim), torch.tensor([5 * unit - 1])
        shapes = ({1: unit * torch.export.Dim("units", min=1, max=LONGEST)}, {})
    chatty = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in chatty]
    try:
        for logger in chatty:
            logger.setLevel(logging.CRITICAL)  # what goes wrong is in the error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Graph(detector).eval(), (features, lengths), dynamo=True, dynamic_shapes=shapes, opset_version=OPSET,
                input_names=["features", "lengths"], output_names=list(detector.graph_outputs), verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise Ungraphable(f"torch cannot make a graph of this detector ({_line(error.__cause__ or error)})") from None
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    return program.model_proto


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _pad_inside(model: Any, detector: DetectorBase) -> None:
    """Replace the inputs of the graph of one sequence by features (1, T, C) of any length T, which nodes pad."""
    from onnx import TensorProto, helper

    least, unit = detector.graph_lengths
    graph = model.graph
    (padded, length) = (value.name for value in graph.input)
    constants = {
        "pad_one": [1], "pad_two": [2], "pad_unit": [unit], "pad_more": [unit - 1], "pad_least": [least],
        "pad_before": [0, 0, 0, 0], "pad_after": [0],
    }  # fmt: skip
    graph.initializer.extend(
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values) for name, values in constants.items()
    )
    nodes = [
        helper.make_node("Shape", ["snippets"], ["pad_shape"]),
        helper.make_node("Slice", ["pad_shape", "pad_one", "pad_two"], [length]),
        helper.make_node("Add", [length, "pad_more"], ["pad_up"]),
        helper.make_node("Div", ["pad_up", "pad_unit"], ["pad_units"]),
        helper.make_node("Mul", ["pad_units", "pad_unit"], ["pad_whole"]),
        helper.make_node("LessOrEqual", [length, "pad_least"], ["pad_short"]),
        helper.make_node("Where", ["pad_short", "pad_least", "pad_whole"], ["pad_length"]),
        helper.make_node("Sub", ["pad_length", length], ["pad_extra"]),
        helper.make_node("Concat", ["pad_before", "pad_extra", "pad_after"], ["pad_sides"], axis=0),
        helper.make_node("Pad", ["snippets", "pad_sides"], [padded]),
    ]
    before = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *before])
    del graph.input[:]
    shape = [1, "T", detector.feature_dim]
    graph.input.append(helper.make_tensor_value_info("snippets", TensorProto.FLOAT, shape))
    for node in graph.node:
        node.input[:] = ["features" if name == "snippets" else name for name in _renamed(node.input, padded)]
        node.output[:] = _renamed(node.output, padded)
    graph.input[0].name = "features"


def _renamed(names: Any, padded: str) -> list[str]:
    """Free the name `features`, which the new input of the graph takes."""
    return ["features_padded" if name == padded else name for name in names]


def write_graph(detector: DetectorBase, path: Path, *, facts: Mapping[str, Any]) -> Path:
    """Write a detector as an ONNX file, and compare it with PyTorch in onnxruntime.

    Args:
        detector: the detector with its weights.
        path: the file.
        facts: stored in the file's metadata as JSON, with the sizes of the detector.

    Raises:
        Ungraphable: the detector's decoding has no graph, or torch cannot make one, or onnxruntime cannot run it, or
            its weights are too large for one file.
        TadError: the graph computes other numbers than PyTorch.
    """
    check_installed()
    if not detector.graphable:
        raise Ungraphable(detector.why_no_graph)
    tensors = itertools.chain.from_iterable(m.state_dict().values() for m in (detector, *detector.frozen_modules))
    if (size := sum(tensor.nbytes for tensor in tensors)) > LARGEST:
        raise Ungraphable(f"its weights have {size / 1e9:.1f} GB, and a file holds at most 2 GB")
    detector = detector.eval().requires_grad_(False)
    model = _exported(detector)
    if not detector.windowed:
        _pad_inside(model, detector)
    sizes = {name: getattr(detector, name) for name in ("feature_dim", "num_classes", "max_length")}
    model.metadata_props.add(key=FACTS, value=json.dumps({**facts, **sizes, "windowed": detector.windowed}))
    content = model.SerializeToString()
    compare(detector, content, path)
    with publish(path, size=len(content)) as partial:
        partial.write_bytes(content)
    return path


def examples(detector: DetectorBase) -> list[tuple[Tensor, Tensor]]:
    """Return random inputs of several lengths: features, and lengths of windows or of the sequence."""
    least, unit = detector.graph_lengths
    generator = torch.Generator().manual_seed(0)

    def rows(*shape: int) -> Tensor:
        if detector.reads_frames:
            return torch.randint(0, 256, (*shape, detector.feature_dim), generator=generator).float()
        return torch.randn(*shape, detector.feature_dim, generator=generator)

    if detector.windowed:
        lengths = [[unit], [unit, unit // 2], [1, unit - 1, unit, unit // 3]]
        return [(rows(len(b), unit), torch.tensor(b)) for b in lengths]
    some = sorted({1, least - 3, least, max(least + 1, 7), max(least + 2 * unit - 1, 50)})
    return [(rows(1, t), torch.tensor([t])) for t in some if t > 0]


@torch.no_grad()
def expected(
    detector: DetectorBase, features: Tensor, lengths: Tensor, found: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Compute in PyTorch what the graph computes; with `found`, decode the graph's own raw outputs (`decode_dense`)."""
    if not detector.windowed:
        length = features.shape[1]
        features = nn.functional.pad(features, (0, 0, 0, detector.graph_length(length) - length))
    dense = detector.dense(features, lengths)
    if found is not None and detector.graph_raw:
        dense |= detector.decode_dense({name: torch.tensor(found[name]) for name in detector.graph_raw}, lengths)
    return {name: value.numpy() for name, value in dense.items()}


def inputs_of(detector: DetectorBase, features: Tensor, lengths: Tensor) -> dict[str, np.ndarray]:
    """Return the graph's inputs by name."""
    inputs: dict[str, np.ndarray] = {"features": features.numpy()}
    return inputs | ({"lengths": lengths.numpy()} if detector.windowed else {})


def largest_difference(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference of two results, absolute below 1 and relative above; infinite for other shapes."""
    if any(found[name].shape != value.shape for name, value in wanted.items()):
        return float("inf")
    parts = [np.abs(found[name] - value) / np.maximum(np.abs(value), 1.0) for name, value in wanted.items()]
    return float(max(part.max(initial=0.0) for part in parts))


def compare(detector: DetectorBase, content: bytes, path: Path) -> None:
    """Compare a graph in onnxruntime with PyTorch, at several lengths.

    Raises:
        Ungraphable: onnxruntime cannot run it.
        TadError: it computes other numbers.
    """
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = None
    for features, lengths in examples(detector):
        try:
            session = session or runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            results = session.run(list(detector.graph_outputs), inputs_of(detector, features, lengths))
        except Exception as error:  # onnxruntime's exceptions have no base of their own
            raise Ungraphable(f"onnxruntime {runtime.__version__} cannot run its graph ({_line(error)})") from None
        found = dict(zip(detector.graph_outputs, results, strict=True))
        difference = largest_difference(found, expected(detector, features, lengths, found))
        if not difference <= detector.graph_bar:
            raise TadError(
                f"{path}: not written: for {features.shape[1]} snippets onnxruntime {runtime.__version__} differs from"
                f" PyTorch by {difference:.2g}; export with --no-onnx, and report this"
            )
