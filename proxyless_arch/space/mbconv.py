"""The search space: which networks there are, and how a path of choices becomes one of them.

The macro-architecture (widths, strides, number of blocks) is fixed; every searched block chooses among MBConv
kernels 3, 5, 7 and expansions 3, 6 and, where stride is 1 and the widths agree, Zero (Cai, Zhu, Han, ICLR 2019,
section 4.1). A Path holds one choice index per searched block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from proxyless_arch.arch.ops import KERNEL_SIZES, Conv, Linear, MBConv, Operation, Zero
from proxyless_arch.arch.spec import ArchSpec, BatchNorm, Block, Preprocessing
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import listed, nearest

Path = tuple[int, ...]
Op = Operation


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``value``, never more than 10 % below it (as in MobileNet)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class Stage:
    """A run of blocks at one width; the first may change width and stride."""

    width: int
    n_blocks: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class Macro:
    """What is not searched: widths (before the width multiplier) and strides."""

    name: str
    stem_width: int
    stem_stride: int
    first_width: int
    stages: tuple[Stage, ...]
    mix_width: int


def _stages(widths: Sequence[int], counts: Sequence[int], strides: Sequence[int]) -> tuple[Stage, ...]:
    return tuple(Stage(*stage) for stage in zip(widths, counts, strides, strict=True))


# the space of the paper: 21 searched blocks, 2.2e17 networks, total stride 32
IMAGENET = Macro(
    name="imagenet",
    stem_width=32,
    stem_stride=2,
    first_width=16,
    stages=_stages((24, 40, 80, 96, 192, 320), (4, 4, 4, 4, 4, 1), (2, 2, 2, 1, 2, 1)),
    mix_width=1280,
)
# the same widths and depths for images of about 32 pixels: total stride 8
SMALL = replace(
    IMAGENET,
    name="small",
    stem_stride=1,
    stages=_stages((24, 40, 80, 96, 192, 320), (4, 4, 4, 4, 4, 1), (1, 2, 2, 1, 2, 1)),
)
# half the depth, for tiny images and quick studies: 12 searched blocks, total stride 4
TINY = Macro(
    name="tiny",
    stem_width=32,
    stem_stride=1,
    first_width=16,
    stages=_stages((24, 40, 80), (4, 4, 4), (1, 2, 2)),
    mix_width=320,
)
MACROS: Mapping[str, Macro] = {macro.name: macro for macro in (IMAGENET, SMALL, TINY)}


def macro_named(name: str) -> Macro:
    """A macro-architecture preset by name. Raises InputError with the nearest valid name."""
    if name not in MACROS:
        raise InputError(f"expected {listed(map(repr, MACROS))}, got {name!r}{nearest(name, MACROS)}", "macro")
    return MACROS[name]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A space of networks of one macro-architecture, resolution and class count."""

    macro: Macro = IMAGENET
    width_mult: float = 1.0
    num_classes: int = 1000
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    kernel_sizes: tuple[int, ...] = KERNEL_SIZES
    expand_ratios: tuple[int, ...] = (3, 6)
    bn: BatchNorm = field(default_factory=BatchNorm)
    dropout_rate: float = 0.0
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.05 <= self.width_mult <= 10:
            raise InputError(f"expected a number in 0.05..10, got {self.width_mult!r}", "width_mult")

    def _width(self, width: int) -> int:
        return make_divisible(width * self.width_mult)

    @cached_property
    def stem(self) -> Conv:
        macro = self.macro
        return Conv(in_channels=3, out_channels=self._width(macro.stem_width), kernel_size=3, stride=macro.stem_stride)

    @cached_property
    def first_block(self) -> Block:
        """The fixed block in front of the searched ones: k3 e1, no skip."""
        width = self._width(self.macro.first_width)
        op = MBConv(in_channels=self.stem.out_channels, out_channels=width, kernel_size=3, expand_ratio=1)
        return Block(op=op, skip=False)

    @cached_property
    def choices(self) -> tuple[tuple[Op, ...], ...]:
        """Candidate operations of each searched block: expand_ratio outermost, then kernel_size; Zero last."""
        blocks: list[tuple[Op, ...]] = []
        width = self.first_block.op.out_channels
        for stage in self.macro.stages:
            out = self._width(stage.width)
            for index in range(stage.n_blocks):
                stride = stage.stride if index == 0 else 1
                ops: list[Op] = [
                    MBConv(in_channels=width, out_channels=out, kernel_size=kernel, expand_ratio=expand, stride=stride)
                    for expand in self.expand_ratios
                    for kernel in self.kernel_sizes
                ]
                # the first block of a stage always stays: it has no skip, even where the shapes would allow one
                if index > 0:
                    ops.append(Zero(channels=out))
                blocks.append(tuple(ops))
                width = out
        return tuple(blocks)

    @cached_property
    def skips(self) -> tuple[bool, ...]:
        """Whether each searched block has an identity skip (all but the first of a stage)."""
        return tuple(index > 0 for stage in self.macro.stages for index in range(stage.n_blocks))

    @cached_property
    def feature_mix(self) -> Conv:
        mix_width = self._width(self.macro.mix_width)
        return Conv(in_channels=self.choices[-1][0].out_channels, out_channels=mix_width, kernel_size=1)

    @cached_property
    def classifier(self) -> Linear:
        return Linear(
            in_features=self.feature_mix.out_channels, out_features=self.num_classes, dropout_rate=self.dropout_rate
        )

    @property
    def n_blocks(self) -> int:
        return len(self.choices)

    @property
    def size(self) -> int:
        """How many networks there are."""
        return math.prod(len(ops) for ops in self.choices)

    def check(self, path: Path) -> Path:
        """``path`` itself; InputError when it does not fit the space."""
        if len(path) != self.n_blocks:
            raise InputError(f"expected {self.n_blocks} choices, got {len(path)}", "path")
        for index, (choice, ops) in enumerate(zip(path, self.choices, strict=True)):
            if not 0 <= choice < len(ops):
                raise InputError(f"expected 0..{len(ops) - 1}, got {choice}", f"path[{index}]")
        return tuple(path)

    def spec_for(self, path: Path, name: str = "derived") -> ArchSpec:
        """The network that ``path`` chooses. Vanished blocks stay in the spec as Zero, so that indices do not move."""
        searched = tuple(
            Block(op=ops[choice], skip=skip)
            for choice, ops, skip in zip(self.check(path), self.choices, self.skips, strict=True)
        )
        return ArchSpec(
            name=name,
            stem=self.stem,
            blocks=(self.first_block, *searched),
            feature_mix=self.feature_mix,
            classifier=self.classifier,
            bn=self.bn,
            preprocessing=self.preprocessing,
            class_names=self.class_names,
        )

    def tensor_map(self, path: Path) -> dict[str, str]:
        """``{tensor of the derived network: tensor of the supernet}``: how weights are inherited."""
        mapping = {name: name for name in expected_tensors(self.spec_for(path))}
        for index, (choice, ops) in enumerate(zip(path, self.choices, strict=True)):
            block = index + 1
            derived, inherited = f"blocks.{block}.mobile_inverted_conv", f"blocks.{block}.choices.{choice}"
            for name, _ in ops[choice].tensors(derived):
                mapping[name] = inherited + name.removeprefix(derived)
        return mapping

    def path_of(self, spec: ArchSpec) -> Path:
        """The path that yields ``spec``'s blocks; InputError naming the first block that is not in this space."""
        fixed = {"stem": self.stem, "feature_mix": self.feature_mix}
        for place, wanted in fixed.items():
            if getattr(spec, place) != wanted:
                raise InputError("differs from the search space's", place)
        if spec.blocks[:1] != (self.first_block,):
            raise InputError("differs from the search space's first block", "blocks[0]")
        searched = spec.blocks[1:]
        if len(searched) != self.n_blocks:
            raise InputError(f"expected {self.n_blocks} searched blocks, got {len(searched)}", "blocks")
        path = []
        for index, (block, ops) in enumerate(zip(searched, self.choices, strict=True)):
            if block.op not in ops or block.skip != self.skips[index]:
                raise InputError(
                    "this operation (or its skip) is not a choice of the search space", f"blocks[{index + 1}]"
                )
            path.append(ops.index(block.op))
        return tuple(path)
