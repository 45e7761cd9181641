"""Image-text encoders of the package transformers (SigLIP 2, CLIP): frames → embeddings in the space of their texts.

The embeddings of a clip's frames are normalised to unit length and averaged. `_texts.py` embeds the texts.
"""

# B clips, T frames, N frames of any clips, D values per frame

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from tad.backbones._image import ImageEncoder
from tad.backbones._settings import PooledSettings
from tad.backbones.image_text_settings import Settings
from tad.backbones.transformers_image import FAMILIES, SIZES, Network, image_keys


class Backbone(ImageEncoder):
    """The image part of SigLIP 2 or CLIP: clips (B, T, H, W, 3) uint8 RGB → (B, D) float32; any T."""

    def __init__(self, settings: Settings) -> None:
        size = SIZES[settings.model]
        net = Network(size, "published")
        preparation = FAMILIES[size.family].preparation
        super().__init__(
            "image_text", PooledSettings(pool=("mean",)), net=net, width=net.width, preparation=preparation
        )

    def frame_values(self, frames_NHWC: Tensor) -> Tensor:
        """Return the unit embeddings (N, D) of resized uint8 frames."""
        return F.normalize(super().frame_values(frames_NHWC), dim=1)

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a published file and drop the text part and the scales of logits."""
        return image_keys(self, state)
