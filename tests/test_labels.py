"""Training with few labels: which videos keep them, what the others teach, and that nothing else changes."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import training_tools as tools
from safetensors.torch import load_file
from training_tools import Tiny, real_spec, run, train_spec, videos_of, write_inputs

from tad.annotations.label_draw import draw_labelled
from tad.annotations.table import Instance, Table, Video, read_table
from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.features.store import FeatureReader
from tad.provenance.stamps import read_stamp
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.labels import LabelsSpec
from tad.settings.stages import TrainStageSpec
from tad.training.data.inputs import labels_behind
from tad.training.data.label_split import read_split, split_labels
from tad.training.data.roles import roles_of
from tad.training.data.windows import Item, Windows
from tad.training.io import tensors as checkpoint
from tad.training.loop.optim import Ema
from tad.training.loop.strategy import Strategy
from tad.training.methods.pseudo import SelfTaught
from tad.workflow.missing import require_scores
from tad.workflow.rules import Workflow

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "annotations"
SPLITS = SHARED / "sstap_splits"
HALF = LabelsSpec(share=0.5, confidence=0.3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Tiny, "calls", 0)
    monkeypatch.setattr(Tiny, "nan_at", -1)
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    return tmp_path


def with_labels(spec: TrainStageSpec, labels: LabelsSpec | None) -> TrainStageSpec:
    return spec.model_copy(update={"labels": labels})


# -- which videos ------------------------------------------------------------------------------------------------------


def test_a_share_is_written_as_percent_or_number_and_a_file_stands_alone() -> None:
    assert LabelsSpec(share="10%").share == LabelsSpec(share=0.1).share == 0.1
    for wrong in ("ten%", "10", 0, 1.5, "0%"):
        with pytest.raises(ValueError, match="share"):
            LabelsSpec(share=wrong)
    with pytest.raises(ValueError, match="remove share and seed"):
        LabelsSpec(share=0.5, file="split.csv")
    with pytest.raises(ValueError, match=r"doubt 0\.4 must not exceed confidence 0\.3"):
        LabelsSpec(share=0.5, confidence=0.3, doubt=0.4)


@pytest.mark.skipif(not SPLITS.is_dir(), reason="the published splits are not here")
def test_published_splits_have_their_published_numbers() -> None:
    tenth, most = (read_split(SPLITS / f"video_info_new_{u}.csv") for u in ("0.9", "0.4"))
    assert (sum(tenth.values()), len(tenth) - sum(tenth.values())) == (966, 8683)
    assert (sum(most.values()), len(most) - sum(most.values())) == (5782, 3867)
    assert sum(most[video_id] for video_id, labelled in tenth.items() if labelled) == 575
    annotated = json.loads((SHARED / "anet_anno_action_bmn.json").read_text())
    classes = {video_id: annotated[video_id]["annotations"][0]["label"] for video_id in tenth}
    assert len(draw_labelled(classes, share=0.1, seed=0)) == 966
    assert len(draw_labelled(classes, share=0.6, seed=0)) == 5782


def test_a_share_is_drawn_of_every_class_and_follows_from_the_seed(caplog: pytest.LogCaptureFixture) -> None:
    classes = {f"v{k:03}": ("jump", "run", "run", "")[k % 4] for k in range(80)} | {"rare_0": "rare", "rare_1": "rare"}
    chosen = draw_labelled(classes, share=0.1, seed=0)
    counts = {label: sum(classes[v] == label for v in chosen) for label in ("jump", "run", "", "rare")}
    assert counts == {"jump": 2, "run": 4, "": 2, "rare": 1}
    assert "would leave 1 classes without a labelled video" in caplog.text
    assert draw_labelled(dict(reversed(classes.items())), share=0.1, seed=0) == chosen
    assert draw_labelled(classes, share=0.1, seed=1) != chosen
    assert draw_labelled(classes, share=1.0, seed=1) == set(classes)


def items_of(**labels: tuple[str, ...]) -> tuple[list[Item], Table]:
    """Videos with instances of these classes."""
    known = sorted({label for of_video in labels.values() for label in of_video} | {"run"})
    items, videos = [], {}
    for video_id, of_video in labels.items():
        segments_N2 = np.array([[k, k + 2] for k in range(len(of_video))], np.float64).reshape(-1, 2)
        ids_N = np.array([known.index(label) for label in of_video], np.int64)
        items.append(Item(video_id, Grid(0.5, 1.0, 20, 20.5), segments_N2, ids_N, ""))
        instances = tuple(Instance(k + 0.5, k + 2.5, label) for k, label in enumerate(of_video))
        videos[video_id] = Video("train", 20.5, instances)
    return items, Table("toy", tuple(known), videos)


def test_videos_without_labels_show_none_and_lost_classes_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items, table = items_of(a=("run", "jump"), b=("run",), c=(), d=("run",))
    path = tmp_path / "split.csv"
    path.write_text("video,subset,seconds\nv_a,training_unlabel,1\nv_b,training,1\nc,training_unlabel,1\nx,testing,1\n")
    split = split_labels(items, table, LabelsSpec(file=str(path)))
    assert [item.video_id for item in split.labelled] == ["b"]
    assert [(item.video_id, len(item.labels_N), len(item.segments_N2)) for item in split.unlabelled] == [
        ("a", 0, 0), ("c", 0, 0),
    ]  # fmt: skip
    assert split.facts == {
        "labelled": 1, "unlabelled": 2, "not_listed": 1, "not_there": 0, "from": "split.csv",
        "unlabelled_are": "pseudo", "classes_without_labels": ["jump"],
    }  # fmt: skip
    assert "no labelled video has an instance of jump" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,subset\nb,training\nnowhere,training\n", r"1 of 2 videos are not in the train split of toy.*'nowhere'"),
        ("video,subset\nb,training_unlabel\nc,training\n", "none of the 1 labelled videos .of 3 train videos"),
        ("video,subset\nb,training_unlabel\n", "none of the 0 labelled videos .of 3 train videos"),
        ("video,subset\nb,training\nb,training_unlabel\n", "video 'b' is listed twice"),
        ("video,set\nb,training\n", "no column 'subset'"),
        ("video,subset\nb,validation\n", "no row has the subset training or training_unlabel"),
        (None, "not a readable label split"),
    ],
)
def test_a_split_that_cannot_be_used_is_an_error(tmp_path: Path, text: str | None, message: str) -> None:
    items, table = items_of(b=("run",), c=(), d=("run",))
    path = tmp_path / "split.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TadError, match=message):
        split_labels(items, table, LabelsSpec(file=str(path)))


def test_excluded_videos_may_be_listed_and_absent_ones_ignored_if_told_so(tmp_path: Path) -> None:
    items, table = items_of(b=("run",), c=())
    path = tmp_path / "split.csv"
    path.write_text("video,subset\nb,training\nc,training_unlabel\nd,training\n")
    assert split_labels(items, table, LabelsSpec(file=str(path)), excluded=["d"]).facts["labelled"] == 1
    assert split_labels(items, table, LabelsSpec(file=str(path), on_absent="ignore")).facts["not_there"] == 1


def test_held_out_videos_have_labels(folder: Path) -> None:
    spec = with_labels(train_spec(selection="held-out", hold_out=0.5), LabelsSpec(share=0.6))
    with FeatureReader(folder / "f.h5") as reader:
        roles = roles_of(reader, read_table(folder / "toy.json"), spec)
    together = {item.video_id for item in roles.train + roles.judged}
    assert len(together) == roles.labels["labelled"]
    assert not together & {item.video_id for item in roles.unlabelled}
    assert roles.judged


def test_config_takes_a_share_a_file_and_settings(tmp_path: Path) -> None:
    rows: dict[str, Any] = {"datasets": {"demo": {}}, "features": {"f": {"backbone": "r2plus1d_small"}}}
    row = {"dataset": "demo", "features": "f", "detector": "mse"}

    def spec(labels: Any) -> Any:
        return Config({**rows, "runs": {"r": {**row, **({"labels": labels} if labels else {})}}}).spec("train", run="r")

    assert spec("").labels is None
    assert spec("10%").labels == LabelsSpec(share=0.1)
    assert spec({"share": "10%", "others": "unused"}).labels.others == "unused"
    with pytest.raises(TadError, match=r"labels\.teecher"):
        spec({"share": "10%", "teecher": "ema"})
    config = Config({**rows, "runs": {"r": {**row, "labels": {"file": "nowhere.csv"}}}}, root=tmp_path)
    with pytest.raises(TadError, match=r"put the split of labels of run r at nowhere\.csv"):
        require_scores(config, "r")


def test_the_workflow_looks_at_the_content_of_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"dataset": "demo", "features": "f", "detector": "mse", "external": {"source": "not/there.json"}}
    runs = {"all": row, "few": {**row, "labels": {"file": "split.csv"}}}
    values = {"datasets": {"demo": {}}, "features": {"f": {"backbone": "r2plus1d_small"}}, "runs": runs}
    flow = Workflow(values, ROOT)
    assert flow.labels_content(SimpleNamespace(run="all")) == ""  # whatever else the run still lacks
    with pytest.raises(TadError, match=r"put the split of labels of run few at split\.csv"):
        flow.labels_content(SimpleNamespace(run="few"))
    Path("split.csv").write_text("video,subset\n")
    before = flow.labels_content(SimpleNamespace(run="few"))
    Path("split.csv").write_text("video,subset\na,training\n")
    assert flow.labels_content(SimpleNamespace(run="few")) != before != ""


# -- what the others teach ---------------------------------------------------------------------------------------------


def test_their_weight_rises_to_its_value() -> None:
    spec = LabelsSpec(share=0.5, weight=2.0, ramp=0.5)
    taught = SelfTaught(
        Tiny(feature_dim=3, num_classes=1, max_length=4),
        spec,
        inner=Strategy(),
        train=train_spec().train,
        each=10,
        seed=0,
    )
    weights = [taught.weight(step) for step in (0, 10, 20, 39)]  # 4 epochs of 10 steps
    assert weights == pytest.approx([2 * np.exp(-5), 2 * np.exp(-1.25), 2.0, 2.0])


@pytest.mark.parametrize(
    ("name", "teacher"), [("mse", "ema"), ("tridet", "ema"), ("actionformer", "self"), ("afsd", "ema")]
)
def test_videos_without_labels_give_every_detector_a_gradient(folder: Path, name: str, teacher: str) -> None:
    """The reference's check 8: with the labelled losses left out, the classifier has a gradient."""
    spec = real_spec(name)
    if name == "afsd":
        settings = spec.detector.settings | {"embed_dim": 64, "upsample": 2, "strides": [1.0, 2.0]}
        spec = spec.model_copy(update={"detector": spec.detector.model_copy(update={"settings": settings})})
    labels = LabelsSpec(share=0.5, confidence=1e-4, teacher=teacher)
    with FeatureReader(folder / "f.h5") as reader:
        roles = roles_of(reader, read_table(folder / "toy.json"), with_labels(spec, labels))
        batch, detector, taught = tools.mixed(reader, roles, with_labels(spec, labels))
        averages = Ema(detector, 0.9).values
        for at_once in (1, 2):
            detector.zero_grad()
            found = list(taught.additional_losses(detector, batch, at_once, step=100, averages=lambda: averages))
            assert not found[0]["total"].requires_grad
            assert all(set(losses) == {"total", "unlabelled", "pseudo"} for losses in found)
            assert sum(float(losses["pseudo"]) for losses in found) > 0
            sum(losses["total"] for losses in found[1:]).backward()
            heads = [p for n, p in detector.named_parameters() if "cls" in n and p.grad is not None]
            assert sum(float(p.grad.abs().sum()) for p in heads) > 0
            total = float(sum(losses["total"].detach() for losses in found))
            if at_once == 1:
                kept = {n: p.grad.clone() for n, p in detector.named_parameters() if p.grad is not None}
                first = total
        assert total == pytest.approx(first, rel=1e-4)
        # AFSD's pooling takes one of nearly equal maxima: which one follows from roundings
        for n, p in detector.named_parameters() if name != "afsd" else ():
            if p.grad is not None:
                torch.testing.assert_close(p.grad, kept[n], rtol=1e-3, atol=1e-6)


def test_windows_without_a_confident_detection_teach_nothing(folder: Path) -> None:
    spec = with_labels(real_spec("actionformer"), LabelsSpec(share=0.5, confidence=0.999))
    with FeatureReader(folder / "f.h5") as reader:
        roles = roles_of(reader, read_table(folder / "toy.json"), spec)
        batch, detector, taught = tools.mixed(reader, roles, spec)
        (only,) = taught.additional_losses(detector, batch, 4, step=100, averages=detector.state_dict)
    assert float(only["total"]) == float(only["pseudo"]) == 0


def test_their_batches_follow_from_the_step_and_are_changed_for_the_learner_alone(folder: Path) -> None:
    spec = with_labels(train_spec(batch_size=1), LabelsSpec(share=0.5, batch_size=2, strong=0.5))
    with FeatureReader(folder / "f.h5") as reader:
        roles = roles_of(reader, read_table(folder / "toy.json"), spec)
        windows = tools.mixed_windows(reader, roles, spec)
        seen = [windows.training_batch(*divmod(step, len(windows))) for step in range(6)]
        again = tools.mixed_windows(reader, roles, spec).training_batch(*divmod(4, len(windows)))
        noisy = tools.mixed_windows(
            reader, roles, spec.model_copy(update={"labels": spec.labels.model_copy(update={"weak": 0.1})})
        ).training_batch(*divmod(4, len(windows)))
    without = {item.video_id for item in roles.unlabelled}
    for batch in seen:
        assert len(batch.weak.video_ids) == 2
        assert batch.weak.video_ids == batch.strong.video_ids
        assert set(batch.weak.video_ids) <= without
        assert not any(len(target.labels_N) for target in batch.weak.targets)
        hidden_BC = (batch.strong.feats_BTC == 0).all(1) & (batch.weak.feats_BTC != 0).any(1)
        shown_BC = (batch.strong.feats_BTC != 0).any(1)
        assert torch.equal(hidden_BC | shown_BC, torch.ones_like(hidden_BC))
    assert torch.equal(seen[4].strong.feats_BTC, again.strong.feats_BTC)
    assert not torch.equal(seen[4].weak.feats_BTC, noisy.weak.feats_BTC)
    assert torch.equal(seen[4].strong.feats_BTC, noisy.strong.feats_BTC)
    assert {v for batch in seen for v in batch.weak.video_ids} == without


def test_every_process_sees_its_windows_as_one_would(folder: Path) -> None:
    spec = with_labels(train_spec(batch_size=3), LabelsSpec(share=0.5, batch_size=3, weak=0.5, strong=0.5))
    with FeatureReader(folder / "f.h5") as reader:
        roles = roles_of(reader, read_table(folder / "toy.json"), spec)
        windows = tools.mixed_windows(reader, roles, spec)
        whole, second = windows.training_batch(0, 0), windows.training_batch(0, 0, lambda count: range(1, count))
    assert len({int(length) for length in whole.weak.lengths_B}) > 1
    for one, other in ((whole.weak, second.weak), (whole.strong, second.strong)):
        assert torch.equal(one.feats_BTC[1:], other.feats_BTC)


def test_what_features_know_of_labels_is_said() -> None:
    assert labels_behind({"stage": "convert", "recipe": {}}) == "unknown: imported features"
    assert labels_behind({"stage": "index", "recipe": {}}) == "none: frames"
    config = Config.read(Path(__file__).parents[1] / "config.yaml")
    for features, seen in (("demo_clips", "of demo"), ("demo_clips_10", "of demo: 0.1 of each class, seed 0")):
        recipe = config.spec("extract", dataset="demo", features=features).model_dump(mode="json")
        assert labels_behind({"stage": "merge", "recipe": recipe}) == seen
    both = {"stage": "join", "recipe": {"join": [recipe, {"dim": 8}]}}
    assert labels_behind(both) == f"{seen}; unknown: imported features"


def test_an_encoder_sees_the_labels_of_the_run_and_no_others() -> None:
    tree = {
        "datasets": {"demo": {}},
        "features": {"few": {"backbone": "r2plus1d_small", "pretrain": {"share": 0.1}}},
        "runs": {"r": {"dataset": "demo", "features": "few", "detector": "actionformer", "labels": "10%"}},
    }
    assert Config(tree).spec("pretrain", dataset="demo", features="few").share == 0.1
    for changes, said in [
        ({"labels": "20%"}, r"runs\.r\.labels: .* few sees the labels of share 0\.1, seed 0, the run .* share 0\.2"),
        ({"labels": {"share": 0.1, "seed": 1}}, "the run those of share 0.1, seed 1: make"),
        ({"labels": {"file": "a.csv"}}, "the run those of a file: make"),
        ({"exclude": {"demo_01": "dark"}}, r"runs\.r\.exclude: .*exclude them from dataset demo"),
    ]:
        with pytest.raises(TadError, match=said):
            Config(tree | {"runs": {"r": tree["runs"]["r"] | changes}})
    for share, said in [(0, r"features\.few\.pretrain\.share: Input should be greater"), ("10%", "write 0.1, not 10%")]:
        few = {"few": {"backbone": "r2plus1d_small", "pretrain": {"share": share}}}
        with pytest.raises(TadError, match=said):
            Config(tree | {"features": few})


def test_settings_of_labels() -> None:
    assert LabelsSpec(doubt=0.0).doubt == 0
    with pytest.raises(ValueError, match=r"doubt 0\.7 must not exceed confidence 0\.6"):
        LabelsSpec(doubt=0.7)
    spec = train_spec(ema_decay=0.0).model_dump() | {"labels": {"share": 0.5}}
    with pytest.raises(ValueError, match=r"train\.ema_decay is 0; set ema_decay"):
        TrainStageSpec.model_validate(spec)
    for other in ({"teacher": "self"}, {"others": "unused"}):
        assert TrainStageSpec.model_validate(spec | {"labels": {"share": 0.5, **other}})


# -- whole trainings ---------------------------------------------------------------------------------------------------


def test_a_training_with_few_labels_resumes_in_equal_bits_and_says_how_many(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "build", tools.use_tiny)
    spec = with_labels(train_spec(epochs=5, batch_size=1), HALF)
    whole = run(folder, spec, seconds=1000).read_bytes()
    made = read_stamp(folder / "out" / "model.safetensors")
    assert made["videos"] == {"train": 3, "judged": 0, "unlabelled": 4}
    assert made["labels"]["labelled"] == len(made["labels"]["videos"]) == 3
    other = folder / "other"
    write_inputs(other, videos_of(np.random.default_rng(0)))
    monkeypatch.setattr(Tiny, "calls", 0)
    monkeypatch.setattr(Tiny, "nan_at", 15)
    with pytest.raises(TadError, match="not finite"):
        run(other, spec)
    monkeypatch.setattr(Tiny, "nan_at", -1)
    (state,) = (other / "kept").glob("*.state.safetensors")
    assert json.loads(checkpoint.read_tensors(state)[1]["state"])["step"] > 2
    assert run(other, spec).read_bytes() == whole


def test_videos_without_labels_change_the_result_only_where_they_are_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugins, "build", tools.use_tiny)
    caplog.set_level(logging.INFO)
    alone = with_labels(train_spec(), HALF.model_copy(update={"others": "unused"}))
    taught = load_file(run(folder, with_labels(train_spec(), HALF)))
    first = load_file(run(folder, alone))
    assert any(not torch.equal(taught[name], first[name]) for name in first)
    videos = videos_of(np.random.default_rng(0))
    labelled = read_stamp(folder / "out" / "model.safetensors")["labels"]["videos"]
    for video_id, (video, feats_TC) in videos.items():
        if video_id.startswith("train") and video_id not in labelled:
            videos[video_id] = (video, feats_TC + 1)
    write_inputs(folder, videos)
    caplog.clear()
    again = load_file(run(folder, alone))
    assert "republished" in caplog.text
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_score_says_how_many_labels_were_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tad.stages.evaluate import _made_by

    monkeypatch.setattr(plugins, "build", tools.use_tiny)
    run(folder, with_labels(train_spec(epochs=1), HALF))
    made = read_stamp(folder / "out" / "model.safetensors")
    said = _made_by(made, {}, made)["labels"]
    assert (said["labelled"], said["unlabelled"], said["from"]) == (3, 4, "0.5 of each class, seed 0")
    assert "videos" not in said
    assert said["features_know"] == "those of the published weights"
    run(folder, train_spec(epochs=1))
    assert _made_by(read_stamp(folder / "out" / "model.safetensors"), {}, made)["labels"] == "all"


def test_sliding_windows_of_videos_without_labels_are_all_seen(folder: Path) -> None:
    spec = train_spec(window_stride=4, max_length=8)
    with FeatureReader(folder / "f.h5") as reader:
        roles = roles_of(reader, read_table(folder / "toy.json"), with_labels(spec, HALF))
        windows = tools.mixed_windows(reader, roles, with_labels(spec, HALF))
        assert isinstance(windows.others, Windows)
        for k, item in enumerate(roles.unlabelled):
            starts = [place.first for place in windows.others.positions if place.video == k]
            assert (starts[0], starts[-1]) == (0, max(item.grid.length - 8, 0))
