"""An architecture as a value: frozen dataclasses with local checks.

A network of the ProxylessNAS family is a stem convolution, a chain of blocks, a 1x1 "feature mix" convolution
(which some leave out), global average pooling and a linear classifier (Cai, Zhu, Han, ICLR 2019, section 4). A block
is an inverted residual (MBConv) with or without an identity skip, or Zero: the block vanished and only its skip is
left; other operations may be registered (ops.py). A PyramidNet of tree-structured cells (tree.py) has a stem without an
activation (ConvNorm) and, in place of the feature mix, batch normalization and ReLU (NormAct).

Specs are parsed once (codec.py) or built by a search space (space/) and changed by ``dataclasses.replace``.
Whatever breaks a rule raises InputError naming the field.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from proxyless_arch.arch.ops import BLOCK_OPERATIONS, Conv, Linear, Operation
from proxyless_arch.arch.preact import NormAct
from proxyless_arch.base.checks import check, check_line, check_one_of, check_text, is_number
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.sides import Sides, check_sides, height_width, in_words, scaled
from proxyless_arch.base.strict import listed

Padding = Literal["symmetric", "same"]
Interpolation = Literal["bilinear", "bicubic"]
RGB, GREY = 3, 1
"""Channels of an image."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """An operation and whether an identity skip is added to its output."""

    op: Operation
    skip: bool

    def __post_init__(self) -> None:
        known = BLOCK_OPERATIONS.values()
        check(type(self.op) in known, "op", listed(cls.__name__ for cls in known), self.op)
        check(isinstance(self.skip, bool), "skip", "true or false", self.skip)
        if self.skip and not self.op.keeps_shape:
            raise InputError(
                f"expected false, got true: an identity skip needs stride 1 and equal widths, here stride "
                f"{self.op.stride} and {self.op.in_channels} -> {self.op.out_channels}",
                "skip",
            )
        if self.op.vanishes and not self.skip:
            name = type(self.op).__name__
            raise InputError(f"expected true, got false: a {name} block without its skip cuts the network", "skip")


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """Batch normalization constants; ``momentum`` is the weight of the new batch (torch's sense)."""

    eps: float = 1e-3
    momentum: float = 0.1

    def __post_init__(self) -> None:
        for place, value in (("eps", self.eps), ("momentum", self.momentum)):
            check(is_number(value) and 0 < value <= 1, place, "a number in (0, 1]", value)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the network's input; it belongs to the weights.

    The image is resized, its proportions kept, until it just covers ``resize``: of a number, its short side gets so
    many pixels. The centre of ``resolution`` is cut out, made grey where there is one mean, and
    ``(pixel / 255 - mean) / std`` is taken per channel. ``assumed`` says, in a clause, why it was assumed where no file
    said so; empty where it was read or chosen. It changes no pixel and makes no other value.

    ``exif``: whether photos are turned upright first, as their EXIF orientation says; None where nobody said, as with
    the released weights. The torch pipeline that their accuracies were measured with turns nothing.
    """

    resolution: Sides = 224
    resize: Sides = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    exif: bool | None = None
    assumed: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        check_sides("resolution", self.resolution, (1, 1), 8192)
        check_sides("resize", self.resize, height_width(self.resolution), 16384, " (the resolution)")
        check_one_of("interpolation", self.interpolation, ("bilinear", "bicubic"))
        for place, values in (("mean", self.mean), ("std", self.std)):
            good = isinstance(values, tuple) and len(values) in (RGB, GREY)
            check(good, place, "three numbers (R, G, B), or one for grey images", values)
            for index, value in enumerate(values):
                check(is_number(value), f"{place}[{index}]", "a number", value)
        check(len(self.std) == len(self.mean), "std", "as many numbers as mean has", self.std)
        check(min(self.std) > 0, "std", "numbers above 0", min(self.std))
        check(self.exif is None or isinstance(self.exif, bool), "exif", "true or false", self.exif)
        check_line("assumed", self.assumed)

    @property
    def channels(self) -> int:
        """3 (RGB) or 1 (grey)."""
        return len(self.mean)

    @property
    def hwc(self) -> tuple[int, int, int]:
        """(height, width, channels) of the network's input."""
        return *height_width(self.resolution), self.channels

    @property
    def chw(self) -> tuple[int, int, int]:
        """The same as PyTorch has it."""
        return self.channels, *height_width(self.resolution)

    @property
    def side(self) -> int:
        """Of a square. Raises InputError for other sizes: it is asked for where nothing else is built."""
        if isinstance(self.resolution, tuple):
            raise InputError(f"expected a square here, got {in_words(self.resolution)} pixels", "resolution")
        return self.resolution


def imagenet_preprocessing(resolution: Sides = 224) -> Preprocessing:
    """The ImageNet evaluation preprocessing at a resolution: the crop keeps 224/256 of the sides."""
    return Preprocessing(resolution=resolution, resize=scaled(resolution, lambda side: int(side * 256 / 224)))


@dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """A whole network, its preprocessing and (when known) the names of its classes.

    Without a ``feature_mix`` the last block's output goes into the pool.
    """

    name: str
    stem: Conv
    blocks: tuple[Block, ...]
    feature_mix: Conv | NormAct | None
    classifier: Linear
    bn: BatchNorm = field(default_factory=BatchNorm)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    padding: Padding = "symmetric"
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(isinstance(self.name, str) and bool(self.name), "name", "a non-empty string", self.name)
        check_line("name", self.name)
        check_one_of("padding", self.padding, ("symmetric", "same"))
        check(isinstance(self.blocks, tuple), "blocks", "a tuple of Blocks", self.blocks)
        check(len(self.blocks) <= 1000, "blocks", "at most 1000 blocks", len(self.blocks))
        for place, part, kinds in (
            ("stem", self.stem, (Conv,)),
            *((f"blocks[{index}]", block, (Block,)) for index, block in enumerate(self.blocks)),
            *([("feature_mix", self.feature_mix, (Conv, NormAct))] if self.feature_mix is not None else []),
            ("classifier", self.classifier, (Linear,)),
            ("bn", self.bn, (BatchNorm,)),
            ("preprocessing", self.preprocessing, (Preprocessing,)),
        ):
            check(isinstance(part, kinds), place, f"a {listed(kind.__name__ for kind in kinds)}", part)
        channels = self.preprocessing.channels
        why = "an RGB image; 1 goes with one mean and std" if channels == RGB else "a grey image: there is one mean"
        check(self.stem.in_channels == channels, "stem.in_channels", f"{channels} ({why})", self.stem.in_channels)
        width = self.stem.out_channels
        for index, block in enumerate(self.blocks):
            check(
                block.op.in_channels == width,
                f"blocks[{index}].in_channels",
                f"{width} (the width of the layer before)",
                block.op.in_channels,
            )
            width = block.op.out_channels
        before = "the last block"
        if self.feature_mix is not None:
            check(
                self.feature_mix.in_channels == width,
                "feature_mix.in_channels",
                f"{width} (the width of {before})",
                self.feature_mix.in_channels,
            )
            width, before = self.feature_mix.out_channels, "feature_mix"
        check(
            self.classifier.in_features == width,
            "classifier.in_features",
            f"{width} (the width of {before})",
            self.classifier.in_features,
        )
        check(isinstance(self.class_names, tuple), "class_names", "a tuple of strings", self.class_names)
        for index, name in enumerate(self.class_names):
            check_text(f"class_names[{index}]", name)
        if self.class_names:
            check(
                len(self.class_names) == self.num_classes,
                "class_names",
                f"{self.num_classes} names",
                len(self.class_names),
            )

    @property
    def resolution(self) -> Sides:
        return self.preprocessing.resolution

    @property
    def num_classes(self) -> int:
        return self.classifier.out_features


def with_classes(spec: ArchSpec, num_classes: int, class_names: tuple[str, ...] = ()) -> ArchSpec:
    """The same network with a classifier for another number of classes."""
    return replace(spec, classifier=replace(spec.classifier, out_features=num_classes), class_names=class_names)


def with_channels(spec: ArchSpec, channels: int) -> ArchSpec:
    """The same network for images of 3 channels (RGB) or 1 (grey), normalized by the average of its constants.

    Raises:
        InputError: another number.
    """
    check_one_of("channels", channels, (RGB, GREY))
    if channels == spec.stem.in_channels:
        return spec
    mean, std = ((sum(each) / len(each),) * channels for each in (spec.preprocessing.mean, spec.preprocessing.std))
    return replace(
        spec,
        stem=replace(spec.stem, in_channels=channels),
        preprocessing=replace(spec.preprocessing, mean=mean, std=std),
    )
