"""VideoMAE and V-JEPA 2 through transformers: its own models and processors are the oracle (random weights, nothing is
fetched); the authors' key layout loads into the same function; without transformers, one line names the extra."""

import importlib
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from backbone_tools import build
from torch import Tensor

from tad.backbones import videomae, vjepa2
from tad.backbones._weights import fit_weights, load_weights
from tad.core import optional as vision
from tad.core.errors import TadError
from tad.settings import plugins

transformers: Any = None
if importlib.util.find_spec("transformers"):
    vision.torchvision()  # beside a CPU build of torch it must be imported our way first
    transformers = importlib.import_module("transformers")
needs_transformers = pytest.mark.skipif(transformers is None, reason="the extra `modern` is not installed")

WIDTH, LAYERS, HEADS = 24, 3, 4
CROP = 32
SMALL = {"short": 36, "crop": CROP}
SIZE = {"videomae": "small", "vjepa2": "large"}  # each one's smallest, which `_small` makes smaller still


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(videomae.SIZES, "small", (WIDTH, LAYERS, HEADS))
    monkeypatch.setitem(vjepa2.SIZES, "large", (WIDTH, LAYERS, HEADS, 48 / 11))


@pytest.mark.parametrize("name", SIZE)
def test_every_size_that_can_be_named_is_built(name: str) -> None:
    sizes = importlib.import_module(f"tad.backbones.{name}").SIZES
    assert get_args(plugins.settings_class("backbones", name).model_fields["size"].annotation) == tuple(sizes)


def randomised(net: Any) -> Any:
    torch.manual_seed(0)
    for key, value in net.state_dict().items():
        torch.nn.init.normal_(value, mean=float("norm" in key and key.endswith("weight")), std=0.2)
    return net.eval()


def coded_as_published(net: Any) -> Any:
    """A network of transformers whose position code is that of 14 x 14 patches, resized; its own is a fresh one."""
    module = importlib.import_module("transformers.models.videomae.modeling_videomae")
    code_1NC = module.get_sinusoid_encoding_table(8 * 14 * 14, WIDTH)
    grid = code_1NC.reshape(8, 14, 14, WIDTH).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(CROP // 16, CROP // 16), mode="bicubic", align_corners=False)
    net.videomae.embeddings.position_embeddings = grid.permute(0, 2, 3, 1).reshape(1, -1, WIDTH)
    return net


def classifier() -> Any:
    """transformers' fine-tuned kind of VideoMAE, small."""
    net = randomised(
        transformers.VideoMAEForVideoClassification(
            transformers.VideoMAEConfig(
                image_size=CROP, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                intermediate_size=4 * WIDTH, num_labels=5, use_mean_pooling=True,
            )
        )
    )  # fmt: skip
    return coded_as_published(net)


def difference(ours: Tensor, wanted: Tensor) -> float:
    assert ours.shape == wanted.shape
    return float((ours - wanted).norm() / wanted.norm())


@needs_transformers
def test_fine_tuned_videomae_is_transformers(tmp_path: Path) -> None:
    oracle = classifier()
    oracle.save_pretrained(tmp_path)  # config.json and model.safetensors: as a hub folder
    net = load_weights(tmp_path, build("videomae", size="small", **SMALL))
    clips = torch.randint(0, 256, (2, 16, 50, 70, 3), dtype=torch.uint8)
    with torch.inference_mode():
        feats, wanted = net(clips), oracle(net.prepare(clips).transpose(1, 2)).logits
        assert difference(oracle.classifier(feats), wanted) < 1e-5
    assert feats.shape == (2, WIDTH)


@needs_transformers
def test_pre_trained_videomae_leaves_its_decoder_behind(tmp_path: Path) -> None:
    config = transformers.VideoMAEConfig(
        image_size=CROP, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH, use_mean_pooling=False, decoder_hidden_size=16, decoder_num_attention_heads=2,
    )  # fmt: skip
    oracle = coded_as_published(randomised(transformers.VideoMAEForPreTraining(config)))
    oracle.save_pretrained(tmp_path)
    net = load_weights(tmp_path / "model.safetensors", build("videomae", size="small", norm="before_mean", **SMALL))
    x = torch.rand(1, 3, 16, CROP, CROP)
    with torch.inference_mode():
        wanted = oracle.videomae(x.transpose(1, 2)).last_hidden_state.mean(dim=1)
        assert difference(net.features(x), wanted) < 1e-5


def authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' VideoMAE → the layout of the authors' code, written down independently of the product's table."""
    names = {
        "patch_embed.proj.weight": state["videomae.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": state["videomae.embeddings.patch_embeddings.projection.bias"],
        "fc_norm.weight": state["fc_norm.weight"], "fc_norm.bias": state["fc_norm.bias"],
        "head.weight": state["classifier.weight"], "head.bias": state["classifier.bias"],
    }  # fmt: skip
    for k in range(LAYERS):
        old, new = f"videomae.encoder.layer.{k}", f"blocks.{k}"
        qkv = [state[f"{old}.attention.attention.{kind}.weight"] for kind in ("query", "key", "value")]
        names[f"{new}.attn.qkv.weight"] = torch.cat(qkv)
        names[f"{new}.attn.q_bias"] = state[f"{old}.attention.attention.query.bias"]
        names[f"{new}.attn.v_bias"] = state[f"{old}.attention.attention.value.bias"]
        for theirs, ours in (
            ("norm1", "layernorm_before"), ("norm2", "layernorm_after"), ("attn.proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"),
        ):  # fmt: skip
            for kind in ("weight", "bias"):
                names[f"{new}.{theirs}.{kind}"] = state[f"{old}.{ours}.{kind}"]
    return names


def plain_transformer(state: dict[str, Tensor], tokens_BNC: Tensor) -> Tensor:
    """The blocks of the authors' layout, written out: pre-norm attention and MLP."""
    for k in range(LAYERS):
        w = {key.removeprefix(f"blocks.{k}."): v for key, v in state.items() if key.startswith(f"blocks.{k}.")}
        x = F.layer_norm(tokens_BNC, (WIDTH,), w["norm1.weight"], w["norm1.bias"], 1e-12)
        bias = torch.cat([w["attn.q_bias"], torch.zeros(WIDTH), w["attn.v_bias"]])
        q, key, v = F.linear(x, w["attn.qkv.weight"], bias).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = ((q @ key.mT) * (WIDTH // HEADS) ** -0.5).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).flatten(2)
        tokens_BNC = tokens_BNC + F.linear(mixed, w["attn.proj.weight"], w["attn.proj.bias"])
        x = F.layer_norm(tokens_BNC, (WIDTH,), w["norm2.weight"], w["norm2.bias"], 1e-12)
        x = F.gelu(F.linear(x, w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
        tokens_BNC = tokens_BNC + F.linear(x, w["mlp.fc2.weight"], w["mlp.fc2.bias"])
    return F.layer_norm(tokens_BNC.mean(1), (WIDTH,), state["fc_norm.weight"], state["fc_norm.bias"])


@needs_transformers
@pytest.mark.parametrize("wrapper", ["model", "model_state", "plain"])
def test_the_authors_key_layout_loads(tmp_path: Path, wrapper: str) -> None:
    state = authors_names(classifier().state_dict())
    torch.save(state if wrapper == "plain" else {wrapper: state}, tmp_path / "authors.pth")
    net: Any = load_weights(tmp_path / "authors.pth", build("videomae", size="small", **SMALL))
    x = torch.rand(1, 3, 16, CROP, CROP)
    with torch.inference_mode():
        tokens = F.conv3d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=(2, 16, 16))
        tokens = tokens.flatten(2).transpose(1, 2) + net.net.embeddings.position_embeddings
        assert difference(net.features(x), plain_transformer(state, tokens)) < 1e-5


@needs_transformers
def test_files_of_older_transformers_and_foreign_ones() -> None:
    net: Any = build("videomae", size="small", **SMALL)
    state = {key.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value for key, value in
             classifier().state_dict().items()}  # fmt: skip
    assert any(key.endswith("attention.attention.q_bias") for key in state)
    fit_weights(state, net, source="old")
    assert torch.equal(net.fc_norm.weight, state["fc_norm.weight"])
    with pytest.raises(TadError, match=r"1 unknown: blocks\.0\.ls1"):
        fit_weights(state | {"blocks.0.ls1": torch.zeros(1)}, net, source="foreign")
    with pytest.raises(TadError, match="fc_norm"):
        fit_weights(state, build("videomae", size="small", norm="before_mean", **SMALL), source="fine-tuned")


@needs_transformers
def test_vjepa2_is_transformers_encoder(tmp_path: Path) -> None:
    config = transformers.VJEPA2Config(
        crop_size=CROP, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, mlp_ratio=48 / 11,
        pred_hidden_size=WIDTH, pred_num_hidden_layers=1, pred_num_attention_heads=HEADS,
    )  # fmt: skip
    oracle = randomised(transformers.VJEPA2Model(config))
    oracle.save_pretrained(tmp_path)
    net = load_weights(tmp_path, build("vjepa2", size="large", **SMALL))
    x = torch.rand(2, 3, 8, CROP, CROP)
    with torch.inference_mode():
        wanted = oracle.get_vision_features(x.transpose(1, 2)).mean(dim=1)
        assert difference(net.features(x), wanted) < 1e-5
        with pytest.raises(TadError, match="an even number"):
            net.features(x[:, :, :7])


@needs_transformers
def test_vjepa2_pools_as_a_fine_tuned_model_does(tmp_path: Path) -> None:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "mlp_ratio": 48 / 11}
    config = transformers.VJEPA2Config(crop_size=CROP, pred_num_hidden_layers=1, num_labels=5, **sizes)
    theirs = randomised(transformers.VJEPA2ForVideoClassification(config))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    net = load_weights(tmp_path / "w.pth", build("vjepa2", size="large", pooling="attentive", **SMALL))
    clips = torch.randint(0, 256, (2, 8, 40, 60, 3), dtype=torch.uint8)
    with torch.inference_mode():
        logits = theirs(net.prepare(clips).transpose(1, 2)).logits
        assert torch.allclose(theirs.classifier(net(clips)), logits, atol=1e-5 * float(logits.abs().max()))
        mean = load_weights(tmp_path / "w.pth", build("vjepa2", size="large", **SMALL))(clips)
        assert mean.shape == (2, WIDTH)
        assert not torch.allclose(theirs.classifier(mean), logits, atol=0.01 * float(logits.abs().max()))


@needs_transformers
@pytest.mark.parametrize(("name", "processor"), [("videomae", "VideoMAE"), ("vjepa2", "VJEPA2")])
def test_frames_are_those_of_the_published_processors(name: str, processor: str) -> None:
    net: Any = build(name, size=SIZE[name])
    mean_std = {"image_mean": net.mean, "image_std": net.std}  # the published preprocessor_config.json's
    prepare = getattr(transformers, f"{processor}VideoProcessor")(**mean_std)
    # even margins: transformers rounds half a pixel down, we to even, as the authors' code does
    clips = torch.randint(0, 256, (1, 16, 240, 320 if name == "videomae" else 329, 3), dtype=torch.uint8)
    wanted = prepare(list(clips.permute(0, 1, 4, 2, 3)), return_tensors="pt")
    (pixels_BTCHW,) = wanted.values()
    assert difference(net.prepare(clips).transpose(1, 2), pixels_BTCHW) < 1e-4


def test_absent_transformers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in ("videomae", "vjepa2"):
        with pytest.raises(TadError, match=r"pip install transformers") as caught:
            build(name)
        assert "\n" not in str(caught.value)


@needs_transformers
def test_settings_that_cannot_be() -> None:
    for name, wrong in (("videomae", {"size": "giant"}), ("videomae", {"norm": "none"}), ("vjepa2", {"crop": 100}),
                        ("videomae", {"crop": 100}), ("vjepa2", {"size": "base"})):  # fmt: skip
        with pytest.raises(TadError, match=f"backbone {name}: {next(iter(wrong))}: "):
            build(name, **wrong)
