"""Detection by text prompts, on embeddings whose geometry is known; the text encoders against transformers' own."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_tools
from backbone_tools import build
from component_tools import laid
from prompt_tools import FULL, make_tiny, published
from torch import Tensor
from training_tools import write_inputs

from tad.annotations.table import Instance, Video
from tad.backbones import _texts
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.detectors.prompt import contrast, runs_above, similarities, stretched
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.stages import EvaluateStageSpec, Plugin, SuppressStageSpec
from tad.stages.detect import detect
from tad.stages.evaluate import evaluate
from tad.stages.suppress import suppress
from tad.stages.train import train
from tad.training.methods.prompts import class_embeddings, phrases_of, spoken

RULES: dict[str, Any] = {"score_threshold": 0.0, "topk": 100, "min_length": 0.0}
WIDTH, CLASSES = 16, 4
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the extra `modern` is not installed"
)


def detector_of(*, classes: int = CLASSES, **changes: Any) -> Any:
    """A detector whose class k is the k-th axis; the last axis is background."""
    detector = plugins.build(
        "detectors", "prompt", laid("detectors", "prompt", changes),
        feature_dim=WIDTH, num_classes=classes, max_length=64,
    ).eval()  # fmt: skip
    detector.texts_KC.copy_(torch.eye(classes, WIDTH))
    return detector


def video(length: int, *segments: tuple[int, int, int], noise: float = 0.0, seed: int = 0) -> Tensor:
    """Snippets on the background's axis, but in [first, last) on that of a class, plus noise."""
    feats_TC = torch.zeros(length, WIDTH)
    feats_TC[:, -1] = 1.0
    for first, last, label in segments:
        feats_TC[first:last] = torch.eye(WIDTH)[label]
    generator = torch.Generator().manual_seed(seed)
    return 7.0 * (feats_TC + noise * torch.randn(length, WIDTH, generator=generator))  # the length does not matter


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_segments_are_exactly_those_of_the_geometry(noise: float, threshold: float) -> None:
    feats_TC = video(60, (5, 17, 0), (30, 31, 0), (40, 60, 2), noise=noise)
    (found,) = detector_of(thresholds=[threshold]).candidates(feats_TC[None], torch.tensor([60]), **RULES)
    rows = sorted(zip(found.labels_N.tolist(), found.segments_N2.tolist(), strict=True))
    assert rows == [(0, [4.5, 16.5]), (0, [29.5, 30.5]), (2, [39.5, 59.5])]
    assert found.scores_N.tolist() == sorted(found.scores_N.tolist(), reverse=True)
    if noise == 0:  # two classes at 1, two at 0, contrast 1: the probability is 1/2 for each of the first two
        assert found.scores_N.tolist() == pytest.approx([0.5, 0.5, 0.5], abs=1e-6)
    assert float(found.scores_N.min()) > 0.4


def test_a_batch_and_its_padding_change_nothing() -> None:
    one, other = video(60, (5, 17, 0), noise=0.1), video(31, (3, 9, 1), (9, 20, 3), noise=0.1)
    batch = torch.zeros(2, 60, WIDTH)
    batch[0], batch[1, :31] = one, other
    detector = detector_of(smooth=3, thresholds=[0.4, 0.6])
    together = detector.candidates(batch, torch.tensor([60, 31]), **RULES)
    for feats_TC, found in zip((one, other), together, strict=True):
        (alone,) = detector.candidates(feats_TC[None], torch.tensor([len(feats_TC)]), **RULES)
        assert torch.equal(alone.segments_N2, found.segments_N2)
        assert torch.equal(alone.labels_N, found.labels_N)
        assert torch.allclose(alone.scores_N, found.scores_N, atol=1e-6)
    with pytest.raises(TadError, match="was built for 16"):
        detector.candidates(batch[:, :, :-1], torch.tensor([60, 31]), **RULES)
    with pytest.raises(TadError, match="not trained"):
        detector.loss(batch, torch.tensor([60, 31]), [])


def test_the_gate_admits_the_most_probable_classes() -> None:
    feats_TC = video(60, (5, 30, 0), (40, 46, 2), noise=0.05)
    for gate in (1, 2, 3):
        (found,) = detector_of(gate=gate, peak=0.5).candidates(feats_TC[None], torch.tensor([60]), **RULES)
        assert len(set(found.labels_N.tolist())) == gate
        assert 0 in found.labels_N
    few, many = (detector_of(gate=0, classes=k) for k in (1, CLASSES))
    (alone,), (among,) = (d.candidates(feats_TC[None], torch.tensor([60]), **RULES) for d in (few, many))
    own = among.labels_N == 0
    assert torch.equal(alone.segments_N2, among.segments_N2[own])  # without a gate no class depends on the others
    assert torch.equal(alone.scores_N, among.scores_N[own])


def test_curves_runs_and_contrast_are_their_definitions() -> None:
    torch.manual_seed(0)
    feats_TC, texts_KC = torch.randn(23, 5), torch.randn(3, 5)
    curves_KT = similarities(feats_TC, texts_KC, smooth=5)
    for k in range(3):
        for t in range(23):
            window = range(max(t - 2, 0), min(t + 3, 23))
            cosines = [float(torch.cosine_similarity(feats_TC[s], texts_KC[k], dim=0)) for s in window]
            assert float(curves_KT[k, t]) == pytest.approx(np.mean(cosines), abs=1e-5)
    scaled_KT = stretched(curves_KT)
    assert scaled_KT.amin(dim=1).tolist() == [0.0] * 3
    assert scaled_KT.amax(dim=1).tolist() == [1.0] * 3
    assert not stretched(torch.full((1, 4), 0.3)).any()
    curve_T, runs = scaled_KT[0], []
    for t in range(23):
        if curve_T[t] > 0.4:
            runs = [*runs[:-1], (runs[-1][0], t + 1)] if runs and runs[-1][1] == t else [*runs, (t, t + 1)]
    assert runs_above(curve_T, 0.4) == runs
    first, last = 4, 12
    weighted = [(curve_T[t], 1 / np.log2(first - t + 1)) for t in range(2, first)]
    weighted += [(curve_T[t], 1 / np.log2(t - last + 2)) for t in range(last, last + 2)]
    outside = sum(float(v) * w for v, w in weighted) / sum(w for _, w in weighted)
    found = contrast(curve_T, first, last, margin=0.25)
    assert found == pytest.approx(float(curve_T[first:last].mean()) - outside, abs=1e-5)
    assert contrast(curve_T, 0, 23, margin=0.25) == pytest.approx(float(curve_T.mean()), abs=1e-6)


def test_phrases_follow_the_names_unless_they_are_given() -> None:
    assert spoken("GolfSwing") == "golf swing"
    assert spoken("clean_and_jerk") == "clean and jerk"
    assert spoken("Walking the dog") == "walking the dog"
    assert phrases_of(["A_b", "c"], {"c": ("see", "sea")}) == [("a b",), ("see", "sea")]
    with pytest.raises(TadError, match="no class is called 'd'"):
        phrases_of(["c"], {"d": ("x",)})
    with pytest.raises(TadError, match="empty phrase"):
        phrases_of(["c"], {"c": (" ",)})


# ----------------------------------------------------------------------------------------------- encoders and workflow


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny(monkeypatch)


@needs_transformers
@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("model", FULL)
def test_texts_are_embedded_as_by_transformers(tmp_path: Path, model: str) -> None:
    theirs, weights, tokenizer = published(tmp_path, model)
    texts = ["a person doing high jump", "Run", "a video of run"]
    backbone = Plugin(name="image_text", settings={"model": model})
    ours = _texts.embed_texts(texts, weights, backbone)
    for text, embedding in zip(texts, ours, strict=True):
        ids = tokenizer.encode(text.lower()).ids
        ids += [0] * (64 - len(ids)) if "siglip" in model else []
        with torch.inference_mode():
            found = theirs.get_text_features(input_ids=torch.tensor([ids]))
        wanted = getattr(found, "pooler_output", found)[0]
        assert torch.allclose(embedding, wanted / wanted.norm(), atol=1e-5)
    with pytest.raises(TadError, match=r"70 tokens|81 tokens"):
        _texts.embed_texts(["run " * (80 if "clip" in model else 69)], weights, backbone)
    (tmp_path / "w.tokenizer.json").write_text("{}")
    with pytest.raises(TadError, match=r"not a tokenizer\.json"):
        _texts.embed_texts(texts, weights, backbone)
    (tmp_path / "w.tokenizer.json").unlink()
    with pytest.raises(TadError, match=r"w\.tokenizer\.json: no such file; put the published"):
        _texts.embed_texts(texts, weights, backbone)


@needs_transformers
@pytest.mark.usefixtures("_tiny")
def test_frames_are_unit_embeddings_and_a_clip_is_their_mean(tmp_path: Path) -> None:
    from tad.backbones._weights import load_weights

    _, weights, _ = published(tmp_path, "openai/clip-vit-base-patch16")
    ours = load_weights(weights, build("image_text", model="openai/clip-vit-base-patch16"))
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 60, 80, 3), dtype=np.uint8))
    with torch.inference_mode():
        values, clip = ours.frame_values(ours.shrink(frames)), ours(frames[None])
    assert values.shape == (3, 12)
    assert torch.allclose(values.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(clip[0], values.mean(dim=0), atol=1e-6)


@needs_transformers
@pytest.mark.usefixtures("_tiny")
def test_from_texts_to_the_score_of_unseen_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages, on snippets that are like the texts of their class: every instance is found."""
    model = "openai/clip-vit-base-patch16"
    _, weights, _ = published(tmp_path, model)
    rows = {
        "datasets": {"toy": {"format": "activitynet", "annotations": "a.json", "videos": "v",
                             "classes": {"text": {"jump": ["high jump", "jump"]}},
                             "eval": {"tiou": [0.5, 0.7], "measures": ["unseen"]}}},
        "features": {"f": {"backbone": {"name": "image_text", "model": model}, "weights": str(weights)}},
        "runs": {"r": {"dataset": "toy", "features": "f", "detector": {"name": "prompt", "gate": 0}}},
    }  # fmt: skip
    config = Config(rows, root=tmp_path)
    spec = config.spec("train", run="r")
    labels = training_tools.LABELS
    embedded_KC = class_embeddings(labels, spec.texts, weights, spec.detector.settings["templates"])
    assert torch.allclose(embedded_KC.norm(dim=1), torch.ones(2), atol=1e-6)
    background_C = torch.linalg.svd(embedded_KC).Vh[-1]
    like_KC = torch.nn.functional.normalize(torch.linalg.pinv(embedded_KC).T)  # each like its own text alone
    videos, rng = {}, np.random.default_rng(0)
    for k in range(4):
        feats_TC = background_C.repeat(40, 1)
        feats_TC[5 : 12 + k], feats_TC[20 + k : 31] = like_KC[k % 2], like_KC[1 - k % 2]
        instances = (Instance(5.0, 12.0 + k, labels[k % 2]), Instance(20.0 + k, 31.0, labels[1 - k % 2]))
        noisy = feats_TC.numpy() + 0.001 * rng.normal(size=feats_TC.shape)
        videos[f"v{k}"] = Video("test", 40.5, instances), noisy.astype(np.float32)
    monkeypatch.setattr(training_tools, "RECIPE", {"backbone": {"name": "toy", "settings": {}}, "dataset": "toy"})
    features, annotations = write_inputs(tmp_path / "in", videos)
    parts = features, annotations
    out = tmp_path / "out"
    made = train(*parts, out / "model.safetensors", spec=spec, cache=tmp_path / "kept", start=weights)
    candidates = detect(features, made, annotations, out / "c.h5", spec=config.spec("detect", run="r"))
    suppressed: SuppressStageSpec = config.spec("suppress", run="r")
    found = suppress(candidates, out / "detections.json", spec=suppressed)
    evaluated: EvaluateStageSpec = config.spec("evaluate", run="r")
    score = read_json(evaluate(found, annotations, out / "map.json", spec=evaluated, model=made))
    assert score["average_mAP"] == pytest.approx(1.0)
    assert score["unseen"]["50/50"]["average_mAP"] == pytest.approx(1.0)
    assert {tuple(s["unseen"]) for s in score["unseen"]["50/50"]["splits"].values()} <= {(name,) for name in labels}
    assert score["epoch_rule"] == "not trained"
    best = sorted(read_json(found)["results"]["v1"], key=lambda row: -row["score"])[:2]
    assert sorted(row["segment"] for row in best) == [[5.0, 13.0], [21.0, 31.0]]
    with pytest.raises(TadError, match=r"the weights of its text encoder are missing; add --start"):
        train(*parts, out / "again.safetensors", spec=spec, cache=tmp_path / "other")


def test_a_run_needs_features_whose_space_texts_share() -> None:
    rows: dict[str, Any] = {
        "datasets": {"toy": {"format": "activitynet", "annotations": "a.json", "videos": "v"}},
        "features": {"f": {"backbone": "i3d", "weights": "w"}, "t": {"backbone": "image_text", "weights": "w"}},
        "runs": {"r": {"dataset": "toy", "features": "f", "detector": "prompt"}},
    }
    with pytest.raises(TadError, match=r"runs\.r\.features: 'f': detector prompt .* backbone image_text"):
        Config(rows).spec("train", run="r")
    rows["runs"]["r"] |= {"features": "t", "labels": "10%"}
    with pytest.raises(TadError, match=r"labels needs a training"):
        Config(rows).spec("train", run="r")
    with pytest.raises(ValueError, match=r"write \{\} once"):
        plugins.detector_class("prompt").model_validate({"templates": ["a video"]})
