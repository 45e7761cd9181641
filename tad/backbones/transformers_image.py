"""Image encoders of the package transformers (DINOv3, SigLIP 2, CLIP), applied to single frames and pooled over a clip.

Networks are built from the table below, without a download; weights are a file. Preprocessing is that of transformers'
image processors for these models, by Pillow.
"""

# N frames, P patches, C channels, T frames of an input (always 1)

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from tad.backbones._image import ImageEncoder, ImageNetwork, Preparation
from tad.backbones._settings import IMAGENET_MEAN, IMAGENET_STD
from tad.backbones.transformers_image_settings import Settings
from tad.core.optional import transformers_model

SIDE = 224
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Family(NamedTuple):
    """A kind of model: module of transformers, its classes, preprocessing, and tokens before those of the patches."""

    module: str
    config: str
    network: str
    preparation: Preparation
    leading: int


class Size(NamedTuple):
    """A model: its family and the arguments of its configuration that differ from transformers' defaults."""

    family: str
    arguments: dict[str, Any]


FAMILIES = {
    "dinov3": Family(
        "dinov3_vit", "DINOv3ViTConfig", "DINOv3ViTModel",
        Preparation(SIDE, True, SIDE, "bilinear", IMAGENET_MEAN, IMAGENET_STD), 5,
    ),
    "siglip": Family(
        "siglip", "SiglipVisionConfig", "SiglipVisionModel", Preparation(SIDE, True, SIDE, "bilinear", HALF, HALF), 0
    ),
    "clip": Family(
        "clip", "CLIPVisionConfig", "CLIPVisionModel",
        Preparation(SIDE, False, SIDE, "bicubic", CLIP_MEAN, CLIP_STD), 1,
    ),
}  # fmt: skip


def _vit(width: int, layers: int, heads: int, **more: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**sizes, "intermediate_size": 4 * width, "image_size": SIDE, **more}


SIZES = {
    "facebook/dinov3-vits16-pretrain-lvd1689m": Size("dinov3", _vit(384, 12, 6, num_register_tokens=4)),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": Size("dinov3", _vit(768, 12, 12, num_register_tokens=4)),
    "facebook/dinov3-vitl16-pretrain-lvd1689m": Size("dinov3", _vit(1024, 24, 16, num_register_tokens=4)),
    "google/siglip2-base-patch16-224": Size("siglip", _vit(768, 12, 12, patch_size=16)),
    "openai/clip-vit-base-patch16": Size("clip", _vit(768, 12, 12, patch_size=16, projection_dim=512)),
    "openai/clip-vit-base-patch32": Size("clip", _vit(768, 12, 12, patch_size=32, projection_dim=512)),
}


class Network(ImageNetwork):
    """The image part of a model, with CLIP's projection."""

    def __init__(self, size: Size, output: str) -> None:
        super().__init__()
        family = FAMILIES[size.family]
        library = transformers_model(family.module)
        config = getattr(library, family.config)(**size.arguments)
        self.model: nn.Module = getattr(library, family.network)(config)
        self.width = int(config.hidden_size)
        self.leading = family.leading if output == "mean" else -1
        self.projection: nn.Module = nn.Identity()
        if size.family == "clip" and output == "published":
            self.projection = nn.Linear(self.width, config.projection_dim, bias=False)
            self.width = int(config.projection_dim)

    def features(self, x_NCTHW: Tensor) -> Tensor:
        """Return the features (N, width) of normalised frames (N, 3, 1, H, W)."""
        outputs = self.model(pixel_values=x_NCTHW[:, :, 0])
        if self.leading >= 0:
            tokens_NPC: Tensor = outputs.last_hidden_state
            return tokens_NPC[:, self.leading :].mean(dim=1)
        values: Tensor = self.projection(outputs.pooler_output)
        return values


class Backbone(ImageEncoder):
    """DINOv3, SigLIP 2 or CLIP: clips (B, T, H, W, 3) uint8 RGB → (B, width per kind of pooling) float32; any T."""

    def __init__(self, settings: Settings) -> None:
        size = SIZES[settings.model]
        net = Network(size, settings.output)
        preparation = FAMILIES[size.family].preparation
        super().__init__("transformers_image", settings, net=net, width=net.width, preparation=preparation)

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a published file and drop the text part, the scales of logits and unused projections."""
        return image_keys(self, state)


def image_keys(backbone: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename published weights to the names of `Network`, and leave out those of the text encoder."""
    own, names = backbone.state_dict(), {}
    for key, tensor in state.items():
        bare = key.removeprefix("vision_model.")
        # DINOv3's published file was written by transformers 4, which did not put its blocks into `model`
        projection = f"net.{bare.replace('visual_projection', 'projection')}"
        tries = (key, f"net.model.{bare}", f"net.model.model.{bare}", projection)
        name = next((n for n in tries if n in own), "")
        others = ("text_model.", "text_projection.", "visual_projection.", "logit_", "embeddings.position_ids")
        if name or not bare.startswith(others):
            names[name or key] = tensor
    return names
