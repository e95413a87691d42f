"""The CIFAR-10 space of the paper: a PyramidNet whose 3x3 convolutions are tree-structured cells.

Three stages of ``blocks_per_stage`` residual blocks (B in the paper), whose widths grow linearly to ``final_width``
(F). A cell is a grouped 3x3 convolution that doubles the width, two branches of half of it each, with a batch
normalization of their own, and behind either a tree of two levels with two branches at every node: the operations of
these 12 edges are searched (Cai, Zhu, Han, ICLR 2019, section 4.1 and appendix A). The released network is in the space
of 18 blocks per stage that end with 400 channels.
"""

from __future__ import annotations

from proxyless_arch.arch.preact import (
    AvgPool,
    ConvNorm,
    Identity,
    MaxPool,
    NormAct,
    PreConv,
    Separable,
    TreeEdge,
)
from proxyless_arch.arch.spec import BatchNorm, Preprocessing
from proxyless_arch.arch.tree import Branch, TreeBlock, TreeNode
from proxyless_arch.base.checks import check, check_number, is_int
from proxyless_arch.space.mbconv import make_divisible
from proxyless_arch.space.search_space import OpenTree, SearchSpace

NAME = "tree"
RESOLUTION = 32
STAGES = 3
STEM_WIDTH = 16
GROUPS = 2
EXPANSION = 4
"""What a block puts out is so many times as wide as its cell."""
NARROWEST = 8
"""Of the cells."""
BLOCKS_PER_STAGE, FINAL_WIDTH = 18, 400
"""Of the released network."""
OPEN_DEPTH = 2
"""Edges one behind the other that are searched, behind the two that are not."""


def cell_widths(blocks_per_stage: int, final_width: int) -> tuple[int, ...]:
    """The width of each block's cell: from 16 (or what the last one has) on, in equal steps, in whole groups.

    Raises InputError for numbers that no network has.
    """
    good = is_int(blocks_per_stage) and 1 <= blocks_per_stage <= 100
    check(good, "blocks_per_stage", "an integer in 1..100", blocks_per_stage)
    step = EXPANSION * GROUPS
    least = EXPANSION * NARROWEST
    good = is_int(final_width) and final_width % step == 0 and least <= final_width <= 4096
    check(good, "final_width", f"a multiple of {step} in {least}..4096", final_width)
    last, count = final_width // EXPANSION, STAGES * blocks_per_stage
    first = min(STEM_WIDTH, last)
    grown = (first + (last - first) * number / count for number in range(1, count + 1))
    return tuple(round(width) // GROUPS * GROUPS for width in grown)


def candidates(width: int) -> tuple[TreeEdge, ...]:
    """What a searched edge chooses among, in the paper's order."""

    def separable(kernel_size: int, dilation: int = 1) -> Separable:
        return Separable(in_channels=width, out_channels=width, kernel_size=kernel_size, dilation=dilation)

    return (
        separable(3, dilation=2),
        Identity(channels=width),
        separable(3),
        separable(5),
        separable(7),
        AvgPool(channels=width),
        MaxPool(channels=width),
    )


def _copies(width: int, depth: int) -> TreeNode:
    """A node with two branches, and nodes like it behind them down to ``depth`` edges; an identity at each edge."""
    child = _copies(width, depth - 1) if depth > 1 else None
    branch = Branch(edge=Identity(channels=width), child=child)
    return TreeNode(in_channels=width, out_channels=width, branches=(branch, branch))


def _cell(width: int, stride: int) -> TreeNode:
    conv = PreConv(in_channels=width, out_channels=2 * width, kernel_size=3, groups=GROUPS, stride=stride)
    branch = Branch(edge=Identity(channels=width), child=_copies(width, OPEN_DEPTH))
    split = TreeNode(
        in_channels=2 * width, out_channels=width, allocation="split", branch_bn=True, branches=(branch, branch)
    )
    return TreeNode(in_channels=width, out_channels=width, branches=(Branch(edge=conv, child=split),))


def _open_tree(in_channels: int, width: int, stride: int) -> OpenTree:
    block = TreeBlock(in_channels=in_channels, out_channels=EXPANSION * width, cell=_cell(width, stride))
    names = [name for name, _, _ in block.edges((stride, stride, in_channels))]
    fixed = 2  # nodes above the searched edges
    places = tuple(name for name in names if name.count(".child_nodes.") >= fixed)
    return OpenTree(template=block, ops=candidates(width), places=places)


def tree_space(
    blocks_per_stage: int = BLOCKS_PER_STAGE,
    final_width: int = FINAL_WIDTH,
    width_mult: float = 1.0,
    *,
    num_classes: int = 10,
    preprocessing: Preprocessing | None = None,
    bn: BatchNorm | None = None,
    dropout_rate: float = 0.0,
    class_names: tuple[str, ...] = (),
) -> SearchSpace:
    """The pyramids of ``blocks_per_stage`` blocks in each of three stages that end with ``final_width`` channels, times
    ``width_mult``.

    Raises InputError naming the setting.
    """
    check_number("width_mult", width_mult, 0.05, 10)
    widths = cell_widths(blocks_per_stage, make_divisible(final_width * width_mult, EXPANSION * GROUPS))
    blocks, before = [], STEM_WIDTH
    for index, width in enumerate(widths):
        starts_stage = index > 0 and index % blocks_per_stage == 0
        blocks.append(_open_tree(before, width, 2 if starts_stage else 1))
        before = EXPANSION * width
    return SearchSpace(
        name=NAME,
        stem=ConvNorm(in_channels=3, out_channels=STEM_WIDTH, kernel_size=3),
        blocks=tuple(blocks),
        feature_mix=NormAct(channels=before),
        num_classes=num_classes,
        width_mult=width_mult,
        dropout_rate=dropout_rate,
        bn=bn or BatchNorm(eps=1e-5),
        preprocessing=preprocessing or Preprocessing(resolution=RESOLUTION, resize=RESOLUTION),
        class_names=class_names,
    )
