"""The search space as a value: which networks there are, and how a path of choices becomes one of them.

A space is a network some of whose blocks are open: an Edge holds the operations one of which is chosen (Cai, Zhu, Han,
ICLR 2019, section 3.1), an OpenTree is a block whose cell has such edges. A Path holds one choice per edge, in network
order. A further space is a function that returns one of these (mbconv.py and tree.py have those of the paper); a run
folder holds the space it searched as space.json.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from proxyless_arch.arch import codec
from proxyless_arch.arch.ops import Conv, Hwc, Linear, Operation, operation_from_node, operation_to_dict
from proxyless_arch.arch.preact import TREE_EDGES, NormAct, TreeEdge
from proxyless_arch.arch.preprocessing import preprocessing_from_node, preprocessing_to_dict
from proxyless_arch.arch.spec import ArchSpec, BatchNorm, Block, Padding, Preprocessing
from proxyless_arch.arch.tensors import expected_tensors, nested_place
from proxyless_arch.arch.tree import TreeBlock
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.base.checks import check, check_line, check_number, check_one_of
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes, write_text
from proxyless_arch.base.strict import Node, judged_at, plain_number

FORMAT = "proxyless-arch/space"
VERSION = 1
FILE = "space.json"
"""What it is called in a run folder."""

Path = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A block whose operation is searched, and whether it has an identity skip.

    All operations agree in widths and stride: a block's input does not depend on the choices before it, which makes
    costs additive.
    """

    ops: tuple[Operation, ...]
    skip: bool

    def __post_init__(self) -> None:
        check(isinstance(self.ops, tuple) and bool(self.ops), "ops", "one or more operations", self.ops)
        for index, op in enumerate(self.ops):
            with judged_at("", {"op": f"ops[{index}]", "skip": f"ops[{index}]"}):
                Block(op=op, skip=self.skip)
            shape, first = _ends(op), _ends(self.ops[0])
            check(shape == first, f"ops[{index}]", f"(in_channels, out_channels, stride) {first}", shape)

    @property
    def in_channels(self) -> int:
        return self.ops[0].in_channels

    @property
    def out_channels(self) -> int:
        return self.ops[0].out_channels

    @property
    def choices(self) -> tuple[tuple[Operation, ...], ...]:
        """The operations at each edge: here at the only one."""
        return (self.ops,)

    def block(self, *choices: int) -> Block:
        (choice,) = choices
        return Block(op=self.ops[choice], skip=self.skip)

    def choices_of(self, block: Block) -> tuple[int, ...] | None:
        """Those that make ``block``; None where none do."""
        return (self.ops.index(block.op),) if block.op in self.ops and block.skip == self.skip else None

    def calls(self, name: str, in_hwc: Hwc) -> tuple[tuple[LayerCall, ...], tuple[tuple[LayerCall, ...], ...]]:
        """(layers that are there whatever is chosen, one layer per choice of each edge)."""
        return (), (tuple(LayerCall(name, op, in_hwc, op.out_hwc(in_hwc), self.skip) for op in self.ops),)

    def inherited(self, choices: Sequence[int], name: str) -> Iterator[tuple[str, str]]:
        """(what the names of an edge's tensors start with in the derived network, in the supernet)."""
        (choice,) = choices
        yield f"{name}.mobile_inverted_conv.", f"{name}.choices.{choice}."

    def to_json(self) -> dict[str, Any]:
        return {"choices": [operation_to_dict(op) for op in self.ops], "skip": self.skip}


@dataclass(frozen=True, kw_only=True)
class OpenTree:
    """A block with a tree-structured cell some of whose edges are searched, each among the same operations.

    ``template``: with any of them at those edges. ``places``: the names of these, as in TreeBlock.edges.
    """

    template: TreeBlock
    ops: tuple[TreeEdge, ...]
    places: tuple[str, ...]

    def __post_init__(self) -> None:
        check(isinstance(self.template, TreeBlock), "tree", "a TreeBlock", self.template)
        check(isinstance(self.ops, tuple) and bool(self.ops), "choices", "one or more operations", self.ops)
        edges = {name: edge for name, edge, _ in self.template.edges((1, 1, self.template.in_channels))}
        check(isinstance(self.places, tuple) and bool(self.places), "open", "one or more edges", self.places)
        for index, place in enumerate(self.places):
            is_edge = isinstance(place, str) and place in edges and self.places.count(place) == 1
            check(is_edge, f"open[{index}]", "the name of an edge", place)
            for number, op in enumerate(self.ops):
                ends = _ends(edges[place])
                expected = f"(in_channels, out_channels, stride) {ends} of {place}"
                check(_ends(op) == ends, f"choices[{number}]", expected, _ends(op))
        in_order = tuple(name for name in edges if name in self.places)
        check(self.places == in_order, "open", "names in the order of the edges", self.places)

    @property
    def choices(self) -> tuple[tuple[Operation, ...], ...]:
        return (self.ops,) * len(self.places)

    def block(self, *choices: int) -> Block:
        chosen = {place: self.ops[choice] for place, choice in zip(self.places, choices, strict=True)}
        return Block(op=self.template.with_edges(chosen), skip=False)

    def choices_of(self, block: Block) -> tuple[int, ...] | None:
        if not isinstance(block.op, TreeBlock):
            return None
        found = {name: edge for name, edge, _ in block.op.edges((1, 1, block.op.in_channels))}
        taken = [found.get(place) for place in self.places]
        if not all(edge in self.ops for edge in taken):
            return None
        choices = tuple(self.ops.index(edge) for edge in taken if edge is not None)
        return choices if self.block(*choices) == block else None

    def calls(self, name: str, in_hwc: Hwc) -> tuple[tuple[LayerCall, ...], tuple[tuple[LayerCall, ...], ...]]:
        call = LayerCall(name, self.template, in_hwc, self.template.out_hwc(in_hwc))
        parts = {part.name.removeprefix(f"{name}."): part for part in call.parts}
        fixed = tuple(part for place, part in parts.items() if place not in self.places)
        return fixed, tuple(
            tuple(replace(parts[place], op=op, out_hwc=op.out_hwc(parts[place].in_hwc)) for op in self.ops)
            for place in self.places
        )

    def inherited(self, choices: Sequence[int], name: str) -> Iterator[tuple[str, str]]:
        for place, choice in zip(self.places, choices, strict=True):
            edge = f"{name}.mobile_inverted_conv.{place}."
            yield edge, f"{edge}choices.{choice}."

    def to_json(self) -> dict[str, Any]:
        ops = [operation_to_dict(op) for op in self.ops]
        return {"tree": self.template.to_json(), "choices": ops, "open": list(self.places)}


def _label(op: Operation) -> str:
    return op.label


def _label_with_width(op: Operation) -> str:
    return op.label if op.shrinkable is None else f"{op.label} {op.shrinkable.hidden_channels}"


def _widths_differ(ops: Sequence[Operation]) -> bool:
    return len({op.label for op in ops}) < len(ops)


def _ends(op: Operation) -> tuple[int, int, int]:
    return op.in_channels, op.out_channels, op.stride


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Networks that differ in the operations of their open blocks.

    Args:
        name: of the macro-architecture; with ``width_mult`` what a latency table says it was made for.
        blocks: from the stem on; a Block is in every network, an Edge or an OpenTree is searched.
        weights: in a supernet, whether each choice has its own, or all of a block share those of the largest one:
            channels from the first on, the middle of kernels (tensors.nested_place).
    """

    name: str
    stem: Conv
    blocks: tuple[Block | Edge | OpenTree, ...]
    feature_mix: Conv | NormAct
    num_classes: int = 1000
    width_mult: float = 1.0
    dropout_rate: float = 0.0
    bn: BatchNorm = field(default_factory=BatchNorm)
    padding: Padding = "symmetric"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ()
    weights: Literal["own", "shared"] = "own"

    def __post_init__(self) -> None:
        check(isinstance(self.name, str) and bool(self.name), "name", "a non-empty string", self.name)
        check_line("name", self.name)
        check_one_of("weights", self.weights, ("own", "shared"))
        check_number("width_mult", self.width_mult, 0.05, 10)
        check(isinstance(self.blocks, tuple), "blocks", "a tuple of Blocks, Edges and OpenTrees", self.blocks)
        for index, block in enumerate(self.blocks):
            check(isinstance(block, Block | Edge | OpenTree), f"blocks[{index}]", "a Block, Edge or OpenTree", block)
        check(bool(self.choices), "blocks", "one or more edges", "none")
        check(isinstance(self.feature_mix, Conv | NormAct), "feature_mix", "a Conv or NormAct", self.feature_mix)
        with judged_at("", {"out_features": "num_classes"}):
            self.spec_for(self.same_choice(0))
        if self.shares_weights:
            self._check_nested()

    @property
    def shares_weights(self) -> bool:
        return self.weights == "shared"

    def _check_nested(self) -> None:
        """Raises InputError for an operation that does not lie within the largest one of its block."""
        for index, block in self.open_blocks:
            check(isinstance(block, Edge), f"blocks[{index}]", "a block of one operation, to share its weights", block)
        for place, ops, largest in zip(self.places, self.choices, self.largest_path, strict=True):
            whole = dict(ops[largest].tensors(""))
            for index, op in enumerate(ops):
                within = all(
                    name in whole and all(own <= size for own, size in zip(shape, whole[name], strict=True))
                    for name, shape in op.tensors("")
                )
                check(within, f"blocks[{place}].choices[{index}]", f"weights within those of {ops[largest].label}", op)

    @cached_property
    def classifier(self) -> Linear:
        return Linear(
            in_features=self.feature_mix.out_channels, out_features=self.num_classes, dropout_rate=self.dropout_rate
        )

    # ------------------------------------------------------------------------------------------------ its choices

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Which block of a network each edge is, or is in."""
        return tuple(index for index, block in self.open_blocks for _ in block.choices)

    @cached_property
    def open_blocks(self) -> tuple[tuple[int, Edge | OpenTree], ...]:
        """(index, block) of each that is searched."""
        return tuple((index, block) for index, block in enumerate(self.blocks) if not isinstance(block, Block))

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """The blocks that are one searched operation."""
        return tuple(block for block in self.blocks if isinstance(block, Edge))

    @property
    def n_edges(self) -> int:
        return len(self.choices)

    @cached_property
    def choices(self) -> tuple[tuple[Operation, ...], ...]:
        """The candidate operations of each edge."""
        return tuple(ops for _, block in self.open_blocks for ops in block.choices)

    def by_block(self, path: Sequence[Any]) -> list[Sequence[Any]]:
        """``path``, or anything with one element per edge, as one slice per block; an empty one of a block not open.

        Raises ValueError for another length.
        """
        if len(path) != self.n_edges:
            raise ValueError(f"expected one element for each of {self.n_edges} edges, got {len(path)}")
        found, start = [], 0
        for block in self.blocks:
            count = 0 if isinstance(block, Block) else len(block.choices)
            found.append(path[start : start + count])
            start += count
        return found

    @property
    def size(self) -> int:
        """How many networks there are."""
        return math.prod(map(len, self.choices))

    def check(self, path: Path) -> Path:
        """``path`` itself; InputError when it does not fit the space."""
        if len(path) != self.n_edges:
            raise InputError(f"expected {self.n_edges} choices, got {len(path)}", "path")
        for index, (choice, ops) in enumerate(zip(path, self.choices, strict=True)):
            if not 0 <= choice < len(ops):
                raise InputError(f"expected 0..{len(ops) - 1}, got {choice}", f"path[{index}]")
        return tuple(path)

    def same_choice(self, choice: int) -> Path:
        """The path that takes ``choice`` at every edge, the last one where there are fewer."""
        return tuple(min(choice, len(ops) - 1) for ops in self.choices)

    @cached_property
    def largest_path(self) -> Path:
        """The choice with the most parameters of each edge, the first of equal ones."""
        return tuple(max(range(len(ops)), key=lambda choice: ops[choice].params) for ops in self.choices)

    @cached_property
    def smallest_path(self) -> Path:
        """The choice with the least multiply-accumulates of each edge, the first of equal ones."""
        return tuple(min(range(len(calls)), key=lambda choice: calls[choice].macs) for calls in self.edge_calls)

    @cached_property
    def choice_labels(self) -> tuple[tuple[str, ...], ...]:
        """Of the choices of each edge, with the hidden width where it is chosen."""
        return tuple(tuple(map(_label_with_width if _widths_differ(ops) else _label, ops)) for ops in self.choices)

    # ----------------------------------------------------------------------------------------------- its networks

    @property
    def reduction(self) -> int:
        """The product of all strides: pixels of the image for a pixel of the last feature map, along a side."""
        size = 4096
        large = replace(self, preprocessing=replace(self.preprocessing, resolution=size, resize=size))
        return size // walk(large.spec_for((0,) * self.n_edges))[-1].in_hwc[0]

    def spec_for(self, path: Path, name: str = "derived") -> ArchSpec:
        """The network that ``path`` chooses. Vanished blocks stay in the spec as Zero, so that indices do not move."""
        parts = zip(self.blocks, self.by_block(self.check(path)), strict=True)
        return ArchSpec(
            name=name,
            stem=self.stem,
            blocks=tuple(block if isinstance(block, Block) else block.block(*part) for block, part in parts),
            feature_mix=self.feature_mix,
            classifier=self.classifier,
            bn=self.bn,
            preprocessing=self.preprocessing,
            padding=self.padding,
            class_names=self.class_names,
        )

    def path_of(self, spec: ArchSpec) -> Path:
        """The path that yields ``spec``'s blocks; InputError naming the first block that is not in this space."""
        for place in ("stem", "feature_mix"):
            if getattr(spec, place) != getattr(self, place):
                raise InputError("differs from the search space's", place)
        if len(spec.blocks) != len(self.blocks):
            raise InputError(f"expected {len(self.blocks)} blocks, got {len(spec.blocks)}", "blocks")
        path: list[int] = []
        for index, (found, block) in enumerate(zip(spec.blocks, self.blocks, strict=True)):
            if isinstance(block, Block):
                if found != block:
                    raise InputError("differs from the search space's block", f"blocks[{index}]")
            elif (choices := block.choices_of(found)) is None:
                problem = "this operation (or its skip) is not a choice of the search space"
                raise InputError(problem, f"blocks[{index}]")
            else:
                path += choices
        return tuple(path)

    def inherited_tensors(self, path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Those of ``path``'s network, of a supernet's ``tensors``."""
        if not self.shares_weights:
            return {own: tensors[source] for own, source in self.tensor_map(path).items()}
        found = {}
        for name, shape in expected_tensors(self.spec_for(path)).items():
            whole = tensors[name]
            found[name] = np.ascontiguousarray(whole[nested_place(whole.shape, shape)])
        return found

    def tensor_map(self, path: Path) -> dict[str, str]:
        """``{tensor of the derived network: tensor of the supernet}``: how weights of choices' own are inherited."""
        starts = [
            pair
            for index, part in enumerate(self.by_block(self.check(path)))
            if not isinstance(block := self.blocks[index], Block)
            for pair in block.inherited(part, f"blocks.{index}")
        ]
        return {name: _renamed(name, starts) for name in expected_tensors(self.spec_for(path))}

    # -------------------------------------------------------------------------------------------------- its layers

    @cached_property
    def walks(self) -> tuple[tuple[LayerCall, ...], ...]:
        """The layers of the networks with the same choice everywhere: between them, every layer of the space."""
        return tuple(walk(self.spec_for(self.same_choice(choice))) for choice in range(max(map(len, self.choices))))

    @cached_property
    def layer_names(self) -> tuple[str, ...]:
        """The name of each edge's layer, in every network."""
        return tuple(calls[0].name for calls in self.edge_calls)

    @cached_property
    def walk_places(self) -> tuple[int, ...]:
        """Where each edge's layer, or the block that it is in, stands in the ``walk`` of any network."""
        names = [call.name for call in self.walks[0]]
        return tuple(names.index(f"blocks.{place}") for place in self.places)

    @cached_property
    def _calls(self) -> tuple[tuple[LayerCall, ...], tuple[tuple[LayerCall, ...], ...]]:
        blocks = {f"blocks.{index}": block for index, block in self.open_blocks}
        fixed: list[LayerCall] = []
        edges: list[tuple[LayerCall, ...]] = []
        for call in self.walks[0]:
            always, choices = blocks[call.name].calls(call.name, call.in_hwc) if call.name in blocks else ((call,), ())
            fixed += always
            edges += choices
        return tuple(fixed), tuple(edges)

    @property
    def fixed_calls(self) -> tuple[LayerCall, ...]:
        """The layers that every network has."""
        return self._calls[0]

    @property
    def edge_calls(self) -> tuple[tuple[LayerCall, ...], ...]:
        """One layer per choice of each edge."""
        return self._calls[1]

    # --------------------------------------------------------------------------------------------------- as a file

    def to_json(self) -> dict[str, Any]:
        """As JSON data, from which ``from_json`` makes the same space."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "width_mult": plain_number(self.width_mult),
            "num_classes": self.num_classes,
            "dropout_rate": plain_number(self.dropout_rate),
            "bn": codec.bn_to_dict(self.bn),
            "padding": self.padding,
            "preprocessing": preprocessing_to_dict(self.preprocessing),
            "stem": codec.end_to_dict(self.stem),
            "blocks": [_block_to_dict(block) for block in self.blocks],
            "feature_mix": codec.end_to_dict(self.feature_mix),
            "class_names": list(self.class_names),
            **({"weights": self.weights} if self.shares_weights else {}),
        }

    @classmethod
    def from_json(cls, value: Any, source: str | None = None) -> SearchSpace:
        """The space of JSON data. Raises InputError with the place in it and ``source``."""
        try:
            return _from_node(Node(value))
        except InputError as error:
            raise (error.from_source(source) if source is not None else error) from None


def _renamed(name: str, starts: Sequence[tuple[str, str]]) -> str:
    """``name`` with its beginning exchanged, where it is the first of a pair."""
    return next((new + name.removeprefix(old) for old, new in starts if name.startswith(old)), name)


def _block_to_dict(block: Block | Edge | OpenTree) -> dict[str, Any]:
    return codec.block_to_dict(block) if isinstance(block, Block) else block.to_json()


def _block_from_node(node: Node) -> Block | Edge | OpenTree:
    if not (isinstance(node.value, dict) and "choices" in node.value):
        return codec.block_from_node(node)
    if "tree" in node.value:
        return _open_tree_from_node(node)
    parts = node.fields(("choices", "skip"))
    ops = tuple(map(codec.operation_from_node, parts["choices"].elements()))
    with judged_at(node.path):
        return Edge(ops=ops, skip=parts["skip"].value)


def _open_tree_from_node(node: Node) -> OpenTree:
    parts = node.fields(("tree", "choices", "open"))
    with judged_at(parts["tree"].path):
        block = TreeBlock.from_parts(Node(parts["tree"].value).fields(TreeBlock.keys()[0]))
    ops = tuple(operation_from_node(part, TREE_EDGES) for part in parts["choices"].elements())
    with judged_at(node.path):
        return OpenTree(template=block, ops=ops, places=parts["open"].as_tuple())


def _from_node(node: Node) -> SearchSpace:
    readers: dict[str, Callable[[Node], Any]] = {
        "name": lambda part: part.value,
        "width_mult": lambda part: part.value,
        "num_classes": lambda part: part.value,
        "dropout_rate": lambda part: part.value,
        "bn": codec.batch_norm_from_node,
        "padding": lambda part: part.value,
        "preprocessing": preprocessing_from_node,
        "stem": codec.stem_from_node,
        "blocks": lambda part: tuple(map(_block_from_node, part.elements())),
        "feature_mix": codec.mix_from_node,
        "class_names": lambda part: part.as_tuple(),
    }
    parts = node.fields(("format", "version", *readers), ("weights",))
    parts["format"].exactly(FORMAT)
    parts["version"].exactly(VERSION)
    weights = {"weights": parts["weights"].value} if "weights" in parts else {}
    return SearchSpace(**{key: read(parts[key]) for key, read in readers.items()}, **weights)


def write_space(path: str | os.PathLike[str], space: SearchSpace) -> None:
    """Write a space as JSON, atomically: one key per line, one block per line."""
    write_text(path, codec.rows_to_json(space.to_json(), "blocks"))


def read_space(path: str | os.PathLike[str]) -> SearchSpace:
    """The space of a JSON file. Raises InputError."""
    return SearchSpace.from_json(parse_json(read_bytes(path), str(path)), str(path))
