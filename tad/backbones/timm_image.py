"""Any image encoder of the package timm by its name, applied to single frames; the values are pooled over a clip.

The network is built without a download; weights are a file. Preprocessing (size, crop, interpolation, mean, standard
deviation) and pooling over the picture are those that timm records for the model.
"""

# N frames, H rows, W columns, C channels, T frames of an input (always 1)

import math
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from tad.backbones._frames import REACH
from tad.backbones._image import ImageEncoder, ImageNetwork, Preparation
from tad.backbones.timm_image_settings import Settings
from tad.core.errors import TadError
from tad.core.optional import timm_package


def preparation_of(config: Mapping[str, Any], model: str) -> Preparation:
    """Return the preprocessing that timm records for a model.

    Raises:
        TadError: it is of a kind that is not supported here.
    """
    _, height, width = config["input_size"]
    kernel, mode = config["interpolation"], config["crop_mode"]
    if height != width or mode not in ("center", "squash") or kernel not in REACH:
        raise TadError(
            f"timm_image: model {model}: its preprocessing ({height} x {width} pixels, crop {mode}, {kernel}) is not "
            "supported; choose another model"
        )
    resize = math.floor(height / config["crop_pct"])
    return Preparation(
        resize, squash=mode == "squash", crop=height, kernel=kernel, mean=config["mean"], std=config["std"]
    )


class Network(ImageNetwork):
    """A model of timm without its classifier."""

    def __init__(self, timm: ModuleType, model: str) -> None:
        super().__init__()
        self.model = timm.create_model(model, pretrained=False, num_classes=0)

    def features(self, x_NCTHW: Tensor) -> Tensor:
        """Return the features (N, width) of normalised frames (N, 3, 1, H, W)."""
        values: Tensor = self.model(x_NCTHW[:, :, 0])
        return values


class Backbone(ImageEncoder):
    """A model of timm: clips (B, T, H, W, 3) uint8 RGB → (B, width per kind of pooling) float32; any T.

    Raises:
        TadError: timm is not installed or does not know the model.
    """

    def __init__(self, settings: Settings) -> None:
        timm = timm_package()
        if not timm.is_model(settings.model):
            base = settings.model.split(".")[0]
            near = timm.list_models(f"{base}*") or timm.list_models(f"*{base}*") or timm.list_models(f"{base[:6]}*")
            hint = f"similar: {', '.join(near[:5])}" if near else "`timm.list_models()` lists its names"
            raise TadError(f"timm_image: model {settings.model}: timm {timm.__version__} has no such model; {hint}")
        try:
            net = Network(timm, settings.model)
        except RuntimeError as error:  # an unknown tag of a known model
            raise TadError(f"timm_image: model {settings.model}: {error}; correct the part after the dot") from None
        config = timm.data.resolve_model_data_config(net.model)
        width = int(getattr(net.model, "head_hidden_size", None) or net.model.num_features)
        preparation = preparation_of(config, settings.model)
        super().__init__("timm_image", settings, net=net, width=width, preparation=preparation)

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a file's keys to this module's and drop its classifier; files of a model's authors are converted."""
        model: Any = self.net.model
        heads = model.pretrained_cfg.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        own = {f"net.model.{key}": tensor for key, tensor in model.state_dict().items()}
        if state.keys() - own.keys() and not state.keys() & own.keys():
            convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
            state = convert(dict(state), model) if convert else state
        names = {key if key in own else f"net.model.{key}": tensor for key, tensor in state.items()}
        dropped = tuple(f"net.model.{head}." for head in heads)
        return {key: tensor for key, tensor in names.items() if key in own or not key.startswith(dropped)}
