"""What the inputs of all layers are like: their ranges, and how they vary together.

From calibration images follow, for each layer and number of bits, the clip of its input at which the squared error of
rounding is least, and, in closed form, what rounding its weights does to its output: dW G dW' with G = E[x x'].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxyless_arch.arch.bits import BitLayer, Range, bit_layers
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.progress import Progress, watched
from proxyless_arch.weights.quantizer import quantized_activation
from proxyless_nas.layers import ConvBN
from proxyless_nas.network import ProxylessNet

BINS = 2048
CLIPS = 100
"""Tried, from 1 % of the largest value on."""
PLACES = 16
"""Of an image, whose surroundings go into G."""
MOST_FEATURES = 4096


@dataclass
class InputFacts:
    """Of the values that a layer takes in.

    ``low``, ``high``: the least and the greatest; ``counts``: a histogram between them; ``second``: G, (features,
    features), or (channels, k*k, k*k) of a depthwise layer.
    """

    low: float = math.inf
    high: float = -math.inf
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    second: np.ndarray | None = None
    n_rows: int = 0

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def largest(self) -> float:
        return max(abs(self.low), abs(self.high))

    @property
    def centres(self) -> np.ndarray:
        edges = np.linspace(self.low, self.high, BINS + 1)
        return (edges[1:] + edges[:-1]) / 2

    def error(self, bits: int, clip: float) -> float:
        """Mean squared, of rounding to ``bits``."""
        off = quantized_activation(self.centres, bits, Range(clip, self.signed)) - self.centres
        return float(np.average(off**2, weights=self.counts))

    def range(self, bits: int) -> Range:
        """The clip of the least error. Of a layer that takes in nothing but 0 any will do."""
        if not self.largest:
            return Range(1.0)
        clips = self.largest * np.linspace(0.01, 1, CLIPS)
        return Range(float(min(clips, key=lambda clip: self.error(bits, clip))), self.signed)


@dataclass(frozen=True)
class Calibration:
    """``facts``: of the input of each layer."""

    facts: dict[str, InputFacts]

    def range(self, layer: str, bits: int) -> Range:
        return self.facts[layer].range(bits)

    def activation_error(self, layer: str, bits: int) -> float:
        """Of rounding the input, as a share of its own power."""
        facts = self.facts[layer]
        power = float(np.average(facts.centres**2, weights=facts.counts))
        return facts.error(bits, facts.range(bits).clip) / max(power, 1e-30)

    def weight_error(self, layer: BitLayer, weight: np.ndarray, rounded: np.ndarray) -> float:
        """Of the output, when the weights are rounded, as a share of its own power."""
        second = self.facts[layer.name].second
        assert second is not None
        return _power(rounded - weight, second) / max(_power(weight, second), 1e-30)


def _power(weight: np.ndarray, second: np.ndarray) -> float:
    """sum of w G w' over the outputs: (out, ...) against (n, n), or (out, n, n)."""
    rows = weight.reshape(len(weight), -1)
    if second.ndim == 3:
        return float(np.einsum("oi,oij,oj->", rows, second, rows))
    return float(np.sum((rows @ second) * rows))


@torch.no_grad()
def calibrate(
    net: ProxylessNet, batches: Sequence[tuple[Tensor, Tensor]], device: torch.device, bar: Progress | None = None
) -> Calibration:
    """Two passes of ``net``, as it is, over the images: ranges, then distributions.

    Raises InputError without two images, or naming a layer whose input is not finite.
    """
    count = sum(len(labels) for _, labels in batches)
    if count < 2:
        raise InputError(f"expected at least 2 images to calibrate with, got {count}", "--calibration_images")
    layers = {layer.name: layer for layer in bit_layers(net.spec)}
    facts = {name: InputFacts() for name in layers}

    def find_range(name: str, x: Tensor) -> None:
        low, high = x.min().item(), x.max().item()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(f"what {name} takes in is not finite: its range cannot be calibrated", f"layers.{name}")
        facts[name].low, facts[name].high = min(facts[name].low, low), max(facts[name].high, high)

    def count_values(name: str, x: Tensor) -> None:
        fact = facts[name]
        width = (fact.high - fact.low) or 1.0
        places = ((x.float() - fact.low) * (BINS / width)).clamp_(0, BINS - 1).long()
        fact.counts += torch.bincount(places.flatten(), minlength=BINS).cpu().numpy()
        second, rows = _second_moment(net.get_submodule(name), layers[name], x)
        fact.second = second if fact.second is None else fact.second + second
        fact.n_rows += rows

    for look in (find_range, count_values):
        watching = batches if bar is None else watched(batches, bar, lambda batch: len(batch[1]))
        _pass(net, watching, device, layers, look)
    for fact in facts.values():
        assert fact.second is not None
        fact.second = fact.second / fact.n_rows
    return Calibration(facts)


def _pass(net: ProxylessNet, batches: Iterable, device: torch.device, layers: Iterable[str], look) -> None:  # type: ignore[no-untyped-def, type-arg]
    """Run the network; ``look`` gets the name of each layer and what it takes in."""
    hooks = [
        net.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: look(name, inputs[0]))
        for name in layers
    ]
    try:
        for images, _ in batches:
            net(images.to(device))
    finally:
        for hook in hooks:
            hook.remove()


def _second_moment(module: nn.Module, layer: BitLayer, x: Tensor) -> tuple[np.ndarray, int]:
    """(sum of x x' over places of the images, how many): of patches where the kernel is larger than a pixel."""
    if x.ndim == 2:
        rows = x.double()
        return (rows.T @ rows).cpu().numpy(), len(rows)
    assert isinstance(module, ConvBN)
    kernel, stride = module.conv.kernel_size[0], module.conv.stride[0]
    patches = F.unfold(x, kernel, padding=kernel // 2, stride=stride)  # (N, C k k, places)
    step = max(1, patches.shape[2] // PLACES)
    patches = patches[:, :, step // 2 :: step]
    if layer.is_depthwise:
        rows = patches.reshape(len(x), layer.shape[0], kernel**2, -1).permute(1, 0, 3, 2).flatten(1, 2).double()
        return (rows.transpose(1, 2) @ rows).cpu().numpy(), rows.shape[1]
    rows = patches.transpose(1, 2).flatten(0, 1).double()
    return (rows.T @ rows).cpu().numpy(), len(rows)
