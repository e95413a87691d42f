"""The spaces of the paper: macro-architectures whose blocks choose among MBConv operations.

The macro-architecture (widths, strides, number of blocks) is fixed; every searched block chooses among MBConv
kernels 3, 5, 7 and expansions 3, 6 and, where stride is 1 and the widths agree, Zero (Cai, Zhu, Han, ICLR 2019,
section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proxyless_arch.arch.ops import KERNEL_SIZES, Conv, MBConv, Operation, Zero, make_divisible
from proxyless_arch.arch.spec import BatchNorm, Block, Preprocessing
from proxyless_arch.base.checks import check_number
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import listed, nearest
from proxyless_arch.space.search_space import Edge, SearchSpace


@dataclass(frozen=True)
class Stage:
    """A run of blocks at one width; the first may change width and stride."""

    width: int
    n_blocks: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class Macro:
    """What is not searched: widths (before the width multiplier) and strides.

    ``resolution``: of images, in pixels, where nothing else says it; the one default of every command.
    """

    name: str
    resolution: int = 224
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
    resolution=32,
    stem_stride=1,
    stages=_stages((24, 40, 80, 96, 192, 320), (4, 4, 4, 4, 4, 1), (1, 2, 2, 1, 2, 1)),
)
# half the depth, for tiny images and quick studies: 12 searched blocks, total stride 4
TINY = Macro(
    name="tiny",
    resolution=32,
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


Candidates = Callable[[int, int, int], list[Operation]]
"""The operations among which a block chooses, by its width in, its width out and its stride."""


def space_of(
    macro: Macro,
    width_mult: float,
    candidates: Candidates,
    *,
    name: str = "",
    conv: type[Conv] = Conv,
    first: Callable[[int, int], Operation] | None = None,
    num_classes: int = 1000,
    preprocessing: Preprocessing | None = None,
    bn: BatchNorm | None = None,
    dropout_rate: float = 0.0,
    class_names: tuple[str, ...] = (),
) -> SearchSpace:
    """The networks of a macro-architecture, its widths times ``width_mult``, whose blocks choose among ``candidates``.

    The block behind the stem is fixed (no skip). The others choose among the candidates, and Zero where they have a
    skip: all but the first of a stage, which always stays, even where the shapes would allow a skip.

    Args:
        name: of the space (default: the macro's).
        conv: what the stem and the feature mix are.
        first: the fixed block, by its width in and out (default: an MBConv k3 e1).

    Raises:
        InputError: naming the setting.
    """
    check_number("width_mult", width_mult, 0.05, 10)

    def scaled(width: int) -> int:
        return make_divisible(width * width_mult)

    stem = conv(in_channels=3, out_channels=scaled(macro.stem_width), kernel_size=3, stride=macro.stem_stride)
    width = scaled(macro.first_width)
    blocks: list[Block | Edge] = [Block(op=(first or _plain)(stem.out_channels, width), skip=False)]
    for stage in macro.stages:
        for index in range(stage.n_blocks):
            ops = candidates(width, scaled(stage.width), stage.stride if index == 0 else 1)
            width = scaled(stage.width)
            if index > 0:
                ops.append(Zero(channels=width))
            blocks.append(Edge(ops=tuple(ops), skip=index > 0))
    return SearchSpace(
        name=name or macro.name,
        stem=stem,
        blocks=tuple(blocks),
        feature_mix=conv(in_channels=width, out_channels=scaled(macro.mix_width), kernel_size=1),
        num_classes=num_classes,
        width_mult=width_mult,
        dropout_rate=dropout_rate,
        bn=bn or BatchNorm(),
        preprocessing=preprocessing or Preprocessing(),
        class_names=class_names,
    )


def _plain(width: int, out: int) -> Operation:
    return MBConv(in_channels=width, out_channels=out, kernel_size=3, expand_ratio=1)


def mbconv_space(
    macro: Macro = IMAGENET,
    width_mult: float = 1.0,
    *,
    kernel_sizes: Sequence[int] = KERNEL_SIZES,
    expand_ratios: Sequence[int] = (3, 6),
    **common: Any,
) -> SearchSpace:
    """The space of the paper: MBConv of every expansion (outermost) and kernel. ``common``: see space_of."""

    def candidates(width: int, out: int, stride: int) -> list[Operation]:
        return [
            MBConv(in_channels=width, out_channels=out, kernel_size=kernel, expand_ratio=ratio, stride=stride)
            for ratio in expand_ratios
            for kernel in kernel_sizes
        ]

    return space_of(macro, width_mult, candidates, **common)
