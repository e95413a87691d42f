"""The operations of PyramidNets with tree-structured cells: what they begin and end with, and the edges of a cell.

An edge normalizes and activates its input in front of its weights (batch normalization, ReLU, convolution), so that a
sum of branches is neither (Cai et al., "Path-Level Network Transformation", ICML 2018; Cai, Zhu, Han, ICLR 2019,
section 4.1 and appendix A). Edges are Operations of their own, registered by ``tree_edge``; a cell is in tree.py.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from proxyless_arch.arch.ops import (
    KERNEL_SIZES,
    Conv,
    ConvCall,
    Drawing,
    Hwc,
    Operation,
    SameWidth,
    Shape,
    bn_tensors,
    check_width,
    strided_label,
)
from proxyless_arch.base.checks import check, check_one_of, is_int

MAX_GROUPS = 64


@dataclass(frozen=True, kw_only=True)
class ConvNorm(Conv):
    """Convolution without bias and batch normalization, without an activation: the stem of a PyramidNet."""

    kind: ClassVar[str] = "conv_bn"

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        yield ConvCall(in_hwc, self.out_hwc(in_hwc), self.kernel_size, activated=False)


@dataclass(frozen=True, kw_only=True)
class NormAct(SameWidth):
    """Batch normalization and ReLU: what a PyramidNet ends with, in front of the pool."""

    kind: ClassVar[str] = "bn_relu"

    @property
    def label(self) -> str:
        return "BN, ReLU"

    @property
    def drawing(self) -> Drawing:
        return Drawing("BN")

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        yield ConvCall(in_hwc, in_hwc, 1, activated=True, norm="before", is_weighted=False)

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        yield from bn_tensors(f"{prefix}.bn", self.channels)


# Edges of a cell ----------------------------------------------------------------------------------------------------

TREE_EDGES: dict[str, type[TreeEdge]] = {}
"""The operations that an edge of a cell may hold, by their ``kind``."""
AnyEdge = TypeVar("AnyEdge", bound="type[TreeEdge]")


def tree_edge(cls: AnyEdge) -> AnyEdge:
    """Register an operation that an edge of a cell may hold. Raises ValueError when its kind is taken."""
    if TREE_EDGES.setdefault(cls.kind, cls) is not cls:
        raise ValueError(f"two edges of the kind {cls.kind!r}")
    return cls


@dataclass(frozen=True, kw_only=True)
class TreeEdge(Operation):
    """What an edge of a cell may hold."""

    @property
    @abstractmethod
    def symbol(self) -> str:
        """As short as can be, for the label and the drawing of a cell."""


@tree_edge
@dataclass(frozen=True, kw_only=True)
class PreConv(TreeEdge):
    """Batch normalization, ReLU (unless ``activated`` is false), convolution without bias.

    With ``groups`` above 1 the convolution is grouped, and its output channels are shuffled: the first of every group,
    then the second of every group, and so on, so that the next layer sees all of them.
    """

    kind: ClassVar[str] = "preconv"

    in_channels: int
    out_channels: int
    kernel_size: int
    groups: int = 1
    stride: int = 1
    activated: bool = True

    def __post_init__(self) -> None:
        check_width("in_channels", self.in_channels)
        check_width("out_channels", self.out_channels)
        check_one_of("kernel_size", self.kernel_size, (1, *KERNEL_SIZES))
        check_one_of("stride", self.stride, (1, 2))
        check(isinstance(self.activated, bool), "activated", "true or false", self.activated)
        groups = self.groups
        check(is_int(groups) and 1 <= groups <= MAX_GROUPS, "groups", f"an integer in 1..{MAX_GROUPS}", groups)
        for place, width in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            check(width % groups == 0, place, f"a multiple of the {groups} groups", width)
        check(groups == 1 or self.in_channels > groups, "in_channels", "two or more in each group", self.in_channels)

    @property
    def label(self) -> str:
        return strided_label(f"conv/{self.groups}" if self.groups > 1 else "conv", self.kernel_size, self.stride)

    @property
    def drawing(self) -> Drawing:
        return Drawing(self.label, self.kernel_size)

    @property
    def symbol(self) -> str:
        return f"c{self.kernel_size}"

    def macs(self, in_hwc: Hwc) -> int:
        return math.prod(self.out_hwc(in_hwc)) * self.kernel_size**2 * self.in_channels // self.groups

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        yield ConvCall(in_hwc, self.out_hwc(in_hwc), self.kernel_size, activated=self.activated, norm="before")

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        yield from bn_tensors(f"{prefix}.bn", self.in_channels)
        size = self.kernel_size
        yield f"{prefix}.conv.weight", (self.out_channels, self.in_channels // self.groups, size, size)


@tree_edge
@dataclass(frozen=True, kw_only=True)
class Separable(TreeEdge):
    """Batch normalization, ReLU, depthwise convolution, 1x1 convolution; no bias, nothing between the two."""

    kind: ClassVar[str] = "separable"

    in_channels: int
    out_channels: int
    kernel_size: int
    dilation: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        check_width("in_channels", self.in_channels)
        check_width("out_channels", self.out_channels)
        check_one_of("kernel_size", self.kernel_size, KERNEL_SIZES)
        check_one_of("dilation", self.dilation, (1, 2))
        check_one_of("stride", self.stride, (1, 2))
        check(self.dilation == 1 or self.stride == 1, "dilation", "1 at stride 2", self.dilation)

    @property
    def label(self) -> str:
        return strided_label("dil" if self.dilation > 1 else "sep", self.kernel_size, self.stride)

    @property
    def drawing(self) -> Drawing:
        return Drawing(self.label, self.kernel_size)

    @property
    def symbol(self) -> str:
        return f"{self.kernel_size}d" if self.dilation > 1 else f"{self.kernel_size}"

    def macs(self, in_hwc: Hwc) -> int:
        rows, columns, _ = self.out_hwc(in_hwc)
        return rows * columns * self.in_channels * (self.kernel_size**2 + self.out_channels)

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        out = self.out_hwc(in_hwc)
        middle = (*out[:2], self.in_channels)
        yield ConvCall(in_hwc, middle, self.kernel_size, activated=True, norm="before")
        yield ConvCall(middle, out, 1, activated=False, norm="none")

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        yield from bn_tensors(f"{prefix}.bn", self.in_channels)
        yield f"{prefix}.depth_conv.weight", (self.in_channels, 1, self.kernel_size, self.kernel_size)
        yield f"{prefix}.point_conv.weight", (self.out_channels, self.in_channels, 1, 1)


@dataclass(frozen=True, kw_only=True)
class _Pool(TreeEdge, SameWidth):
    """A pool over the pixels around each one, as far as they are inside the image; it keeps the size."""

    kernel_size: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("kernel_size", self.kernel_size, KERNEL_SIZES)


@tree_edge
@dataclass(frozen=True, kw_only=True)
class MaxPool(_Pool):
    """The largest of the pixels around each one; it keeps the size."""

    kind: ClassVar[str] = "max_pool"

    @property
    def label(self) -> str:
        return strided_label("max", self.kernel_size, 1)

    @property
    def symbol(self) -> str:
        return "M"

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        yield ConvCall(in_hwc, in_hwc, self.kernel_size, activated=False, norm="none", indexed=True, is_weighted=False)


@tree_edge
@dataclass(frozen=True, kw_only=True)
class AvgPool(_Pool):
    """The mean of the pixels around each one that are inside the image; it keeps the size."""

    kind: ClassVar[str] = "avg_pool"

    @property
    def label(self) -> str:
        return strided_label("mean", self.kernel_size, 1)

    @property
    def symbol(self) -> str:
        return "A"

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        yield ConvCall(in_hwc, in_hwc, self.kernel_size, activated=False, norm="none", is_weighted=False)


@tree_edge
@dataclass(frozen=True, kw_only=True)
class Identity(TreeEdge, SameWidth):
    """Its input as it is."""

    kind: ClassVar[str] = "identity"
    is_timed: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return "identity"

    @property
    def drawing(self) -> Drawing:
        return Drawing(self.label, is_empty=True)

    @property
    def symbol(self) -> str:
        return "-"
