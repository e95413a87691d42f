"""MobileNetV4's operations: the universal inverted bottleneck, and what such a network begins and ends with.

Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem" (2024, arXiv 2404.10518), section 3 and figure 4.
Activations are ReLU, and stand as in an MBConv: behind each convolution but the last, and not behind a depthwise one in
front.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from proxyless_arch.arch.ops import (
    KERNEL_SIZES,
    Channels,
    Conv,
    ConvCall,
    Drawing,
    EntryForm,
    Hwc,
    Operation,
    Shape,
    Shrinkable,
    block_operation,
    check_width,
    conv_bn_tensors,
    make_divisible,
    strided,
    strided_label,
)
from proxyless_arch.base.checks import check, check_one_of, is_int

NONE = 0
"""The kernel size of a depthwise convolution that is not there."""
WIDTH_MULTIPLE = 8


@block_operation
@dataclass(frozen=True, kw_only=True)
class ConvReLU(Conv):
    """Convolution without bias, batch normalization, ReLU."""

    kind: ClassVar[str] = "conv_relu"
    entry_form: ClassVar[EntryForm] = EntryForm(
        kernels=(1, *KERNEL_SIZES), strides=(1, 2), has_skip=True, width=None, has_facts=False
    )

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        yield ConvCall(in_hwc, self.out_hwc(in_hwc), self.kernel_size, activated=True, copied=False)


@dataclass(frozen=True, kw_only=True)
class PooledConv(ConvReLU):
    """A 1x1 convolution of the mean over all pixels, batch normalization, ReLU: (h, w, in) -> (1, 1, out)."""

    kind: ClassVar[str] = "pooled_conv"

    kernel_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kernel_size", "stride"):
            check(getattr(self, name) == 1, name, "1 (one pixel is left)", getattr(self, name))

    @property
    def label(self) -> str:
        return "pool, conv 1x1"

    @property
    def drawing(self) -> Drawing:
        return Drawing("pool, 1x1")

    def out_hwc(self, in_hwc: Hwc) -> Hwc:
        return 1, 1, self.out_channels

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        yield ConvCall((1, 1, self.in_channels), self.out_hwc(in_hwc), 1, activated=True, copied=False)


@block_operation
@dataclass(frozen=True, kw_only=True)
class UIB(Operation):
    """Universal inverted bottleneck: perhaps depthwise in front, 1x1 expand, perhaps depthwise, 1x1 project.

    ``start_kernel_size``: of the depthwise convolution in front, ``kernel_size``: of that in the middle; 0: none. Both
    make ExtraDW, the middle one alone an inverted bottleneck, the front one alone a ConvNext-like block, none a
    feed-forward one. The stride is the middle one's, or the front one's where there is no middle. ``mid_channels``
    overrides the expanded width, which is otherwise in_channels * expand_ratio, in multiples of 8.
    """

    kind: ClassVar[str] = "uib"

    in_channels: int
    out_channels: int
    start_kernel_size: int
    kernel_size: int
    expand_ratio: int
    stride: int = 1
    mid_channels: int | None = None

    def __post_init__(self) -> None:
        check_width("in_channels", self.in_channels)
        check_width("out_channels", self.out_channels)
        check_one_of("start_kernel_size", self.start_kernel_size, (NONE, *KERNEL_SIZES))
        check_one_of("kernel_size", self.kernel_size, (NONE, *KERNEL_SIZES))
        check_one_of("stride", self.stride, (1, 2))
        moves = self.start_kernel_size or self.kernel_size
        check(self.stride == 1 or moves != NONE, "stride", "1 (without a depthwise convolution)", self.stride)
        ratio = self.expand_ratio
        check(is_int(ratio) and 1 <= ratio <= 64, "expand_ratio", "an integer in 1..64", ratio)
        if self.mid_channels is not None:
            check_width("mid_channels", self.mid_channels)

    @property
    def hidden_channels(self) -> int:
        """Width between expansion and projection."""
        if self.mid_channels is not None:
            return self.mid_channels
        return make_divisible(self.in_channels * self.expand_ratio, WIDTH_MULTIPLE)

    @property
    def start_stride(self) -> int:
        """Of the depthwise convolution in front."""
        return 1 if self.kernel_size else self.stride

    @property
    def label(self) -> str:
        ratio, start, middle = self.expand_ratio, self.start_kernel_size, self.kernel_size
        if start and middle:
            text = strided_label(f"ExtraDW{ratio} {start}x{start}", middle, 1)
            return text if self.stride == 1 else f"{text} s{self.stride}"
        if start:
            return strided_label(f"CNX{ratio}", start, self.stride)
        return strided_label(f"IB{ratio}", middle, self.stride) if middle else f"FFN{ratio}"

    @property
    def drawing(self) -> Drawing:
        kernel, label = max(self.start_kernel_size, self.kernel_size) or None, super().drawing.label
        if kernel and self.start_kernel_size == self.kernel_size:
            label = label.rpartition(" ")[0]  # one of two equal kernels: both do not fit a block
        return Drawing(label, kernel, self.hidden_channels / self.in_channels)

    @property
    def shrinkable(self) -> Shrinkable:
        return Shrinkable(
            self.hidden_channels,
            follows_input=False,
            kernel_size=self.kernel_size or 1,
            hidden_layer="depth_conv" if self.kernel_size else "inverted_bottleneck",
            layer_behind="point_linear",
        )

    def shrunk(
        self, *, into: int | None = None, hidden: int | None = None, out: int | None = None, kernel: int | None = None
    ) -> UIB:
        wanted = hidden or self.hidden_channels
        changed = dataclasses.replace(
            self,
            in_channels=into or self.in_channels,
            out_channels=out or self.out_channels,
            kernel_size=kernel if kernel and self.kernel_size else self.kernel_size,
            mid_channels=None,
        )
        return changed if changed.hidden_channels == wanted else dataclasses.replace(changed, mid_channels=wanted)

    @property
    def channel_axes(self) -> dict[str, tuple[Channels, Channels | None]]:
        return {
            "start_conv": ("in", None),
            "inverted_bottleneck": ("hidden", "in"),
            "depth_conv": ("hidden", None),
            "point_linear": ("out", "hidden"),
        }

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        start = self._halved(in_hwc, self.start_stride, self.in_channels) if self.start_kernel_size else in_hwc
        wide, out = (*start[:2], self.hidden_channels), self.out_hwc(in_hwc)
        narrowed = (*out[:2], self.hidden_channels)
        if self.start_kernel_size:
            yield ConvCall(in_hwc, start, self.start_kernel_size, activated=False)
        yield ConvCall(start, wide, 1, activated=True, copied=False)
        if self.kernel_size:
            yield ConvCall(wide, narrowed, self.kernel_size, activated=True, copied=False)
        yield ConvCall(narrowed, out, 1, activated=False)

    @staticmethod
    def _halved(hwc: Hwc, stride: int, channels: int) -> Hwc:
        return strided(hwc[0], stride), strided(hwc[1], stride), channels

    def macs(self, in_hwc: Hwc) -> int:
        shapes = [shape for _, shape in self.tensors("") if len(shape) == 4]
        calls = self.convolutions(in_hwc)
        return sum(math.prod(call.out_hwc) * math.prod(shape[1:]) for call, shape in zip(calls, shapes, strict=True))

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        hidden, start, middle = self.hidden_channels, self.start_kernel_size, self.kernel_size
        if start:
            yield from conv_bn_tensors(f"{prefix}.start_conv", (self.in_channels, 1, start, start))
        yield from conv_bn_tensors(f"{prefix}.inverted_bottleneck", (hidden, self.in_channels, 1, 1))
        if middle:
            yield from conv_bn_tensors(f"{prefix}.depth_conv", (hidden, 1, middle, middle))
        yield from conv_bn_tensors(f"{prefix}.point_linear", (self.out_channels, hidden, 1, 1))

    def latency_facts(self) -> dict[str, int]:
        """``mid``: the expanded width; ``start``: the kernel size in front; kernel sizes of what is not there: 1, 0."""
        return {
            "kernel_size": self.kernel_size or 1,
            "stride": self.stride,
            "mid": self.hidden_channels,
            "start": self.start_kernel_size,
        }
