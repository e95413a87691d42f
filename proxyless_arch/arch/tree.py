"""A tree-structured cell as a value, and the residual block around it.

A cell computes on paths from its root to its leaves (Cai et al., "Path-Level Network Transformation", ICML 2018): a
node gives every branch its whole input or a part of the channels, a branch is an edge (an operation of preact.py) and
what the node behind it makes of that, and the node adds or joins what its branches put out. In a PyramidNet such a cell
stands in place of the 3x3 convolution of a bottleneck (Cai, Zhu, Han, ICLR 2019, section 4.1). In JSON::

    {"op": "tree", "in_channels": 16, "out_channels": 72, "cell": NODE, "skip": false}
    NODE:   {"in_channels": 36, "out_channels": 18, "allocation": "split", "merge": "add", "branch_bn": true,
             "branches": [BRANCH, ...]}
    BRANCH: {"edge": {"op": "identity", "channels": 18}, "child": NODE or null}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from proxyless_arch.arch.ops import (
    ConvCall,
    Drawing,
    Hwc,
    Operation,
    SameWidth,
    Shape,
    Tile,
    block_operation,
    bn_tensors,
    check_width,
    operation_from_node,
    operation_to_dict,
)
from proxyless_arch.arch.preact import TREE_EDGES, PreConv, TreeEdge
from proxyless_arch.base.checks import check, check_one_of
from proxyless_arch.base.strict import Node, judged_at, listed

MAX_DEPTH, MAX_BRANCHES = 8, 8
Allocation = Literal["copy", "split"]
Merge = Literal["add", "concat"]
CELL = "cell"
"""What the names of a block's edges start with."""
Part = tuple[str, TreeEdge, Hwc]
"""(name, operation, input size) of an edge."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """An edge of a cell and the node behind it; None: a leaf, which passes on what the edge puts out."""

    edge: TreeEdge
    child: TreeNode | None = None

    def __post_init__(self) -> None:
        known = TREE_EDGES.values()
        check(type(self.edge) in known, "edge", listed(cls.__name__ for cls in known), self.edge)
        if self.child is not None:
            check(isinstance(self.child, TreeNode), "child", "a TreeNode", self.child)
            expected = f"{self.edge.out_channels} (what the edge puts out)"
            check(
                self.child.in_channels == self.edge.out_channels, "child.in_channels", expected, self.child.in_channels
            )

    @property
    def out_channels(self) -> int:
        return self.edge.out_channels if self.child is None else self.child.out_channels

    @property
    def stride(self) -> int:
        return self.edge.stride * (1 if self.child is None else self.child.stride)

    @property
    def out_place(self) -> str:
        """The JSON key that says how many channels it puts out."""
        return f"edge.{_width_keys(self.edge)[1]}" if self.child is None else "child.out_channels"

    def to_json(self) -> dict[str, Any]:
        child = None if self.child is None else self.child.to_json()
        return {"edge": operation_to_dict(self.edge), "child": child}


def _width_keys(edge: TreeEdge) -> tuple[str, str]:
    """The JSON keys of an edge's input and output width."""
    return ("channels", "channels") if isinstance(edge, SameWidth) else ("in_channels", "out_channels")


@dataclass(frozen=True, kw_only=True)
class TreeNode:
    """A node of a cell: how it gives its input to its branches, the branches, and how it merges what they put out.

    ``allocation``: every branch gets a "copy" of the input, or the channels are "split" among them evenly. ``merge``:
    what they put out is added, or joined by "concat". ``branch_bn``: a branch adds what its edge puts out to the
    normalized output of its child. With one branch neither allocation nor merge is anything: "copy" and "add".
    """

    in_channels: int
    out_channels: int
    allocation: Allocation = "copy"
    merge: Merge = "add"
    branch_bn: bool = False
    branches: tuple[Branch, ...]

    def __post_init__(self) -> None:
        check_width("in_channels", self.in_channels)
        check_width("out_channels", self.out_channels)
        check_one_of("allocation", self.allocation, ("copy", "split"))
        check_one_of("merge", self.merge, ("add", "concat"))
        check(isinstance(self.branch_bn, bool), "branch_bn", "true or false", self.branch_bn)
        count = len(self.branches) if isinstance(self.branches, tuple) else 0
        check(1 <= count <= MAX_BRANCHES, "branches", f"1 to {MAX_BRANCHES} branches", self.branches)
        for place, width, is_split in (
            ("in_channels", self.in_channels, self.allocation == "split"),
            ("out_channels", self.out_channels, self.merge == "concat"),
        ):
            check(not is_split or width % count == 0, place, f"a multiple of the {count} branches", width)
        for index, branch in enumerate(self.branches):
            with judged_at(f"branches[{index}]"):
                self._check_branch(branch)
        check(self.depth <= MAX_DEPTH, "branches", f"at most {MAX_DEPTH} edges one behind the other", self.depth)

    def _check_branch(self, branch: Branch) -> None:
        check(isinstance(branch, Branch), "", "a Branch", branch)
        edge, child, n = branch.edge, branch.child, len(self.branches)
        shared = f", split among {n}" if self.allocation == "split" else ""
        expected = f"{self.branch_width} (what the node takes in{shared})"
        check(edge.in_channels == self.branch_width, f"edge.{_width_keys(edge)[0]}", expected, edge.in_channels)
        joined = f", joined from {n}" if self.merge == "concat" else ""
        width = self.out_channels // (n if self.merge == "concat" else 1)
        expected = f"{width} (what the node puts out{joined})"
        check(branch.out_channels == width, branch.out_place, expected, branch.out_channels)
        check(branch.stride == self.stride, "", f"stride {self.stride} (the first branch's)", branch.stride)
        if self.branch_bn and child is not None:
            check(child.stride == 1, "child", "stride 1 (its output is added to its input)", child.stride)
            expected = f"{edge.out_channels} (its output is added to its input)"
            check(child.out_channels == edge.out_channels, "child.out_channels", expected, child.out_channels)

    @property
    def branch_width(self) -> int:
        """What every branch takes in."""
        return self.in_channels // (len(self.branches) if self.allocation == "split" else 1)

    @property
    def stride(self) -> int:
        return self.branches[0].stride

    @property
    def depth(self) -> int:
        """The most edges one behind the other."""
        return 1 + max(0 if branch.child is None else branch.child.depth for branch in self.branches)

    @property
    def n_leaves(self) -> int:
        return sum(1 if branch.child is None else branch.child.n_leaves for branch in self.branches)

    @property
    def label(self) -> str:
        """Every edge by its symbol, and in brackets what is behind it: ``c3(-(7(3d-)M(7M)))``."""
        return "".join(
            branch.edge.symbol + (f"({branch.child.label})" if branch.child is not None else "")
            for branch in self.branches
        )

    def edges(self, in_hwc: Hwc, prefix: str) -> Iterator[Part]:
        """Its edges with those of the nodes behind, in the order of their computation."""
        for index, branch in enumerate(self.branches):
            size: Hwc = (*in_hwc[:2], self.branch_width)
            yield f"{prefix}.edges.{index}", branch.edge, size
            if branch.child is not None:
                yield from branch.child.edges(branch.edge.out_hwc(size), f"{prefix}.child_nodes.{index}")

    def with_edges(self, edges: Mapping[str, TreeEdge], prefix: str) -> TreeNode:
        """The same node with other operations at some edges, which ``edges`` names as ``edges()`` does."""
        branches = tuple(
            Branch(
                edge=edges.get(f"{prefix}.edges.{index}", branch.edge),
                child=branch.child and branch.child.with_edges(edges, f"{prefix}.child_nodes.{index}"),
            )
            for index, branch in enumerate(self.branches)
        )
        return replace(self, branches=branches)

    def branch_norms(self, in_hwc: Hwc, prefix: str) -> Iterator[tuple[str, Hwc]]:
        """(name, size) of its batch normalizations with those of the nodes behind."""
        for index, branch in enumerate(self.branches):
            size = branch.edge.out_hwc((*in_hwc[:2], self.branch_width))
            if branch.child is not None:
                yield from branch.child.branch_norms(size, f"{prefix}.child_nodes.{index}")
            if self.branch_bn:
                yield f"{prefix}.branch_bns.{index}", size

    def tiles(self, left: float, top: float, size: tuple[float, float]) -> Iterator[Tile]:
        """Its edges and those of the nodes behind, from left to right, in tiles that are ``size`` wide and, at a leaf,
        high."""
        width, leaf = size
        for branch in self.branches:
            leaves = 1 if branch.child is None else branch.child.n_leaves
            yield Tile(left, top, width, leaf * leaves, replace(branch.edge.drawing, label=branch.edge.symbol))
            if branch.child is not None:
                yield from branch.child.tiles(left + width, top, size)
            top += leaf * leaves

    # --------------------------------------------------------------------------------------------------- as JSON

    def to_json(self) -> dict[str, Any]:
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "allocation": self.allocation,
            "merge": self.merge,
            "branch_bn": self.branch_bn,
            "branches": [branch.to_json() for branch in self.branches],
        }

    @classmethod
    def from_node(cls, node: Node, depth: int = 1) -> TreeNode:
        """The node that a JSON object describes. Raises InputError with the place."""
        if depth > MAX_DEPTH:
            raise node.fail(f"null: at most {MAX_DEPTH} edges one behind the other")
        parts = node.fields(("in_channels", "out_channels", "allocation", "merge", "branch_bn", "branches"))
        branches = tuple(_branch_from_node(part, depth) for part in parts.pop("branches").elements(1))
        with judged_at(node.path):
            return cls(branches=branches, **{key: part.value for key, part in parts.items()})


def _branch_from_node(node: Node, depth: int) -> Branch:
    parts = node.fields(("edge", "child"))
    edge = operation_from_node(parts["edge"], TREE_EDGES)
    child = None if parts["child"].value is None else TreeNode.from_node(parts["child"], depth + 1)
    with judged_at(node.path):
        return Branch(edge=edge, child=child)


# The block around a cell --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Joins(Operation):
    """What is left of a tree block without its convolutions and edges: sums, and batch normalizations of sums.

    It stands for their parameters where a block is counted part by part. ``widths``: of the batch normalizations.
    """

    kind: ClassVar[str] = "joins"
    is_timed: ClassVar[bool] = False

    in_channels: int
    out_channels: int
    stride: int
    widths: tuple[int, ...]

    @property
    def label(self) -> str:
        return "joins"

    def macs(self, in_hwc: Hwc) -> int:
        return 0

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        yield from ()

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        for index, width in enumerate(self.widths):
            yield from bn_tensors(f"{prefix}.{index}", width)


@block_operation
@dataclass(frozen=True, kw_only=True)
class TreeBlock(Operation):
    """Residual block of a PyramidNet: 1x1 convolution to the cell's width, the cell, 1x1 convolution, batch norm.

    Its shortcut is inside: the input, averaged over 2x2 pixels where the cell has stride 2, with channels of zeros
    behind its own. The first convolution has no ReLU in front.
    """

    kind: ClassVar[str] = "tree"
    is_timed: ClassVar[bool] = False  # its parts are

    in_channels: int
    out_channels: int
    cell: TreeNode

    def __post_init__(self) -> None:
        check_width("in_channels", self.in_channels)
        check_width("out_channels", self.out_channels)
        widened = self.out_channels >= self.in_channels
        expected = f"{self.in_channels} (in_channels) or more: a shortcut takes no channels away"
        check(widened, "out_channels", expected, self.out_channels)
        check(isinstance(self.cell, TreeNode), "cell", "a TreeNode", self.cell)
        check(self.stride in (1, 2), "cell", "stride 1 or 2", self.stride)

    @property
    def stride(self) -> int:
        return self.cell.stride

    @property
    def in_bottle(self) -> PreConv:
        width = self.cell.in_channels
        return PreConv(in_channels=self.in_channels, out_channels=width, kernel_size=1, activated=False)

    @property
    def out_bottle(self) -> PreConv:
        return PreConv(in_channels=self.cell.out_channels, out_channels=self.out_channels, kernel_size=1)

    @property
    def label(self) -> str:
        return self.cell.label + ("" if self.stride == 1 else f" s{self.stride}")

    @property
    def drawing(self) -> Drawing:
        size = 1 / self.cell.depth, 1 / self.cell.n_leaves
        return Drawing("tree", tiles=tuple(self.cell.tiles(0.0, 0.0, size)))

    def edges(self, in_hwc: Hwc, prefix: str = CELL) -> Iterator[Part]:
        """The edges of its cell, in the order of their computation."""
        return self.cell.edges(self.in_bottle.out_hwc(in_hwc), prefix)

    def with_edges(self, edges: Mapping[str, TreeEdge]) -> TreeBlock:
        """The same block with other operations at some edges, which ``edges`` names as ``edges()`` does."""
        return replace(self, cell=self.cell.with_edges(edges, CELL))

    def parts(self, in_hwc: Hwc) -> Iterator[tuple[str, Operation, Hwc]]:
        out = self.out_hwc(in_hwc)
        norms = self.cell.branch_norms(self.in_bottle.out_hwc(in_hwc), "")
        widths = (*(size[2] for _, size in norms), self.out_channels)
        yield "in_bottle", self.in_bottle, in_hwc
        yield from self.edges(in_hwc)
        yield "out_bottle", self.out_bottle, (*out[:2], self.cell.out_channels)
        joins = Joins(in_channels=self.in_channels, out_channels=self.out_channels, stride=self.stride, widths=widths)
        yield "joins", joins, in_hwc

    def macs(self, in_hwc: Hwc) -> int:
        return sum(op.macs(size) for _, op, size in self.parts(in_hwc))

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        for _, op, size in self.parts(in_hwc):
            yield from op.convolutions(size)
        sums = [size for _, size in self.cell.branch_norms(self.in_bottle.out_hwc(in_hwc), "")]
        for size in (*sums, self.out_hwc(in_hwc)):  # batch normalization keeps its input
            yield ConvCall(size, size, 1, activated=False, norm="none", is_weighted=False)

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        hwc: Hwc = (1, 1, self.in_channels)
        yield from self.in_bottle.tensors(f"{prefix}.in_bottle")
        for name, edge, _ in self.edges(hwc):
            yield from edge.tensors(f"{prefix}.{name}")
        for name, size in self.cell.branch_norms(hwc, CELL):
            yield from bn_tensors(f"{prefix}.{name}", size[2])
        yield from self.out_bottle.tensors(f"{prefix}.out_bottle")
        yield from bn_tensors(f"{prefix}.final_bn", self.out_channels)

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"cell": self.cell.to_json()}

    @classmethod
    def from_parts(cls, parts: dict[str, Node]) -> Self:
        values = {name: parts[name].value for name in ("in_channels", "out_channels")}
        return cls(cell=TreeNode.from_node(Node(parts["cell"].value, "cell")), **values)
