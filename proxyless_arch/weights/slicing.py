"""The weights of a smaller network, cut out of a larger one's: numpy alone, so both frameworks have them.

The oracle is exact: where the channels left out are zeroed in the large network (their BN scale and shift are 0), it
gives the logits of the small one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from proxyless_arch.arch.shrink import FEATURE_MIX, LAST_STAGE, STEM, Shrunk, block_name, shrink, widths_of
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.weights.files import NamedTensors

Channels = Mapping[str, np.ndarray]
"""By the names of widths (shrink.py): the channels that stay, in their order in the large network."""


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


def by_importance(tensors: NamedTensors, spec: ArchSpec) -> NamedTensors:
    """The same network with the channels of every block's hidden layer in the order of their importance: the sum of the
    absolute weights that the layer behind gives them (as in once-for-all, Cai et al., ICLR 2020, section 3.3)."""
    full, orders = widths_of(spec), {}
    for call in walk(spec):
        parts = call.op.shrinkable
        if call.name in full and call.name.startswith("blocks.") and parts is not None:
            behind = tensors[f"{call.tensor_prefix}.{parts.layer_behind}.conv.weight"].astype(np.float64)
            orders[call.name] = np.argsort(-np.abs(behind).sum((0, 2, 3)), kind="stable")
    return sliced(tensors, spec, Shrunk(widths={name: full[name] for name in orders}), orders)


def _layer(tensors: NamedTensors, call: LayerCall, kept: Channels, n_blocks: int) -> NamedTensors:
    """Of one layer."""
    chosen = _chosen(call, kept, n_blocks)
    found: NamedTensors = {}
    for name, shape in call.op.tensors(call.tensor_prefix):
        tensor, inside = tensors[name], name.removeprefix(f"{call.tensor_prefix}.")
        named = (axes for layer, axes in call.op.channel_axes.items() if inside.startswith(layer))
        for axis, channels in zip(range(tensor.ndim), next(named, ()), strict=False):
            tensor = _taken(tensor, axis, chosen[channels] if channels is not None else None)
        found[name] = cropped(tensor, shape[-1]) if tensor.ndim == 4 else tensor
    return found


def _chosen(call: LayerCall, kept: Channels, n_blocks: int) -> dict[str, np.ndarray | None]:
    """The channels that stay of a layer's input, hidden layer and output; None: all."""
    into = {block_name(0): STEM, FEATURE_MIX: LAST_STAGE, "classifier": FEATURE_MIX}
    out = {block_name(n_blocks - 1): LAST_STAGE, STEM: STEM, FEATURE_MIX: FEATURE_MIX}
    return {
        "in": kept.get(into.get(call.name, "")),
        "hidden": kept.get(call.name),
        "out": kept.get(out.get(call.name, "")),
    }


def _taken(array: np.ndarray, axis: int, indices: np.ndarray | None) -> np.ndarray:
    return array if indices is None else np.take(array, indices, axis)
