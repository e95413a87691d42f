"""An architecture as a value: frozen dataclasses with local checks.

A network of the ProxylessNAS family is a stem convolution, a chain of blocks, a 1x1 "feature mix" convolution,
global average pooling and a linear classifier (Cai, Zhu, Han, ICLR 2019, section 4). A block is an inverted
residual (MBConv) with or without an identity skip, or Zero: the block vanished and only its skip is left.

Specs are parsed once (codec.py) or built by a search space (space.py) and changed by ``dataclasses.replace``.
Whatever breaks a rule raises InputError naming the field.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import Literal

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import listed, shown

KERNEL_SIZES = (3, 5, 7)
MAX_WIDTH = 65_536
Padding = Literal["symmetric", "same"]
Interpolation = Literal["bilinear", "bicubic"]


def _check(condition: bool, place: str, expected: str, received: object) -> None:
    if not condition:
        raise InputError(f"expected {expected}, got {shown(received)}", place)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    """A finite float, or an int that fits in one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check_width(place: str, value: int) -> None:
    _check(_is_int(value) and 1 <= value <= MAX_WIDTH, place, f"an integer in 1..{MAX_WIDTH}", value)


def _check_one_of(place: str, value: object, allowed: tuple) -> None:
    same_type = isinstance(value, type(allowed[0])) and not isinstance(value, bool)
    _check(same_type and value in allowed, place, listed(allowed), value)


@dataclass(frozen=True, kw_only=True)
class Conv:
    """Convolution without bias, batch normalization, ReLU6."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1

    def __post_init__(self) -> None:
        _check_width("in_channels", self.in_channels)
        _check_width("out_channels", self.out_channels)
        _check_one_of("kernel_size", self.kernel_size, (1, *KERNEL_SIZES))
        _check_one_of("stride", self.stride, (1, 2))


@dataclass(frozen=True, kw_only=True)
class MBConv:
    """Inverted bottleneck: 1x1 expand (absent when expand_ratio is 1), depthwise kxk, 1x1 project.

    Each convolution is followed by batch normalization, the first two by ReLU6 as well.
    ``mid_channels`` overrides the expanded width, which is otherwise round(in_channels * expand_ratio).
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    expand_ratio: int
    stride: int = 1
    mid_channels: int | None = None

    def __post_init__(self) -> None:
        _check_width("in_channels", self.in_channels)
        _check_width("out_channels", self.out_channels)
        _check_one_of("kernel_size", self.kernel_size, KERNEL_SIZES)
        _check_one_of("stride", self.stride, (1, 2))
        _check(
            _is_int(self.expand_ratio) and 1 <= self.expand_ratio <= 64,
            "expand_ratio",
            "an integer in 1..64",
            self.expand_ratio,
        )
        if self.mid_channels is not None:
            _check_width("mid_channels", self.mid_channels)
            _check(
                self.expand_ratio > 1 or self.mid_channels == self.in_channels,
                "mid_channels",
                f"in_channels ({self.in_channels}) when expand_ratio is 1",
                self.mid_channels,
            )

    @property
    def hidden_channels(self) -> int:
        """Width of the depthwise convolution."""
        return self.mid_channels if self.mid_channels is not None else self.in_channels * self.expand_ratio

    @property
    def keeps_shape(self) -> bool:
        """Whether an identity skip fits around it."""
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True, kw_only=True)
class Zero:
    """The operation whose output is 0. With its identity skip the block passes its input on: the block vanished."""

    channels: int

    def __post_init__(self) -> None:
        _check_width("channels", self.channels)

    @property
    def in_channels(self) -> int:
        return self.channels

    @property
    def out_channels(self) -> int:
        return self.channels

    @property
    def stride(self) -> int:
        return 1

    @property
    def keeps_shape(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class Block:
    """An operation and whether an identity skip is added to its output."""

    op: MBConv | Zero
    skip: bool

    def __post_init__(self) -> None:
        _check(isinstance(self.op, MBConv | Zero), "op", "MBConv or Zero", self.op)
        _check(isinstance(self.skip, bool), "skip", "true or false", self.skip)
        if self.skip and not self.op.keeps_shape:
            raise InputError(
                f"expected false, got true: an identity skip needs stride 1 and equal widths, here stride "
                f"{self.op.stride} and {self.op.in_channels} -> {self.op.out_channels}",
                "skip",
            )
        if isinstance(self.op, Zero) and not self.skip:
            raise InputError("expected true, got false: a Zero block without its skip cuts the network", "skip")


@dataclass(frozen=True, kw_only=True)
class Linear:
    """The classifier: dropout (while training), then a linear layer with bias."""

    in_features: int
    out_features: int
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        _check_width("in_features", self.in_features)
        _check_width("out_features", self.out_features)
        rate = self.dropout_rate
        _check(_is_number(rate) and 0 <= rate < 1, "dropout_rate", "a number in [0, 1)", rate)


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """Batch normalization constants; ``momentum`` is the weight of the new batch (torch's sense)."""

    eps: float = 1e-3
    momentum: float = 0.1

    def __post_init__(self) -> None:
        for place, value in (("eps", self.eps), ("momentum", self.momentum)):
            _check(_is_number(value) and 0 < value <= 1, place, "a number in (0, 1]", value)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the network's input; it belongs to the weights.

    The short side is resized to ``resize`` pixels, the centre ``resolution`` x ``resolution`` is cut out, and
    ``(pixel / 255 - mean) / std`` is taken per RGB channel.
    """

    resolution: int = 224
    resize: int = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        _check(
            _is_int(self.resolution) and 1 <= self.resolution <= 8192,
            "resolution",
            "an integer in 1..8192",
            self.resolution,
        )
        _check(
            _is_int(self.resize) and self.resolution <= self.resize <= 16384,
            "resize",
            f"an integer in {self.resolution} (the resolution)..16384",
            self.resize,
        )
        _check_one_of("interpolation", self.interpolation, ("bilinear", "bicubic"))
        for place, values in (("mean", self.mean), ("std", self.std)):
            good = isinstance(values, tuple) and len(values) == 3 and all(map(_is_number, values))
            _check(good, place, "three numbers (R, G, B)", values)
        _check(min(self.std) > 0, "std", "three numbers above 0", min(self.std))


def imagenet_preprocessing(resolution: int = 224) -> Preprocessing:
    """The ImageNet evaluation preprocessing at a resolution: the crop keeps 224/256 of the short side."""
    return Preprocessing(resolution=resolution, resize=max(resolution, int(resolution * 256 / 224)))


@dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """A whole network, its preprocessing and (when known) the names of its classes."""

    name: str
    stem: Conv
    blocks: tuple[Block, ...]
    feature_mix: Conv
    classifier: Linear
    bn: BatchNorm = field(default_factory=BatchNorm)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    padding: Padding = "symmetric"
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(isinstance(self.name, str) and bool(self.name), "name", "a non-empty string", self.name)
        _check_one_of("padding", self.padding, ("symmetric", "same"))
        _check(isinstance(self.blocks, tuple), "blocks", "a tuple of Blocks", self.blocks)
        _check(len(self.blocks) <= 1000, "blocks", "at most 1000 blocks", len(self.blocks))
        for place, part, kind in (
            ("stem", self.stem, Conv),
            *((f"blocks[{index}]", block, Block) for index, block in enumerate(self.blocks)),
            ("feature_mix", self.feature_mix, Conv),
            ("classifier", self.classifier, Linear),
            ("bn", self.bn, BatchNorm),
            ("preprocessing", self.preprocessing, Preprocessing),
        ):
            _check(isinstance(part, kind), place, f"a {kind.__name__}", part)
        _check(self.stem.in_channels == 3, "stem.in_channels", "3 (an RGB image)", self.stem.in_channels)
        width = self.stem.out_channels
        for index, block in enumerate(self.blocks):
            _check(
                block.op.in_channels == width,
                f"blocks[{index}].in_channels",
                f"{width} (the width of the layer before)",
                block.op.in_channels,
            )
            width = block.op.out_channels
        _check(
            self.feature_mix.in_channels == width,
            "feature_mix.in_channels",
            f"{width} (the width of the last block)",
            self.feature_mix.in_channels,
        )
        _check(
            self.classifier.in_features == self.feature_mix.out_channels,
            "classifier.in_features",
            f"{self.feature_mix.out_channels} (the width of feature_mix)",
            self.classifier.in_features,
        )
        named = isinstance(self.class_names, tuple) and all(isinstance(name, str) for name in self.class_names)
        _check(named, "class_names", "a tuple of strings", self.class_names)
        if self.class_names:
            _check(
                len(self.class_names) == self.num_classes,
                "class_names",
                f"{self.num_classes} names",
                len(self.class_names),
            )

    @property
    def resolution(self) -> int:
        return self.preprocessing.resolution

    @property
    def num_classes(self) -> int:
        return self.classifier.out_features


def with_classes(spec: ArchSpec, num_classes: int, class_names: tuple[str, ...] = ()) -> ArchSpec:
    """The same network with a classifier for another number of classes."""
    return replace(spec, classifier=replace(spec.classifier, out_features=num_classes), class_names=class_names)
