"""Layers of causal networks on rows that arrive one after the other or many at once, with the same numbers to the bit.

Matrix products of libraries choose their kernels, and so their rounding, by the number of rows. Here every row is
computed by a loop of its own in a fixed order, so a row's result depends neither on the rows computed together with it
nor on how often `push` was called. Layers keep what they need of the past in arrays of fixed size.
"""

# T rows of this call, P rows of the past, C channels in, O channels out, K taps, H heads, G groups

import math
from typing import Any

import numpy as np

from tad.core.compiled import compiled

EPS = 1e-5  # of layer norms, as in tad.layers.masked


@compiled
def linear(x_TC: Any, weight_CO: Any, bias_O: Any) -> Any:
    """(T, C) → (T, O): a matrix product and a bias."""
    y_TO = np.empty((len(x_TC), weight_CO.shape[1]), np.float32)
    for t in range(len(x_TC)):
        row = y_TO[t]
        row[:] = bias_O
        for c in range(x_TC.shape[1]):
            value = x_TC[t, c]
            weight = weight_CO[c]
            for o in range(len(row)):
                row[o] += value * weight[o]
    return y_TO


@compiled
def _dense(rows_PC: Any, first: Any, step: Any, weight_KCO: Any, bias_O: Any) -> Any:
    """Convolve rows [first, first + K), then [first + step, …): all that are complete."""
    taps, inputs, outputs = weight_KCO.shape
    count = max((len(rows_PC) - taps - first) // step + 1, 0)
    y_TO = np.empty((count, outputs), np.float32)
    for t in range(count):
        row = y_TO[t]
        row[:] = bias_O
        for k in range(taps):
            given = rows_PC[first + t * step + k]
            for c in range(inputs):
                value = given[c]
                weight = weight_KCO[k, c]
                for o in range(outputs):
                    row[o] += value * weight[o]
    return y_TO


@compiled
def _depthwise(rows_PC: Any, first: Any, step: Any, weight_KC: Any, bias_C: Any) -> Any:
    """`_dense` with one filter per channel."""
    taps, channels = weight_KC.shape
    count = max((len(rows_PC) - taps - first) // step + 1, 0)
    y_TC = np.empty((count, channels), np.float32)
    for t in range(count):
        row = y_TC[t]
        row[:] = bias_C
        for k in range(taps):
            given = rows_PC[first + t * step + k]
            weight = weight_KC[k]
            for c in range(channels):
                row[c] += given[c] * weight[c]
    return y_TC


@compiled
def layer_norm(x_TC: Any, scale_C: Any, shift_C: Any, relu: Any) -> Any:
    """Normalise the channels of each row; `relu`: then set what is negative to zero."""
    y_TC = np.empty_like(x_TC)
    count = x_TC.shape[1]
    for t in range(len(x_TC)):
        total = 0.0
        for c in range(count):
            total += np.float64(x_TC[t, c])
        mean = total / count
        squares = 0.0
        for c in range(count):
            squares += (np.float64(x_TC[t, c]) - mean) ** 2
        rstd = 1.0 / math.sqrt(squares / count + EPS)
        for c in range(count):
            value = np.float32((np.float64(x_TC[t, c]) - mean) * rstd) * scale_C[c] + shift_C[c]
            y_TC[t, c] = max(value, np.float32(0)) if relu else value
    return y_TC


@compiled
def gelu(x_TC: Any) -> Any:
    """Apply GELU (with the error function)."""
    y_TC = np.empty_like(x_TC)
    for t in range(len(x_TC)):
        for c in range(x_TC.shape[1]):
            value = np.float64(x_TC[t, c])
            y_TC[t, c] = np.float32(0.5 * value * (1.0 + math.erf(value * math.sqrt(0.5))))
    return y_TC


@compiled
def sigmoid(x_TC: Any) -> Any:
    """Apply the logistic function."""
    y_TC = np.empty_like(x_TC)
    for t in range(len(x_TC)):
        for c in range(x_TC.shape[1]):
            y_TC[t, c] = np.float32(1.0 / (1.0 + math.exp(-np.float64(x_TC[t, c]))))
    return y_TC


@compiled
def _means(rows_PC: Any, window: Any, before: Any) -> Any:
    """Mean of the last `window` rows at each row from number `window` - 1 on; of the first rows, `before` are none."""
    count = len(rows_PC) - window + 1
    y_TC = np.empty((count, rows_PC.shape[1]), np.float32)
    sums = np.empty(rows_PC.shape[1], np.float64)
    for t in range(count):
        sums[:] = 0.0
        first = max(t, before)
        for p in range(first, t + window):
            for c in range(len(sums)):
                sums[c] += rows_PC[p, c]
        for c in range(len(sums)):
            y_TC[t, c] = np.float32(sums[c] / (t + window - first))
    return y_TC


@compiled
def _moments(x_TC: Any, groups: Any) -> Any:
    """Mean and mean square of the channels of each group: (T, 2 G) float64."""
    width = x_TC.shape[1] // groups
    y_TG = np.empty((len(x_TC), 2 * groups), np.float64)
    for t in range(len(x_TC)):
        for g in range(groups):
            total = 0.0
            squares = 0.0
            for c in range(g * width, (g + 1) * width):
                value = np.float64(x_TC[t, c])
                total += value
                squares += value * value
            y_TG[t, g] = total / width
            y_TG[t, groups + g] = squares / width
    return y_TG


@compiled
def _group_normed(x_TC: Any, moments_PG: Any, window: Any, before: Any, scale_C: Any, shift_C: Any, eps: Any) -> Any:
    """Normalise each group by its mean moments over the last `window` rows, of which the first `before` are none."""
    y_TC = np.empty_like(x_TC)
    groups = moments_PG.shape[1] // 2
    width = x_TC.shape[1] // groups
    for t in range(len(x_TC)):
        first = max(t, before)
        count = t + window - first
        for g in range(groups):
            total = 0.0
            squares = 0.0
            for p in range(first, t + window):
                total += moments_PG[p, g]
                squares += moments_PG[p, groups + g]
            mean = total / count
            rstd = 1.0 / math.sqrt(max(squares / count - mean * mean, 0.0) + eps)
            for c in range(g * width, (g + 1) * width):
                y_TC[t, c] = np.float32((np.float64(x_TC[t, c]) - mean) * rstd) * scale_C[c] + shift_C[c]
    return y_TC


@compiled
def _attended(q_TC: Any, k_PC: Any, v_PC: Any, window: Any, before: Any, heads: Any) -> Any:
    """Let row t attend to the last `window` keys, of which the first `before` are none: (T, C)."""
    dim = q_TC.shape[1] // heads
    y_TC = np.empty_like(q_TC)
    weights = np.empty(window, np.float64)
    sums = np.empty(dim, np.float64)
    scale = 1.0 / math.sqrt(dim)
    for t in range(len(q_TC)):
        first = max(t, before)
        count = t + window - first
        for h in range(heads):
            low = h * dim
            highest = -np.inf
            for j in range(count):
                logit = 0.0
                for d in range(low, low + dim):
                    logit += np.float64(q_TC[t, d]) * np.float64(k_PC[first + j, d])
                weights[j] = logit * scale
                highest = max(highest, weights[j])
            total = 0.0
            sums[:] = 0.0
            for j in range(count):
                weight = math.exp(weights[j] - highest)
                total += weight
                for d in range(dim):
                    sums[d] += weight * v_PC[first + j, low + d]
            for d in range(dim):
                y_TC[t, low + d] = np.float32(sums[d] / total)
    return y_TC


@compiled
def expected_bin(rows_PK: Any, first: Any, label: Any, centre_J: Any) -> Any:
    """Expectation over bins J - 1 … 0 with logits rows[first:, label] + centre: a trident head's distance."""
    bins = len(centre_J)
    highest = -np.inf
    for j in range(bins):
        highest = max(highest, np.float64(rows_PK[first + j, label]) + np.float64(centre_J[j]))
    total = 0.0
    moment = 0.0
    for j in range(bins):
        weight = math.exp(np.float64(rows_PK[first + j, label]) + np.float64(centre_J[j]) - highest)
        total += weight
        moment += weight * (bins - 1 - j)
    return moment / total


def compile_loops() -> None:
    """Compile all loops of this module, for the types with which they are called."""
    rows_TC, flat = np.zeros((4, 4), np.float32), np.zeros(4, np.float32)
    for relu in (True, False):
        layer_norm(rows_TC, flat, flat, relu)
    linear(rows_TC, rows_TC, flat)
    gelu(rows_TC)
    sigmoid(rows_TC)
    expected_bin(rows_TC, 0, 0, flat)
    for layer in (
        Convolution(np.zeros((4, 4, 3), np.float32), None, stride=2),
        Convolution(np.zeros((4, 1, 3), np.float32), None, depthwise=True),
        WindowMean(4, 3),
        WindowGroupNorm(flat, flat, groups=2, window=3, eps=EPS),
    ):
        layer.push(rows_TC)
    Attention(4, heads=2, window=3).push(rows_TC, rows_TC, rows_TC)


class Past:
    """The last rows of a sequence, in memory of fixed size."""

    def __init__(self, rows: int, width: int, *, fill: float = 0.0, dtype: type[np.floating[Any]] = np.float32) -> None:
        """`fill`: the value of the rows before the first one."""
        self._rows_PC = np.full((rows, width), fill, dtype)
        self.missing = rows  # how many of the rows lie before the first one

    def __len__(self) -> int:
        return len(self._rows_PC)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored rows."""
        return self._rows_PC.nbytes

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        """Return the rows of the past followed by these (P + T, C), and store the last P of them."""
        kept = len(self._rows_PC)
        all_PC = np.concatenate([self._rows_PC, x_TC])
        self._rows_PC = all_PC[len(all_PC) - kept :].copy()
        return all_PC

    def advance(self, count: int) -> None:
        """Count the rows that have arrived, after they were used."""
        self.missing = max(self.missing - count, 0)


class Halves:
    """Which of the arriving rows have an even number: 0, 2, 4, …"""

    def __init__(self) -> None:
        self._odd = 0

    def push(self, count: int) -> int:
        """Return the place of the first such row among the next `count`."""
        first, self._odd = self._odd, (self._odd + count) % 2
        return first


class Convolution:
    """Causal convolution, dense or depth-wise, of stride 1 or 2."""

    def __init__(
        self, weight: np.ndarray, bias: np.ndarray | None, *, stride: int = 1, depthwise: bool = False
    ) -> None:
        """`weight` (O, C, K), or depth-wise (C, 1, K)."""
        outputs, _, taps = weight.shape
        self._depthwise, self._stride, self._halves = depthwise, stride, Halves()
        laid = weight[:, 0].T if depthwise else weight.transpose(2, 1, 0)
        self._weight = np.ascontiguousarray(laid, np.float32)
        self._bias = np.zeros(outputs, np.float32) if bias is None else np.ascontiguousarray(bias, np.float32)
        self.past = Past(taps - 1, outputs if depthwise else weight.shape[1])

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        """Return the outputs that these rows complete."""
        rows_PC = self.past.push(x_TC)
        first = self._halves.push(len(x_TC)) if self._stride == 2 else 0
        y: np.ndarray = (_depthwise if self._depthwise else _dense)(
            rows_PC, first, self._stride, self._weight, self._bias
        )
        return y


class PairMean:
    """Mean of rows 2i - 1 and 2i."""

    def __init__(self, width: int) -> None:
        self.past, self._halves = Past(1, width), Halves()

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        """Return the means that these rows complete."""
        rows_PC, first = self.past.push(x_TC), self._halves.push(len(x_TC))
        mean: np.ndarray = (rows_PC[first:-1:2] + rows_PC[first + 1 :: 2]) / np.float32(2)
        return mean


class Maximum:
    """Maximum of rows 2i - 2, 2i - 1 and 2i."""

    def __init__(self, width: int) -> None:
        self.past, self._halves = Past(2, width, fill=-np.inf), Halves()

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        """Return the maxima that these rows complete."""
        rows_PC, first = self.past.push(x_TC), self._halves.push(len(x_TC))
        highest: np.ndarray = np.maximum(
            np.maximum(rows_PC[first:-2:2], rows_PC[first + 1 : -1 : 2]), rows_PC[first + 2 :: 2]
        )
        return highest


class WindowMean:
    """Mean of the last `window` rows, at the beginning of those that exist."""

    def __init__(self, width: int, window: int) -> None:
        self.past, self._window = Past(window - 1, width), window

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        """Return a mean for each row."""
        y: np.ndarray = _means(self.past.push(x_TC), self._window, self.past.missing)
        self.past.advance(len(x_TC))
        return y


class WindowGroupNorm:
    """GroupNorm with statistics over the last `window` rows."""

    def __init__(self, scale: np.ndarray, shift: np.ndarray, *, groups: int, window: int, eps: float) -> None:
        self._scale, self._shift, self._groups, self._eps = scale, shift, groups, eps
        self.past, self._window = Past(window - 1, 2 * groups, dtype=np.float64), window

    def push(self, x_TC: np.ndarray) -> np.ndarray:
        """Return the normalised rows."""
        moments = self.past.push(_moments(x_TC, self._groups))
        y: np.ndarray = _group_normed(
            x_TC, moments, self._window, self.past.missing, self._scale, self._shift, self._eps
        )
        self.past.advance(len(x_TC))
        return y


class Attention:
    """Attention of each row to the last `window` keys."""

    def __init__(self, width: int, *, heads: int, window: int) -> None:
        self._heads, self._window = heads, window
        self.keys, self.values = Past(window - 1, width), Past(window - 1, width)

    def push(self, q_TC: np.ndarray, k_TC: np.ndarray, v_TC: np.ndarray) -> np.ndarray:
        """Attend from new rows to the past; return the weighted values (T, C)."""
        keys, values = self.keys.push(k_TC), self.values.push(v_TC)
        y: np.ndarray = _attended(q_TC, keys, values, self._window, self.keys.missing, self._heads)
        self.keys.advance(len(q_TC))
        return y
