"""Import torchvision beside a CPU build of torch, and optional packages with one-line errors."""

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import Any

from tad.core.errors import TadError

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def _schemas() -> Any:
    """Define the two op schemas for which torchvision registers fakes; the cache keeps the library alive."""
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for op in ("nms", "qnms"):
        library.define(op + SCHEMA)  # type: ignore[no-untyped-call]
    return library


@cache
def torchvision() -> ModuleType:
    """Import the package torchvision.

    PyPI's wheel is a CUDA build. Beside a CPU build of torch its compiled ops do not load, and the import ends with
    "operator torchvision::nms does not exist". Only then the missing schemas are defined and the import is repeated.
    Models and transforms work; the compiled ops (`ops.nms`, image files) stay unavailable.

    Raises:
        TadError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError:
        raise TadError("torchvision: not installed; pip install torchvision") from None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _schemas()
    return importlib.import_module("torchvision")


def pytorchvideo_models(name: str) -> ModuleType:
    """Import the module `pytorchvideo.models.<name>`, which needs an importable torchvision.

    Raises:
        TadError: pytorchvideo is not installed.
    """
    torchvision()
    try:
        return importlib.import_module(f"pytorchvideo.models.{name}")
    except ModuleNotFoundError as error:
        raise TadError(f"pytorchvideo: cannot be imported ({error}); pip install pytorchvideo==0.1.5") from None


def transformers_model(name: str) -> ModuleType:
    """Import the module of transformers with the model `name` (its configuration and its network).

    Raises:
        TadError: transformers is not installed; it is the optional extra `modern`.
    """
    torchvision()  # transformers imports it where it is installed
    try:
        return importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    except ModuleNotFoundError as error:
        raise TadError(
            f"backbone {name}: transformers cannot be imported ({error}); pip install transformers"
        ) from None


def timm_package() -> ModuleType:
    """Import the package timm, which needs an importable torchvision.

    Raises:
        TadError: timm is not installed; it is the optional extra `images`.
    """
    torchvision()
    try:
        timm = importlib.import_module("timm")
        importlib.import_module("timm.data")
    except ModuleNotFoundError as error:
        raise TadError(f"backbone timm_image: timm cannot be imported ({error}); pip install timm") from None
    return timm
