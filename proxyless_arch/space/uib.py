"""Spaces of MobileNetV4's blocks (arch/uib.py), on the macro-architectures of the paper's spaces.

A block chooses where it has depthwise convolutions, in front, in the middle, in both places or in none, and how large
they are. Widths and expansion are fixed: the expansion is 4, MobileNetV4's usual one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxyless_arch.arch.ops import Operation
from proxyless_arch.arch.uib import NONE, UIB, ConvReLU
from proxyless_arch.space.mbconv import IMAGENET, MACROS, Macro, space_of
from proxyless_arch.space.search_space import SearchSpace

KERNELS, EXPANSION = (3, 5), 4


def space_name(macro: Macro) -> str:
    """``uib`` for the macro-architecture of ImageNet, else with its name behind: ``uib_tiny``."""
    return "uib" if macro == IMAGENET else f"uib_{macro.name}"


NAMES: Mapping[str, Macro] = {space_name(macro): macro for macro in MACROS.values()}


def uib_space(
    macro: Macro = IMAGENET,
    width_mult: float = 1.0,
    *,
    kernel_sizes: Sequence[int] = KERNELS,
    expand_ratios: Sequence[int] = (EXPANSION,),
    **common: Any,
) -> SearchSpace:
    """Of every expansion (outermost): inverted bottlenecks, ExtraDW and ConvNext-like blocks of every kernel, and a
    feed-forward block where the size stays. ``common``: see mbconv.space_of."""

    def candidates(width: int, out: int, stride: int) -> list[Operation]:
        kinds = [(NONE, k) for k in kernel_sizes] + [(k, k) for k in kernel_sizes] + [(k, NONE) for k in kernel_sizes]
        if stride == 1:
            kinds.append((NONE, NONE))
        return [_uib(width, out, start, middle, ratio, stride) for ratio in expand_ratios for start, middle in kinds]

    return space_of(macro, width_mult, candidates, name=space_name(macro), conv=ConvReLU, first=_first, **common)


def _first(width: int, out: int) -> Operation:
    return _uib(width, out, NONE, 3, 1, 1)


def _uib(width: int, out: int, start: int, middle: int, ratio: int, stride: int) -> Operation:
    return UIB(
        in_channels=width,
        out_channels=out,
        start_kernel_size=start,
        kernel_size=middle,
        expand_ratio=ratio,
        stride=stride,
    )
