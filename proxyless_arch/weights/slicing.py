"""The weights of a smaller network, cut out of a larger one's: numpy alone, so both frameworks have them.

The oracle is exact: where the channels left out are zeroed in the large network (their BN scale and shift are 0), it
gives the logits of the small one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from proxyless_arch.arch.ops import MBConv
from proxyless_arch.arch.shrink import FEATURE_MIX, LAST_STAGE, STEM, Shrunk, block_name, shrink
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.weights.files import NamedTensors

Channels = Mapping[str, np.ndarray]
"""By the names of widths (shrink.py): the channels that stay, in their order in the large network."""
VECTORS = ("weight", "bias", "running_mean", "running_var")


def cropped(kernel: np.ndarray, size: int) -> np.ndarray:
    """The middle ``size`` x ``size`` of (out, in, k, k)."""
    margin = (kernel.shape[-1] - size) // 2
    return kernel[..., margin : margin + size, margin : margin + size]


def sliced(tensors: NamedTensors, spec: ArchSpec, change: Shrunk, channels: Channels) -> NamedTensors:
    """The tensors of ``shrink(spec, change)``.

    Args:
        tensors: of ``spec``.
        channels: for each width of ``change``, as many channels.

    Raises:
        KeyError: a width without its channels. ValueError: another number of them.
    """
    for name, width in change.widths.items():
        if len(channels[name]) != width:
            raise ValueError(f"{name}: expected {width} channels, got {len(channels[name])}")
    kept = {name: np.asarray(channels[name]) for name in change.widths}
    found: NamedTensors = {}
    for call in walk(shrink(spec, change)):
        found.update(_layer(tensors, call, kept, len(spec.blocks)))
    return {name: np.ascontiguousarray(tensor) for name, tensor in found.items()}


def _layer(tensors: NamedTensors, call: LayerCall, kept: Channels, n_blocks: int) -> NamedTensors:
    """Of one layer."""
    prefix, op = call.tensor_prefix, call.op
    if call.name == STEM:
        return _conv(tensors, prefix, kept.get(STEM), None)
    if call.name == FEATURE_MIX:
        return _conv(tensors, prefix, kept.get(FEATURE_MIX), kept.get(LAST_STAGE))
    if call.name == "classifier":
        into = kept.get(FEATURE_MIX)
        weight = tensors[f"{prefix}.linear.weight"]
        bias = tensors[f"{prefix}.linear.bias"]
        return {f"{prefix}.linear.weight": _taken(weight, 1, into), f"{prefix}.linear.bias": bias}
    if not isinstance(op, MBConv):
        return {name: tensors[name] for name, _ in op.tensors(prefix)}
    hidden = kept.get(call.name) if op.expands else kept.get(STEM) if call.name == block_name(0) else None
    out = kept.get(LAST_STAGE) if call.name == block_name(n_blocks - 1) else None
    depthwise = _conv(tensors, f"{prefix}.depth_conv", hidden, None)
    name = f"{prefix}.depth_conv.conv.weight"
    depthwise[name] = cropped(depthwise[name], op.kernel_size)
    expand = _conv(tensors, f"{prefix}.inverted_bottleneck", hidden, None) if op.expands else {}
    return expand | depthwise | _conv(tensors, f"{prefix}.point_linear", out, hidden)


def _conv(tensors: NamedTensors, prefix: str, out: np.ndarray | None, into: np.ndarray | None) -> NamedTensors:
    """A convolution with its BN, its output and input channels chosen (None: all)."""
    weight = _taken(_taken(tensors[f"{prefix}.conv.weight"], 0, out), 1, into)
    vectors = {f"{prefix}.bn.{name}": _taken(tensors[f"{prefix}.bn.{name}"], 0, out) for name in VECTORS}
    return {f"{prefix}.conv.weight": weight} | vectors


def _taken(array: np.ndarray, axis: int, indices: np.ndarray | None) -> np.ndarray:
    return array if indices is None else np.take(array, indices, axis)
