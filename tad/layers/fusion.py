"""Late fusion: what two networks say is averaged location by location and decoded once, as AFSD fuses RGB and flow."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tad.errors import TadError
from tad.layers.types import Raw


def mean_of(parts: Sequence[Any]) -> Any:
    """The mean of equally built tensors, lists, dicts or dataclasses of tensors; what is not a number must be equal.

    Raises:
        TadError: they are not equally built.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        shapes = {tuple(part.shape) if isinstance(part, Tensor) else () for part in parts}
        if len(shapes) > 1:
            raise TadError(f"outputs of shapes {' and '.join(map(str, sorted(shapes)))} cannot be averaged")
        return first if not first.is_floating_point() else torch.stack(list(parts)).mean(dim=0)
    if any(type(part) is not type(first) for part in parts):
        raise TadError("outputs of different detectors cannot be averaged")
    if isinstance(first, list):
        if len({len(part) for part in parts}) > 1:
            raise TadError(f"{' and '.join(str(len(part)) for part in parts)} levels cannot be averaged")
        return [mean_of(each) for each in zip(*parts, strict=True)]
    if isinstance(first, dict):
        return {key: mean_of([part[key] for part in parts]) for key in first}
    assert is_dataclass(first), type(first)
    assert not isinstance(first, type)
    return replace(first, **{f.name: mean_of([getattr(part, f.name) for part in parts]) for f in fields(first)})


def fused(raws: Sequence[list[Raw]], detector: Any, *, borders: str = "offsets") -> list[Raw]:
    """The averages of several networks' outputs on the same videos, for the first one's detector to decode.

    `borders`: `offsets`: averaged like everything else; `geometric`: each location's borders are the geometric means of
    the decoded ones.

    Raises:
        TadError: networks of different kinds, or that pad videos differently; a detector that cannot do the latter.
    """
    if len({tuple(tuple(raw.rows) for raw in each) for each in raws}) > 1:
        raise TadError("detectors that pad videos differently cannot be averaged")
    together = list(zip(*raws, strict=True))
    means = [replace(each[0], outputs=mean_of([raw.outputs for raw in each])) for each in together]
    if borders == "offsets":
        return means
    if not hasattr(detector, "geometric"):
        raise TadError(f"detect.fuse_borders: '{borders}': this detector averages offsets only")
    pairs = zip(means, together, strict=True)
    return [replace(mean, outputs={**mean.outputs, **detector.geometric(each)}) for mean, each in pairs]
