"""Late fusion: average the raw outputs of networks at each location and decode once, as AFSD fuses RGB and flow."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tad.core.errors import TadError
from tad.layers.contract import DetectorBase
from tad.layers.types import Raw


def mean_of(parts: Sequence[Any]) -> Any:
    """Average nested lists, dicts or dataclasses of tensors; other values are taken from the first one.

    Raises:
        TadError: their structures or shapes differ.
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


def fused(raws: Sequence[list[Raw]], detector: DetectorBase, *, borders: str = "offsets") -> list[Raw]:
    """Average several networks' outputs for the same videos; the first network's detector decodes them.

    Args:
        raws: raw outputs per network.
        detector: the first network's detector.
        borders: `offsets`: average offsets like everything else; `geometric`: take the geometric means of the decoded
            borders.

    Raises:
        TadError: the networks are of different kinds or pad videos differently, or the detector does not support
            `geometric`.
    """
    if len({tuple(tuple(raw.rows) for raw in each) for each in raws}) > 1:
        raise TadError("detectors that pad videos differently cannot be averaged")
    together = list(zip(*raws, strict=True))
    means = [replace(each[0], outputs=mean_of([raw.outputs for raw in each])) for each in together]
    if borders == "offsets":
        return means
    borders_of = [detector.geometric(each) for each in together]
    pairs = zip(means, borders_of, strict=True)
    return [replace(mean, outputs={**mean.outputs, **fields_of}) for mean, fields_of in pairs]
