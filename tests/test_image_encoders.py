"""Image encoders of timm and transformers by name, with small random networks: the packages' own code is the oracle."""

import importlib
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from backbone_tools import build
from PIL import Image
from safetensors.torch import save_file

from tad.backbones import transformers_image
from tad.backbones._frames import normalise
from tad.backbones._weights import load_weights
from tad.core import optional
from tad.core.errors import TadError
from tad.settings import plugins
from tad.weights.published import published

torch.set_num_threads(1)
HAS = {name: importlib.util.find_spec(name) is not None for name in ("timm", "transformers")}
needs_timm = pytest.mark.skipif(not HAS["timm"], reason="the extra `images` is not installed")
needs_transformers = pytest.mark.skipif(not HAS["transformers"], reason="the extra `modern` is not installed")
TINY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
MODELS = {
    "facebook/dinov3-vits16-pretrain-lvd1689m": ("DINOv3ViTConfig", "DINOv3ViTModel", "DINOv3ViTImageProcessor"),
    "google/siglip2-base-patch16-224": ("SiglipConfig", "SiglipModel", "SiglipImageProcessor"),
    "openai/clip-vit-base-patch16": ("CLIPConfig", "CLIPModel", "CLIPImageProcessor"),
}


def frames(count: int = 3, height: int = 240, width: int = 320) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def randomised(net: Any) -> Any:
    torch.manual_seed(0)
    for key, value in net.state_dict().items():
        if value.is_floating_point():
            torch.nn.init.normal_(value, mean=float("norm" in key and key.endswith("weight")), std=0.2)
            if key.endswith("running_var"):
                value.abs_().add_(0.5)
    return net.eval()


# ---------------------------------------------------------------------------------------------------------------- timm


@needs_timm
@pytest.mark.parametrize("model", ["test_vit.r160_in1k", "test_resnet.r160_in1k", "test_efficientnet.r160_in1k"])
def test_a_model_of_timm_is_that_of_timm(tmp_path: Path, model: str) -> None:
    timm = optional.timm_package()
    theirs = randomised(timm.create_model(model, pretrained=False))  # with its classifier, as published files have it
    save_file({key: value.contiguous() for key, value in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    ours = load_weights(tmp_path / "w.safetensors", build("timm_image", model=model))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs), is_training=False)
    images = frames()
    inputs = torch.stack([transform(Image.fromarray(image.numpy())) for image in images])
    with torch.inference_mode():
        wanted = theirs.forward_head(theirs.forward_features(inputs), pre_logits=True)
        values = ours.frame_values(ours.shrink(images))
        clip = ours(images[None])
    assert values.shape == (3, ours.dim)
    assert torch.allclose(values, wanted, atol=1e-5 * float(wanted.abs().max()))
    assert torch.allclose(clip[0], values.mean(dim=0), atol=1e-5 * float(wanted.abs().max()))


@needs_timm
def test_published_names_are_models_of_timm() -> None:
    timm = optional.timm_package()
    for entry in published("timm_image"):
        (model,) = entry.settings["model"]
        config = timm.get_pretrained_cfg(model)
        assert entry.url == f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
        assert (config.license == "apache-2.0") == (entry.licence == "Apache-2.0")


@needs_timm
def test_wrong_models_and_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TadError, match=r"model vit_smal: timm .* has no such model; similar: vit_"):
        build("timm_image", model="vit_smal")
    with pytest.raises(TadError, match=r"model test_vit\.none: .*; correct the part after the dot"):
        build("timm_image", model="test_vit.none")
    save_file({"stem.weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(TadError, match=r"w\.safetensors"):
        load_weights(tmp_path / "w.safetensors", build("timm_image", model="test_vit.r160_in1k"))


@pytest.mark.parametrize("model", ["hf-hub:a/b", "../x", "", "local-dir:/tmp"])
def test_names_that_would_be_downloaded_or_read_are_no_models(model: str) -> None:
    with pytest.raises(ValueError, match="model"):
        plugins.settings_class("backbones", "timm_image").model_validate({"model": model})


def test_without_timm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(TadError, match=r"backbone timm_image: timm cannot be imported .*; pip install timm"):
        build("timm_image")


# -------------------------------------------------------------------------------------------------------- transformers


def test_every_model_that_can_be_named_is_built() -> None:
    field = plugins.settings_class("backbones", "transformers_image").model_fields["model"]
    assert get_args(field.annotation) == tuple(transformers_image.SIZES)


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, size in transformers_image.SIZES.items():
        projection = {"projection_dim": 12} if size.family == "clip" else {}
        small = transformers_image.Size(size.family, size.arguments | TINY | projection)
        monkeypatch.setitem(transformers_image.SIZES, model, small)


@needs_transformers
@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_transformers_is_that_of_transformers(tmp_path: Path, model: str) -> None:
    optional.torchvision()
    library = importlib.import_module("transformers")
    config, network, processor = (getattr(library, name) for name in MODELS[model])
    arguments = transformers_image.SIZES[model].arguments
    if "dinov3" in model:
        theirs = network(config(**arguments))
    else:
        text = TINY | {"vocab_size": 50, "projection_dim": 12, "projection_size": 24}
        theirs = network(config(vision_config=arguments, text_config=text, projection_dim=12))
    randomised(theirs)
    state = {key: value.contiguous() for key, value in theirs.state_dict().items()}
    save_file(state, tmp_path / "published.safetensors")
    save_file({key.removeprefix("model."): value for key, value in state.items()}, tmp_path / "mean.safetensors")
    images = frames()
    kernel = {"google": {"resample": 2}}.get(model.split("/")[0], {})  # SigLIP 2's files say bilinear
    prepared = processor(**kernel)(list(images.numpy()), return_tensors="pt")["pixel_values"]
    how = build("transformers_image", model=model).preparation
    ours = build("transformers_image", model=model).shrink(images).permute(0, 3, 1, 2)
    own = normalise(ours[:, None], how.mean, how.std)[:, :, 0]
    levels = (prepared - own).abs() * 255 * torch.tensor(how.std)[:, None, None]
    assert levels.max() <= 2.01  # of 255: their processors may resize by torch, which rounds otherwise than Pillow
    inputs = {"pixel_values": own}
    for output in ("published", "mean"):
        net = load_weights(tmp_path / f"{output}.safetensors", build("transformers_image", model=model, output=output))
        with torch.inference_mode():
            if "dinov3" in model:
                whole = theirs(**inputs)
                wanted = whole.pooler_output if output == "published" else whole.last_hidden_state[:, 5:].mean(dim=1)
            else:
                whole = theirs.vision_model(**inputs)
                tokens = whole.last_hidden_state[:, int("clip" in model) :].mean(dim=1)
                published = theirs.get_image_features(**inputs)
                wanted = getattr(published, "pooler_output", published) if output == "published" else tokens
            values = net.frame_values(net.shrink(images))
        assert values.shape == wanted.shape == (3, net.dim)
        assert torch.allclose(values, wanted, atol=1e-5 * float(wanted.abs().max()))
