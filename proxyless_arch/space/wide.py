"""Spaces in which the widths are chosen too, on the macro-architectures of the paper's spaces.

A block chooses its expansion, its kernel, or Zero; a stage chooses how many channels its blocks put out. The choices of
a block share one set of weights: MBConv of every expansion and kernel, at every width, lies within the largest one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from proxyless_arch.arch.ops import make_divisible
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import shown
from proxyless_arch.space.mbconv import IMAGENET, MACROS, Macro, mbconv_space
from proxyless_arch.space.search_space import SearchSpace, Width

MULTIPLIERS = (0.5, 0.75, 1.0, 1.25, 1.5)
"""Of a stage's width in the macro-architecture."""
KERNELS, EXPANSIONS = (3, 5), (1, 2, 3, 4, 6)


def space_name(macro: Macro) -> str:
    """``wide`` for the macro-architecture of ImageNet, else with its name behind: ``wide_tiny``."""
    return "wide" if macro == IMAGENET else f"wide_{macro.name}"


NAMES: Mapping[str, Macro] = {space_name(macro): macro for macro in MACROS.values()}


def width_options(width: float, multipliers: Sequence[float] = MULTIPLIERS) -> tuple[int, ...]:
    """Multiples of 8 near ``width`` times the multipliers, each once. Raises InputError where only one is left, and for
    what is no multiplier."""
    if not all(isinstance(each, int | float) and 0 < each < math.inf for each in multipliers) or not multipliers:
        raise InputError(f"expected positive numbers, got {shown(tuple(multipliers))}", "multipliers")
    found = tuple(sorted({make_divisible(width * each) for each in multipliers}))
    if len(found) == 1:
        times = ", ".join(f"{each:g}" for each in multipliers)
        raise InputError(
            f"of a stage of {width:g} channels, times {times}, only {found[0]} is left as a multiple of 8: there is no "
            "width to choose; take a larger one",
            "--width_mult",
        )
    return found


def wide_space(
    macro: Macro = IMAGENET,
    width_mult: float = 1.0,
    *,
    multipliers: Sequence[float] = MULTIPLIERS,
    kernel_sizes: Sequence[int] = KERNELS,
    expand_ratios: Sequence[int] = EXPANSIONS,
    **common: Any,
) -> SearchSpace:
    """MBConv of every expansion (outermost) and kernel, Zero, and a width for each stage. ``common``: see
    mbconv.space_of. Raises InputError for a stage that has one multiple of 8 alone."""
    usual = mbconv_space(macro, width_mult, kernel_sizes=kernel_sizes, expand_ratios=expand_ratios, **common)
    widths, first = [], len(usual.blocks) - sum(stage.n_blocks for stage in macro.stages)
    for stage in macro.stages:
        last = first + stage.n_blocks - 1
        widths.append(Width(options=width_options(stage.width * width_mult, multipliers), first=first, last=last))
        first = last + 1
    largest = usual.at({index: each.options[-1] for each in widths for index in range(each.first, each.last + 1)})
    return replace(largest, name=space_name(macro), weights="shared", widths=tuple(widths))
