"""Where every layer's input and output lie, found without running a network."""

from __future__ import annotations

from dataclasses import dataclass

from proxyless_arch.arch.spec import ArchSpec, Conv, Linear, MBConv, Zero

Hwc = tuple[int, int, int]


@dataclass(frozen=True)
class LayerCall:
    """One layer applied to one input size.

    ``in_hwc`` and ``out_hwc`` are (height, width, channels). For the classifier ``in_hwc`` is the feature map in
    front of the global average pool and ``out_hwc`` is (1, 1, classes). ``skip``: an identity skip is added.
    """

    name: str
    op: Conv | MBConv | Zero | Linear
    in_hwc: Hwc
    out_hwc: Hwc
    skip: bool = False


def strided(size: int, stride: int) -> int:
    """Output size of a padded odd-kernel convolution: ceil(size / stride). Stride 2 of 11 is 6."""
    return -(-size // stride)


def walk(spec: ArchSpec, resolution: int | None = None) -> tuple[LayerCall, ...]:
    """Every layer of ``spec`` in order, at ``resolution`` (pixels; default: the spec's own).

    Holds for both paddings: symmetric k//2 and TensorFlow's "same" give the same output sizes.
    """
    size = resolution if resolution is not None else spec.resolution
    calls: list[LayerCall] = []

    def through(name: str, op: Conv | MBConv | Zero, skip: bool = False) -> None:
        nonlocal size
        out = strided(size, op.stride)
        calls.append(LayerCall(name, op, (size, size, op.in_channels), (out, out, op.out_channels), skip))
        size = out

    through("first_conv", spec.stem)
    for index, block in enumerate(spec.blocks):
        through(f"blocks.{index}", block.op, block.skip)
    through("feature_mix_layer", spec.feature_mix)
    head = spec.classifier
    calls.append(LayerCall("classifier", head, (size, size, head.in_features), (1, 1, head.out_features)))
    return tuple(calls)
