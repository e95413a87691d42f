"""What a trained network leaves to choose: groups of widths, kernels and blocks.

Widths that share a layer are chosen jointly, in one group: the stem with the block behind it, and the last block, the
last stage, the feature mix and the classifier. So what a choice of one group costs does not depend on the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from proxyless_arch.arch.ops import KERNEL_SIZES, Operation, Zero
from proxyless_arch.arch.shrink import FEATURE_MIX, LAST_STAGE, STEM, Shrunk, block_name, shrink, widths_of
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.search_space import Edge, Path, SearchSpace

MOST_JOINT = 8
"""Widths of each kind in a group that has three: their product is chosen from."""


@dataclass(frozen=True, kw_only=True)
class Freedom:
    """What may be changed. ``smallest``: share of a width that stays at least; ``most``: widths to choose from."""

    multiple: int = 8
    smallest: float = 0.2
    most: int = 24
    kernels: bool = True
    depth: bool = True


@dataclass(frozen=True)
class Axis:
    """One thing to choose: the width called ``name``, or the kernel of the block called so. The last is as it is."""

    kind: Literal["width", "kernel"]
    name: str
    options: tuple[int, ...]

    def shrunk(self, option: int) -> Shrunk:
        if self.kind == "width":
            return Shrunk(widths={self.name: option})
        return Shrunk(kernels={int(self.name.removeprefix("blocks.")): option})


@dataclass(frozen=True)
class Group:
    """Layers that are chosen together. Its choices are all combinations of its axes and, behind them, to be left out.

    ``layers``: the names of the calls that it changes. ``block``: the block that may be left out; None where none may.
    """

    axes: tuple[Axis, ...]
    layers: tuple[str, ...]
    block: int | None = None

    @cached_property
    def choices(self) -> tuple[Shrunk, ...]:
        found = []
        for options in itertools.product(*(axis.options for axis in self.axes)):
            change = Shrunk()
            for axis, option in zip(self.axes, options, strict=True):
                if option != axis.options[-1]:
                    change |= axis.shrunk(option)
            found.append(change)
        return (*found, *([Shrunk(left_out=frozenset({self.block}))] if self.block is not None else []))

    @property
    def whole(self) -> int:
        """The choice that changes nothing."""
        return math.prod(len(axis.options) for axis in self.axes) - 1

    @property
    def smallest(self) -> int:
        """The choice of the smallest options."""
        return 0

    def index(self, options: Sequence[int]) -> int:
        """The choice of the ``options[a]``-th option of each axis."""
        found = 0
        for axis, option in zip(self.axes, options, strict=True):
            found = found * len(axis.options) + option
        return found

    def options(self, choice: int) -> tuple[int, ...] | None:
        """The inverse of ``index``; None for the block left out."""
        if choice > self.whole:
            return None
        found = []
        for axis in reversed(self.axes):
            choice, option = divmod(choice, len(axis.options))
            found.append(option)
        return tuple(reversed(found))


def width_options(full: int, freedom: Freedom, most: int | None = None) -> tuple[int, ...]:
    """Multiples of ``freedom.multiple`` from its smallest share of ``full`` on, and ``full``; evenly thinned."""
    step = freedom.multiple
    low = max(step, math.ceil(freedom.smallest * full / step) * step)
    found = [*range(low, full, step)]
    most = min(freedom.most, most or freedom.most) - 1
    if len(found) > most:
        picked = {round(place * (len(found) - 1) / max(1, most - 1)) for place in range(most)}
        found = [found[place] for place in sorted(picked)]
    return (*found, full)


def groups_of(spec: ArchSpec, freedom: Freedom) -> tuple[Group, ...]:
    """Everything there is to choose of ``spec``, in network order."""
    full, last = widths_of(spec), len(spec.blocks) - 1
    found: list[Group] = []
    for index in range(len(spec.blocks)):
        name = block_name(index)
        is_joint = index == last and LAST_STAGE in full
        widths = [each for each in (STEM if index == 0 else "", name) if each in full]
        layers = [*([STEM] if STEM in widths else []), name]
        if is_joint:
            widths += [LAST_STAGE, FEATURE_MIX]
            layers += [FEATURE_MIX, "classifier"]
        most = MOST_JOINT if is_joint else None
        axes = [Axis("width", each, width_options(full[each], freedom, most)) for each in widths]
        axes += _kernel_axes(spec, index, freedom)
        block = index if freedom.depth and spec.blocks[index].skip and not _is_left_out(spec, index) else None
        if any(len(axis.options) > 1 for axis in axes) or block is not None:
            found.append(Group(tuple(axis for axis in axes if len(axis.options) > 1), tuple(layers), block))
    if FEATURE_MIX in full and LAST_STAGE not in full:
        axis = Axis("width", FEATURE_MIX, width_options(full[FEATURE_MIX], freedom))
        found.append(Group((axis,), (FEATURE_MIX, "classifier")))
    return tuple(group for group in found if len(group.choices) > 1)


def operations_of(spec: ArchSpec, index: int, freedom: Freedom) -> tuple[Operation, ...]:
    """What a block may become by itself, its input and output as they are: widths (outermost), kernels, Zero."""
    block, name, full = spec.blocks[index], block_name(index), widths_of(spec)
    widths = [Axis("width", name, width_options(full[name], freedom))] if name in full else []
    axes = tuple(axis for axis in (*widths, *_kernel_axes(spec, index, freedom)) if len(axis.options) > 1)
    changes = Group(axes, (name,)).choices
    found = [shrink(spec, change).blocks[index].op for change in changes]
    if freedom.depth and block.skip and not block.op.vanishes:
        found.append(Zero(channels=block.op.in_channels))
    return tuple(found)


def space_around(spec: ArchSpec, freedom: Freedom) -> SearchSpace:
    """The smaller networks that share a trained network's weights: each block's hidden width and kernel, or left out.

    Raises InputError where nothing of it can become smaller, and for a network without a layer in front of its pool.
    """
    if spec.feature_mix is None:
        raise InputError("expected a network with a feature mix in front of its pool", "feature_mix")
    choices = [operations_of(spec, index, freedom) for index in range(len(spec.blocks))]
    if all(len(ops) == 1 for ops in choices):
        raise InputError("nothing of this network can become smaller", "blocks")
    return SearchSpace(
        name=f"around {spec.name}",
        stem=spec.stem,
        blocks=tuple(
            Edge(ops=ops, skip=block.skip) if len(ops) > 1 else block
            for block, ops in zip(spec.blocks, choices, strict=True)
        ),
        feature_mix=spec.feature_mix,
        num_classes=spec.num_classes,
        dropout_rate=spec.classifier.dropout_rate,
        bn=spec.bn,
        padding=spec.padding,
        preprocessing=spec.preprocessing,
        class_names=spec.class_names,
        weights="shared",
    )


def layers_of(spec: ArchSpec, groups: Sequence[Group]) -> Iterator[LayerCall]:
    """Every layer that a choice makes of ``spec``; many of them more than once."""
    for group in groups:
        for change in group.choices:
            yield from (call for call in walk(shrink(spec, change)) if call.name in group.layers)


def _is_left_out(spec: ArchSpec, index: int) -> bool:
    return spec.blocks[index].op.vanishes


def _kernel_axes(spec: ArchSpec, index: int, freedom: Freedom) -> list[Axis]:
    parts = spec.blocks[index].op.shrinkable
    if not freedom.kernels or parts is None:
        return []
    return [Axis("kernel", block_name(index), tuple(size for size in KERNEL_SIZES if size <= parts.kernel_size))]


def whole_path(groups: Sequence[Group]) -> Path:
    return tuple(group.whole for group in groups)


def change_of(groups: Sequence[Group], path: Path) -> Shrunk:
    """What the choices come to."""
    change = Shrunk()
    for group, choice in zip(groups, path, strict=True):
        change |= group.choices[choice]
    return change
