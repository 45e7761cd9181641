"""A causal detector that takes features as they arrive: each row is computed once, from what the layers kept.

`OnlineDetector.push` gives the same numbers to the bit whether features come one by one, in groups, or as the whole
video in one call. The detector's own batched pass is its oracle, to 1e-5, as matrix products there round differently.
"""

# T rows of this call, C channels, K classes, J outputs of the offset head

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from tad.core.errors import TadError
from tad.detectors._points.detector import PointDetector
from tad.detectors._points.heads import ClassHead, OffsetHead
from tad.detectors._points.pyramid import LevelNorms, Pyramid
from tad.detectors._points.sgp import GranularBlock
from tad.detectors.actionformer import TransformerBlock
from tad.layers.masked import ChannelNorm, MaskedConv1d, Pointwise, ScaledDropPath
from tad.layers.rows import (
    Attention,
    Convolution,
    Maximum,
    PairMean,
    Past,
    WindowGroupNorm,
    WindowMean,
    expected_bin,
    gelu,
    layer_norm,
    linear,
    sigmoid,
)

ZERO = np.float32(0)


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate of a causal detector; times in snippets.

    Attributes:
        now: the snippet at which it was found.
        start, end: its borders, which lie before `now` or at it.
        score: between 0 and 1.
        label: class id.
    """

    now: int
    start: float
    end: float
    score: float
    label: int


class Rows(Protocol):
    """Protocol of a layer: the rows that arrive → the rows that they complete."""

    def push(self, x_TC: np.ndarray) -> np.ndarray: ...


def _array(tensor: Tensor | None) -> Any:
    """Return a parameter as a flat array, a missing one (a bias) as None."""
    return None if tensor is None else np.ascontiguousarray(tensor.detach().cpu().float().numpy().reshape(-1))


def _convolution(layer: nn.Module) -> Convolution:
    conv = layer.conv if isinstance(layer, MaskedConv1d) else layer
    assert isinstance(conv, nn.Conv1d)
    weight = conv.weight.detach().cpu().float().numpy()
    return Convolution(weight, _array(conv.bias), stride=conv.stride[0], depthwise=conv.groups > 1)


class _Linear:
    def __init__(self, layer: nn.Module, *, bias: bool = True) -> None:
        assert isinstance(layer, Pointwise)
        self._weight = np.ascontiguousarray(layer.weight.detach().cpu().float().numpy()[:, :, 0].T)
        self._bias = _array(layer.bias) if bias else np.zeros(self._weight.shape[1], np.float32)

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        y: np.ndarray = linear(x_TC, self._weight, self._bias)
        return y


class _Norm:
    """Norm over the channels; with `relu` followed by ReLU; without `shift` its bias is left out."""

    def __init__(self, norm: nn.Module, *, relu: bool = False, shift: bool = True) -> None:
        assert isinstance(norm, ChannelNorm)
        self._scale, self._relu = _array(norm.weight), relu
        self._shift = _array(norm.bias) if shift else np.zeros_like(self._scale)

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        y: np.ndarray = layer_norm(x_TC, self._scale, self._shift, self._relu)
        return y


class _Relu:
    def push(self, x_TC: np.ndarray) -> np.ndarray:
        y: np.ndarray = np.maximum(x_TC, ZERO)
        return y


class _Chain:
    """Layers one after the other."""

    def __init__(self, *layers: Rows) -> None:
        self._layers = layers

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        for layer in self._layers:
            x_TC = layer.push(x_TC)
        return x_TC


def _scale_of(drop_path: nn.Module) -> Any:
    """Return the scale per channel of a residual connection; 1 if it has none."""
    return _array(drop_path.scale) if isinstance(drop_path, ScaledDropPath) else np.float32(1)


class _Transformer:
    """`actionformer.TransformerBlock`."""

    def __init__(self, block: TransformerBlock) -> None:
        attn, channels = block.attn, block.attn.proj.weight.shape[0]
        self._norm, self._normed = _Norm(block.ln1), _Norm(block.ln2)
        self._query = _Chain(_convolution(attn.query_conv), _Norm(attn.query_norm), _Linear(attn.query))
        key = _Linear(attn.key, bias=False)  # biases shift all logits of a query equally, see ConvAttention
        self._key = _Chain(_convolution(attn.key_conv), _Norm(attn.key_norm, shift=False), key)
        self._value = _Chain(_convolution(attn.value_conv), _Norm(attn.value_norm), _Linear(attn.value))
        self._attention, self._proj = Attention(channels, heads=attn.heads, window=attn.window), _Linear(attn.proj)
        self._pool = PairMean(channels) if block.halves else None
        self._widen, self._narrow = _Linear(block.mlp[0]), _Linear(block.mlp[3])
        self._scales = _scale_of(block.drop_path_attn), _scale_of(block.drop_path_mlp)

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        u_TC = self._norm.push(x_TC)
        rows = self._query.push(u_TC), self._key.push(u_TC), self._value.push(u_TC)
        x_TC = self._pool.push(x_TC) if self._pool else x_TC
        if not len(x_TC):
            return x_TC
        attended = self._attention.push(*rows)
        x_TC = x_TC + self._proj.push(attended) * self._scales[0]
        wide: np.ndarray = gelu(self._widen.push(self._normed.push(x_TC)))
        y_TC: np.ndarray = x_TC + self._narrow.push(wide) * self._scales[1]
        return y_TC


class _Granular:
    """`sgp.GranularBlock`."""

    def __init__(self, block: GranularBlock) -> None:
        channels, window = block.ln.weight.shape[1], block.past_window
        self._pool: Rows | None = Maximum(channels) if block.halves else None
        if block.averages:
            self._pool = _Chain(PairMean(channels), _Linear(block.downsample["1"]))
        self._norm, self._mean = _Norm(block.ln), WindowMean(channels, window)
        self._instant, self._gate = _convolution(block.fc), _convolution(block.global_fc)
        self._near, self._far, self._psi = (_convolution(conv) for conv in (block.convw, block.convkw, block.psi))
        norm = block.gn
        scale, shift = _array(norm.weight), _array(norm.bias)
        self._groups = WindowGroupNorm(scale, shift, groups=norm.num_groups, window=window, eps=norm.eps)
        self._widen, self._narrow = _Linear(block.mlp[0]), _Linear(block.mlp[2])
        self._scales = _scale_of(block.drop_path_out), _scale_of(block.drop_path_mlp)

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        x_TC = self._pool.push(x_TC) if self._pool else x_TC
        if not len(x_TC):
            return x_TC
        u_TC = self._norm.push(x_TC)
        gate = np.maximum(self._gate.push(self._mean.push(u_TC)), ZERO)
        window = (self._near.push(u_TC) + self._far.push(u_TC)) * self._psi.push(u_TC)
        x_TC = x_TC + (self._instant.push(u_TC) * gate + window + u_TC) * self._scales[0]
        wide: np.ndarray = gelu(self._widen.push(self._groups.push(x_TC)))
        y_TC: np.ndarray = x_TC + self._narrow.push(wide) * self._scales[1]
        return y_TC


def _block(block: nn.Module) -> Rows:
    if isinstance(block, TransformerBlock):
        return _Transformer(block)
    assert isinstance(block, GranularBlock), type(block)
    return _Granular(block)


def _activated(convs: nn.ModuleList, norms: nn.ModuleList) -> Iterator[Rows]:
    """Yield convolutions, each followed by its norm, if there are any, and ReLU."""
    for k, conv in enumerate(convs):
        yield _convolution(conv)
        yield _Norm(norms[k], relu=True) if len(norms) else _Relu()


class _Embedding:
    """The projections of the streams and the embedding of a `Pyramid`."""

    def __init__(self, pyramid: Pyramid) -> None:
        self._widths = list(np.cumsum(pyramid.streams)[:-1])
        self._proj = [_convolution(conv) for conv in pyramid.proj] if pyramid.streams else []
        self._layers = _Chain(*_activated(pyramid.embd, pyramid.embd_norm))

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        if self._proj:
            parts = [np.ascontiguousarray(part) for part in np.split(x_TC, self._widths, axis=1)]
            x_TC = np.concatenate([conv.push(part) for conv, part in zip(self._proj, parts, strict=True)], axis=1)
        return self._layers.push(x_TC)


def _tower(head: ClassHead | OffsetHead, last: MaskedConv1d) -> _Chain:
    return _Chain(*_activated(head.head, head.norm), _convolution(last))


class _Level:
    """The heads on one level of the pyramid."""

    def __init__(self, detector: Any, level: int, neck: LevelNorms) -> None:
        self._stride, self._points, self._delay = 2**level, 0, detector.delay
        self._norm: Rows = _Norm(neck.fpn_norms[level]) if len(neck.fpn_norms) else _Chain()
        self._classes = _tower(detector.cls_head, detector.cls_head.cls_head)
        self._offsets = _tower(detector.reg_head, detector.reg_head.offset_head)
        self._scale = _array(detector.reg_head.scale[level].scale)[0]
        self._borders: list[tuple[_Chain, Past]] = []
        if detector.class_offsets:  # a trident head
            bins = detector.bins, detector.reg_head.offset_head.conv.out_channels - detector.bins - 2
            for head, most in zip((detector.start_head, detector.end_head), bins, strict=True):
                self._borders.append((_tower(head, head.cls_head), Past(most, detector.num_classes)))

    def push(self, x_TC: np.ndarray, threshold: float) -> Iterator[Found]:
        """Yield the candidates at these rows, in order of time, then of class."""
        x_TC = self._norm.push(x_TC)
        scores_TK: np.ndarray = sigmoid(self._classes.push(x_TC))
        offsets_TJ = self._offsets.push(x_TC) * self._scale
        if self._borders:
            offsets_TJ = np.maximum(offsets_TJ, ZERO)
        borders = [past.push(head.push(x_TC)) for head, past in self._borders]
        first, self._points = self._points, self._points + len(x_TC)
        for point, label in zip(*np.nonzero(scores_TK > np.float32(threshold)), strict=True):
            back, since = self._distances(offsets_TJ[point], borders, int(point), int(label))
            now = (first + int(point)) * self._stride
            start, end = now - back * self._stride, now - since * self._stride
            yield Found(now, start, end, float(scores_TK[point, label]), int(label))

    def _distances(
        self, offsets_J: np.ndarray, borders: list[np.ndarray], point: int, label: int
    ) -> tuple[float, float]:
        """Return the distances back to the start and to the end, in strides."""
        if not borders:
            since = self._delay / (1 + math.exp(-float(offsets_J[1])))
            back = since + max(float(offsets_J[0]), 0.0)
        else:
            bins = len(offsets_J) - len(self._borders[1][1]) - 1
            back = float(expected_bin(borders[0], point, label, offsets_J[:bins]))
            since = float(expected_bin(borders[1], point, label, offsets_J[bins:]))
        return max(back, since), since


class OnlineDetector:
    """State of a causal detector on one stream: constant work and memory per feature.

    Args:
        detector: a trained detector with `causal: true`.
        threshold: candidates with lower scores, or this one, are left out.
        min_length: candidates up to this length in snippets are left out.

    Raises:
        TadError: the detector is not causal.
    """

    def __init__(self, detector: nn.Module, *, threshold: float, min_length: float = 0.0) -> None:
        if not isinstance(detector, PointDetector) or not detector.delay:
            raise TadError(
                "this run's detector needs whole videos; train one that uses the past only: detector: {name:"
                " actionformer, causal: true}, or the same with tridet"
            )
        self.feature_dim = detector.feature_dim
        self._threshold, self._min_length = threshold, min_length
        pyramid, neck = detector.backbone, detector.neck
        assert isinstance(pyramid, Pyramid)
        assert isinstance(neck, LevelNorms)
        self._stem = _Chain(_Embedding(pyramid), *(_block(block) for block in pyramid.stem))
        self._branch = [_block(block) for block in pyramid.branch]
        self._levels = [_Level(detector, level, neck) for level in range(len(detector.ranges))]

    def push(self, feats_TC: np.ndarray) -> list[Found]:
        """Take the next features and return the candidates found at them, in order of time, then of level and class.

        Raises:
            TadError: the features have another width than those of the training, or are not finite.
        """
        if feats_TC.ndim != 2 or feats_TC.shape[1] != self.feature_dim:
            raise TadError(
                f"features of shape {feats_TC.shape}: the detector was trained with {self.feature_dim} channels"
            )
        if not np.isfinite(feats_TC).all():
            raise TadError("features contain NaN or infinity; check the encoder's weights")
        x_TC = self._stem.push(np.ascontiguousarray(feats_TC, np.float32))
        found = list(self._levels[0].push(x_TC, self._threshold))
        for block, level in zip(self._branch, self._levels[1:], strict=True):
            x_TC = block.push(x_TC)
            if not len(x_TC):
                break
            found += level.push(x_TC, self._threshold)
        return sorted((f for f in found if f.end - f.start > self._min_length), key=lambda f: f.now)
