"""Detectors as ONNX graphs: equal to PyTorch in two other programs, at every length."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from component_tools import laid

from tad.core.errors import TadError
from tad.detectors import _graph
from tad.detectors._graph import (
    check_installed,
    compare,
    examples,
    expected,
    inputs_of,
    largest_difference,
    write_graph,
)
from tad.detectors._moments.detector import MomentDetector
from tad.detectors._spot.decoder import decode_masks
from tad.detectors._spot.dense import decode_dense
from tad.detectors.digit import Detector as SetDetector
from tad.detectors.prompt import Detector as TextDetector
from tad.layers.contract import DetectorBase, Ungraphable
from tad.settings import plugins
from tad.settings.adapters import AdaptersSpec
from tad.settings.stages import Plugin
from tad.training.adapted import build_adapted

BAR = DetectorBase.graph_bar
SIZES = {"feature_dim": 6, "num_classes": 3, "max_length": 32}
SMALL = {
    "embed_dim": 32, "head_dim": 16, "mlp_dim": 16, "regression_ranges": [[0, 4], [4, 10000]],
    "embed_layers": 1, "stem_layers": 1, "head_layers": 2,
}  # fmt: skip
LOCAL = {**SMALL, "windows": [5, 5], "use_position": True, "use_relative_position": True, "num_heads": 2}
FRAMED = ("afsd_frames", "spot_moments_frames")
WIDE = (
    "tad",
    "tridet as published",
    "afsd",
    "gaf",
    "spot, one class",
    "prompt, all classes",
    "digit, all classes",
    *FRAMED,
)
WINDOWS = {"embed_dim": 64, "strides": [1.0, 2.0], "regression_ranges": [[0, 8], [8, 10000]]}
NO_GRAPH: tuple[str, ...] = ()  # detectors whose class says why in `why_no_graph`
SIDE, CROP = 40, 32  # of frames, pixels
FRAMES = {**WINDOWS, "height": SIDE, "width": SIDE, "crop": CROP, "regression_ranges": [[0, 100000], [0, 100000]]}
SIZES_OF = {
    "afsd_frames": {**SIZES, "feature_dim": SIDE * SIDE * 3, "max_length": 16},
    "spot_moments_frames": {**SIZES, "feature_dim": SIDE * SIDE * 3, "max_length": 12},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mse": ("mse", {**SMALL, "face": "corrected", "corrections": ["masked", "living"]}),
    "tad": ("tad", SMALL),
    "tridet as published": ("tridet", {**SMALL, "face": "parity"}),
    "actionformer": ("actionformer", LOCAL),
    "afsd": ("afsd", WINDOWS),
    "gaf": ("gaf", WINDOWS),
    "spot": ("spot", {"heads": 2, "seeds": 12, "width": 16}),
    "spot, one class": (
        "spot",
        {"heads": 2, "seeds": 40, "width": 16, "one_class": True, "face": "parity", "gate": "generative"},
    ),
    "afsd_frames": ("afsd_frames", FRAMES),
    "spot_moments_frames": ("spot_moments_frames", {"height": SIDE, "width": SIDE, "mlp_dim": 32, "mirrored": True}),
    "prompt": ("prompt", {"thresholds": [0.2, 0.5, 0.5, 0.8], "margin": 0.7, "smooth": 3, "temperature": 0.1}),
    "prompt, all classes": ("prompt", {"gate": 0, "scale": "none", "peak": 0.3, "thresholds": [0.05], "margin": 2.5}),
    "digit": (
        "digit",
        {
            "embed_dim": 16,
            "mlp_dim": 16,
            "heads": 2,
            "levels": 3,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "max_queries": 20,
        },
    ),
    "digit, all classes": (
        "digit",
        {
            "embed_dim": 16,
            "mlp_dim": 12,
            "heads": 4,
            "levels": 2,
            "dilations": 3,
            "depthwise": False,
            "one_class": False,
            "query_share": 1.0,
        },
    ),
    "spot_moments": ("spot_moments", {"embed_dim": 32, "mlp_dim": 32, "kernel": 5, "factor": 2.0}),
}


def detector_of(name: str, settings: dict[str, Any]) -> DetectorBase:
    """A detector with random weights of all layers, so that every one shows in the outputs.

    The deep networks on frames keep their initial weights, except those that are all equal: others would multiply
    rounding errors.
    """
    torch.manual_seed(0)
    detector: DetectorBase = plugins.build("detectors", name, settings, **SIZES_OF.get(name, SIZES))
    for parameter in detector.parameters():
        if not detector.reads_frames:
            torch.nn.init.normal_(parameter, 0.0, 0.3 if parameter.dim() > 1 else 1.0)
        elif float(parameter.detach().std(correction=0)) == 0:
            torch.nn.init.normal_(parameter, float(parameter.flatten()[0]), 0.3)
    if isinstance(detector, SetDetector):  # the code of long segments would multiply rounding errors
        for parameter in detector.network.decoder.borders.parameters():
            parameter.data.mul_(0.2)
    if isinstance(detector, TextDetector):  # has no parameters
        torch.nn.init.normal_(detector.texts_KC)
    return detector.eval()


def adapted(name: str, changes: dict[str, Any]) -> DetectorBase:
    """A detector behind a small encoder with adapters, for windows of 32 frames; all weights random."""
    backbone = laid("backbones", "vit_tiny", {"crop": 16, "patch": 8, "dim": 12, "layers": 2, "heads": 2})
    spec = AdaptersSpec.model_validate(
        {"encoder": "vit", "backbone": {"name": "vit_tiny", "settings": backbone}, "clip": 16, "height": 18,
         "width": 18, **changes}
    )  # fmt: skip
    own = laid("detectors", name, LOCAL if name == "actionformer" else CASES[name][1])
    torch.manual_seed(0)
    plugin = Plugin(name=name, settings=own)
    detector = build_adapted(plugin, spec, None, lr=1.0, feature_dim=18 * 18 * 3, num_classes=3, max_length=32)
    for parameter in detector.encoder.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    for parameter in detector.inner.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3 if parameter.dim() > 1 else 1.0)
    return detector.eval()


def constant(name: str, features: torch.Tensor) -> bool:
    """Whether the curves of text prompts are constant, in which there is nothing to find."""
    return name == "prompt" and features.shape[1] == 1


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.wide] if c in WIDE else []) for c in CASES])
def test_a_graph_equals_pytorch_in_two_programs(case: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    name, changes = CASES[case]
    compare_programs(detector_of(name, laid("detectors", name, changes)), name, tmp_path)


def compare_programs(detector: DetectorBase, name: str, tmp_path: Path) -> None:
    """Write the graph, and compare onnxruntime and OpenVINO with PyTorch at several lengths."""
    import onnxruntime
    import openvino

    path = write_graph(detector, tmp_path / "detector.onnx", facts={"labels": ["a", "b"]})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["tad"])
    assert (facts["labels"], facts["feature_dim"]) == (["a", "b"], detector.feature_dim)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    cases = examples(detector)
    assert len({features.shape for features, _ in cases}) >= 3
    names = list(detector.graph_outputs)
    for features, lengths in cases:
        inputs = inputs_of(detector, features, lengths)
        found = dict(zip(names, session.run(names, inputs), strict=True))
        wanted = expected(detector, features, lengths, found)
        assert np.ptp(wanted["scores"]) > 0.01 or constant(name, features)
        assert largest_difference(found, wanted) <= BAR
        result = compiled(inputs)
        other = {output: result[output] for output in names}
        assert largest_difference(other, expected(detector, features, lengths, other)) <= BAR
    assert largest_difference({**found, "scores": found["scores"] + 0.001}, wanted) > BAR
    assert not largest_difference({**found, "scores": found["scores"][:, 1:]}, wanted) <= BAR


@pytest.mark.parametrize("case", CASES)
def test_the_best_points_are_the_candidates(case: str) -> None:
    name, changes = CASES[case]
    detector = detector_of(name, laid("detectors", name, changes))
    compare_candidates(detector, name)


def compare_candidates(detector: DetectorBase, name: str) -> None:
    """Compare the best points, as docs/export.md chooses them, with the detector's candidates."""
    moments = isinstance(detector, MomentDetector)  # have no length
    rule: dict[str, Any] = {
        "score_threshold": 0.1 if detector.reads_frames or name in ("spot", "prompt") else 0.3,
        "topk": 50,
        "min_length": -1.0 if moments else 0.0,
    }
    for features, lengths in examples(detector):
        outputs = expected(detector, features, lengths)
        with torch.no_grad():
            candidates = detector.candidates(features, lengths, **rule)
        for scores, segments, wanted in zip(outputs["scores"], outputs["segments"], candidates, strict=True):
            borders = np.broadcast_to(segments, (*scores.shape, 2))
            points, classes = chosen(scores, borders, outputs["level"], **rule)
            np.testing.assert_array_equal(classes, wanted.labels_N)
            np.testing.assert_allclose(scores[points, classes], wanted.scores_N, atol=1e-5)
            np.testing.assert_allclose(borders[points, classes], wanted.segments_N2, atol=1e-3)
        assert max(len(one.scores_N) for one in candidates) > 0 or constant(name, features)


ADAPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "actionformer, two frames a position": ("actionformer", {"frames_per_position": 2}),
    "spot, beside the blocks": ("spot", {"side": True}),
}


@pytest.mark.wide
@pytest.mark.parametrize("case", ADAPTED)
def test_detectors_with_adapters_have_graphs(case: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("transformers")
    name, changes = ADAPTED[case]
    detector = adapted(name, changes)
    compare_programs(detector, name, tmp_path)
    compare_candidates(detector, name)


@pytest.mark.parametrize("one_class", [False, True])
@pytest.mark.parametrize("seeds", [7, 200])
def test_points_of_masks_are_their_candidates(*, one_class: bool, seeds: int) -> None:
    """Masks of many runs, with equal candidates from several levels, equal snippets, and windows of all lengths."""
    generator = torch.Generator().manual_seed(0)
    size, lengths = 96, (96, 95, 50, 49, 3, 1)
    smooth = torch.nn.AvgPool1d(9, 1, 4)
    logits_BKT = 9 * smooth(torch.randn(len(lengths), 5, size, generator=generator))
    logits_BKT[:, :, 20:30] = logits_BKT[:, :, 20:21]
    probability_BTK = logits_BKT.softmax(dim=1).transpose(1, 2)
    masks_BTT = (9 * smooth(torch.randn(len(lengths), size, size, generator=generator))).sigmoid()
    dense = decode_dense(probability_BTK, masks_BTT, torch.tensor(lengths), seeds=seeds, one_class=one_class)
    for row, length in enumerate(lengths):
        wanted = decode_masks(
            probability_BTK[row, :length].T, masks_BTT[row, :length, :length],
            seeds=seeds, one_class=one_class, score_threshold=0.01, topk=10**6, min_length=0.0,
        )  # fmt: skip
        points, classes = (dense["scores"][row] > 0.01).nonzero(as_tuple=True)
        found = torch.cat([dense["segments"][row, points, 0], classes[:, None]], dim=1).tolist()
        scores = dict(zip(map(tuple, found), dense["scores"][row, points, classes].tolist(), strict=True))
        assert len(found) == len(scores) == len(wanted.scores_N)
        assert length < 4 or len(found) > 3 * min(seeds, length) / 2
        for segment, label, score in zip(wanted.segments_N2, wanted.labels_N, wanted.scores_N, strict=True):
            assert scores[*segment.tolist(), float(label)] == pytest.approx(float(score), abs=1e-6)


def chosen(
    scores: np.ndarray,
    segments: np.ndarray,
    level: np.ndarray,
    *,
    score_threshold: float,
    topk: int,
    min_length: float,
) -> np.ndarray:
    """The points and classes of the best pairs of each level, as docs/export.md chooses them."""
    parts = []
    for k in range(level.max() + 1):
        rows = np.argwhere((level[:, None] == k) & (scores > score_threshold))
        best = rows[np.argsort(-scores[tuple(rows.T)], kind="stable")[:topk]]
        length = segments[tuple(best.T)][:, 1] - segments[tuple(best.T)][:, 0]
        parts.append(best[length > min_length])
    points: np.ndarray = np.concatenate(parts).T
    return points


def test_every_detector_has_a_graph() -> None:
    """A new detector needs a case above, or a name in NO_GRAPH and a reason in its class."""
    assert set(plugins.names("detectors")) == {name for name, _ in CASES.values()} | set(NO_GRAPH)
    for name in plugins.names("detectors"):
        kind = plugins.load("detectors", name)
        assert kind.graphable == (name not in NO_GRAPH)
        assert kind.graphable or kind.why_no_graph != DetectorBase.why_no_graph


def test_a_detector_without_a_graph_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    detector = detector_of("prompt", laid("detectors", "prompt", {}))
    monkeypatch.setattr(type(detector), "graphable", False)
    with pytest.raises(Ungraphable, match=r"^no graph is defined for this detector \(`dense`\)$"):
        write_graph(detector, tmp_path / "detector.onnx", facts={})
    monkeypatch.undo()
    monkeypatch.setattr(_graph, "LARGEST", 50)
    with pytest.raises(Ungraphable, match=r"^its weights have 0\.0 GB, and a file holds at most 2 GB$"):
        write_graph(detector, tmp_path / "detector.onnx", facts={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("bar", "written"), [(1e-3, True), (1e-9, False)])
def test_a_detector_says_how_far_its_graph_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, bar: float, written: bool
) -> None:
    pytest.importorskip("onnxscript")
    detector = detector_of("actionformer", laid("detectors", "actionformer", LOCAL))
    monkeypatch.setattr(type(detector), "graph_bar", bar)
    path = tmp_path / "detector.onnx"
    if written:
        assert write_graph(detector, path, facts={}).is_file()
    else:
        with pytest.raises(TadError, match=r"detector\.onnx: not written: for \d+ snippets .* differs from"):
            write_graph(detector, path, facts={})


def test_a_graph_that_does_not_run_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    detector = detector_of("actionformer", laid("detectors", "actionformer", LOCAL))
    with pytest.raises(Ungraphable, match=r"onnxruntime .* cannot run its graph \(.*\)$") as error:
        compare(detector, b"no graph", tmp_path / "detector.onnx")
    assert "\n" not in str(error.value)


def test_the_packages_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"onnx: not installed; pip install 'temporal-action-detection\[export\]', or"):
        check_installed()
