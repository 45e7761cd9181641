"""Settings of image encoders of the package transformers."""

from typing import ClassVar, Literal

from pydantic import Field

from tad.backbones._settings import PooledSettings
from tad.settings.clips import ClipSpec


class Settings(PooledSettings):
    """Settings of transformers' image encoders: 384 to 1024 values per frame."""

    clip: ClassVar[ClipSpec | None] = ClipSpec(length=2, stride=2, policy="resample", rate=5.0)
    model: Literal[
        "facebook/dinov3-vits16-pretrain-lvd1689m",
        "facebook/dinov3-vitb16-pretrain-lvd1689m",
        "facebook/dinov3-vitl16-pretrain-lvd1689m",
        "google/siglip2-base-patch16-224",
        "openai/clip-vit-base-patch16",
        "openai/clip-vit-base-patch32",
    ] = Field(
        default="facebook/dinov3-vits16-pretrain-lvd1689m", description="name of the model; must match the weights"
    )
    output: Literal["published", "mean"] = Field(
        default="published",
        description="published: DINOv3's class token, SigLIP's attention pooling, CLIP's embedding in the space shared "
        "with text; mean: the mean of the patches' last hidden states",
    )
