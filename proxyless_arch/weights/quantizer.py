"""What quantization does to a number: the definition, in numpy, against which both frameworks are tested.

Weights (batch normalization folded in) are symmetric, ``round(w / step) * step`` with ``2^(b-1) - 1`` steps on each
side of 0, and a step

* ``channel``: per output channel, clipped where the squared error is least;
* ``tensor``: per layer, from the largest weight for 5 bits and more, and below that from the threshold at which the
  distribution of what is left differs least (Kullback-Leibler): HAQ's linear quantizer;
* ``kmeans``: there is none: a codebook of 2^b numbers per layer: HAQ's quantizer for a model size.

Deviation (of the last two): HAQ does not fold batch normalization, which no integer runtime can do without; its
k-means starts at random.

Activations are unsigned, 0..clip in 2^b - 1 steps, where they have no sign (behind ReLU6), else as the weights. Biases
stay float32. Rounding is to the nearest, halves to even.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from proxyless_arch.arch.bits import CHANNEL, KMEANS, BitLayer, BitPlan, Range, bit_layers, check_folds, check_plan
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.weights.files import NamedTensors

FRACTIONS = np.linspace(1.0, 0.2, 65)
"""Of the largest absolute value: the clips that are tried."""
KL_BELOW = 5
"""Bits below which HAQ looks for a threshold."""
MOST_ROUNDS = 300
"""Of k-means, which in one dimension ends by itself."""


def levels(bits: int, *, signed: bool) -> int:
    """The largest integer of a format. Signed ones of 1 bit have none."""
    return 2 ** (bits - 1) - 1 if signed else 2**bits - 1


def quantized_activation(x: np.ndarray, bits: int, given: Range) -> np.ndarray:
    """``x`` as a layer takes it in."""
    most = levels(bits, signed=given.signed)
    steps = np.clip(x * (most / given.clip), -most if given.signed else 0, most)
    return np.rint(steps) * (given.clip / most)


# ---------------------------------------------------------------------------------------------------------- weights


class Folded(NamedTuple):
    """A layer with its batch normalization in it: weight (out, ...) and bias (out,), float64."""

    weight: np.ndarray
    bias: np.ndarray


def folded(layer: BitLayer, tensors: Mapping[str, np.ndarray], eps: float) -> Folded:
    """``weight * gamma / sqrt(var + eps)`` and ``beta - mean * gamma / sqrt(var + eps)``."""
    weight = tensors[layer.weight].astype(np.float64)
    bn = layer.weight.removesuffix("conv.weight") + "bn"
    if f"{bn}.weight" not in tensors:
        return Folded(weight, tensors[layer.weight.removesuffix("weight") + "bias"].astype(np.float64))
    gamma, beta, mean, var = (
        tensors[f"{bn}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / np.sqrt(var + eps)
    return Folded(weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), beta - mean * factor)


def quantized_weight(weight: np.ndarray, bits: int, quantizer: str = CHANNEL) -> np.ndarray:
    """``weight`` (out, ...) as it is with ``bits``: float64 of the same shape."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    if quantizer == KMEANS:
        centres = codebook(rows.ravel(), bits)
        return centres[_nearest(rows, centres)].reshape(weight.shape)
    clips = channel_clips(rows, bits) if quantizer == CHANNEL else np.full(len(rows), tensor_clip(rows.ravel(), bits))
    return _rounded(rows, clips, bits).reshape(weight.shape)


def _rounded(rows: np.ndarray, clips: np.ndarray, bits: int) -> np.ndarray:
    """Each row in steps of its clip / levels."""
    most = levels(bits, signed=True)
    step = np.where(clips > 0, clips, 1.0)[:, None] / most
    return np.clip(np.rint(rows / step), -most, most) * step


def channel_clips(rows: np.ndarray, bits: int) -> np.ndarray:
    """Of each row the one of FRACTIONS of its largest absolute value that errs least, squared."""
    largest = np.abs(rows).max(1)
    best, least = largest.copy(), np.full(len(rows), np.inf)
    for fraction in FRACTIONS:
        error = ((_rounded(rows, fraction * largest, bits) - rows) ** 2).sum(1)
        is_better = error < least
        best[is_better], least[is_better] = fraction * largest[is_better], error[is_better]
    return best


def tensor_clip(values: np.ndarray, bits: int) -> float:
    """HAQ's: the largest absolute value, or below 5 bits the threshold of the least divergence."""
    largest = float(np.abs(values).max())
    return largest if bits >= KL_BELOW or not largest else kl_clip(np.abs(values), levels(bits, signed=True))


def kl_clip(magnitudes: np.ndarray, n_levels: int) -> float:
    """The threshold at which the distribution of the clipped values differs least from that of their levels.

    As TensorRT calibrates (Migacz 2017): what is above the threshold counts in the last bin. HAQ does the same on
    cumulated sums, which has no meaning as a divergence. Deviation: here on the histogram itself.
    """
    counts, edges = np.histogram(magnitudes, bins=max(64, int(np.sqrt(len(magnitudes)))))
    best, least = float(edges[-1]), np.inf
    for last in range(max(n_levels, len(counts) // 8), len(counts) + 1):
        kept = counts[:last].astype(np.float64)
        inside = kept.copy()
        kept[-1] += counts[last:].sum()
        if (divergence := _divergence(kept, _leveled(inside, n_levels))) < least:
            best, least = float(edges[last]), divergence
    return best


def _leveled(counts: np.ndarray, n_levels: int) -> np.ndarray:
    """The counts that each level spreads evenly over those of its bins that hold anything."""
    level = np.arange(len(counts)) * n_levels // len(counts)
    full = counts > 0
    total = np.bincount(level, counts, n_levels)
    share = np.bincount(level, full, n_levels)
    return np.where(full, (total / np.maximum(share, 1))[level], 0.0)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    p, q = p / p.sum(), q / max(q.sum(), 1e-30)
    both = (p > 0) & (q > 0)
    return float(np.sum(p[both] * np.log(p[both] / q[both])) + 10 * p[(p > 0) & (q == 0)].sum())


def codebook(values: np.ndarray, bits: int) -> np.ndarray:
    """2^bits numbers, ascending: k-means of one dimension, from evenly spread quantiles."""
    ordered = np.sort(values)
    centres = np.unique(np.quantile(ordered, (np.arange(2**bits) + 0.5) / 2**bits))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(MOST_ROUNDS):
        ends = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        bounds = np.concatenate([[0], ends, [len(ordered)]])
        counts = np.diff(bounds)
        means = np.diff(sums[bounds]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values)


class RoundedWeights:
    """The weights of a network in as many bits as are asked for; each is computed once."""

    def __init__(self, spec: ArchSpec, tensors: NamedTensors, quantizer: str = CHANNEL) -> None:
        check_folds(spec)
        self.spec, self.tensors, self.quantizer = spec, tensors, quantizer
        self.layers = {layer.name: layer for layer in bit_layers(spec)}
        self._whole: dict[str, Folded] = {}
        self._rounded: dict[tuple[str, int], np.ndarray] = {}

    def whole(self, name: str) -> Folded:
        """Of the layer ``name``, folded, before rounding."""
        if name not in self._whole:
            self._whole[name] = folded(self.layers[name], self.tensors, self.spec.bn.eps)
        return self._whole[name]

    def rounded(self, name: str, bits: int) -> np.ndarray:
        """Of the layer ``name`` with ``bits``, float32."""
        if (name, bits) not in self._rounded:
            weight = quantized_weight(self.whole(name).weight, bits, self.quantizer)
            self._rounded[name, bits] = weight.astype(np.float32)
        return self._rounded[name, bits]

    def layer(self, name: str, bits: int) -> NamedTensors:
        """The tensors of a layer with ``bits``: its batch normalization is left as an identity with the bias."""
        layer = self.layers[name]
        made = {layer.weight: self.rounded(name, bits)}
        bn = layer.weight.removesuffix("conv.weight") + "bn"
        if f"{bn}.weight" in self.tensors:
            made |= identity_bn(bn, self.whole(name).bias, self.spec.bn.eps)
        return made

    def under(self, plan: BitPlan) -> NamedTensors:
        """All tensors of the network under a plan of it."""
        found = dict(self.tensors)
        for name, format in plan.formats.items():
            if format.weight_bits is not None:
                found.update(self.layer(name, format.weight_bits))
        return found


def quantized_tensors(spec: ArchSpec, tensors: NamedTensors, plan: BitPlan) -> NamedTensors:
    """The weights that a network computes with under ``plan``: by the same names, and as float32.

    Batch normalization of a quantized layer has become part of it, and is left as an identity with the bias. Raises
    InputError for a plan of another network.
    """
    check_plan(plan, spec)
    return RoundedWeights(spec, tensors, plan.quantizer).under(plan)


def identity_bn(name: str, bias: np.ndarray, eps: float) -> NamedTensors:
    """Batch normalization that adds ``bias`` and does nothing else, float32."""
    ones = np.ones_like(bias)
    parts = {"weight": ones, "bias": bias, "running_mean": 0 * ones, "running_var": (1 - eps) * ones}
    return {f"{name}.{part}": value.astype(np.float32) for part, value in parts.items()}
