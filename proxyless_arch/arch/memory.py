"""What a network holds in memory while it is trained or run, counted from its layers.

Training keeps, of every image, what the backward pass needs (``kept``), and holds a few tensors more at the layer that
it is at (``passing``). Backwards a layer's own are freed as it is left, so the peak is at the layer where those of all
layers up to it and the passing ones are most. Values are float32 (BYTES). Counts follow PyTorch; for what it keeps,
tests hold them against autograd's own saved tensors, to the value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proxyless_arch.arch.ops import ConvCall, Hwc
from proxyless_arch.arch.spec import Padding
from proxyless_arch.arch.walk import LayerCall

BYTES = 4
"""Of a value. bf16 and fp16 hold activations in half of that beside copies, and are counted as float32."""


@dataclass(frozen=True)
class LayerMemory:
    """Values of one image in one layer: ``kept`` from the forward to the backward pass, ``passing`` while it is run."""

    kept: int
    passing: int


def values_in(hwc: Hwc) -> int:
    return math.prod(hwc)


def input_values(call: ConvCall, padding: Padding) -> int:
    """What the convolution itself is given: at a stride TensorFlow's "same" padding is uneven, so a padded copy."""
    strides = [-(-size // out) for size, out in zip(call.in_hwc[:2], call.out_hwc[:2], strict=True)]
    if padding != "same" or max(strides) == 1:
        return values_in(call.in_hwc)
    sides = [
        max((out - 1) * stride + call.kernel_size, size)
        for size, out, stride in zip(call.in_hwc[:2], call.out_hwc[:2], strides, strict=True)
    ]
    return math.prod(sides) * call.in_hwc[2]


def trained(call: LayerCall, padding: Padding) -> LayerMemory:
    """A layer in a step of training.

    Kept: of each convolution its input, its output (for batch normalization) and, where an activation follows, a copy
    of what that is given. Where batch normalization comes first, what that is given and the convolution's input.
    Passing: the gradients of two neighboring tensors and of the skip.
    """
    if call.op.pools_first:
        return LayerMemory(call.op.in_channels, 0)
    kept = passing = 0
    convs = list(call.op.convolutions(call.in_hwc))
    for conv in convs:
        before, after = input_values(conv, padding), values_in(conv.out_hwc)
        kept += _kept(conv, before, after)
        passing = max(passing, 2 * after, before + after)
    if call.skip and convs and convs[-1].activated and not convs[-1].copied:
        kept += values_in(convs[-1].out_hwc)  # else the next convolution keeps it, as its input
    return LayerMemory(kept, passing + _of_skip(call))


def _kept(conv: ConvCall, before: int, after: int) -> int:
    """Values kept of a convolution or pool with ``before`` values in and ``after`` out; an index takes two."""
    norm = {
        "behind": (2 if conv.activated and conv.copied else 1) * after,
        "before": values_in(conv.in_hwc),
        "none": 0,
    }[conv.norm]
    return before + norm + (2 * after if conv.indexed else 0)


def scored(call: LayerCall, padding: Padding) -> LayerMemory:
    """A layer without gradients, its batch normalization folded or not: nothing is kept."""
    passing = 0
    for conv in call.op.convolutions(call.in_hwc):
        passing = max(passing, input_values(conv, padding) + 2 * values_in(conv.out_hwc))
    return LayerMemory(0, passing + _of_skip(call))


def _of_skip(call: LayerCall) -> int:
    return values_in(call.in_hwc) if call.skip and not call.op.vanishes else 0


def peak_bytes(in_hwc: Hwc, layers: Iterable[LayerMemory]) -> int:
    """The most bytes per image at any moment: ``in_hwc`` is the image's size, ``layers`` in network order."""
    peak = held = values_in(in_hwc)
    for layer in layers:
        held += layer.kept
        peak = max(peak, held + layer.passing)
    return BYTES * peak


def training_bytes(calls: Sequence[LayerCall], padding: Padding) -> int:
    """Peak bytes per image of a step of training."""
    return peak_bytes(calls[0].in_hwc, (trained(call, padding) for call in calls))


def scoring_bytes(calls: Sequence[LayerCall], padding: Padding) -> int:
    """Peak bytes per image of a forward pass alone."""
    return peak_bytes(calls[0].in_hwc, (scored(call, padding) for call in calls))
