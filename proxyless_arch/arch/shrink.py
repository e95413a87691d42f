"""A network made smaller: fewer channels, smaller kernels, blocks left out. The result is an ArchSpec like any other.

What may become narrower without touching a residual stream: the stem (where an expand-less block without a skip comes
behind it, whose width it is), the hidden layer of each block that expands, the last stage (where its block has no
skip), and the feature mix. A width has a name, which is that of the layer that makes the channels:

    first_conv    blocks.3 (its hidden layer)    last_stage    feature_mix_layer
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from proxyless_arch.arch.ops import Conv, Zero
from proxyless_arch.arch.spec import ArchSpec, Block
from proxyless_arch.base.errors import InputError

STEM, LAST_STAGE, FEATURE_MIX = "first_conv", "last_stage", "feature_mix_layer"


def block_name(index: int) -> str:
    return f"blocks.{index}"


@dataclass(frozen=True)
class Shrunk:
    """What becomes of a network: widths by their names, kernels by block, and blocks that are left out.

    What is not named stays as it is.
    """

    widths: Mapping[str, int] = field(default_factory=dict)
    kernels: Mapping[int, int] = field(default_factory=dict)
    left_out: frozenset[int] = frozenset()

    def __or__(self, other: Shrunk) -> Shrunk:
        """Both."""
        return Shrunk(
            {**self.widths, **other.widths}, {**self.kernels, **other.kernels}, self.left_out | other.left_out
        )

    @property
    def key(self) -> str:
        """A name that no other one has: ``blocks.2=48 first_conv=24 k4=3 x7``."""
        words = [f"{name}={width}" for name, width in sorted(self.widths.items())]
        words += [f"k{index}={size}" for index, size in sorted(self.kernels.items())]
        return " ".join([*words, *(f"x{index}" for index in sorted(self.left_out))])

    def to_json(self) -> dict[str, Any]:
        return {
            "widths": dict(self.widths),
            "kernels": {block_name(index): size for index, size in self.kernels.items()},
            "left_out": [block_name(index) for index in sorted(self.left_out)],
        }


def widths_of(spec: ArchSpec) -> dict[str, int]:
    """The widths that may become smaller, as they are, in network order."""
    found: dict[str, int] = {}
    parts = [block.op.shrinkable for block in spec.blocks]
    for index, part in enumerate(parts):
        if part is None:
            continue
        if not part.follows_input:
            found[block_name(index)] = part.hidden_channels
        elif index == 0 and not spec.blocks[0].skip:
            found[STEM] = spec.stem.out_channels
    if isinstance(spec.feature_mix, Conv):
        last = spec.blocks[-1] if spec.blocks else None
        is_free = last is not None and parts[-1] is not None and not last.skip and len(spec.blocks) > 1
        if last is not None and is_free and spec.feature_mix.kernel_size == 1:  # another is no matrix product
            found[LAST_STAGE] = last.op.out_channels
        found[FEATURE_MIX] = spec.feature_mix.out_channels
    return found


def can_shrink(spec: ArchSpec) -> bool:
    """Whether there is anything to make smaller or to leave out."""
    return bool(widths_of(spec)) or any(block.skip and not block.op.vanishes for block in spec.blocks)


def shrink(spec: ArchSpec, change: Shrunk) -> ArchSpec:
    """``spec`` with fewer channels, smaller kernels and fewer blocks.

    Raises InputError for a width that is none or larger than it was, a kernel that does not fit into the old one, and
    a block that has no skip to be left out by.
    """
    full = widths_of(spec)
    for name, width in change.widths.items():
        if name not in full:
            raise InputError(f"expected {', '.join(full)}, got {name!r}", "widths")
        if not 1 <= width <= full[name]:
            raise InputError(f"expected 1..{full[name]}, got {width}", f"widths.{name}")
    get = change.widths.get
    stem, mix = spec.stem, spec.feature_mix
    blocks = [_shrunk_block(index, block, change) for index, block in enumerate(spec.blocks)]
    if STEM in change.widths:
        stem = replace(stem, out_channels=change.widths[STEM])
        blocks[0] = replace(blocks[0], op=blocks[0].op.shrunk(into=stem.out_channels))
    if LAST_STAGE in change.widths:
        blocks[-1] = replace(blocks[-1], op=blocks[-1].op.shrunk(out=change.widths[LAST_STAGE]))
    classifier = spec.classifier
    if isinstance(mix, Conv):
        into, out = get(LAST_STAGE, mix.in_channels), get(FEATURE_MIX, mix.out_channels)
        mix, classifier = replace(mix, in_channels=into, out_channels=out), replace(classifier, in_features=out)
    return replace(spec, stem=stem, blocks=tuple(blocks), feature_mix=mix, classifier=classifier)


def _shrunk_block(index: int, block: Block, change: Shrunk) -> Block:
    """With its hidden layer, its kernel, or nothing of it."""
    place = f"blocks[{index}]"
    if index in change.left_out:
        if not block.skip:
            raise InputError("expected a block with a skip: without it the network would be cut", f"left_out {place}")
        return Block(op=Zero(channels=block.op.in_channels), skip=True)
    kernel, hidden = change.kernels.get(index), change.widths.get(block_name(index))
    if kernel is None and hidden is None:
        return block
    parts = block.op.shrinkable
    if parts is None:
        raise InputError(f"expected an operation that may become smaller, got {block.op.label}", place)
    if kernel is not None and kernel > parts.kernel_size:
        raise InputError(f"expected at most {parts.kernel_size}, got {kernel}", f"{place}.kernel_size")
    return replace(block, op=block.op.shrunk(hidden=hidden, kernel=kernel))
